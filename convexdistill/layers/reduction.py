"""Reduce ridge with an intercept, a prior or penalties to plain ridge, in differentiable operations.

What stands here is shared by all backends:

- a *free* intercept is removed by weighted centring: at the optimum b = ȳ − x̄ W with x̄ = Σ s_i x_i / Σ s_i,
  and what is left is the problem in X − x̄ and Y − ȳ;
- a *penalized* one is the weight of a column of ones (label distillation, Bohdal et al. 2020, and R2-D2);
- a *prior* W₀ moves the origin: with V = W − W₀, ``‖XW − Y‖² + λ‖W − W₀‖²`` is ridge in V with labels Y − XW₀;
- *penalties* p_j > 0 of single features scale them: with V_j = √p_j W_j, ``λ Σ_j p_j ‖W_j‖²`` is ridge in V with
  columns x_j / √p_j.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from convexdistill.layers.problems.ridge import RidgeProblem

INTERCEPTS = ("none", "free", "penalized")

Recover = Callable[[Tensor], tuple[Tensor, Tensor | None]]


def reduce(
    X: Tensor,
    Y: Tensor,
    lam: Tensor,
    sample_weight: Tensor | None = None,
    intercept: str = "none",
    prior: Tensor | None = None,
    penalty: Tensor | None = None,
) -> tuple[RidgeProblem, Recover]:
    """The plain problem, and the function from its answer to (weight, intercept).

    Args:
        X: (*B, n, d) float64.
        Y: (*B, n, C) float64.
        lam: (*B, 1) or (*B, C) float64.
        sample_weight: (*B, n) float64 or None.
        intercept: one of ``INTERCEPTS``.
        prior: W₀, (*B, d, C) float64, or None for 0.
        penalty: p > 0, (*B, d) float64, or None for 1.
    """
    recover: Recover = _no_intercept
    design = X
    if prior is not None:
        Y = Y - X @ prior
    if penalty is not None:
        root = penalty.sqrt().unsqueeze(-1)
        design = X / root.mT
    if intercept == "penalized":
        design = torch.cat([design, design.new_ones((*design.shape[:-1], 1))], dim=-1)
        recover = _last_row
    elif intercept == "free":
        x_mean, y_mean = _mean(design, sample_weight), _mean(Y, sample_weight)
        design, Y = design - x_mean, Y - y_mean

        def recover(V: Tensor) -> tuple[Tensor, Tensor | None]:
            return V, (y_mean - x_mean @ V).squeeze(-2)

    problem = RidgeProblem(design, Y, lam, sample_weight)
    if prior is None and penalty is None:
        return problem, recover

    def restore(V: Tensor) -> tuple[Tensor, Tensor | None]:
        W, b = recover(V)
        W = W if penalty is None else W / root
        return (W if prior is None else W + prior), b

    return problem, restore


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
