"""How a solve ended, one code per batch element."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """How the solve of one batch element ended; ``message`` is the sentence a user reads.

    Example:
        >>> from convexdistill.layers import Status
        >>> Status(0).name, Status.OPTIMAL.message
        ('OPTIMAL', 'The answer meets the optimality conditions to the promised accuracy.')
    """

    OPTIMAL = 0
    INACCURATE = 1
    SINGULAR = 2
    NONFINITE_INPUT = 3
    INVALID_INPUT = 4
    MAX_STEPS = 5
    INFEASIBLE = 6
    UNBOUNDED = 7
    OVERFLOW = 8

    @property
    def message(self) -> str:
        """The sentence that explains this status."""
        return _MESSAGES[self]


_MESSAGES = {
    Status.OPTIMAL: "The answer meets the optimality conditions to the promised accuracy.",
    Status.INACCURATE: (
        "The optimality conditions are not met to the promised accuracy; "
        "scale the inputs, raise lam where there is one, or take another method."
    ),
    Status.SINGULAR: (
        "The linear system is singular to working precision, so the answer is not unique, or cannot be told "
        "from others; raise lam, or drop features that repeat each other."
    ),
    Status.NONFINITE_INPUT: ("An input holds NaN or infinity, so there is no answer; look upstream of the layer."),
    Status.INVALID_INPUT: (
        "An argument has the wrong sign (lam or sample_weight is negative, say), or all sample weights are zero "
        "where an intercept is to be fitted, so the problem has no meaning."
    ),
    Status.MAX_STEPS: (
        "The solver used up its steps before it reached its tolerance; "
        "give it more, scale the inputs, or raise lam where there is one."
    ),
    Status.INFEASIBLE: "No point meets all constraints at once; loosen one of them.",
    Status.UNBOUNDED: (
        "The objective has no minimum: it falls without end; add a constraint, or raise lam where there is one."
    ),
    Status.OVERFLOW: (
        "The answer, found in float64, is too large for the dtype of the inputs; pass float64, "
        "or scale the inputs."
    ),
}
