"""Pseudo-inverses as differentiable functions, to any order.

V = A⁺B for a matrix A (r×k) of constant rank. With the residual R = B − AV, Golub & Pereyra (1973, "The
differentiation of pseudo-inverses and nonlinear least squares problems whose variables separate", eq. 4.12) give

    dV = A⁺(dB − dA V) + A⁺A⁺ᵀ dAᵀ R + (I − A⁺A) dAᵀ A⁺ᵀV.

For a cotangent V̄ let U = A⁺ᵀV̄; then I − A⁺A takes V̄ to V̄ − AᵀU, and

    B̄ = U        Ā = −U Vᵀ + R (A⁺U)ᵀ + (A⁺ᵀV) (V̄ − AᵀU)ᵀ.

The second term of Ā is zero where the rows of A are independent (R = 0 for every A nearby), the third where the
columns are; the flags say so, and save the work. A⁺ᵀ = (Aᵀ)⁺, so U, A⁺U and A⁺ᵀV come from the same function, and
every higher derivative follows. Nothing is differentiated through a factorisation: repeated singular values are
harmless, and one factor serves all orders.

Where singular values that are not exactly zero count as zero, V is that of the nearest matrix of the smaller rank,
and the derivatives are those at that matrix.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from convexdistill.layers.backends.base import inside_transform
from convexdistill.layers.backends.functions import differentiable
from convexdistill.layers.backends.gradients import checked
from convexdistill.layers.problems.base import TINY


class Pinv(NamedTuple):
    """A factored matrix A, or with ``flipped`` its transpose, and what is known of its rank.

    With T = A, or T = Aᵀ where ``flipped``: ``"qr"`` stands for T = QR with independent columns, ``"svd"`` for
    T = L diag(σ) Hᵀ, with σ⁺ the inverses of the singular values that are kept, and 0 for the others.

    Attributes:
        method: ``"qr"`` or ``"svd"``.
        left: Q or L.
        middle: R or σ⁺.
        right: None or Hᵀ.
        flipped: whether T = Aᵀ.
        injective: whether the columns of A are known to be independent.
        surjective: whether its rows are.
    """

    method: str
    left: Tensor
    middle: Tensor
    right: Tensor | None = None
    flipped: bool = False
    injective: bool = False
    surjective: bool = False

    @property
    def transposed(self) -> Pinv:
        """The same of Aᵀ."""
        return self._replace(flipped=not self.flipped, injective=self.surjective, surjective=self.injective)

    def reshaped(self, batch: tuple[int, ...]) -> Pinv:
        """The same with other leading dimensions, to which those it has must broadcast; () drops ones."""

        def lead(tensor: Tensor, core: int) -> Tensor:
            tail = tensor.shape[tensor.ndim - core :]
            return tensor.expand(*batch, *tail) if batch else tensor.reshape(tail)

        right = None if self.right is None else lead(self.right, 2)
        middle = lead(self.middle, 2 if self.method == "qr" else 1)
        return self._replace(left=lead(self.left, 2), middle=middle, right=right)


def apply(pinv: Pinv, B: Tensor) -> Tensor:
    """A⁺B, (*B, k, c), without a rule for its derivative."""
    left, middle, right = pinv.left, pinv.middle, pinv.right
    answer: Tensor
    if right is None:
        if pinv.flipped:
            answer = left @ torch.linalg.solve_triangular(middle.mT, B, upper=False)
        else:
            answer = torch.linalg.solve_triangular(middle, left.mT @ B, upper=True)
    elif pinv.flipped:
        answer = left @ (middle.unsqueeze(-1) * (right @ B))
    else:
        answer = right.mT @ (middle.unsqueeze(-1) * (left.mT @ B))
    return answer


def pinv_apply(A: Tensor, B: Tensor, pinv: Pinv, on_failure: str = "raise") -> Tensor:
    """V = A⁺B, differentiable in A (*B, r, k) and B (*B, r, c) at constant rank.

    Args:
        A: (*B, r, k).
        B: (*B, r, c).
        pinv: the factors of A, without gradient, with leading dimensions *B.
        on_failure: what becomes of a gradient that is not accurate: ``"raise"``, ``"warn"`` or ``"nan"``.
    """
    answer: Tensor = differentiable(_Pinv, _PinvWithJvp, A, B, on_failure, *pinv)
    return answer


class _Pinv(torch.autograd.Function):
    generate_vmap_rule = True

    # One parameter for each field of Pinv: torch.compile miscounts *args.
    @staticmethod
    def forward(
        A: Tensor,
        B: Tensor,
        on_failure: str,
        method: str,
        left: Tensor,
        middle: Tensor,
        right: Tensor | None,
        flipped: bool,
        injective: bool,
        surjective: bool,
    ) -> Tensor:
        return apply(Pinv(method, left, middle, right, flipped, injective, surjective), B)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        A, B, on_failure, method, left, middle, right, *flags = inputs
        ctx.on_failure, ctx.method, ctx.flags = on_failure, method, flags
        ctx.save_for_backward(A, B, output, left, middle, right)

    @staticmethod
    def backward(ctx: Any, V_bar: Tensor) -> Any:
        A, B, V, *tensors = ctx.saved_tensors
        pinv, policy = Pinv(ctx.method, *tensors, *ctx.flags), ctx.on_failure
        U = pinv_apply(A.mT, V_bar, pinv.transposed, policy)
        if not inside_transform(V_bar):
            with torch.no_grad():
                size = torch.linalg.matrix_norm(A).clamp_min(TINY)
                remainder = _kept(pinv, A @ (A.mT @ U - V_bar)) / size[..., None, None]
            U = checked(U, remainder, V_bar, lambda: size, policy)
        A_bar = None
        if ctx.needs_input_grad[0]:
            A_bar = -U @ V.mT
            if not pinv.surjective:
                A_bar = A_bar + (B - A @ V) @ pinv_apply(A, U, pinv, policy).mT
            if not pinv.injective:
                A_bar = A_bar + pinv_apply(A.mT, V, pinv.transposed, policy) @ (V_bar - A.mT @ U).mT
        B_bar = U if ctx.needs_input_grad[1] else None
        return A_bar, B_bar, None, None, None, None, None, None, None, None


class _PinvWithJvp(_Pinv):
    """The same, with forward-mode derivatives."""

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        _Pinv.setup_context(ctx, inputs, output)
        A, B, _, _, left, middle, right, *_ = inputs
        ctx.save_for_forward(A, B, output, left, middle, right)

    @staticmethod
    def jvp(ctx: Any, dA: Any, dB: Any, *_: Any) -> Tensor:
        A, B, V, *tensors = ctx.saved_tensors
        pinv, policy = Pinv(ctx.method, *tensors, *ctx.flags), ctx.on_failure
        right = torch.zeros_like(B) if dB is None else dB
        if dA is None:
            return pinv_apply(A, right, pinv, policy)
        right = right - dA @ V
        if not pinv.surjective:
            right = right + pinv_apply(A.mT, dA.mT @ (B - A @ V), pinv.transposed, policy)
        dV = pinv_apply(A, right, pinv, policy)
        if not pinv.injective:
            outside = dA.mT @ pinv_apply(A.mT, V, pinv.transposed, policy)
            dV = dV + outside - pinv_apply(A, A @ outside, pinv, policy)
        return dV


def _kept(pinv: Pinv, values: Tensor) -> Tensor:
    """The part of the columns of (*B, r, c) that lies in the range of A, where singular values were dropped."""
    if pinv.right is None:
        return values
    basis = (pinv.right.mT if pinv.flipped else pinv.left) * (pinv.middle != 0).unsqueeze(-2)
    return basis @ (basis.mT @ values)
