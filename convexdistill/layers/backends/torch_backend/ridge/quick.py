"""The plain ridge problem in as few steps as can be verified.

For a hundred rows the solve takes 0.1 ms, and laying out batches, looking for NaN and estimating condition numbers
would take several times as long. One matrix of float64 features, one of labels and one number λ > 0 need none of
that: λ itself bounds the condition of S = MᵀM + λI by κ = (‖X‖² + λ)/λ, which is estimated only where the bound
is too large, and a NaN or an infinity makes the residual NaN. Sizes whose squares come near the ends of float64
cannot be measured by norms. What is not certainly right after these few steps is left to the general road, which
finds out why.

The residual is that of the normal equations as they were formed, S V = B. Rounding in S and B moves it by at
most about n·eps·(1 + √κ/2) relative to ‖X‖‖Y‖; where that is below 1e-10 it says as much as the residual that is
formed from X, at the price of a pass over S instead of two over X. The same holds for the solve of the gradient,
S U = ∂L/∂V, after which the rule of ``implicit.py`` gives the gradients to X and Y.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from convexdistill.layers.backends.base import inside_transform
from convexdistill.layers.backends.gradients import ACCEPT_BELOW
from convexdistill.layers.backends.torch_backend.ridge.factors import inverse_norm
from convexdistill.layers.backends.torch_backend.ridge.implicit import solve
from convexdistill.layers.solution import LinearFit, SolveInfo

LARGEST_CONDITION = 1e4
LARGEST_ROUNDING = 1e-10
LARGEST_SIZE = 1e100
ACCURATE = 1e-12
EPSILON = 2.0**-52


def quick_ridge(X: Tensor, Y: Tensor, lam: float, on_failure: str) -> LinearFit | None:
    """Ridge regression of Y (n, C) on X (n, d), both float64; None where the general road must be taken.

    Args:
        X: (n, d).
        Y: (n, C).
        lam: λ > 0.
        on_failure: what becomes of a gradient that is not accurate, ``"raise"`` or ``"warn"``.
    """
    if inside_transform() or forward_ad._current_level >= 0:
        return None
    n, d = X.shape
    primal = n >= d
    M = X if primal else X.mT
    with torch.no_grad():
        S = M.mT @ M
        squares = S.trace().item()  # ‖X‖²
        S.diagonal().add_(lam)
        L = torch.linalg.cholesky_ex(S).L
        condition = squares / lam + 1
        if condition > LARGEST_CONDITION:  # too loose a bound for many rows: estimate
            condition = (torch.linalg.vector_norm(S) * inverse_norm("cholesky", (L,))).item()
        # NaN fails the comparison.
        if not (condition <= LARGEST_CONDITION and max(n, d) * EPSILON * condition**0.5 <= LARGEST_ROUNDING):
            return None
        B = (Y.mT @ M).mT if primal else Y  # column by column, as LAPACK wants it
        V = torch.cholesky_solve(B, L)
        # B has the size ‖X‖‖Y‖ in the primal and ‖Y‖ in the dual.
        scale = torch.linalg.vector_norm(Y).item() * (squares**0.5 if primal else 1.0)
        error = torch.linalg.vector_norm(torch.addmm(B, S, V, alpha=-1)).item()
        sizes = min(squares**0.5, scale), max(squares**0.5, scale)
        if not (error <= ACCURATE * scale and 1 / LARGEST_SIZE < sizes[0] <= sizes[1] < LARGEST_SIZE):
            return None
    if torch.is_grad_enabled() and (X.requires_grad or Y.requires_grad):
        V = _Tied.apply(M, Y, V, S, L, lam, primal, on_failure)
    residual = torch.scalar_tensor(error / scale, dtype=torch.float64, device=X.device)
    bound = torch.scalar_tensor(condition, dtype=torch.float64, device=X.device)
    status = torch.scalar_tensor(0, dtype=torch.int8, device=X.device)
    info = SolveInfo("torch", "primal" if primal else "dual", "cholesky", status, residual, bound)
    return LinearFit(V if primal else M @ V, None, info)


class _Tied(Function):
    """An answer that is known already, tied to what it depends on; its gradients are quick as well."""

    @staticmethod
    def forward(
        ctx: Any, M: Tensor, Y: Tensor, V: Tensor, S: Tensor, L: Tensor, lam: float, primal: bool, on_failure: str
    ) -> Tensor:
        ctx.save_for_backward(M, Y, V, S, L)
        ctx.lam, ctx.primal, ctx.on_failure = lam, primal, on_failure
        return V.clone()  # an input that is handed out again is a view, which nobody may change in place

    @staticmethod
    def backward(ctx: Any, V_bar: Tensor) -> Any:
        M, Y, V, S, L = ctx.saved_tensors
        need_M, need_Y = ctx.needs_input_grad[:2]
        rest = (None,) * 6
        again = torch.is_grad_enabled()
        if not (again or inside_transform(V_bar)):
            U = torch.cholesky_solve(V_bar, L)
            error = torch.linalg.vector_norm(torch.addmm(V_bar, S, U, alpha=-1)).item()
            if error <= ACCEPT_BELOW * torch.linalg.vector_norm(V_bar).item() < float("inf"):
                MU = M @ U if need_M or ctx.primal else None
                Y_bar = (MU if ctx.primal else U) if need_Y else None
                if not need_M:
                    return None, Y_bar, *rest
                assert MU is not None
                R = torch.addmm(Y, M, V, alpha=-1) if ctx.primal else M @ V.neg()
                # M̄ = RUᵀ − MU Vᵀ in one product: M may be large
                return torch.cat([R, MU.neg()], 1) @ torch.cat([U, V], 1).mT, Y_bar, *rest
        # Gradients of gradients, and gradients that failed the check: by the general rule.
        with torch.enable_grad():
            lam = torch.tensor(ctx.lam, dtype=torch.float64, device=M.device)
            inputs = [t if again else t.detach().requires_grad_(t.requires_grad) for t in (M, Y)]
            E, B = (inputs[1], None) if ctx.primal else (None, inputs[1])
            V = solve(inputs[0], None, E, B, lam, "cholesky", (L,), ctx.on_failure)
            wanted = [i for i, need in enumerate((need_M, need_Y)) if need]
            found = torch.autograd.grad(V, [inputs[i] for i in wanted], V_bar, create_graph=again)
        grads: list[Tensor | None] = [None, None]
        for i, grad in zip(wanted, found, strict=True):
            grads[i] = grad
        return *grads, *rest
