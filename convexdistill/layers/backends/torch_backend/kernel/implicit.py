"""Coefficients of kernel ridge as a differentiable function of gram matrix, weights and λ, to any order.

Write V = P Y with P = (K + λS⁻¹)⁻¹ for a symmetric K and S = diag(s), s ≥ 0. With weights of zero P is the limit;
with T = √S K √S + λI it is ``P = √S T⁻¹ √S``, and T is all that is ever factored. Let R = Y − KV. Since λS⁻¹V = R,

    dP Y = −P dK V − dλ P Q + (I − PK) dS Q        with Q = S⁻¹V = R / λ,

which has a meaning for weights of zero as well: nothing is differentiated through √s. For a cotangent V̄ let
U = P V̄ (P is symmetric) and Q̄ = S⁻¹U = (V̄ − KU) / λ; then

    Ȳ = U      K̄ = −U Vᵀ      λ̄ = −⟨U, Q⟩      s̄_i = λ ⟨Q̄_i, Q_i⟩.

U comes from the function itself, so every higher derivative follows. K̄ is that of a K that is symmetrised before,
as the layer does: only its symmetric part counts. At λ = 0 every weight is positive (else T is singular), and
Q = V / s takes the place of R / λ.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convexdistill.layers.backends.base import inside_transform
from convexdistill.layers.backends.functions import differentiable
from convexdistill.layers.backends.gradients import checked

Factor = tuple[Tensor, Tensor | None]


def apply(factor: Factor, B: Tensor) -> Tensor:
    """T⁻¹B, (*B, n, c), for a Cholesky factor (L, None) or eigenvectors and eigenvalues (Q, θ) of T."""
    vectors, values = factor
    if values is None:
        return torch.cholesky_solve(B, vectors)
    return vectors @ ((vectors.mT @ B) / values.unsqueeze(-1))


def kernel_solve(
    K: Tensor,
    s: Tensor | None,
    Y: Tensor,
    lam: Tensor,
    factor: Factor,
    on_failure: str = "raise",
) -> Tensor:
    """V = √S (√S K √S + λI)⁻¹ √S Y, differentiable in K, s, Y and λ.

    Args:
        K: (*B, n, n), symmetric.
        s: (*B, n) or None for all 1.
        Y: (*B, n, c).
        lam: (*B,).
        factor: what :func:`apply` takes, without gradient, with leading dimensions *B.
        on_failure: what becomes of a gradient that is not accurate: ``"raise"``, ``"warn"`` or ``"nan"``.
    """
    answer: Tensor = differentiable(_Kernel, _KernelWithJvp, K, s, Y, lam, on_failure, *factor)
    return answer


class _Kernel(torch.autograd.Function):
    generate_vmap_rule = True

    # The tensors of the factor by name: torch.compile miscounts *args.
    @staticmethod
    def forward(
        K: Tensor,
        s: Tensor | None,
        Y: Tensor,
        lam: Tensor,
        on_failure: str,
        vectors: Tensor,
        values: Tensor | None,
    ) -> Tensor:
        if s is None:
            return apply((vectors, values), Y)
        root = s.sqrt().unsqueeze(-1)
        return root * apply((vectors, values), root * Y)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        K, s, Y, lam, on_failure, vectors, values = inputs
        ctx.on_failure = on_failure
        ctx.save_for_backward(K, s, Y, lam, output, vectors, values)

    @staticmethod
    def backward(ctx: Any, V_bar: Tensor) -> Any:
        K, s, Y, lam, V, vectors, values = ctx.saved_tensors
        need_K, need_s, need_Y, need_lam = ctx.needs_input_grad[:4]
        U = kernel_solve(K, s, V_bar, lam, (vectors, values), ctx.on_failure)
        if not inside_transform(V_bar):
            U = _checked(K, s, lam, U, V_bar, ctx.on_failure)
        K_bar = -U @ V.mT if need_K else None
        s_bar = lam_bar = None
        if need_s or need_lam:
            Q = _unweighted(K, s, Y, lam, V)
            lam_bar = -(U * Q).sum((-2, -1)) if need_lam else None
            if need_s:
                s_bar = lam.unsqueeze(-1) * (_unweighted(K, s, V_bar, lam, U) * Q).sum(-1)
        return K_bar, s_bar, U if need_Y else None, lam_bar, None, None, None


class _KernelWithJvp(_Kernel):
    """The same, with forward-mode derivatives."""

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        _Kernel.setup_context(ctx, inputs, output)
        K, s, Y, lam, _, vectors, values = inputs
        ctx.save_for_forward(K, s, Y, lam, output, vectors, values)

    @staticmethod
    def jvp(ctx: Any, dK: Any, ds: Any, dY: Any, dlam: Any, *_: Any) -> Tensor:
        K, s, Y, lam, V, vectors, values = ctx.saved_tensors
        right = torch.zeros_like(V) if dY is None else dY
        outside = None
        if dK is not None:
            right = right - dK @ V
        if dlam is not None or ds is not None:
            Q = _unweighted(K, s, Y, lam, V)
            if dlam is not None:
                right = right - dlam[..., None, None] * Q
            if ds is not None:
                outside = ds.unsqueeze(-1) * Q
                right = right - K @ outside
        dV = kernel_solve(K, s, right, lam, (vectors, values), ctx.on_failure)
        return dV if outside is None else dV + outside


def _unweighted(K: Tensor, s: Tensor | None, Y: Tensor, lam: Tensor, V: Tensor) -> Tensor:
    """Q = S⁻¹V, also where weights are zero."""
    if s is None:
        return V
    lam = lam[..., None, None]
    regular = lam > 0
    # Of both roads the untaken one is kept finite, or it would send NaN into second derivatives.
    by_residual = (Y - K @ V) / torch.where(regular, lam, 1.0)
    by_weight = V / torch.where(s > 0, s, 1.0).unsqueeze(-1)
    return torch.where(regular, by_residual, by_weight)


def _checked(K: Tensor, s: Tensor | None, lam: Tensor, U: Tensor, V_bar: Tensor, on_failure: str) -> Tensor:
    """U where it solves (SK + λI) U = S V̄; else what ``on_failure`` says."""
    with torch.no_grad():
        remainder, cotangent = K @ U - V_bar, V_bar
        if s is not None:
            remainder, cotangent = s.unsqueeze(-1) * remainder, s.unsqueeze(-1) * V_bar
        remainder = remainder + lam[..., None, None] * U

    def size() -> Tensor:
        weighted = K if s is None else s.unsqueeze(-1) * K
        bound: Tensor = torch.linalg.matrix_norm(weighted) + lam
        return bound

    return checked(U, remainder, cotangent, size, on_failure)
