"""The ``cvxpylayers`` backend: any DPP program; here the general reference beside the closed form."""

from __future__ import annotations

from importlib.util import find_spec

from convexdistill.layers.backends.base import Backend
from convexdistill.layers.backends.cvxpylayers_backend.logistic import solve_logistic
from convexdistill.layers.backends.cvxpylayers_backend.plans import plan_logistic, plan_quadratic, plan_ridge
from convexdistill.layers.backends.cvxpylayers_backend.quadratic import solve_quadratic
from convexdistill.layers.backends.cvxpylayers_backend.ridge import solve_ridge
from convexdistill.layers.problems.logistic import LogisticProblem
from convexdistill.layers.problems.quadratic import QuadraticProblem
from convexdistill.layers.problems.ridge import RidgeProblem


def unavailable() -> str | None:
    """Why cvxpylayers cannot run here, or None; looks without importing."""
    missing = [name for name in ("cvxpy", "cvxpylayers") if find_spec(name) is None]
    if missing:
        return f"{' and '.join(missing)} not installed; pip install 'cvxpylayers>=1.2,<2'"
    return None


BACKEND = Backend(
    name="cvxpylayers",
    solvers={RidgeProblem: solve_ridge, LogisticProblem: solve_logistic, QuadraticProblem: solve_quadratic},
    plans={RidgeProblem: plan_ridge, LogisticProblem: plan_logistic, QuadraticProblem: plan_quadratic},
    summary="convex programs through cvxpylayers (MOREAU where installed, else DIFFCP); first derivatives only",
    double_backward=False,
    transforms=False,
    priority=0,
    unavailable=unavailable,
)
