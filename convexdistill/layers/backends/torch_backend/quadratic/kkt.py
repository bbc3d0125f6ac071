r"""Linear systems of quadratic programs whose active rows are known: scaled, regularised, refined, differentiable.

With m ∈ {0, 1}^r marking the active rows, x and the multipliers y solve the symmetric system K V = f:

    [ P     (mR)ᵀ    ] [x]   [ −q ]
    [ mR    −(1 − m) ] [y] = [ mb ]

so y_i = 0 where a row is not active. For V = K⁻¹f and a cotangent V̄ let U = K⁻¹V̄; then f̄ = U and K̄ = −U Vᵀ,
and dV = K⁻¹(df − dK V) (Amos & Kolter 2017, OptNet, arXiv 1703.00443, section 3). U is a solution of the same
kind, so the backward pass calls the function itself and every higher derivative follows.

K is scaled to rows of about the same size (Ruiz 2001), and what is factored is K + ρ diag(I, −I), which is regular
even where rows of R repeat each other: then the multipliers are not unique, but x is, and refinement with K itself
finds it (the proximal method of multipliers; Stellato et al. 2020, OSQP, section 5.2).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from convexdistill.layers.backends.base import inside_transform
from convexdistill.layers.backends.functions import differentiable
from convexdistill.layers.backends.gradients import checked
from convexdistill.layers.problems.base import TINY

REGULARISATION = 1e-11
REFINEMENTS = 4
SHARE = 1e-4  # of a free direction, below which it is not one of x
RUIZ_STEPS = 4


class Factor(NamedTuple):
    """The factors of a regularised, scaled K, without gradient.

    Attributes:
        LU: (N, k + r, k + r).
        pivots: (N, k + r).
        scale: (N, k + r), so that scale K scale is what was factored.
    """

    LU: Tensor
    pivots: Tensor
    scale: Tensor


def assemble(P: Tensor, R: Tensor, m: Tensor) -> Tensor:
    """K, (N, k + r, k + r), for P (N, k, k), R (N, r, k) and m (N, r) of zeros and ones."""
    active = m.unsqueeze(-1) * R
    corner = torch.diag_embed(m - 1.0)
    return torch.cat([torch.cat([P, active.mT], -1), torch.cat([active, corner], -1)], -2)


@torch.no_grad()
def factorise(K: Tensor, k: int, strict: Tensor) -> Factor:
    """Scale, regularise and factor K, whose first k unknowns are x.

    ``strict``, (N,) bool, says where P is positive definite: there x needs no regularisation, and gets none, as it
    would hide what P says along its flattest directions.
    """
    K = K.detach()
    scale, size = torch.ones_like(K[..., 0]), K.abs()
    for _ in range(RUIZ_STEPS):
        largest = scale * (size * scale.unsqueeze(-2)).amax(-1)
        scale = scale * torch.where(largest > 0, largest, 1.0).rsqrt()
    of_x = torch.arange(K.shape[-1], device=K.device) < k
    sign = torch.where(of_x, (~strict).to(K.dtype).unsqueeze(-1), -1.0)
    scaled = scale.unsqueeze(-1) * K * scale.unsqueeze(-2) + REGULARISATION * torch.diag_embed(sign)
    LU, pivots, _ = torch.linalg.lu_factor_ex(scaled)
    return Factor(LU, pivots, scale)


def determined(K: Tensor, factor: Factor, k: int, unique: Tensor | None) -> Tensor:
    """(N,) bool: whether the system leaves no freedom in the x_i of ``unique`` (None for all of them).

    Two steps of inverse iteration, from forces on those x_i: along a direction that nothing holds, the regularised
    inverse is 1/ρ; that direction counts where it moves one of them.
    """
    force = torch.cos(1.0 + torch.arange(k, dtype=K.dtype, device=K.device) ** 2)
    if unique is not None:
        force = force * unique
    right = torch.cat([force, force.new_zeros(K.shape[-1] - k)]).expand(K.shape[:-1]).unsqueeze(-1)
    for _ in range(2):
        right = right / torch.linalg.vector_norm(right, dim=-2, keepdim=True).clamp_min(TINY)
        right = torch.linalg.lu_solve(factor.LU, factor.pivots, right)
    moved = right[..., :k, 0] if unique is None else right[..., :k, 0] * unique
    size, share = torch.linalg.vector_norm(right, dim=(-2, -1)), torch.linalg.vector_norm(moved, dim=-1)
    held: Tensor = (size * REGULARISATION < 0.1) | (share < SHARE * size)
    return held


def solve(K: Tensor, f: Tensor, start: Tensor, factor: Factor, on_failure: str = "raise") -> Tensor:
    """V = K⁻¹f, differentiable in K and f.

    Args:
        K: (N, k + r, k + r), symmetric.
        f: (N, k + r, 1).
        start: (N, k + r, 1), what refinement begins with; decides where K leaves V open.
        factor: of K.
        on_failure: what becomes of a gradient that is not accurate.

    Raises:
        NotConvergedError: in the backward pass, when a gradient is not accurate and ``on_failure="raise"``.
    """
    answer: Tensor = differentiable(_Solve, _SolveWithJvp, K, f, start, *factor, on_failure)
    return answer


class _Solve(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        K: Tensor, f: Tensor, start: Tensor, LU: Tensor, pivots: Tensor, scale: Tensor, on_failure: str
    ) -> Tensor:
        E, V = scale.unsqueeze(-1), start
        for _ in range(REFINEMENTS):
            V = V + E * torch.linalg.lu_solve(LU, pivots, E * (f - K @ V))
        return V

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        K, _, _, LU, pivots, scale, on_failure = inputs
        ctx.on_failure = on_failure
        ctx.save_for_backward(K, output, LU, pivots, scale)

    @staticmethod
    def backward(ctx: Any, V_bar: Tensor) -> Any:
        K, V, LU, pivots, scale = ctx.saved_tensors
        U = solve(K, V_bar, torch.zeros_like(V_bar), Factor(LU, pivots, scale), ctx.on_failure)
        if not inside_transform(V_bar):
            E = scale.unsqueeze(-1)
            with torch.no_grad():
                remainder = E * (K @ U - V_bar)
            U = checked(U, remainder, E * V_bar, lambda: torch.zeros_like(V_bar[..., 0, 0]), ctx.on_failure)
        K_bar = -U @ V.mT if ctx.needs_input_grad[0] else None
        return K_bar, U if ctx.needs_input_grad[1] else None, None, None, None, None, None


class _SolveWithJvp(_Solve):
    """The same, with forward-mode derivatives: ``jacfwd``, ``hessian``, ``torch.func.jvp``."""

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        _Solve.setup_context(ctx, inputs, output)
        K, _, _, LU, pivots, scale, _ = inputs
        ctx.save_for_forward(K, output, LU, pivots, scale)

    @staticmethod
    def jvp(ctx: Any, dK: Any, df: Any, *_: Any) -> Tensor:
        K, V, LU, pivots, scale = ctx.saved_tensors
        right = torch.zeros_like(V)
        if df is not None:
            right = right + df
        if dK is not None:
            right = right - dK @ V
        return solve(K, right, torch.zeros_like(V), Factor(LU, pivots, scale), ctx.on_failure)
