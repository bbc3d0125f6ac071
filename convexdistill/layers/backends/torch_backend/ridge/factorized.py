"""Ridge regression in two halves: factor once, then solve for one label set after the other.

The systems have the leading dimensions of features, weights and λ; label sets may have more. Dimensions that only
the labels have become columns of the right-hand side, so that a factor is never copied.
"""

from __future__ import annotations

import torch
from torch import Tensor

from convexdistill.layers.backends.base import Plan, Solved, SolveOptions
from convexdistill.layers.backends.torch_backend.ridge.factors import REFINED
from convexdistill.layers.backends.torch_backend.ridge.implicit import solve
from convexdistill.layers.backends.torch_backend.ridge.solver import (
    CHOLESKY_CONDITION,
    System,
    factor_system,
    plan_ridge,
    refines,
)
from convexdistill.layers.problems.base import broadcast_shapes
from convexdistill.layers.problems.factorized import Factored, FactorizedProblem
from convexdistill.layers.problems.ridge import RidgeProblem
from convexdistill.layers.status import Status


def factor_ridge(problem: RidgeProblem, options: SolveOptions) -> Factored:
    """Factor the system of a ridge problem, whose labels do not matter.

    There is no residual to escalate by, so the condition decides: Cholesky up to 1e10, QR where that succeeds,
    then SVD.
    """
    plan = plan_ridge(problem, options)
    M, s, lam = systems(problem, plan.form)
    system = System(M.detach(), None if s is None else s.detach(), problem.labels, lam.detach())
    for method in plan.methods:
        factor, condition, singular = factor_system(system, method, options)
        found = Factored(plan.form, method, factor, condition, singular)
        if not options.data_dependent:
            break
        failed = singular is not None and bool(singular.any())
        if not failed and (method != "cholesky" or bool((condition <= CHOLESKY_CONDITION).all())):
            break
    if refines(found.method, found.condition, options):
        found = found._replace(method=REFINED)
    return found


def systems(problem: RidgeProblem, form: str) -> tuple[Tensor, Tensor | None, Tensor]:
    """M (*S, r, k), the weights that are not in it (*S, r) or None, and λ (*S,).

    Where λ has a value for every column, the last dimension of *S counts columns.
    """
    if form == "dual":
        problem = problem.plain()
    X, lam, s = problem.features, problem.lam, problem.weights
    if lam.shape[-1] > 1:
        X, lam = X.unsqueeze(-3), lam.unsqueeze(-1)
        s = None if s is None else s.unsqueeze(-2)
    lam = lam.squeeze(-1)
    batch = broadcast_shapes(X.shape[:-2], lam.shape, () if s is None else s.shape[:-1])
    M = X if form == "primal" else X.mT
    return M.expand(*batch, *M.shape[-2:]), s if s is None else s.expand(*batch, s.shape[-1]), lam.expand(batch)


def plan_factorized(problem: FactorizedProblem, options: SolveOptions) -> Plan:
    """What was factored; only triangular solves are left."""
    factored = problem.factored
    assert factored is not None
    return Plan(factored.form, (factored.method,), "factored before; only the solve is left")


def solve_factorized(problem: FactorizedProblem, options: SolveOptions) -> Solved:
    """Solve with factors at hand; differentiable like ``solve_ridge``."""
    factored = problem.factored
    assert factored is not None
    form, method, factor, condition, singular = factored
    M, s, lam = systems(problem, form)
    per_column = problem.lam.shape[-1] > 1
    labels = problem.labels if form == "primal" else problem.plain().labels
    Y = labels.mT.unsqueeze(-1) if per_column else labels
    columns, fold = _fold(Y, lam.shape)
    N = None if s is None else s.unsqueeze(-1) * M
    check = options.on_failure if options.data_dependent or options.on_failure == "nan" else "nan"
    E, B = (columns, None) if form == "primal" else (None, columns)
    V = solve(M, N, E, B, lam, method, factor, check)
    W = _unfold(V if form == "primal" else M @ V, Y.shape[-1], *fold)
    if per_column:  # the worst speaks for all
        W, condition = W.squeeze(-1).mT, condition.amax(-1)
        singular = None if singular is None else singular.any(-1)
    batch = problem.batch_shape
    reported = None if singular is None else (singular.to(torch.int8) * int(Status.SINGULAR)).expand(batch)
    return Solved(W, form, method, condition.expand(batch), reported, residual=problem.residual(W))


def _fold(Y: Tensor, shape: torch.Size) -> tuple[Tensor, tuple[torch.Size, list[int]]]:
    """Labels (*B, n, c) for systems (*S): (*S, n, c'), with those dimensions of *B as columns that *S has not.

    Also what :func:`_unfold` needs to know: the sizes of *B, padded to at least the length of *S, and which of its
    dimensions became columns.
    """
    Y = Y.reshape((1,) * (len(shape) - Y.ndim + 2) + Y.shape)
    batch = Y.shape[:-2]
    here = (1,) * (len(batch) - len(shape)) + tuple(shape)
    moved = [i for i, size in enumerate(batch) if size != 1 and here[i] == 1]
    kept = [i for i in range(len(batch)) if i not in moved]
    rows = len(batch)
    Y = Y.permute(*kept, rows, *moved, rows + 1)
    sizes = [1 if i in moved else size for i, size in enumerate(batch)][len(batch) - len(shape) :]
    Y = Y.reshape(*sizes, Y.shape[len(kept)], Y.shape[len(kept) + 1 :].numel())
    return Y.expand(*shape, *Y.shape[-2:]), (batch, moved)


def _unfold(V: Tensor, columns: int, batch: torch.Size, moved: list[int]) -> Tensor:
    """(*S, k, c') -> (*B, k, c): the columns that were dimensions of the batch go back."""
    shape = (1,) * (len(batch) - V.ndim + 2) + V.shape[:-2]
    kept = [i for i in range(len(batch)) if i not in moved]
    sizes = [batch[i] for i in moved]
    V = V.reshape(*(shape[i] for i in kept), V.shape[-2], *sizes, columns)
    return V.movedim(list(range(len(kept) + 1, len(kept) + 1 + len(moved))), moved)
