"""Ridge regression through cvxpylayers, the paper's own route and the reference for the closed form.

The program is ``min_v ‖Mv‖² + λ‖v‖² − 2bᵀv``, whose answer is v = S⁻¹b with S = MᵀM + λI. It serves both
forms: M = X and b = Xᵀy give the primal, w = v; M = Xᵀ and b = y the dual, w = Xᵀv. (‖Xv − y‖² differs from
the primal by a constant. With y in the linear term its gradient is S⁻¹v̄, the one that can be verified, see
``guard.py``.) The dual is not only smaller when n < d: there the primal S is λ in d − n
directions, and MOREAU's derivative, which regularises, was measured 60 % wrong for λ = 1e-6.

The solver's derivative is asked for U = S⁻¹v̄ alone, which can be verified and refined; the gradients to M and λ
follow from v and U as in the closed form. Measured against it, answers and all gradients agree to 1e-9 or better.

The columns of the labels are separate problems, so they go in the batch dimension: the canonical form
then holds X once instead of C times, and compiles in a fraction of the time.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from convexdistill.errors import UnsupportedError
from convexdistill.layers.backends.base import Solved, SolveOptions, pick
from convexdistill.layers.backends.cvxpylayers_backend import guard
from convexdistill.layers.backends.cvxpylayers_backend.guard import METHODS
from convexdistill.layers.problems.ridge import RidgeProblem

CACHE = guard.Cache()


def solve_ridge(problem: RidgeProblem, options: SolveOptions) -> Solved:
    """Solve the program above for every batch element and column.

    Raises:
        BackendUnavailableError: ``method="moreau"``, and it is not installed.
        UnknownNameError: ``method`` is not ``"auto"``, ``"moreau"`` or ``"diffcp"``.
        NotConvergedError: in the backward pass, when a gradient is not accurate.
        UnsupportedError: ``form`` asks for the larger system; or in the backward pass, when gradients of
            gradients are asked for.
    """
    pick("method", options.method, METHODS, 'with backend="cvxpylayers"')
    solver = guard.require_solver(options.method)
    problem = problem.plain()
    X, Y, lam = problem.features, problem.labels, problem.lam
    n, d = X.shape[-2:]
    batch, C = problem.batch_shape, Y.shape[-1]
    form = "primal" if d <= n else "dual"
    if options.form not in ("auto", form):
        raise UnsupportedError(
            f'form={options.form!r} with backend="cvxpylayers" and n={n}, d={d}: the larger system is '
            "singular but for lam, where the derivative of conic solvers cannot be trusted. "
            'Use form="auto", or backend="torch".'
        )

    # W(X, Y, λ) = (b/a) W(X/a, Y/b, λ/a²) for any a, b > 0, so that solvers with absolute tolerances see
    # data of size 1. The identity holds for constants a and b: they carry no gradient.
    a = _size(X.detach(), (-2, -1)) / min(n, d) ** 0.5
    b = _size(Y.detach(), (-2,))
    scaled = X / a
    y = (Y / b).mT.expand(*batch, C, n).reshape(-1, n)
    scaled_lam = (lam / a.squeeze(-1) ** 2).expand(*batch, C).reshape(-1)
    M = scaled if form == "primal" else scaled.mT
    r, k = M.shape[-2:]
    if M.shape[:-2].numel() == 1:
        M = M.reshape(r, k)
    else:
        M = M.unsqueeze(-3).expand(*batch, C, r, k).reshape(-1, r, k)

    layer = CACHE.get((r, k, solver), lambda: compile_ridge(r, k, solver))
    b_term = y if form == "dual" else (y.unsqueeze(-2) @ M).squeeze(-2)
    v = guard.solve(layer, M, scaled_lam, b_term, on_failure=options.on_failure)
    v = v.reshape(*batch, C, k).mT
    weight = v if form == "primal" else scaled.mT @ v
    return Solved(weight * (b / a), form, solver)


def compile_ridge(r: int, k: int, solver: str) -> guard.Compiled:
    """Compile the program for one shape of M; imports cvxpy."""
    cp: Any = import_module("cvxpy")
    layers: Any = import_module("cvxpylayers.torch")

    M, lam, b = cp.Parameter((r, k)), cp.Parameter(nonneg=True), cp.Parameter(k)
    v = cp.Variable(k)
    cost = cp.sum_squares(M @ v) + lam * cp.sum_squares(v) - 2 * b @ v
    layer = layers.CvxpyLayer(
        cp.Problem(cp.Minimize(cost)), [M, lam, b], [v], **guard.constructor_arguments(solver)
    )
    return guard.Compiled(
        layer,
        shapes=((r, k), (), (k,)),
        output=(k,),
        solver=solver,
        derivative=guard.derivative_arguments(solver, embedding=r + 2 * k + 7),
        linear=2,
        system=_apply_system,
        implicit=_implicit,
    )


def _apply_system(parameters: list[Tensor], U: Tensor) -> Tensor:
    """S U for a batch of vectors (batch, k): what the gradient to b has to be the inverse of."""
    M, lam, _ = parameters
    MU = M @ U.unsqueeze(-1)
    return (M.mT @ MU).squeeze(-1) + lam.unsqueeze(-1) * U


def _implicit(parameters: list[Tensor], v: Tensor, U: Tensor, index: int) -> Tensor:
    """The gradient to M or λ of v = S⁻¹b, for U = S⁻¹v̄, (batch, k): −MU vᵀ − Mv Uᵀ or −⟨U, v⟩."""
    if index == 1:
        return -(U * v).sum(-1)
    M = parameters[0].detach()
    return -(M @ torch.stack([U, v], -1)) @ torch.stack([v, U], -1).mT


def _size(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Frobenius norm over ``dims``, kept as 1; 1 where it is zero."""
    size = torch.linalg.vector_norm(values, dim=dims, keepdim=True)
    return torch.where(size > 0, size, 1.0)
