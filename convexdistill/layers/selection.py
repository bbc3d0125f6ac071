r"""Leave-one-out and generalised cross-validation in closed form, and the choice of λ by them.

With the hat matrix H = X(XᵀX + λI)⁻¹Xᵀ and residuals R = Y − HY, the model fitted without example i misses it by

    e_i = R_i / (1 − h_ii)          (Allen 1974, PRESS)

without any refit. Generalised cross-validation (Golub, Heath & Wahba 1979, "Generalized cross-validation as a
method for choosing a good ridge parameter") replaces h_ii by its mean: n⁻¹‖R‖² / (1 − tr(H)/n)². How weights and
intercepts enter, and how nothing cancels where R and 1 − h_ii are both tiny, is told in ``leave_one_out.py``.

All of it is made of verified, differentiable solves, so scores have gradients with respect to everything, λ
included, to any order. :func:`select_lam` evaluates a whole grid from one singular value decomposition, without
gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from convexdistill.errors import ParameterRangeError, SingularSystemError
from convexdistill.layers import arguments as args
from convexdistill.layers import failure
from convexdistill.layers.arguments import Values
from convexdistill.layers.backends.base import inside_transform, pick
from convexdistill.layers.backends.torch_backend.ridge import leave_one_out
from convexdistill.layers.reduction import INTERCEPTS
from convexdistill.layers.ridge import intercept_rules, ridge_arguments
from convexdistill.layers.solution import SolveInfo
from convexdistill.layers.status import Status

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

    ``e_i = y_i − (x_i W₋ᵢ + b₋ᵢ)``, equal to n refits, at the price of one solve with n columns. The solve is
    verified like that of :func:`~convexdistill.layers.ridge`.

    Args:
        features: X, (*B, n, d).
        labels: Y, (*B, n, C) or vectors (*B, n).
        lam: λ ≥ 0, () or broadcastable to (*B, C).
        sample_weight: s ≥ 0, (*B, n). Default: all 1. May require grad, with the exception that ``ridge`` makes.
        intercept: as in ``ridge``; a free one is fitted anew without each example.

    Returns:
        (*B, n, C), or (*B, n) for vector labels; differentiable in all four tensors, to any order. Under
        ``torch.func`` transforms and ``torch.compile``, where nothing can raise on values, a batch element without
        an answer is NaN.

    Raises:
        InvalidInputError: as ``ridge`` does.
        SingularSystemError: the model is not unique, or is not when some example is left out (λ = 0, and the only
            example with a feature; a single example with a free intercept).
        NotConvergedError: the residual of the solve is above 1e-8.

    Example:
        >>> import torch
        >>> from convexdistill.layers import loo_residuals, ridge
        >>> X, Y = torch.randn(8, 3).double(), torch.randn(8, 2).double()
        >>> refit = ridge(X[1:], Y[1:], 0.5)
        >>> bool(torch.allclose(loo_residuals(X, Y, 0.5)[0], Y[0] - refit.predict(X[:1])[0]))
        True
    """
    R, left, _ = _hold_out(features, labels, lam, sample_weight, intercept)
    e = (R / left).to(features.dtype)
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

    Arguments and errors are those of :func:`loo_residuals`. Differentiable, so that λ can be learnt:

    Example:
        >>> import torch
        >>> from convexdistill.layers import loo_score
        >>> draw = torch.Generator().manual_seed(0)
        >>> X = torch.randn(40, 20, generator=draw)
        >>> Y = X @ torch.randn(20, 2, generator=draw) + 4 * torch.randn(40, 2, generator=draw)
        >>> log_lam = torch.zeros((), requires_grad=True)
        >>> optimizer = torch.optim.Adam([log_lam], lr=0.1)
        >>> before = loo_score(X, Y, log_lam.exp()).mean().item()
        >>> for _ in range(60):
        ...     optimizer.zero_grad()
        ...     loo_score(X, Y, log_lam.exp()).mean().backward()
        ...     optimizer.step()
        >>> loo_score(X, Y, log_lam.exp()).mean().item() < before
        True
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

    With weights the mean of squares is the weighted one, and n counts the examples of positive weight. Arguments
    and errors are those of :func:`loo_residuals`.
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
    R, left, s = _hold_out(features, labels, lam, sample_weight, intercept)
    score = _score(R, left, s, criterion).to(features.dtype)
    return score.squeeze(-1) if labels.ndim == features.ndim - 1 else score


def _hold_out(
    features: Tensor, labels: Tensor, lam: float | Tensor, sample_weight: Tensor | None, intercept: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    """R and 1 − h_ii up to a common factor, verified, and the weights; float64."""
    X, Y, strength, s, masks = _prepare(features, labels, lam, sample_weight, intercept)
    hidden = masks is not None
    held = leave_one_out.hold_out(X, Y, s, intercept, strength, data_dependent=not hidden)
    reported = held.singular.to(torch.int8) * int(Status.SINGULAR)
    status = failure.judge(held.residual, reported, *(masks or ()))
    if not hidden:
        info = SolveInfo("torch", held.form, held.method, status, held.residual, held.condition)
        failure.enforce(info, "raise")
        if bool(held.lost.any()):
            _refuse(held.lost, info)
        return held.R, held.left, s
    failed = (status != 0)[..., None, None] | held.lost.any(-2, keepdim=True)
    return held.R.masked_fill(failed, float("nan")), held.left, s


def _prepare(
    features: Tensor, labels: Tensor, lam: float | Tensor, sample_weight: Tensor | None, intercept: str
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, tuple[Tensor, Tensor] | None]:
    """X, Y, λ and s in float64, checked; under a transform made harmless, with masks of what was wrong."""
    pick("intercept", intercept, INTERCEPTS)
    vector, arguments = ridge_arguments(features, labels, lam, sample_weight, None, None)
    if vector:
        arguments[1] = arguments[1]._replace(value=labels.unsqueeze(-1))
    rules = intercept_rules(sample_weight, intercept)
    values: Values = args.convert(arguments)
    masks = None
    if inside_transform():
        values, *found = args.sanitise(arguments, values, rules)
        masks = (found[0], found[1])
    else:
        args.check_finite(arguments)
        args.check_signs(arguments, values, rules)
    X, Y, strength = values["features"], values["labels"], values["lam"]
    assert X is not None
    assert Y is not None
    assert strength is not None
    return X, Y, strength, values["sample_weight"], masks


def _refuse(lost: Tensor, info: SolveInfo) -> None:
    """Raise, for an example without which the model is not determined."""
    *element, example, _ = torch.nonzero(lost)[0].tolist()
    batch = lost.any(-1).any(-1).reshape(-1)
    where = f" of batch element {element}" if element else ""
    raise SingularSystemError(
        f"without example {example}{where} the model is not determined: no other example has the direction of its "
        "features, and lam does not hold it. Raise lam, or drop the example.",
        info=info,
        batch_indices=tuple(torch.nonzero(batch).reshape(-1).tolist()),
    )


def _score(R: Tensor, left: Tensor, s: Tensor | None, criterion: str) -> Tensor:
    """(*B, C) mean square of the leave-one-out residuals, or the generalised score."""
    if criterion == "loo":
        return _mean((R / left).square(), s)
    present = None if s is None else (s > 0).to(R.dtype)
    return _mean(R.square(), s) / _mean(left, present).square()


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
) -> LamSelection:
    """Choose λ from a grid by leave-one-out or generalised cross-validation; nothing is differentiated.

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

    Raises:
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
        X, Y, _, s, masks = _prepare(features, labels, 1.0, sample_weight, intercept)
        pairs = leave_one_out.grid(leave_one_out.design(X, Y, s, intercept), grid)
        scores = torch.stack([_score(R, left, s, criterion) for R, left in pairs])
        # A λ without which an example determines its own model has no score.
        lost = torch.stack([(left == 0).any(-2) for _, left in pairs])
        scores = scores.masked_fill(lost, float("inf"))
        judged = scores if per_target else scores.mean(-1, keepdim=True)
        falling = grid.argsort(descending=True)
        best = falling[judged[falling].argmin(0)]
        lam, value = grid[best], judged.gather(0, best.unsqueeze(0)).squeeze(0)
        if masks is None and bool(value.isinf().any()):
            raise SingularSystemError(
                "no lam of the grid determines the model when some example is left out; give larger ones."
            )
        at_edge = (lam == grid.min()) | (lam == grid.max())
    dtype = features.dtype
    scores = scores.squeeze(-1) if labels.ndim == features.ndim - 1 else scores
    return LamSelection(lam.to(dtype), value.to(dtype), scores.to(dtype), grid.to(dtype), at_edge)


def check_grid(lams: Sequence[float] | Tensor) -> Tensor:
    """The grid as a float64 tensor (L,).

    Raises:
        ParameterRangeError: it is empty or holds a number that is not positive and finite.
    """
    grid = torch.as_tensor(lams, dtype=torch.float64).detach().reshape(-1)
    if not len(grid) or not bool((grid.isfinite() & (grid > 0)).all()):
        raise ParameterRangeError(f"lams must be one or more positive numbers, got {grid.tolist()[:8]}.")
    return grid
