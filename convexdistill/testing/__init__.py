"""Checks that anybody can run on a backend of the layers, their own or ours.

Example:
    >>> from convexdistill.testing import check_backend
    >>> report = check_backend("torch", problems=["ridge"], checks=["answers_are_optimal"])
    >>> print(report)
    torch: 3 of 3 checks passed
    >>> report.ok
    True
"""

from convexdistill.testing import argument_checks, checks, derivative_checks  # noqa: F401  (they fill CHECKS)
from convexdistill.testing.cases import CASES, Case
from convexdistill.testing.common import CHECKS
from convexdistill.testing.report import Outcome, Report, check_backend

__all__ = ["CASES", "CHECKS", "Case", "Outcome", "Report", "check_backend"]
