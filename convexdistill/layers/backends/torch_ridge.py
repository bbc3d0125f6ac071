"""Ridge regression in closed form: primal or dual, Cholesky first, QR and SVD when it is not enough.

Bertinetto et al. 2019 (R2-D2, arXiv 1805.08136) put this solve at the end of a few-shot network; the dual
form makes it n×n, which pays when there are fewer examples than features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from convexdistill.layers.backends.base import Solved, SolveOptions, pick
from convexdistill.layers.backends.factors import FACTORS
from convexdistill.layers.backends.implicit import solve
from convexdistill.layers.problem import RidgeProblem, broadcast_shapes

# Cholesky answers of well-conditioned float64 problems lie near 1e-16; above this the next method runs.
# The residual cannot see errors along directions that hardly move it, so a bad condition is enough as well:
# Cholesky's error grows like condition × 1e-16.
CHOLESKY_CONDITION = 1e10
ESCALATE_ABOVE = 1e-12
METHODS = ("auto", *FACTORS)


def solve_ridge(problem: RidgeProblem, options: SolveOptions) -> Solved:
    """Solve a ridge problem; ``method="auto"`` escalates until the residual is small.

    The form is ``options.form``, or primal when d ≤ n and dual when n < d: the smaller system, worth up
    to 40 times. Of the methods that ran, the one with the smallest worst residual is returned.
    """
    pick("method", options.method, METHODS, 'with backend="torch"')
    n, d = problem.features.shape[-2:]
    form = options.form
    if form == "auto":
        form = "primal" if d <= n or _needs_weight_gradient_at_zero(problem, options) else "dual"
    if options.method != "auto" or not options.data_dependent:
        method = "cholesky" if options.method == "auto" else options.method
        return _solve_once(problem, form, method)
    best, best_score = None, float("inf")
    for method in FACTORS:
        solved = _solve_once(problem, form, method)
        score = _score(problem, solved)
        if score <= ESCALATE_ABOVE and (method != "cholesky" or _well_conditioned(solved)):
            return solved
        if best is None or score <= best_score:
            best, best_score = solved, score
    assert best is not None
    return best


def _well_conditioned(solved: Solved) -> bool:
    """Whether Cholesky can be trusted for every batch element."""
    condition = solved.condition
    return condition is None or bool((condition <= CHOLESKY_CONDITION).all())


def _needs_weight_gradient_at_zero(problem: RidgeProblem, options: SolveOptions) -> bool:
    """Whether only the primal form, which takes no √s, has every gradient that may be asked for."""
    s = problem.weights
    return s is not None and s.requires_grad and options.data_dependent and bool((s == 0).any())


def _score(problem: RidgeProblem, solved: Solved) -> float:
    """Worst residual of the batch; infinite where a factorisation failed."""
    residual = problem.residual(solved.weight)
    if residual.numel() == 0:
        return 0.0
    if solved.singular is not None:
        residual = residual.masked_fill(solved.singular.expand_as(residual), float("inf"))
    return float(residual.nan_to_num(nan=float("inf")).max())


def _solve_once(problem: RidgeProblem, form: str, method: str) -> Solved:
    """Solve with one form and one method, no questions asked."""
    if form == "dual":  # K = √s XXᵀ √s + λI is symmetric only when the rows are scaled on both sides
        problem = problem.plain()
    X, Y, lam, s = problem.features, problem.labels, problem.lam, problem.weights
    if lam.shape[-1] > 1:  # a system for every column: columns become batch elements
        columns = RidgeProblem(
            X.unsqueeze(-3),
            Y.mT.unsqueeze(-1),
            lam.unsqueeze(-1),
            None if s is None else s.unsqueeze(-2),
        )
        return _gather_columns(_solve_once(columns, form, method))
    lam, batch_shape, columns_shape = lam.squeeze(-1), problem.batch_shape, None
    system_shape = broadcast_shapes(X.shape[:-2], lam.shape, () if s is None else s.shape[:-1])
    if system_shape.numel() == 1 and len(batch_shape) > 0:
        # One system, many label sets: they become columns, and one factorisation serves all.
        X, lam = X.reshape(X.shape[-2:]), lam.reshape(())
        s = None if s is None else s.reshape(-1)
        Y = Y.expand(*batch_shape, *Y.shape[-2:]).movedim(-2, 0)
        columns_shape = Y.shape[1:]
        Y = Y.reshape(Y.shape[0], columns_shape.numel())
    else:
        X = X.expand(*batch_shape, *X.shape[-2:])
        Y = Y.expand(*batch_shape, *Y.shape[-2:])
        lam = lam.expand(batch_shape)

    M = X if form == "primal" else X.mT
    N = None if s is None else s.unsqueeze(-1) * M
    with torch.no_grad():
        root = M.detach() if s is None else s.detach().sqrt().unsqueeze(-1) * M.detach()
        factor, condition, singular = FACTORS[method](root, lam.detach())
    if form == "primal":
        W = solve(M, N, Y, None, lam, method, factor)
    else:
        W = M @ solve(M, N, None, Y, lam, method, factor)
    if columns_shape is not None:
        W = W.reshape(W.shape[0], *columns_shape).movedim(0, -2)
        condition, singular = condition.expand(batch_shape), singular.expand(batch_shape)
    return Solved(W, form, method, condition, singular)


def _gather_columns(solved: Solved) -> Solved:
    """Put the columns that were batch elements back side by side; the worst column speaks for all."""

    def worst(values: Tensor | None) -> Tensor | None:
        return None if values is None else values.amax(-1)

    weight = solved.weight.squeeze(-1).mT
    return Solved(weight, solved.form, solved.method, worst(solved.condition), worst(solved.singular))
