"""Ridge regression as a differentiable layer: the function ``ridge``."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor

from convexdistill.errors import DtypeError, ParameterRangeError, ShapeError
from convexdistill.layers import checks, failure
from convexdistill.layers.backends import select
from convexdistill.layers.backends.base import SolveOptions, inside_transform, pick
from convexdistill.layers.problem import RidgeProblem
from convexdistill.layers.reduction import INTERCEPTS, reduce
from convexdistill.layers.solution import LinearFit, SolveInfo

FORMS = ("auto", "primal", "dual")


def ridge(
    features: Tensor,
    labels: Tensor,
    lam: float | Tensor = 1.0,
    *,
    sample_weight: Tensor | None = None,
    intercept: str = "none",
    backend: str = "auto",
    form: str = "auto",
    method: str = "auto",
    on_failure: str = "raise",
) -> LinearFit:
    r"""Fit ridge regression; the answer is differentiable in every tensor that went in.

    Minimises ``Σ_i s_i ‖x_i W + b − y_i‖² + Σ_c λ_c ‖W_c‖²``: scikit-learn's convention, without 1/2 and
    without 1/n, so ``lam`` is its ``alpha``. The ridge head of Bertinetto et al. 2019 (R2-D2, arXiv
    1805.08136), with the gradient to the labels that label distillation needs (Bohdal et al. 2020, arXiv
    2006.08572). With V = (XᵀX + λI)⁻¹ ∂L/∂W: ``∂L/∂Y = XV``, ``∂L/∂X = (Y − XW)Vᵀ − XV Wᵀ``,
    ``∂L/∂λ = −⟨V, W⟩``.

    Leading dimensions broadcast; gradients of what was shared are sums over what shared it. The solve runs
    in float64, the answer has the dtype and device of the inputs.

    Args:
        features: X, (*B, n, d).
        labels: Y, (*B, n, C); or vectors (*B, n), exactly when ``labels.ndim == features.ndim - 1``.
        lam: λ ≥ 0: a number, or a tensor () or broadcastable to (*B, C), so that its last dimension
            counts columns of the labels. May require grad.
        sample_weight: s ≥ 0, (*B, n). Default: all 1. May require grad; its gradient at a weight of zero is
            right in the torch backend's primal form (which ``form="auto"`` then takes), NaN elsewhere.
        intercept: ``"none"``; ``"free"``, unpenalised as in scikit-learn; or ``"penalized"``, the weight of
            a column of ones as in the paper.
        backend: ``"auto"`` (the closed form), ``"torch"``, ``"cvxpylayers"``, or a registered name.
        form: ``"primal"`` solves a d×d system, ``"dual"`` n×n, ``"auto"`` the smaller.
        method: ``"auto"``, or one the backend knows; torch knows ``"cholesky"``, ``"qr"``, ``"svd"``, and
            under ``"auto"`` tries them in this order until the optimality residual is small.
        on_failure: ``"raise"``; ``"warn"``, which returns the inaccurate answer with a
            :class:`~convexdistill.errors.NumericalWarning`; or ``"nan"``, which fills the failed batch
            elements with NaN and tells in ``fit.info.status``. Under ``torch.func`` transforms and
            ``torch.compile`` nothing can raise on values, so every policy acts as ``"nan"``.

    Returns:
        A :class:`LinearFit`: ``weight`` (*B, d, C), or (*B, d) for vector labels; ``intercept`` (*B, C),
        (*B,) or None; ``info``.

    Raises:
        DtypeError: an argument is not a floating-point tensor, or dtypes differ.
        DeviceError: tensors are on different devices.
        ShapeError: shapes do not fit together.
        NonFiniteInputError: a value is NaN or infinite.
        ParameterRangeError: ``lam`` or a sample weight is negative.
        UnknownNameError: ``intercept``, ``backend``, ``form``, ``method`` or ``on_failure`` is no known
            word.
        SingularSystemError: the answer is not unique (``lam=0`` and dependent features).
        NotConvergedError: the optimality residual is above 1e-8.
        UnsupportedError: the backend cannot do what was asked.

    Example:
        >>> import torch
        >>> from convexdistill.layers import ridge
        >>> X = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> Y = torch.tensor([[1.0], [0.0], [1.0]], requires_grad=True)
        >>> fit = ridge(X, Y, lam=1.0)
        >>> fit.weight.T
        tensor([[0.6250, 0.1250]], grad_fn=<PermuteBackward0>)
        >>> fit.weight[0].sum().backward()
        >>> Y.grad.T
        tensor([[ 0.3750, -0.1250,  0.2500]])
    """
    pick("intercept", intercept, INTERCEPTS)
    pick("form", form, FORMS)
    pick("on_failure", on_failure, failure.POLICIES)
    solver = select(backend, RidgeProblem)
    X, Y, lam, weights, vector_labels = _standardise(features, labels, lam, sample_weight)
    hidden = inside_transform()
    if hidden:
        on_failure = "nan"
    if on_failure == "nan":
        X, Y, lam, weights, nonfinite, invalid = _sanitise(X, Y, lam, weights, intercept)
    else:
        _check_values(features, labels, lam, weights, intercept)
        nonfinite = invalid = torch.zeros((), dtype=torch.bool, device=X.device)
    problem, recover = reduce(X, Y, lam, weights, intercept)
    options = SolveOptions(form, method, on_failure, data_dependent=not hidden)
    solved = solver.solvers[RidgeProblem](problem, options)

    residual = problem.residual(solved.weight)
    batch = residual.shape
    status = failure.judge(residual, solved.singular, nonfinite.expand(batch), invalid.expand(batch))
    info = SolveInfo(solver.name, solved.form, solved.method, status, residual, solved.condition)
    failure.enforce(info, on_failure)

    weight, bias = recover(solved.weight)
    if on_failure == "nan":
        failed = (status != 0)[..., None]
        weight = weight.masked_fill(failed[..., None], float("nan"))
        bias = None if bias is None else bias.masked_fill(failed, float("nan"))
    if vector_labels:
        weight, bias = weight.squeeze(-1), None if bias is None else bias.squeeze(-1)
    dtype = features.dtype
    return LinearFit(weight.to(dtype), None if bias is None else bias.to(dtype), info, vector_labels)


def _standardise(
    features: Tensor, labels: Tensor, lam: float | Tensor, sample_weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, bool]:
    """Check types and shapes; return X (*B,n,d), Y (*B,n,C), λ (*B,1 or C), s (*B,n) in float64."""
    X = checks.require_tensor("features", features)
    Y = checks.require_tensor("labels", labels)
    s = None if sample_weight is None else checks.require_tensor("sample_weight", sample_weight)
    if isinstance(lam, Tensor):
        checks.require_same_kind(features=X, labels=Y, sample_weight=s, lam=checks.require_tensor("lam", lam))
    elif isinstance(lam, bool) or not isinstance(lam, Real):
        raise DtypeError(f"lam must be a number or a torch.Tensor, got {type(lam).__qualname__}.")
    else:
        checks.require_same_kind(features=X, labels=Y, sample_weight=s)
        lam = torch.tensor(float(lam), dtype=torch.float64, device=X.device)

    if X.ndim < 2:
        raise ShapeError(f"features must have shape (*B, n, d), got {tuple(X.shape)}.")
    if vector_labels := Y.ndim == X.ndim - 1:
        Y = Y.unsqueeze(-1)
    if Y.ndim < 2 or Y.shape[-2] != X.shape[-2]:
        hint = (
            " Labels with one dimension less than features are read as vectors (*B, n); "
            "to share one matrix (n, C) over the batch, pass labels.unsqueeze(0)."
            if vector_labels and X.ndim > 2
            else ""
        )
        raise ShapeError(
            f"labels has shape {tuple(labels.shape)} and features {tuple(X.shape)}; labels must be "
            f"(*B, n, C) or (*B, n) with n = {X.shape[-2]}, the number of examples in features.{hint}"
        )
    for name, size in (("examples", X.shape[-2]), ("features", X.shape[-1])):
        if size == 0:
            raise ShapeError(f"features has shape {tuple(X.shape)}: there are no {name} to fit.")
    if Y.shape[-1] == 0:
        raise ShapeError(f"labels has shape {tuple(labels.shape)}: there are no columns to fit.")
    if s is not None and (s.ndim < 1 or s.shape[-1] != X.shape[-2]):
        raise ShapeError(
            f"sample_weight has shape {tuple(s.shape)}; it must be (*B, n) with n = {X.shape[-2]}, "
            "the number of examples in features."
        )
    lam = lam.reshape(1) if lam.ndim == 0 else lam
    if lam.shape[-1] not in (1, Y.shape[-1]):
        raise ShapeError(
            f"lam has shape {tuple(lam.shape)}; its last dimension counts columns of the labels, so it "
            f"must be 1 or C = {Y.shape[-1]}; for one value a batch element pass lam.unsqueeze(-1)."
        )
    named = [
        ("features", X.shape[:-2]),
        ("labels", Y.shape[:-2]),
        ("lam", lam.shape[:-1]),
        ("sample_weight", torch.Size() if s is None else s.shape[:-1]),
    ]
    checks.require_broadcast(*named)
    double = torch.float64
    return X.to(double), Y.to(double), lam.to(double), None if s is None else s.to(double), vector_labels


def _check_values(features: Tensor, labels: Tensor, lam: Tensor, weights: Tensor | None, intercept: str) -> None:
    """Raise on NaN, infinity and negative numbers; waits for the device."""
    checks.require_finite("features", features)
    checks.require_finite("labels", labels)
    checks.require_finite("lam", lam)
    checks.require_nonnegative("lam", lam)
    if weights is not None:
        checks.require_finite("sample_weight", weights)
        checks.require_nonnegative("sample_weight", weights)
        if intercept == "free" and bool((weights.sum(-1) == 0).any()):
            raise ParameterRangeError(
                'sample_weight sums to 0, which leaves the intercept of intercept="free" undetermined; '
                "give at least one example a positive weight."
            )


def _sanitise(
    X: Tensor, Y: Tensor, lam: Tensor, weights: Tensor | None, intercept: str
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor, Tensor]:
    """Replace what has no meaning by what has, and say where: backends never see NaN.

    Returns the inputs, then (*B,) masks of elements with non-finite and with invalid values.
    """
    bad_X, bad_Y, bad_lam = ~X.isfinite(), ~Y.isfinite(), ~lam.isfinite()
    nonfinite = bad_X.any(-1).any(-1) | bad_Y.any(-1).any(-1) | bad_lam.any(-1)
    invalid = (lam < 0).any(-1)
    X, Y = X.masked_fill(bad_X, 0.0), Y.masked_fill(bad_Y, 0.0)
    lam = lam.masked_fill(bad_lam | (lam < 0), 1.0)
    if weights is not None:
        bad = ~weights.isfinite()
        nonfinite, invalid = nonfinite | bad.any(-1), invalid | (weights < 0).any(-1)
        weights = weights.masked_fill(bad | (weights < 0), 1.0)
        if intercept == "free":
            empty = weights.sum(-1) == 0
            invalid = invalid | empty
            weights = weights.masked_fill(empty.unsqueeze(-1), 1.0)
    return X, Y, lam, weights, nonfinite, invalid
