"""What the cvxpylayers backend would run, for ``explain``."""

from __future__ import annotations

from convexdistill.layers.backends.base import Plan, SolveOptions, pick
from convexdistill.layers.backends.cvxpylayers_backend.guard import METHODS, require_solver
from convexdistill.layers.problems.logistic import LogisticProblem
from convexdistill.layers.problems.quadratic import QuadraticProblem
from convexdistill.layers.problems.ridge import RidgeProblem


def plan_ridge(problem: RidgeProblem, options: SolveOptions) -> Plan:
    """The smaller system, each column a program."""
    n, d = problem.features.shape[-2:]
    size = f"n={n} {'>=' if d <= n else '<'} d={d}, a program of {min(n, d)} variables for every column"
    return _plan("primal" if d <= n else "dual", options, size)


def plan_logistic(problem: LogisticProblem, options: SolveOptions) -> Plan:
    """One program of exponential cones."""
    (n, D), C = problem.features.shape[-2:], problem.labels.shape[-1]
    return _plan("primal", options, f"one program with {n * C} exponential cones and {D * C} weights")


def plan_quadratic(problem: QuadraticProblem, options: SolveOptions) -> Plan:
    """One quadratic program."""
    k, r = problem.linear.shape[-1], problem.bounds.shape[-1]
    return _plan(problem.form, options, f"{k} variables, {r} constraints")


def _plan(form: str, options: SolveOptions, size: str) -> Plan:
    """The solver by name, and why it is that one.

    Raises:
        BackendUnavailableError: ``method="moreau"``, and it is not installed.
        UnknownNameError: ``method`` is not known.
    """
    pick("method", options.method, METHODS, 'with backend="cvxpylayers"')
    solver = require_solver(options.method)
    why = f"method={solver!r} was asked for"
    if options.method == "auto":
        why = "MOREAU is installed" if solver == "moreau" else "MOREAU is not installed"
    return Plan(form, (solver,), f"{size}; {why}")
