"""The minimiser of the logistic problem as a differentiable function, to any order.

At the minimum ``Xᵀ(diag(w)P − T) + Λ∘W = 0`` with P = softmax(XW). Differentiate it, with H and K as in
``softmax.py``, R = diag(w)P − T and A = XU:

    H dW = Xᵀ(dT − dw∘P) − dXᵀR − XᵀK(dX W) − dΛ∘W.

For a cotangent W̄ let U = H⁻¹W̄ (H is symmetric); then

    T̄ = A      w̄ = −Σ_c P∘A      X̄ = −(R Uᵀ + K(A) Wᵀ)      Λ̄ = −W∘U

and with T = s∘Y, w = s∘ΣY autograd finds Ȳ_i = s_i(A_i − P_i·A_i) and s̄_i = y_i·A_i − m_i P_i·A_i.

U is the answer of a linear system in which X, w, P and Λ appear again, so it is a function of its own,
V = H⁻¹B, with a derivative of the same kind. For U = H⁻¹V̄, A = XU and Q = XV:

    B̄ = U      X̄ = −(K(Q) Uᵀ + K(A) Vᵀ)      Λ̄ = −U∘V
    P̄ = −w∘(A∘Q − A (P·Q) − Q (P·A))          w̄ = −(P·(A∘Q) − (P·A)(P·Q)),   row by row.

Nothing is differentiated through the iterations or a factorisation. Solves of backward passes are checked like
those of forward passes. In gauged rows (see ``softmax.py``) H⁻¹ is the inverse on rows that sum to zero: W has no
other derivative there, and B̄ and P̄ no other part that matters. (The tensors of a factor are arguments by name,
since torch.compile miscounts those of a ``*``.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convexdistill.layers.backends.base import inside_transform
from convexdistill.layers.backends.functions import differentiable
from convexdistill.layers.backends.gradients import ACCEPT_BELOW, checked
from convexdistill.layers.backends.torch_backend.logistic.newton_factors import Factor, solve
from convexdistill.layers.backends.torch_backend.logistic.softmax import curve, hessian_apply, misfit

TOLERANCE = 1e-14
LIMIT_NEWTON, LIMIT_CG, LIMIT_CG_HIDDEN = 6, 1000, 200


def minimiser(
    X: Tensor,
    w: Tensor,
    T: Tensor,
    penalty: Tensor,
    gauged: Tensor,
    W: Tensor,
    factor: Factor,
    method: str,
    on_failure: str,
) -> Tensor:
    """W as a function of X, w, T and Λ.

    Args:
        X: (*B, n, D).
        w: (*B, n).
        T: (*B, n, C).
        penalty: Λ, (*B, D, C).
        gauged: (*B, D, 1), 1 where a row of W sums to zero; without gradient.
        W: the minimiser, (*B, D, C), without gradient.
        factor: of H at W or near it, without gradient.
        method: whose factor it is, ``"newton"`` or ``"newton-cg"``.
        on_failure: what becomes of a gradient that is not accurate.
    """
    inputs = (X, w, T, penalty, gauged, W, method, on_failure, *factor)
    answer: Tensor = differentiable(_Minimiser, _MinimiserWithJvp, *inputs)
    return answer


def pull_back(
    X: Tensor, w: Tensor, T: Tensor, W: Tensor, P: Tensor, U: Tensor, needs: tuple[bool, bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """X̄, w̄, T̄ and Λ̄ from U = H⁻¹W̄, where they are needed."""
    need_X, need_w, need_T, need_penalty = needs
    X_bar = w_bar = A = None
    if need_X or need_w or need_T:
        A = X @ U
        if need_X:
            X_bar = -(torch.cat([misfit(P, w, T), curve(w, P, A)], -1) @ torch.cat([U, W], -1).mT)
        if need_w:
            w_bar = -(P * A).sum(-1)
    return X_bar, w_bar, A if need_T else None, -W * U if need_penalty else None


class _Minimiser(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        X: Tensor,
        w: Tensor,
        T: Tensor,
        penalty: Tensor,
        gauged: Tensor,
        W: Tensor,
        method: str,
        on_failure: str,
        L: Tensor,
        scale: Tensor,
        Q: Tensor | None,
        outside: Tensor | None,
    ) -> Tensor:
        return W.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        X, w, T, penalty, gauged, _, method, on_failure, *factor = inputs
        ctx.method, ctx.on_failure = method, on_failure
        ctx.save_for_backward(X, w, T, penalty, gauged, output, *factor)

    @staticmethod
    def backward(ctx: Any, W_bar: Tensor) -> Any:
        X, w, T, penalty, gauged, W, *factor = ctx.saved_tensors
        P = torch.softmax(X @ W, -1)
        U = _solve(X, w, P, penalty, gauged, W_bar, _factor(*factor), ctx.method, ctx.on_failure)
        return *pull_back(X, w, T, W, P, U, ctx.needs_input_grad[:4]), *(None,) * 8


class _MinimiserWithJvp(_Minimiser):
    """The same, with forward-mode derivatives: ``jacfwd``, ``hessian``, ``torch.func.jvp``."""

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        _Minimiser.setup_context(ctx, inputs, output)
        X, w, T, penalty, gauged, _, _, _, *factor = inputs
        ctx.save_for_forward(X, w, T, penalty, gauged, output, *factor)

    @staticmethod
    def jvp(ctx: Any, dX: Any, dw: Any, dT: Any, dpenalty: Any, *_: Any) -> Tensor:
        X, w, T, penalty, gauged, W, *factor = ctx.saved_tensors
        P = torch.softmax(X @ W, -1)
        right = torch.zeros_like(W)
        if dT is not None:
            right = right + X.mT @ dT
        if dw is not None:
            right = right - X.mT @ (dw.unsqueeze(-1) * P)
        if dX is not None:
            right = right - dX.mT @ misfit(P, w, T) - X.mT @ curve(w, P, dX @ W)
        if dpenalty is not None:
            right = right - dpenalty * W
        return _solve(X, w, P, penalty, gauged, right, _factor(*factor), ctx.method, ctx.on_failure)


def _solve(
    X: Tensor,
    w: Tensor,
    P: Tensor,
    penalty: Tensor,
    gauged: Tensor,
    B: Tensor,
    factor: Factor,
    method: str,
    on_failure: str,
) -> Tensor:
    """V = H⁻¹B, (*B, D, C), differentiable in X, w, P, Λ and B."""
    # In a transform nothing can raise on values; the forward of the Function does not always see the transform.
    on_failure = "nan" if inside_transform(B) else on_failure
    inputs = (X, w, P, penalty, gauged, B, method, on_failure, *factor)
    answer: Tensor = differentiable(_Solve, _SolveWithJvp, *inputs)
    return answer


class _Solve(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        X: Tensor,
        w: Tensor,
        P: Tensor,
        penalty: Tensor,
        gauged: Tensor,
        B: Tensor,
        method: str,
        on_failure: str,
        L: Tensor,
        scale: Tensor,
        Q: Tensor | None,
        outside: Tensor | None,
    ) -> Tensor:
        def product(V: Tensor) -> Tensor:
            return hessian_apply(X, w, P, penalty, V)

        def size() -> Tensor:  # a bound of ‖H‖, as K is at most w/2
            return (w * X.square().sum(-1)).sum(-1) / 2 + penalty.amax((-2, -1))

        look = on_failure != "nan"
        limit = LIMIT_NEWTON if method == "newton" else LIMIT_CG if look else LIMIT_CG_HIDDEN
        V, rest = solve(product, (L, scale, Q, outside), gauged, B, TOLERANCE, limit, look)
        if look:
            return checked(V, rest, B, size, on_failure)
        wrong = ~(_norm(rest) <= ACCEPT_BELOW * (size() * _norm(V) + _norm(B)))  # true for NaN
        return V.masked_fill(wrong[..., None, None], float("nan"))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        X, w, P, penalty, gauged, _, method, on_failure, *factor = inputs
        ctx.method, ctx.on_failure = method, on_failure
        ctx.save_for_backward(X, w, P, penalty, gauged, output, *factor)

    @staticmethod
    def backward(ctx: Any, V_bar: Tensor) -> Any:
        X, w, P, penalty, gauged, V, *factor = ctx.saved_tensors
        need_X, need_w, need_P, need_penalty, _, need_B = ctx.needs_input_grad[:6]
        U = _solve(X, w, P, penalty, gauged, V_bar, _factor(*factor), ctx.method, ctx.on_failure)
        X_bar = w_bar = P_bar = None
        if need_X or need_w or need_P:
            A, Q = X @ U, X @ V
            mean_A, mean_Q = (P * A).sum(-1, keepdim=True), (P * Q).sum(-1, keepdim=True)
            if need_X:
                X_bar = -(torch.cat([curve(w, P, Q), curve(w, P, A)], -1) @ torch.cat([U, V], -1).mT)
            if need_w:
                w_bar = (mean_A * mean_Q).squeeze(-1) - (P * A * Q).sum(-1)
            if need_P:
                P_bar = w.unsqueeze(-1) * (A * mean_Q + Q * mean_A - A * Q)
        penalty_bar = -U * V if need_penalty else None
        return X_bar, w_bar, P_bar, penalty_bar, None, U if need_B else None, None, None, None, None, None, None


class _SolveWithJvp(_Solve):
    """The same, with forward-mode derivatives."""

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        _Solve.setup_context(ctx, inputs, output)
        X, w, P, penalty, gauged, _, _, _, *factor = inputs
        ctx.save_for_forward(X, w, P, penalty, gauged, output, *factor)

    @staticmethod
    def jvp(ctx: Any, dX: Any, dw: Any, dP: Any, dpenalty: Any, _: Any, dB: Any, *__: Any) -> Tensor:
        X, w, P, penalty, gauged, V, *factor = ctx.saved_tensors
        Q = X @ V
        right = torch.zeros_like(V) if dB is None else dB
        if dX is not None:
            right = right - dX.mT @ curve(w, P, Q) - X.mT @ curve(w, P, dX @ V)
        if dw is not None:
            right = right - X.mT @ curve(dw, P, Q)
        if dP is not None:
            mean, change = (P * Q).sum(-1, keepdim=True), (dP * Q).sum(-1, keepdim=True)
            right = right - X.mT @ (w.unsqueeze(-1) * (dP * (Q - mean) - P * change))
        if dpenalty is not None:
            right = right - dpenalty * V
        return _solve(X, w, P, penalty, gauged, right, _factor(*factor), ctx.method, ctx.on_failure)


def _factor(L: Tensor, scale: Tensor, Q: Tensor | None, outside: Tensor | None) -> Factor:
    return L, scale, Q, outside


def _norm(values: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.matrix_norm(values)
    return norm
