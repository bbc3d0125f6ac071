"""Solutions of regularised systems as differentiable functions, to any order.

Write S = NᵀM + λI and V = S⁻¹(NᵀE + B), where N = diag(s) M for weights s ≥ 0 and N = M without; the one
map that both forms of ridge need:

    primal   W = S⁻¹ Nᵀ Y              with M = X,  N = diag(s) X,  E = Y
    dual     W = Xᵀ S⁻¹ Y              with M = N = Xᵀ (rows scaled by √s before), B = Y

Differentiate S V = NᵀE + B: S dV = dNᵀ(E − MV) + Nᵀ(dE − dM V) + dB − dλ V. For a cotangent V̄ let
U = S⁻¹V̄ (S is symmetric); then

    Ē = N U      B̄ = U      N̄ = (E − MV) Uᵀ      M̄ = −(N U) Vᵀ      λ̄ = −⟨U, V⟩

U is again a solution of the same kind (with E = 0, B = V̄), so the backward pass calls the function
itself and every higher derivative follows. With M = N = X and E = Y these are the formulas of the ridge
layer: ∂L/∂Y = XU, ∂L/∂X = N̄ + M̄ = (Y − XW)Uᵀ − XU Wᵀ, ∂L/∂λ = −⟨U, W⟩. Nothing is differentiated
through a factorisation, so repeated singular values are harmless and one factor serves all orders; nor
through √s, so weights of zero have their gradient. The solves of the backward pass are checked by their
residual like those of the forward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convexdistill.layers.backends.base import inside_transform
from convexdistill.layers.backends.functions import differentiable
from convexdistill.layers.backends.gradients import checked
from convexdistill.layers.backends.torch_backend.ridge.factors import Factor, apply

CORRECTIONS = 2


def solve(
    M: Tensor,
    N: Tensor | None,
    E: Tensor | None,
    B: Tensor | None,
    lam: Tensor,
    method: str,
    factor: Factor,
    on_failure: str = "raise",
) -> Tensor:
    """V = (NᵀM + λI)⁻¹(NᵀE + B), differentiable in M, N, E, B and λ.

    Args:
        M: (*B, r, k).
        N: (*B, r, k), rows of M times weights; None where it is M itself.
        E: (*B, r, c) or None for zero.
        B: (*B, k, c) or None for zero.
        lam: (*B,).
        method: which factorisation ``factor`` is.
        factor: its tensors, without gradient, with leading dimensions *B.
        on_failure: what becomes of a gradient that is not accurate.
    """
    # Three tensors at most, by name and not by *: torch.compile miscounts those.
    inputs = (M, N, E, B, lam, method, on_failure, *factor, *(None,) * (3 - len(factor)))
    answer: Tensor = differentiable(_Solve, _SolveWithJvp, *inputs)
    return answer


class _Solve(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        M: Tensor,
        N: Tensor | None,
        E: Tensor | None,
        B: Tensor | None,
        lam: Tensor,
        method: str,
        on_failure: str,
        first: Tensor,
        second: Tensor | None,
        third: Tensor | None,
    ) -> Tensor:
        factor = _given(first, second, third)
        rows = (M if N is None else N).mT
        if E is None:
            right = torch.zeros((), dtype=M.dtype, device=M.device) if B is None else B
        else:
            right = rows @ E if B is None else rows @ E + B
        if method == "qr" and N is None and E is not None and B is None:
            V = _least_squares(M, E, lam, first)
        else:
            V = apply(method, factor, right)
        # R⁻¹R⁻ᵀ(NᵀE) squares the condition number like the normal equations do; one or two corrections by
        # a remainder that is formed from M itself bring back the accuracy of QR (Björck 1987, "CSNE").
        for _ in range(0 if method == "cholesky" else CORRECTIONS):
            remainder = rows @ _minus(E, M @ V) - lam[..., None, None] * V
            V = V + apply(method, factor, remainder if B is None else remainder + B)
        return V

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        M, N, E, B, lam, method, on_failure, *factor = inputs
        ctx.method, ctx.on_failure = method, on_failure
        ctx.save_for_backward(M, N, E, B, lam, output, *factor)

    @staticmethod
    def backward(ctx: Any, V_bar: Tensor) -> Any:
        M, N, E, _, lam, V, *factor = ctx.saved_tensors
        need_M, need_N, need_E, need_B, need_lam = ctx.needs_input_grad[:5]
        U = solve(M, N, None, V_bar, lam, ctx.method, _given(*factor), ctx.on_failure)
        rows = M if N is None else N
        NU = rows @ U if N is None or need_M or need_E else None
        if not inside_transform(V_bar):
            with torch.no_grad():
                MU = NU if N is None and NU is not None else M @ U
                remainder = _remainder(rows, MU, lam, U, V_bar)
            U = checked(U, remainder, V_bar, lambda: _size(M, rows, lam), ctx.on_failure)
        R = _minus(E, M @ V) if need_N or (need_M and N is None) else None
        N_bar = R @ U.mT if need_N and R is not None else None
        M_bar = None
        if need_M and NU is not None:
            if R is None or N is not None:
                M_bar = -NU @ V.mT
            else:  # M̄ + N̄ = RUᵀ − NU Vᵀ in one product: M may be large
                M_bar = torch.cat([R, -NU], -1) @ torch.cat([U, V], -1).mT
        lam_bar = -(U * V).sum((-2, -1)) if need_lam else None
        grads = (M_bar, N_bar, NU if need_E else None, U if need_B else None, lam_bar)
        return *grads, None, None, None, None, None


class _SolveWithJvp(_Solve):
    """The same, with forward-mode derivatives: ``jacfwd``, ``hessian``, ``torch.func.jvp``."""

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        _Solve.setup_context(ctx, inputs, output)
        M, N, E, B, lam, _, _, *factor = inputs
        ctx.save_for_forward(M, N, E, B, lam, output, *factor)

    @staticmethod
    def jvp(ctx: Any, dM: Any, dN: Any, dE: Any, dB: Any, dlam: Any, *_: Any) -> Tensor:
        M, N, E, _, lam, V, *factor = ctx.saved_tensors
        right, rows = torch.zeros_like(V), M if N is None else N
        if N is None:
            dN = dM
        if dN is not None:
            right = right + dN.mT @ _minus(E, M @ V)
        if dM is not None:
            right = right - rows.mT @ (dM @ V)
        if dE is not None:
            right = right + rows.mT @ dE
        if dB is not None:
            right = right + dB
        if dlam is not None:
            right = right - dlam[..., None, None] * V
        return solve(M, N, None, right, lam, ctx.method, _given(*factor), ctx.on_failure)


def _least_squares(M: Tensor, E: Tensor, lam: Tensor, R: Tensor) -> Tensor:
    """S⁻¹MᵀE for S = RᵀR, the least-squares answer of [M; √λ I] V ≈ [E; 0]: loses κ, not κ² (Björck 1996, 2.4)."""
    k = M.shape[-1]
    root = lam.sqrt()[..., None, None] * torch.eye(k, dtype=M.dtype, device=M.device)
    Q, _ = torch.linalg.qr(torch.cat([M, root.expand(*M.shape[:-2], k, k)], -2))
    V: Tensor = torch.linalg.solve_triangular(R, Q[..., : M.shape[-2], :].mT @ E, upper=True)
    return V


def _remainder(N: Tensor, MU: Tensor, lam: Tensor, U: Tensor, V_bar: Tensor) -> Tensor:
    """NᵀMU + λU − V̄, in one product where there is no batch."""
    if N.ndim == 2 and U.ndim == 2:
        return torch.addmm(lam * U - V_bar, N.mT, MU)
    return N.mT @ MU + lam[..., None, None] * U - V_bar


def _size(M: Tensor, N: Tensor, lam: Tensor) -> Tensor:
    """A bound of ‖NᵀM + λI‖."""
    bound: Tensor = torch.linalg.matrix_norm(M) * torch.linalg.matrix_norm(N) + lam
    return bound


def _given(*factor: Tensor | None) -> Factor:
    """The tensors of a factor that are there."""
    return tuple(tensor for tensor in factor if tensor is not None)


def _minus(E: Tensor | None, MV: Tensor) -> Tensor:
    return -MV if E is None else E - MV
