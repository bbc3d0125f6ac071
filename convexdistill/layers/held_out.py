r"""Leave-one-out and generalised cross-validation of ridge regression in closed form.

With the hat matrix H = X(XᵀX + λI)⁻¹Xᵀ and residuals R = Y − HY, the model fitted without example i misses it by

    e_i = R_i / (1 − h_ii)          (Allen 1974, PRESS)

without any refit. Generalised cross-validation (Golub, Heath & Wahba 1979, "Generalized cross-validation as a
method for choosing a good ridge parameter") replaces h_ii by its mean: n⁻¹‖R‖² / (1 − tr(H)/n)². How weights and
intercepts enter, and how nothing cancels where R and 1 − h_ii are both tiny, is told in ``leave_one_out.py``.

All of it is made of verified, differentiable solves, so scores have gradients with respect to everything, λ
included, to any order.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from convexdistill.errors import NotConvergedError, NumericalWarning, SingularSystemError
from convexdistill.layers import arguments as args
from convexdistill.layers import failure, pipeline
from convexdistill.layers.arguments import Values
from convexdistill.layers.backends.base import inside_transform, pick
from convexdistill.layers.backends.torch_backend.ridge import leave_one_out
from convexdistill.layers.reduction import INTERCEPTS
from convexdistill.layers.ridge import intercept_rules, ridge_arguments
from convexdistill.layers.solution import SolveInfo
from convexdistill.layers.status import Status


def loo_residuals(
    features: Tensor,
    labels: Tensor,
    lam: float | Tensor = 1.0,
    *,
    sample_weight: Tensor | None = None,
    intercept: str = "none",
    on_failure: str = "raise",
) -> Tensor:
    """What each label differs by from its prediction by the model fitted without it.

    ``e_i = y_i − (x_i W₋ᵢ + b₋ᵢ)``, equal to n refits, at the price of one solve with n columns. The solve is
    verified like that of :func:`~convexdistill.layers.ridge`. It is always that of the torch backend, whichever
    ``use_backend`` says.

    Args:
        features: X, (*B, n, d).
        labels: Y, (*B, n, C) or vectors (*B, n).
        lam: λ ≥ 0, () or broadcastable to (*B, C).
        sample_weight: s ≥ 0, (*B, n). Default: all 1. May require grad, with the exception that ``ridge`` makes.
        intercept: as in ``ridge``; a free one is fitted anew without each example.
        on_failure: ``"raise"``; ``"warn"``, which returns what was found with a
            :class:`~convexdistill.errors.NumericalWarning`; or ``"nan"``, which fills a batch element without an
            answer with NaN, as happens under ``torch.func`` transforms and ``torch.compile``.

    Returns:
        (*B, n, C), or (*B, n) for vector labels; differentiable in all four tensors, to any order.

    Raises:
        InvalidInputError: as ``ridge`` does.
        SingularSystemError: the model is not unique, or is not when some example is left out (λ = 0, and the only
            example with a feature; a single example with a free intercept).
        NotConvergedError: the residual of the solve is above 1e-8, or the features' dtype cannot hold the answer.

    Example:
        >>> import torch
        >>> from convexdistill.layers import loo_residuals, ridge
        >>> X, Y = torch.randn(8, 3).double(), torch.randn(8, 2).double()
        >>> refit = ridge(X[1:], Y[1:], 0.5)
        >>> bool(torch.allclose(loo_residuals(X, Y, 0.5)[0], Y[0] - refit.predict(X[:1])[0]))
        True
    """
    R, left, _ = _hold_out(features, labels, lam, sample_weight, intercept, on_failure)
    e = _cast(R / left, features.dtype, on_failure)
    return e.squeeze(-1) if labels.ndim == features.ndim - 1 else e


def loo_score(
    features: Tensor,
    labels: Tensor,
    lam: float | Tensor = 1.0,
    *,
    sample_weight: Tensor | None = None,
    intercept: str = "none",
    on_failure: str = "raise",
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
    return _differentiable_score(features, labels, lam, sample_weight, intercept, on_failure, "loo")


def gcv_score(
    features: Tensor,
    labels: Tensor,
    lam: float | Tensor = 1.0,
    *,
    sample_weight: Tensor | None = None,
    intercept: str = "none",
    on_failure: str = "raise",
) -> Tensor:
    """Generalised cross-validation: ``n⁻¹‖R‖² / (1 − tr(H)/n)²``, (*B, C) or (*B,) for vector labels.

    With weights the mean of squares is the weighted one, and n counts the examples of positive weight. Arguments
    and errors are those of :func:`loo_residuals`.
    """
    return _differentiable_score(features, labels, lam, sample_weight, intercept, on_failure, "gcv")


def _differentiable_score(
    features: Tensor,
    labels: Tensor,
    lam: float | Tensor,
    sample_weight: Tensor | None,
    intercept: str,
    on_failure: str,
    criterion: str,
) -> Tensor:
    R, left, s = _hold_out(features, labels, lam, sample_weight, intercept, on_failure)
    score = _cast(score_of(R, left, s, criterion), features.dtype, on_failure)
    return score.squeeze(-1) if labels.ndim == features.ndim - 1 else score


def _cast(values: Tensor, dtype: torch.dtype, on_failure: str) -> Tensor:
    """Verified float64 values in the dtype of the inputs, which may not hold them.

    Raises:
        NotConvergedError: it cannot hold one, and ``on_failure="raise"``.
    """
    cast = values.to(dtype)
    if dtype == torch.float64:
        return cast
    lost = cast.isinf()
    if on_failure == "nan" or inside_transform():
        return cast.masked_fill(lost, float("nan"))
    if bool(lost.any()):
        if on_failure == "raise":
            raise NotConvergedError(Status.OVERFLOW.message)
        warnings.warn(Status.OVERFLOW.message, NumericalWarning, stacklevel=3)
    return cast


def _hold_out(
    features: Tensor,
    labels: Tensor,
    lam: float | Tensor,
    sample_weight: Tensor | None,
    intercept: str,
    on_failure: str,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """R and 1 − h_ii up to a common factor, verified, and the weights; float64."""
    X, Y, strength, s, masks = prepare(features, labels, lam, sample_weight, intercept, on_failure)
    look = not inside_transform() and pipeline.may_look(on_failure, {"features": X})
    if not inside_transform():
        pipeline.announce("leave-one-out", "torch", lambda: leave_one_out.plan(X, s, intercept, look))
    held = leave_one_out.hold_out(X, Y, s, intercept, strength, data_dependent=look)
    reported = held.singular.to(torch.int8) * int(Status.SINGULAR)
    status = failure.judge(held.residual, reported, *(masks or ()))
    if masks is None:
        info = SolveInfo("torch", held.form, held.method, status, held.residual, held.condition)
        failure.enforce(info, on_failure)
        if bool(held.lost.any()):
            _refuse(held.lost, info, on_failure)
        return held.R, held.left, s
    failed = (status != 0)[..., None, None] | held.lost.any(-2, keepdim=True)
    return held.R.masked_fill(failed, float("nan")), held.left, s


def prepare(
    features: Tensor,
    labels: Tensor,
    lam: float | Tensor,
    sample_weight: Tensor | None,
    intercept: str,
    on_failure: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, tuple[Tensor, Tensor] | None]:
    """X, Y, λ and s in float64, checked; where nothing may raise made harmless, with masks of what was wrong."""
    pick("intercept", intercept, INTERCEPTS)
    pick("on_failure", on_failure, failure.POLICIES)
    vector, arguments = ridge_arguments(features, labels, lam, sample_weight, None, None)
    if vector:
        arguments[1] = arguments[1]._replace(value=labels.unsqueeze(-1))
    rules = intercept_rules(sample_weight, intercept)
    values: Values = args.convert(arguments)
    masks = None
    if inside_transform() or on_failure == "nan":
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


def _refuse(lost: Tensor, info: SolveInfo, on_failure: str) -> None:
    """Raise or warn, for an example without which the model is not determined."""
    *element, example, _ = torch.nonzero(lost)[0].tolist()
    batch = lost.any(-1).any(-1).reshape(-1)
    where = f" of batch element {element}" if element else ""
    message = (
        f"without example {example}{where} the model is not determined: no other example has the direction of its "
        "features, and lam does not hold it. Raise lam, or drop the example."
    )
    if on_failure == "warn":
        warnings.warn(message, NumericalWarning, stacklevel=5)
        return
    raise SingularSystemError(message, info=info, batch_indices=tuple(torch.nonzero(batch).reshape(-1).tolist()))


def score_of(R: Tensor, left: Tensor, s: Tensor | None, criterion: str) -> Tensor:
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
