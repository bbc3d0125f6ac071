"""Kernel ridge in closed form: Cholesky of T = √S K √S + λI, its eigenvalues where that is not enough.

Cholesky exists exactly for positive definite T, so it is also the test of what a gram matrix must be; where it
says no, the eigenvalues tell an indefinite T, which has no meaning, from a singular one, which has no single
answer.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from convexdistill.errors import ParameterRangeError
from convexdistill.layers.backends.base import Plan, Solved, SolveOptions, pick
from convexdistill.layers.backends.torch_backend.kernel.implicit import Factor, apply, kernel_solve
from convexdistill.layers.problems.base import broadcast_shapes
from convexdistill.layers.problems.kernel import KernelRidgeProblem
from convexdistill.layers.status import Status

METHODS = ("auto", "cholesky", "eigh")
FORM = "dual"
STEPS = 3  # of inverse iteration, for the estimate of a condition


def plan_kernel_ridge(problem: KernelRidgeProblem, options: SolveOptions) -> Plan:
    """What :func:`solve_kernel_ridge` would run, and why."""
    pick("method", options.method, METHODS, 'with backend="torch"')
    if options.method != "auto":
        return Plan(FORM, (options.method,), f"method={options.method!r} was asked for")
    if not options.data_dependent:
        return Plan(FORM, ("cholesky",), "values are hidden under transforms, so no escalation")
    return Plan(FORM, ("cholesky", "eigh"), "eigenvalues are asked only where Cholesky finds a singular system")


def solve_kernel_ridge(problem: KernelRidgeProblem, options: SolveOptions) -> Solved:
    """Solve a kernel ridge problem.

    Raises:
        ParameterRangeError: √S K √S + λI has a negative eigenvalue, unless ``options.on_failure="nan"``.
    """
    plan = plan_kernel_ridge(problem, options)
    system = _layout(problem)
    with torch.no_grad():
        T = _matrix(system)
        for method in plan.methods:
            factor, condition, reported = _FACTORS[method](T)
            if options.data_dependent and not bool(reported.any()):
                break
    if options.data_dependent and options.on_failure != "nan":
        _refuse_indefinite(reported, factor)
    if options.on_failure == "nan":
        factor = _harmless(factor, reported != 0)
    policy = options.on_failure if options.data_dependent else "nan"
    V = kernel_solve(system.K, system.s, system.Y, system.lam, factor, policy)
    batch = problem.batch_shape
    if system.shared is not None:
        V = V.reshape(V.shape[0], *system.shared).movedim(0, -2)
        condition, reported = condition.expand(batch), reported.expand(batch)
    elif system.per_column:  # put the columns side by side again; the worst speaks for all
        V, condition, reported = V.squeeze(-1).mT, condition.amax(-1), reported.amax(-1)
    return Solved(V, FORM, method, condition, reported)


class _System(NamedTuple):
    """The systems of a problem, laid out so that each is factored once; names as in ``KernelRidgeProblem``.

    Attributes:
        K: (*S, n, n).
        s: (*S, n) or None.
        Y: (*S, n, c).
        lam: (*S,).
        per_column: whether the last dimension of *S counts columns, which had a λ each.
        shared: the shape (*B, C) that became columns of Y because all share one system, or None.
    """

    K: Tensor
    s: Tensor | None
    Y: Tensor
    lam: Tensor
    per_column: bool
    shared: torch.Size | None


def _layout(problem: KernelRidgeProblem) -> _System:
    K, Y, lam, s = problem.gram, problem.labels, problem.lam, problem.weights
    per_column = lam.shape[-1] > 1
    if per_column:
        K, Y, lam = K.unsqueeze(-3), Y.mT.unsqueeze(-1), lam.unsqueeze(-1)
        s = None if s is None else s.unsqueeze(-2)
    batch, n = KernelRidgeProblem(K, Y, lam, s).batch_shape, K.shape[-1]
    lam = lam.squeeze(-1)
    systems = broadcast_shapes(K.shape[:-2], lam.shape, () if s is None else s.shape[:-1])
    if systems.numel() == 1 and not per_column:
        Y = Y.expand(*batch, *Y.shape[-2:]).movedim(-2, 0)
        shared = Y.shape[1:]
        s = None if s is None else s.reshape(n)
        return _System(K.reshape(n, n), s, Y.reshape(n, shared.numel()), lam.reshape(()), False, shared)
    s = None if s is None else s.expand(*batch, n)
    return _System(K.expand(*batch, n, n), s, Y.expand(*batch, *Y.shape[-2:]), lam.expand(batch), per_column, None)


def _matrix(system: _System) -> Tensor:
    """T = √S K √S + λI, a new tensor without gradient."""
    K, lam = system.K.detach(), system.lam.detach()
    if system.s is not None:
        root = system.s.detach().sqrt()
        K = root.unsqueeze(-1) * K * root.unsqueeze(-2)
    return K + lam[..., None, None] * torch.eye(K.shape[-1], dtype=K.dtype, device=K.device)


def _cholesky(T: Tensor) -> tuple[Factor, Tensor, Tensor]:
    """The factor, an estimate of the condition, and (*S,) codes of ``Status``."""
    L, failed = torch.linalg.cholesky_ex(T)
    v = torch.cos(torch.arange(1, T.shape[-1] + 1, dtype=T.dtype, device=T.device)).unsqueeze(-1)
    v = v.expand(*T.shape[:-1], 1)
    for _ in range(STEPS):
        v = apply((L, None), v / torch.linalg.matrix_norm(v, keepdim=True))
    condition = torch.linalg.matrix_norm(T) * torch.linalg.matrix_norm(v)
    singular = (failed != 0) | ~(condition * _epsilon(T) < 1)
    return (L, None), condition, singular.to(torch.int8) * int(Status.SINGULAR)


def _eigh(T: Tensor) -> tuple[Factor, Tensor, Tensor]:
    """The same from the eigenvalues: the condition is exact, and an indefinite T is told from a singular one."""
    values, vectors = torch.linalg.eigh(T)
    size = values.abs().amax(-1)
    smallest = values[..., 0]
    noise = _epsilon(T) * size
    condition = size / values.abs().amin(-1)
    reported = (~(smallest > noise)).to(torch.int8) * int(Status.SINGULAR)
    reported = reported.masked_fill(smallest < -noise, int(Status.INVALID_INPUT))
    return (vectors, values), condition, reported


def _harmless(factor: Factor, failed: Tensor) -> Factor:
    """The factor without NaN or infinity where it failed, (*S,) bool: no answer, but gradients of zero."""
    first, values = factor
    if values is not None:
        return first, values.masked_fill(failed.unsqueeze(-1), 1.0)
    eye = torch.eye(first.shape[-1], dtype=first.dtype, device=first.device)
    return torch.where(failed[..., None, None], eye, first), None


def _refuse_indefinite(reported: Tensor, factor: Factor) -> None:
    """Raise where an eigenvalue is negative."""
    indefinite = torch.nonzero(reported.reshape(-1) == int(Status.INVALID_INPUT)).reshape(-1).tolist()
    if not indefinite:
        return
    values = factor[1]
    assert values is not None  # only eigenvalues report it
    smallest = float(values.reshape(-1, values.shape[-1])[indefinite].min())
    raise ParameterRangeError(
        f"gram + lam I is indefinite for {len(indefinite)} of {reported.numel()} systems, {indefinite[:8]}: its "
        f"smallest eigenvalue is {smallest:.3g}. gram must be positive semi-definite; use a kernel that is, or "
        "raise lam by more than that."
    )


def _epsilon(T: Tensor) -> float:
    """Relative size below which an eigenvalue cannot be told from zero."""
    return torch.finfo(T.dtype).eps * T.shape[-1]


_FACTORS = {"cholesky": _cholesky, "eigh": _eigh}
