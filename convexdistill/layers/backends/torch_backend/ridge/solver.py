"""Ridge regression in closed form: primal or dual, Cholesky first, QR and SVD when it is not enough.

Bertinetto et al. 2019 (R2-D2, arXiv 1805.08136) put this solve at the end of a few-shot network; the dual
form makes it n×n, which pays when there are fewer examples than features.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from convexdistill.errors import PerformanceWarning
from convexdistill.layers.backends.base import Plan, Solved, SolveOptions, pick
from convexdistill.layers.backends.torch_backend.ridge.factors import (
    FACTORS,
    REFINED,
    Factor,
    harmless,
    quick_cholesky,
)
from convexdistill.layers.backends.torch_backend.ridge.implicit import solve
from convexdistill.layers.problems.base import broadcast_shapes
from convexdistill.layers.problems.ridge import RidgeProblem
from convexdistill.layers.status import Status

# Cholesky answers of well-conditioned float64 problems lie near 1e-16; above this the next method runs.
# The residual cannot see errors along directions that hardly move it, so a bad condition is enough as well:
# Cholesky's error grows like condition × 1e-16.
CHOLESKY_CONDITION = 1e10
REFINE_ABOVE = 1e4  # from this condition on Cholesky's answer is refined
ESCALATE_ABOVE = 1e-12
LARGE = 512  # below, either form takes no time
METHODS = ("auto", *FACTORS)


def plan_ridge(problem: RidgeProblem, options: SolveOptions) -> Plan:
    """What :func:`solve_ridge` would run, and why.

    Cholesky's answer is refined where the condition is above 1e4, and left for QR above 1e10.
    The form is ``options.form``, or primal when d ≤ n and dual when n < d: the smaller system, worth up
    to 40 times.
    """
    pick("method", options.method, METHODS, 'with backend="torch"')
    n, d = problem.features.shape[-2:]
    form, why = options.form, f"form={options.form!r} was asked for"
    if form == "auto":
        form = "primal" if d <= n else "dual"
        why = f"n={n} {'>=' if d <= n else '<'} d={d}, so a {min(n, d)}×{min(n, d)} system"
        if form == "dual" and _needs_weight_gradient_at_zero(problem, options):
            form, why = "primal", "a sample weight of 0 needs a gradient, which only the primal form has"
    if options.method != "auto":
        return Plan(form, (options.method,), f"{why}; method={options.method!r} was asked for")
    if not options.data_dependent:
        return Plan(form, ("cholesky",), f"{why}; values are hidden, so no escalation: refined in any case")
    return Plan(form, tuple(FACTORS), f"{why}; the next method runs only where the last was not accurate")


def solve_ridge(problem: RidgeProblem, options: SolveOptions) -> Solved:
    """Solve a ridge problem; ``method="auto"`` escalates until the residual is small.

    Of the methods that ran, the one with the smallest worst residual is returned.
    """
    plan = plan_ridge(problem, options)
    _warn_of_the_larger(problem, options)
    system = _layout(problem, plan.form)
    best, best_score = None, float("inf")
    for method in plan.methods:
        solved = _solve_once(problem, system, plan.form, method, options)
        if len(plan.methods) == 1:
            return solved
        trusted = method != "cholesky" or _well_conditioned(solved)
        score = _score(solved) if trusted else float("inf")
        if score <= ESCALATE_ABOVE:
            return solved
        if best is None or score <= best_score:
            best, best_score = solved, score
    assert best is not None
    return best


def _warn_of_the_larger(problem: RidgeProblem, options: SolveOptions) -> None:
    """Say that the other form would be faster, where somebody asked for the larger of two systems."""
    n, d = problem.features.shape[-2:]
    size, other, better = (d, n, "dual") if options.form == "primal" else (n, d, "primal")
    if options.form != "auto" and size >= LARGE and size > 4 * other and options.data_dependent:
        message = (
            f"form={options.form!r} factors a {size}×{size} system where form={better!r} would factor "
            f"{other}×{other}; leave form='auto', which takes the smaller one."
        )
        warnings.warn(message, PerformanceWarning, stacklevel=2)


def _well_conditioned(solved: Solved) -> bool:
    """Whether Cholesky can be trusted for every batch element."""
    condition = solved.condition
    return condition is None or bool((condition <= CHOLESKY_CONDITION).all())


def _needs_weight_gradient_at_zero(problem: RidgeProblem, options: SolveOptions) -> bool:
    """Whether only the primal form, which takes no √s, has every gradient that may be asked for."""
    s = problem.weights
    return s is not None and s.requires_grad and options.data_dependent and bool((s == 0).any())


def _score(solved: Solved) -> float:
    """Worst residual of the batch; infinite where a factorisation failed."""
    residual = solved.residual
    assert residual is not None
    if residual.numel() == 0:
        return 0.0
    if solved.reported is not None:
        residual = residual.masked_fill(solved.reported != 0, float("inf"))
    worst = float(residual.max())
    return worst if worst == worst else float("inf")


class System(NamedTuple):
    """The linear systems of a ridge problem, laid out so that each is factored once.

    Attributes:
        M: X for the primal form and Xᵀ for the dual, (*S, r, k).
        s: weights that are not in M already, (*S, r), or None.
        Y: right-hand sides, (*S, ·, c).
        lam: (*S,).
        per_column: whether the last dimension of *S counts columns, which had a λ each.
        shared: the shape of the batch that became columns of Y because it shares one system, or None.
        batch_shape: the batch shape of the problem.
    """

    M: Tensor
    s: Tensor | None
    Y: Tensor
    lam: Tensor
    per_column: bool = False
    shared: torch.Size | None = None
    batch_shape: torch.Size = torch.Size()


def _layout(problem: RidgeProblem, form: str) -> System:
    """Lay out the systems of one form."""
    if form == "dual":  # K = √s XXᵀ √s + λI is symmetric only when the rows are scaled on both sides
        problem = problem.plain()
    X, Y, lam, s = problem.features, problem.labels, problem.lam, problem.weights
    per_column = lam.shape[-1] > 1
    if per_column:  # a system for every column: columns become batch elements
        X, Y, lam = X.unsqueeze(-3), Y.mT.unsqueeze(-1), lam.unsqueeze(-1)
        s = None if s is None else s.unsqueeze(-2)
    shared, batch = None, torch.Size()
    if X.ndim == 2 and Y.ndim == 2 and lam.numel() == 1:
        lam = lam.reshape(())  # the plain case, where every microsecond shows
    else:
        batch = RidgeProblem(X, Y, lam, s).batch_shape
        lam = lam.squeeze(-1)
        one_system = broadcast_shapes(X.shape[:-2], lam.shape, () if s is None else s.shape[:-1]).numel() == 1
        if one_system and len(batch) > 0:
            # One system, many label sets: they become columns, and one factorisation serves all.
            X, lam = X.reshape(X.shape[-2:]), lam.reshape(())
            s = None if s is None else s.reshape(-1)
            Y = Y.expand(*batch, *Y.shape[-2:]).movedim(-2, 0)
            shared = Y.shape[1:]
            Y = Y.reshape(Y.shape[0], shared.numel())
        else:
            X = X.expand(*batch, *X.shape[-2:])
            Y = Y.expand(*batch, *Y.shape[-2:])
            lam = lam.expand(batch)
    return System(X if form == "primal" else X.mT, s, Y, lam, per_column, shared, batch)


def factor_system(system: System, method: str, options: SolveOptions) -> tuple[Factor, Tensor, Tensor | None]:
    """The factors, the condition, and (*S,) bool where a system is singular (None: nowhere).

    With ``on_failure="nan"`` those of a singular system are replaced by what is harmless.
    """
    with torch.no_grad():
        root, lam = system.M.detach(), system.lam.detach()
        if system.s is not None:
            root = system.s.detach().sqrt().unsqueeze(-1) * root
        if method == "cholesky" and options.data_dependent:
            factor, condition, singular = quick_cholesky(root, lam, REFINE_ABOVE)
        else:
            factor, condition, singular = FACTORS[method](root, lam)
        if options.on_failure == "nan" and singular is not None:
            factor = harmless(method, factor, singular)
        return factor, condition, singular


def refines(method: str, condition: Tensor, options: SolveOptions) -> bool:
    """Whether Cholesky's answers are refined: where the condition asks, and wherever it cannot be seen."""
    return method == "cholesky" and not (options.data_dependent and bool((condition <= REFINE_ABOVE).all()))


def _solve_once(problem: RidgeProblem, system: System, form: str, method: str, options: SolveOptions) -> Solved:
    """Solve with one form and one method, and measure the residual."""
    M, s, Y, lam, per_column, shared, batch = system
    factor, condition, singular = factor_system(system, method, options)
    if refines(method, condition, options):
        method = REFINED
    N = None if s is None else s.unsqueeze(-1) * M
    check = options.on_failure if options.data_dependent or options.on_failure == "nan" else "nan"
    if form == "primal":
        W = solve(M, N, Y, None, lam, method, factor, check)
    else:
        W = M @ solve(M, N, None, Y, lam, method, factor, check)
    if shared is not None:
        W = W.reshape(W.shape[0], *shared).movedim(0, -2)
        condition = condition.expand(batch)
        singular = None if singular is None else singular.expand(batch)
    if per_column:  # put the columns side by side again; the worst speaks for all
        W, condition = W.squeeze(-1).mT, condition.amax(-1)
        singular = None if singular is None else singular.any(-1)
    reported = None if singular is None else singular.to(torch.int8) * int(Status.SINGULAR)
    return Solved(W, form, method, condition, reported, residual=problem.residual(W))
