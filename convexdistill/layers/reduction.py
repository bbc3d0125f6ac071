"""Reduce ridge with an intercept to ridge without, in differentiable operations.

What stands here is shared by all backends:

- a *free* intercept is removed by weighted centring: at the optimum b = ȳ − x̄ W with x̄ = Σ s_i x_i / Σ s_i,
  and what is left is the problem in X − x̄ and Y − ȳ;
- a *penalized* one is the weight of a column of ones (label distillation, Bohdal et al. 2020, and R2-D2).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from convexdistill.layers.problem import RidgeProblem

INTERCEPTS = ("none", "free", "penalized")

Recover = Callable[[Tensor], tuple[Tensor, Tensor | None]]


def reduce(
    X: Tensor, Y: Tensor, lam: Tensor, sample_weight: Tensor | None, intercept: str
) -> tuple[RidgeProblem, Recover]:
    """The problem without intercept, and the function from its answer to (weight, intercept).

    Args:
        X: (*B, n, d) float64.
        Y: (*B, n, C) float64.
        lam: (*B, 1) or (*B, C) float64.
        sample_weight: (*B, n) float64 or None.
        intercept: one of ``INTERCEPTS``.
    """
    recover: Recover = _no_intercept
    if intercept == "penalized":
        X = torch.cat([X, X.new_ones((*X.shape[:-1], 1))], dim=-1)
        recover = _last_row
    elif intercept == "free":
        x_mean, y_mean = _mean(X, sample_weight), _mean(Y, sample_weight)
        X, Y = X - x_mean, Y - y_mean

        def recover(W: Tensor) -> tuple[Tensor, Tensor | None]:
            return W, (y_mean - x_mean @ W).squeeze(-2)

    return RidgeProblem(X, Y, lam, sample_weight), recover


def _mean(rows: Tensor, sample_weight: Tensor | None) -> Tensor:
    """Weighted mean over the examples, (*B, 1, k)."""
    if sample_weight is None:
        return rows.mean(-2, keepdim=True)
    share = sample_weight / sample_weight.sum(-1, keepdim=True)
    return share.unsqueeze(-2) @ rows


def _no_intercept(W: Tensor) -> tuple[Tensor, Tensor | None]:
    return W, None


def _last_row(W: Tensor) -> tuple[Tensor, Tensor | None]:
    return W[..., :-1, :], W[..., -1, :]
