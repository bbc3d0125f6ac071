r"""Leave-one-out and generalised cross-validation in closed form, and the choice of λ by them.

With the hat matrix H = X(XᵀX + λI)⁻¹Xᵀ and residuals R = Y − HY, the model fitted without example i misses it by

    e_i = R_i / (1 − h_ii)          (Allen 1974, PRESS)

without any refit. With α = (XXᵀ + λI)⁻¹Y = R/λ and 1 − h_ii = λ [(XXᵀ + λI)⁻¹]_ii the same is
``α_i / [(XXᵀ + λI)⁻¹]_ii``, which subtracts no nearly equal numbers where h_ii is near 1 (n ≤ d and a small λ);
that form is taken where n ≤ d. Weights s enter as rows √s x, √s y, and leave again by a division. A free
intercept is the weighted mean, one more direction that every example leans on: h_ii = s_i/Σs + the h_ii of the
centred features. A penalized one is a column of ones.

Generalised cross-validation (Golub, Heath & Wahba 1979) replaces h_ii by its mean: n⁻¹‖R‖² / (1 − tr(H)/n)².

All of it is made of differentiable solves, so scores have gradients with respect to everything, λ included, to any
order. :func:`select_lam` evaluates a whole grid from one singular value decomposition, without gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from convexdistill.errors import ParameterRangeError
from convexdistill.layers import arguments as args
from convexdistill.layers.backends.base import pick
from convexdistill.layers.ridge import ridge

CRITERIA = ("loo", "gcv")


def loo_residuals(
    features: Tensor,
    labels: Tensor,
    lam: float | Tensor = 1.0,
    *,
    sample_weight: Tensor | None = None,
    intercept: str = "none",
) -> Tensor:
    """What each label differs by from its prediction by the model fitted without it.

    ``e_i = y_i − (x_i W₋ᵢ + b₋ᵢ)``, equal to n refits, at the price of one solve with n columns.

    Args:
        features: X, (*B, n, d).
        labels: Y, (*B, n, C) or vectors (*B, n).
        lam: λ > 0, () or broadcastable to (*B, C).
        sample_weight: s > 0, (*B, n).
        intercept: as in :func:`ridge`.

    Returns:
        (*B, n, C), or (*B, n) for vector labels; differentiable in all four tensors.

    Raises:
        InvalidInputError: as :func:`ridge` does.
        SolveError: as :func:`ridge` does.

    Example:
        >>> import torch
        >>> from convexdistill.layers import loo_residuals, ridge
        >>> X, Y = torch.randn(8, 3).double(), torch.randn(8, 2).double()
        >>> refit = ridge(X[1:], Y[1:], 0.5)
        >>> bool(torch.allclose(loo_residuals(X, Y, 0.5)[0], Y[0] - refit.predict(X[:1])[0]))
        True
    """
    R, leverage = _fit(features, labels, lam, sample_weight, intercept)
    e = (R / leverage).to(features.dtype)
    return e.squeeze(-1) if labels.ndim == features.ndim - 1 else e


def loo_score(
    features: Tensor,
    labels: Tensor,
    lam: float | Tensor = 1.0,
    *,
    sample_weight: Tensor | None = None,
    intercept: str = "none",
) -> Tensor:
    """Weighted mean square of :func:`loo_residuals` over the examples, (*B, C) or (*B,) for vector labels.

    Example:
        >>> import torch
        >>> from convexdistill.layers import loo_score
        >>> log_lam = torch.zeros((), dtype=torch.float64, requires_grad=True)
        >>> X, Y = torch.randn(30, 20).double(), torch.randn(30, 2).double()
        >>> loo_score(X, Y, log_lam.exp()).mean().backward()
        >>> log_lam.grad.shape
        torch.Size([])
    """
    return _differentiable_score(features, labels, lam, sample_weight, intercept, "loo")


def gcv_score(
    features: Tensor,
    labels: Tensor,
    lam: float | Tensor = 1.0,
    *,
    sample_weight: Tensor | None = None,
    intercept: str = "none",
) -> Tensor:
    """Generalised cross-validation: ``n⁻¹‖R‖² / (1 − tr(H)/n)²``, (*B, C) or (*B,) for vector labels.

    The mean is weighted where there are weights. Arguments and errors are those of :func:`loo_residuals`.
    """
    return _differentiable_score(features, labels, lam, sample_weight, intercept, "gcv")


def _differentiable_score(
    features: Tensor,
    labels: Tensor,
    lam: float | Tensor,
    sample_weight: Tensor | None,
    intercept: str,
    criterion: str,
) -> Tensor:
    R, leverage = _fit(features, labels, lam, sample_weight, intercept)
    s = None if sample_weight is None else sample_weight.double()
    score = _score(R, leverage, s, criterion).to(features.dtype)
    return score.squeeze(-1) if labels.ndim == features.ndim - 1 else score


def _fit(
    features: Tensor, labels: Tensor, lam: float | Tensor, sample_weight: Tensor | None, intercept: str
) -> tuple[Tensor, Tensor]:
    """R and 1 − h_ii, (*B, n, C) or broadcastable to it, in float64 and differentiable."""
    X, Y, s = _prepare(features, labels, sample_weight)
    strength = lam.to(torch.float64) if isinstance(lam, Tensor) else lam
    R = Y - ridge(X, Y, strength, sample_weight=s, intercept=intercept).predict(X)  # which checks everything
    X, T, share = _weighted(X, Y, s, intercept)
    strength = torch.as_tensor(strength, dtype=torch.float64, device=X.device)
    strength = strength if strength.ndim else strength.reshape(1)  # (*B, C or 1)
    # The identity is what H is applied to, by one system for each λ: a dimension more, for the columns.
    system, n = X.unsqueeze(-3), X.shape[-2]
    eye = torch.eye(n, dtype=X.dtype, device=X.device)
    if n <= X.shape[-1]:
        K = system @ system.mT + strength[..., None, None] * eye
        L, failed = torch.linalg.cholesky_ex(K)
        if not bool(failed.any()):
            diagonal = torch.cholesky_inverse(L).diagonal(dim1=-2, dim2=-1)
            columns = T.mT.unsqueeze(-1) if strength.shape[-1] > 1 else T.unsqueeze(-3)
            alpha = torch.cholesky_solve(columns.expand(*L.shape[:-2], *columns.shape[-2:]), L)
            alpha = alpha.squeeze(-1).mT if strength.shape[-1] > 1 else alpha.squeeze(-3)
            R = strength.unsqueeze(-2) * alpha  # as Y − XW it would lose its digits for a small λ
            R = R if s is None else R / s.sqrt().unsqueeze(-1)
            return R, (strength.unsqueeze(-1) * diagonal).mT - share
    hat = ridge(system, eye.expand(*system.shape[:-2], n, n), strength.unsqueeze(-1)).weight  # (*B, C or 1, d, n)
    return R, 1 - (system * hat.mT).sum(-1).mT - share


def _prepare(
    features: Tensor, labels: Tensor, sample_weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Features (*B, n, d), labels (*B, n, C) and weights (*B, n) in float64."""
    vector = args.examples(features, labels)
    Y = labels.unsqueeze(-1) if vector else labels
    return features.double(), Y.double(), None if sample_weight is None else sample_weight.double()


def _weighted(X: Tensor, Y: Tensor, s: Tensor | None, intercept: str) -> tuple[Tensor, Tensor, Tensor]:
    """The rows without weights and intercept, and what the intercept adds to h_ii, (*B, n, 1) or ()."""
    share = X.new_zeros(())
    if intercept == "penalized":
        X = torch.cat([X, X.new_ones(*X.shape[:-1], 1)], -1)
    elif intercept == "free":
        share = X.new_full((X.shape[-2],), 1 / X.shape[-2]) if s is None else s / s.sum(-1, keepdim=True)
        X, Y = X - share.unsqueeze(-2) @ X, Y - share.unsqueeze(-2) @ Y
        share = share.unsqueeze(-1)
    if s is not None:
        root = s.sqrt().unsqueeze(-1)
        X, Y = root * X, root * Y
    return X, Y, share


def _grid_scores(X: Tensor, Y: Tensor, s: Tensor | None, intercept: str, grid: Tensor, criterion: str) -> Tensor:
    """(L, *B, C) scores of a whole grid from X = UΣVᵀ: R = U diag(λ/(σ²+λ)) UᵀY + (Y − UUᵀY), and so for 1 − H."""
    Z, T, share = _weighted(X, Y, s, intercept)
    U, sigma, _ = torch.linalg.svd(Z, full_matrices=False)
    inside = U.mT @ T
    outside, left = T - U @ inside, 1 - U.square().sum(-1, keepdim=True)
    scores = []
    for lam in grid.tolist():
        kept = (lam / (sigma.square() + lam)).unsqueeze(-1)
        R = U @ (kept * inside) + outside
        leverage = U.square() @ kept + left - share
        R = R if s is None else R / s.sqrt().unsqueeze(-1)
        scores.append(_score(R, leverage, s, criterion))
    return torch.stack(scores)


def _score(R: Tensor, leverage: Tensor, s: Tensor | None, criterion: str) -> Tensor:
    """(*B, C) mean square of the leave-one-out residuals, or the generalised score."""
    if criterion == "loo":
        return _mean((R / leverage).square(), s)
    return _mean(R.square(), s) / leverage.mean(-2).square()


def _mean(values: Tensor, s: Tensor | None) -> Tensor:
    """Weighted mean over the examples of (*B, n, C)."""
    if s is None:
        return values.mean(-2)
    return (s.unsqueeze(-1) * values).sum(-2) / s.sum(-1, keepdim=True)


class LamSelection(NamedTuple):
    """The outcome of :func:`select_lam`.

    Attributes:
        lam: the best λ: (*B, 1), or (*B, C) when each target has its own; fits ``ridge(..., lam=)``.
        score: the score there, of the same shape.
        scores: (L, *B, C), every score of the grid; without the last dimension for vector labels.
        lams: (L,) the grid.
        at_edge: bool, of the shape of ``lam``: whether the best is the least or greatest of the grid, so that a
            wider one may hold a better.
    """

    lam: Tensor
    score: Tensor
    scores: Tensor
    lams: Tensor
    at_edge: Tensor


def select_lam(
    features: Tensor,
    labels: Tensor,
    lams: Sequence[float] | Tensor,
    *,
    criterion: str = "loo",
    per_target: bool = False,
    sample_weight: Tensor | None = None,
    intercept: str = "none",
) -> LamSelection:
    """Choose λ from a grid by leave-one-out or generalised cross-validation; nothing is differentiated.

    Args:
        features: (*B, n, d).
        labels: (*B, n, C) or vectors (*B, n).
        lams: the grid, L numbers > 0.
        criterion: ``"loo"`` or ``"gcv"``.
        per_target: whether each column of the labels has a λ of its own; else their mean score decides.
        sample_weight: (*B, n), > 0.
        intercept: as in :func:`ridge`.

    Raises:
        ParameterRangeError: the grid is empty or holds a number that is not positive and finite.
        UnknownNameError: ``criterion`` or ``intercept`` is no known word.
        InvalidInputError: as :func:`ridge` does.

    Example:
        >>> import torch
        >>> from convexdistill.layers import ridge, select_lam
        >>> X, Y = torch.randn(30, 20), torch.randn(30, 2)
        >>> chosen = select_lam(X, Y, torch.logspace(-3, 3, 13))
        >>> ridge(X, Y, chosen.lam).weight.shape
        torch.Size([20, 2])
    """
    pick("criterion", criterion, CRITERIA)
    grid = torch.as_tensor(lams, dtype=torch.float64).reshape(-1)
    if not len(grid) or not bool((grid.isfinite() & (grid > 0)).all()):
        raise ParameterRangeError(f"lams must be one or more positive numbers, got {grid.tolist()[:8]}.")
    vector = labels.ndim == features.ndim - 1
    with torch.no_grad():
        ridge(
            features, labels, float(grid[0]), sample_weight=sample_weight, intercept=intercept
        )  # checks everything
        X, Y, s = _prepare(features, labels, sample_weight)
        scores = _grid_scores(X, Y, s, intercept, grid, criterion)
        judged = scores if per_target else scores.mean(-1, keepdim=True)
        best = judged.argmin(0)
        lam = grid.to(features.device)[best]
        at_edge = (lam == grid.min()) | (lam == grid.max())
        value = judged.gather(0, best.unsqueeze(0)).squeeze(0)
    dtype = features.dtype
    scores = scores.squeeze(-1) if vector else scores
    return LamSelection(lam.to(dtype), value.to(dtype), scores.to(dtype), grid.to(dtype), at_edge)
