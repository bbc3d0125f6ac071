"""K-fold cross-validation of λ, differentiable: the K fits are one batch of weighted ridge problems."""

from __future__ import annotations

import torch
from torch import Tensor

from convexdistill.errors import ParameterRangeError, ShapeError
from convexdistill.layers.ridge import ridge


def kfold_score(
    features: Tensor,
    labels: Tensor,
    lam: float | Tensor = 1.0,
    *,
    folds: int | Tensor = 5,
    seed: int = 0,
    sample_weight: Tensor | None = None,
    intercept: str = "none",
    backend: str = "auto",
) -> Tensor:
    """Mean squared error on examples that were held out, fold by fold; differentiable in everything, λ included.

    Fold k is predicted by the model of all other examples, which is ridge regression with a weight of 0 in fold k:
    ``Σ_i s_i (y_i − x_i W⁽ᵏ⁽ⁱ⁾⁾ − b⁽ᵏ⁽ⁱ⁾⁾)² / Σ_i s_i``. With one example a fold it is
    :func:`~convexdistill.layers.loo_score`, which needs one factorisation instead of n. Cost: K fits.

    Args:
        features: (*B, n, d).
        labels: (*B, n, C) or vectors (*B, n).
        lam: as in :func:`~convexdistill.layers.ridge`.
        folds: how many folds of equal size, dealt out by ``seed``; or the fold of each example, (n,) integers from
            0 to K − 1, for examples that belong together (of one person, say).
        seed: of the shuffle.
        sample_weight: s ≥ 0, (*B, n). Default: all 1.
        intercept: as in ``ridge``.
        backend: as in ``ridge``.

    Returns:
        (*B, C), or (*B,) for vector labels.

    Raises:
        ParameterRangeError: fewer than two folds, or more than examples.
        ShapeError: ``folds`` is a tensor of another length than n.
        InvalidInputError, SolveError: as ``ridge`` does.

    Example:
        >>> import torch
        >>> from convexdistill.layers import kfold_score
        >>> X, Y = torch.randn(30, 20), torch.randn(30, 2)
        >>> log_lam = torch.zeros((), requires_grad=True)
        >>> kfold_score(X, Y, log_lam.exp(), folds=3).mean().backward()
        >>> log_lam.grad.shape
        torch.Size([])
    """
    vector = labels.ndim == features.ndim - 1
    Y = labels.unsqueeze(-1) if vector else labels
    fold = _assign(folds, features.shape[-2], seed).to(features.device)
    inside = torch.arange(int(fold.max()) + 1, device=features.device)[:, None] == fold  # (K, n)
    s = torch.ones_like(features[..., 0]) if sample_weight is None else sample_weight
    if isinstance(lam, Tensor) and lam.ndim > 1:
        lam = lam.unsqueeze(-2)
    fit = ridge(
        features.unsqueeze(-3),
        Y.unsqueeze(-3),
        lam,
        sample_weight=s.unsqueeze(-2) * (~inside).to(features.dtype),
        intercept=intercept,
        backend=backend,
    )
    errors = (Y.unsqueeze(-3) - fit.predict(features.unsqueeze(-3))).square()  # (*B, K, n, C)
    held_out = (errors * inside.to(errors.dtype).unsqueeze(-1)).sum(-3)
    score = (s.unsqueeze(-1) * held_out).sum(-2) / s.sum(-1, keepdim=True)
    return score.squeeze(-1) if vector else score


def _assign(folds: int | Tensor, n: int, seed: int) -> Tensor:
    """The fold of each example, (n,)."""
    if isinstance(folds, Tensor):
        if folds.shape != (n,) or folds.is_floating_point():
            raise ShapeError(
                f"folds must be (n,) = ({n},) integers, found {folds.dtype} of shape {tuple(folds.shape)}."
            )
        if int(folds.min()) < 0 or len(folds.unique()) != int(folds.max()) + 1 or int(folds.max()) < 1:
            raise ParameterRangeError("folds must hold every number from 0 to K - 1 with K of at least 2.")
        return folds
    if not 2 <= folds <= n:
        raise ParameterRangeError(f"folds is {folds}, but must lie between 2 and the number of examples, {n}.")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    fold = torch.empty(n, dtype=torch.int64)
    fold[order] = torch.arange(n) % folds
    return fold
