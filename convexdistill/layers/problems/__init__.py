"""The plain convex problems that backends solve, and the test that an answer is one.

A layer reduces what its user asked for (weights, intercepts, vector labels) to one of these, in float64; a
backend sees nothing else. A new kind of layer adds its problem in a file of its own, with a ``residual`` method,
and the backends that can solve it register a solver for that class.
"""
