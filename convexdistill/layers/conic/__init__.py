"""Cone programs, solved by others and verified, refined and differentiated here; for ``ConvexLayer``.

``cones`` projects, ``program`` states optimality and its derivative, ``solvers`` calls MOREAU, Clarabel and SCS,
``interface`` puts the three behind cvxpylayers, which canonicalises; only that last one imports cvxpylayers.
"""
