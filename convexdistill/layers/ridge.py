"""Ridge regression as a differentiable layer: the function ``ridge``."""

from __future__ import annotations

import torch
from torch import Tensor

from convexdistill.errors import ShapeError
from convexdistill.layers import arguments as args
from convexdistill.layers import checks, pipeline
from convexdistill.layers.arguments import Argument, Rule, Values
from convexdistill.layers.backends import select, torch_backend
from convexdistill.layers.backends.base import pick
from convexdistill.layers.backends.torch_backend.ridge.quick import quick_ridge
from convexdistill.layers.problems.ridge import RidgeProblem
from convexdistill.layers.reduction import INTERCEPTS, Recover, reduce
from convexdistill.layers.solution import LinearFit


def ridge(
    features: Tensor,
    labels: Tensor,
    lam: float | Tensor = 1.0,
    *,
    sample_weight: Tensor | None = None,
    intercept: str = "none",
    prior: Tensor | None = None,
    penalty: Tensor | None = None,
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
        prior: W₀, (*B, d, C): the penalty becomes ``Σ_c λ_c ‖W_c − W₀_c‖²``. Default: 0.
        penalty: p > 0, (*B, d), one factor a feature: the penalty becomes ``Σ_jc λ_c p_j W_jc²`` (with a prior:
            of the distance to it). A penalized intercept keeps the factor 1. Default: 1.
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
        ParameterRangeError: ``lam`` or a sample weight is negative, or a penalty is not positive.
        UnknownNameError: ``intercept``, ``backend``, ``form``, ``method`` or ``on_failure`` is no known
            word.
        SingularSystemError: the system that is solved is singular: ``lam=0``, and dependent features in the primal
            form or dependent examples in the dual. With fewer examples than features and ``lam=0`` the dual, which
            ``form="auto"`` takes there, returns the answer of smallest norm of all that fit, and
            ``form="primal"`` raises.
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
    if sample_weight is prior is penalty is None and intercept == "none" and form == method == "auto":
        fit = _quickly(features, labels, lam, backend, on_failure)
        if fit is not None:
            return fit
    pick("intercept", intercept, INTERCEPTS)
    vector_labels, arguments = ridge_arguments(features, labels, lam, sample_weight, prior, penalty)

    def build(v: Values) -> tuple[RidgeProblem, Recover]:
        X, Y, lam = v["features"], v["labels"], v["lam"]
        assert X is not None
        assert Y is not None
        assert lam is not None
        return reduce(X, Y, lam, v["sample_weight"], intercept, v["prior"], v["penalty"])

    return pipeline.run(
        RidgeProblem,
        arguments,
        build,
        backend=backend,
        form=form,
        method=method,
        on_failure=on_failure,
        vector_labels=vector_labels,
        rules=intercept_rules(sample_weight, intercept),
    )


def _quickly(
    features: Tensor, labels: Tensor, lam: float | Tensor, backend: str, on_failure: str
) -> LinearFit | None:
    """The plain problem of two float64 matrices and a number, without the general road where that is certain."""
    if not (isinstance(lam, float) and lam > 0 and type(features) is type(labels) is Tensor):
        return None
    if features.ndim != 2 or labels.ndim != 2 or features.shape[0] != labels.shape[0] or not labels.shape[1]:
        return None
    if features.dtype != torch.float64 or labels.dtype != torch.float64 or features.device != labels.device:
        return None
    if (
        features.is_meta
        or on_failure not in ("raise", "warn")
        or pipeline.LISTENER.get() is not None
        or not features.numel()
    ):
        return None
    if select(backend, RidgeProblem) is not torch_backend.BACKEND:
        return None
    return quick_ridge(features, labels, lam, on_failure)


def ridge_arguments(
    features: Tensor,
    labels: Tensor,
    lam: float | Tensor,
    sample_weight: Tensor | None,
    prior: Tensor | None,
    penalty: Tensor | None,
) -> tuple[bool, list[Argument]]:
    """Check the shapes of what every ridge layer takes; return whether labels are vectors, and the arguments.

    Raises:
        DtypeError: features, labels, weights, prior or penalty are no floating-point tensors.
        ShapeError: shapes do not fit together.
    """
    vector_labels = args.examples(features, labels)
    n, d = features.shape[-2:]
    C = 1 if vector_labels else labels.shape[-1]
    args.require_length("sample_weight", sample_weight, n)
    args.require_columns("lam", lam, C)
    if prior is not None:
        checks.require_tensor("prior", prior)
        prior = prior.unsqueeze(-1) if vector_labels and prior.ndim == features.ndim - 1 else prior
        if prior.shape[-2:] != (d, C):
            raise ShapeError(
                f"prior has shape {tuple(prior.shape)}; it must be (*B, d, C) = (*B, {d}, {C}) like the weight."
            )
    if penalty is not None:
        checks.require_tensor("penalty", penalty)
        if penalty.ndim < 1 or penalty.shape[-1] != d:
            raise ShapeError(
                f"penalty has shape {tuple(penalty.shape)}; it must be (*B, d) with d = {d}, one number a feature."
            )
    return vector_labels, [
        Argument("features", features, 2),
        Argument("labels", labels, 2),
        Argument("lam", lam, 1, "nonnegative", required=True, double=True),
        Argument("sample_weight", sample_weight, 1, "nonnegative"),
        Argument("prior", prior, 2),
        Argument("penalty", penalty, 1, "positive"),
    ]


def intercept_rules(sample_weight: Tensor | None, intercept: str) -> list[Rule]:
    """A free intercept is a weighted mean, so it needs a weight that is not zero."""
    if sample_weight is None or intercept != "free":
        return []
    message = (
        'sample_weight sums to 0, which leaves the intercept of intercept="free" undetermined; '
        "give at least one example a positive weight."
    )
    return [Rule(_weightless, message, "sample_weight", 1.0)]


def _weightless(values: Values) -> Tensor:
    weights = values["sample_weight"]
    assert weights is not None
    return torch.eq(weights.sum(-1), 0)
