"""The choice of λ from a grid, by leave-one-out or generalised cross-validation; see ``held_out.py``.

The whole grid comes from one singular value decomposition, without gradient.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from convexdistill.errors import DtypeError, NumericalWarning, ParameterRangeError, SingularSystemError
from convexdistill.layers import pipeline
from convexdistill.layers.backends.base import Plan, inside_transform, pick
from convexdistill.layers.backends.torch_backend.ridge import leave_one_out
from convexdistill.layers.held_out import prepare, score_of

CRITERIA = ("loo", "gcv")


class LamSelection(NamedTuple):
    """The outcome of :func:`select_lam`, in float64: the dtype of the features may round λ to 0.

    Attributes:
        lam: the best λ: (*B, 1), or (*B, C) when each target has its own; fits ``ridge(..., lam=)``.
        score: the score there, of the same shape.
        scores: (L, *B, C), every score of the grid; without the last dimension for vector labels.
        lams: (L,) the grid.
        at_edge: bool, of the shape of ``lam``: whether the best is the smallest or the largest of the grid, so
            that a wider grid may hold a better one. (Often it does not: a λ too small to matter scores like the
            next.) No warning: for many targets it is a matter of course.
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
    on_failure: str = "raise",
) -> LamSelection:
    """Choose λ from a grid by leave-one-out or generalised cross-validation; nothing is differentiated.

    The scores are closed forms in PyTorch, whichever backend ``use_backend`` says; the fit is another call.
    Of values with the same score the largest λ is taken. scikit-learn's ``RidgeCV(store_cv_results=True)`` has the
    same residuals.

    Args:
        features: (*B, n, d).
        labels: (*B, n, C) or vectors (*B, n).
        lams: the grid, L numbers > 0 in any order.
        criterion: ``"loo"`` or ``"gcv"``.
        per_target: whether each column of the labels has a λ of its own; else the mean score of the columns
            decides.
        sample_weight: (*B, n), ≥ 0.
        intercept: as in :func:`~convexdistill.layers.ridge`.
        on_failure: ``"raise"``; ``"warn"``, which takes the largest λ where none has a score (which is infinite
            then), with a warning; or ``"nan"``: there ``lam`` is NaN, and so are ``lam`` and ``score`` of elements
            whose inputs are not finite or have the wrong sign. That does not wait for the device, unless the grid
            lies there.

    Raises:
        DtypeError: ``lams`` holds something that is no number.
        ParameterRangeError: the grid is empty or holds a number that is not positive and finite.
        UnknownNameError: ``criterion`` or ``intercept`` is no known word.
        InvalidInputError: as ``ridge`` does.
        SingularSystemError: no λ of the grid determines the model when some example is left out.

    Example:
        >>> import torch
        >>> from convexdistill.layers import ridge, select_lam
        >>> X, Y = torch.randn(30, 20), torch.randn(30, 2)
        >>> chosen = select_lam(X, Y, torch.logspace(-3, 3, 13))
        >>> ridge(X, Y, chosen.lam).weight.shape
        torch.Size([20, 2])
    """
    pick("criterion", criterion, CRITERIA)
    grid = check_grid(lams).to(features.device)
    with torch.no_grad():
        X, Y, _, s, masks = prepare(features, labels, 1.0, sample_weight, intercept, on_failure)
        if not inside_transform():
            form = "primal" if X.shape[-2] > X.shape[-1] else "dual"
            plan = Plan(form, ("svd",), f"one SVD for all {len(grid)} lams")
            pipeline.announce("leave-one-out", "torch", lambda: plan)
        pairs = leave_one_out.grid(leave_one_out.design(X, Y, s, intercept), grid)
        scores = torch.stack([score_of(R, left, s, criterion) for R, left in pairs])
        # A λ without which an example determines its own model has no score.
        lost = torch.stack([(left == 0).any(-2) for _, left in pairs])
        scores = scores.masked_fill(lost, float("inf"))
        judged = scores if per_target else scores.mean(-1, keepdim=True)
        falling = grid.argsort(descending=True)
        best = falling[judged[falling].argmin(0)]
        lam, value = grid[best], judged.gather(0, best.unsqueeze(0)).squeeze(0)
        if masks is None and bool(value.isinf().any()):
            message = "no lam of the grid determines the model when some example is left out; give larger ones."
            if on_failure == "raise":
                raise SingularSystemError(message)
            warnings.warn(message, NumericalWarning, stacklevel=2)
        at_edge = (lam == grid.min()) | (lam == grid.max())
        if masks is not None:
            wrong = (masks[0] | masks[1]).unsqueeze(-1)
            lam, value = lam.masked_fill(wrong | value.isinf(), torch.nan), value.masked_fill(wrong, torch.nan)
    scores = scores.squeeze(-1) if labels.ndim == features.ndim - 1 else scores
    return LamSelection(lam, value, scores, grid, at_edge)


def check_grid(lams: Sequence[float] | Tensor) -> Tensor:
    """The grid as a float64 tensor (L,).

    Raises:
        DtypeError: it holds something that is no number.
        ParameterRangeError: it is empty or holds a number that is not positive and finite.
    """
    if isinstance(lams, Tensor):
        grid = lams.detach().double().reshape(-1).tolist()
    else:
        try:
            grid = [float(number) for number in lams]
        except (TypeError, ValueError):
            raise DtypeError(f"lams must be a list of numbers or a torch.Tensor, got {lams!r:.80}.") from None
    if not grid or not all(math.isfinite(number) and number > 0 for number in grid):
        raise ParameterRangeError(f"lams must be one or more positive numbers, got {grid[:8]}.")
    return torch.tensor(grid, dtype=torch.float64)
