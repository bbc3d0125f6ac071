"""Multinomial logistic regression as a differentiable layer: the function ``logistic_regression``."""

from __future__ import annotations

import torch
from torch import Tensor

from convexdistill.errors import ShapeError
from convexdistill.layers import arguments as args
from convexdistill.layers import pipeline
from convexdistill.layers.arguments import Argument, Rule, Values
from convexdistill.layers.backends.base import pick
from convexdistill.layers.problems.logistic import LogisticProblem
from convexdistill.layers.reduction import INTERCEPTS, Recover
from convexdistill.layers.solution import LinearFit


def logistic_regression(
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
    r"""Fit multinomial logistic regression to soft labels; the answer is differentiable in every tensor.

    Minimises ``Σ_i s_i (m_i logsumexp(z_i) − y_i · z_i) + ½ Σ_c λ_c ‖W_c‖²`` with logits ``z = x W + b`` and
    ``m_i = Σ_c y_ic``: the cross-entropy of soft labels y with softmax(z), where they sum to 1. This is
    scikit-learn's ``LogisticRegression`` with ``lam = 1/C`` (its C). The answer is unique for λ > 0; a free
    intercept sums to 0. Derivatives are those of the optimality condition ``Xᵀ s(mP − Y) + Λ∘W = 0``, to any
    order: with H the Hessian at W and A = X H⁻¹ ∂L/∂W, ``∂L/∂y_i = s_i (A_i − P_i·A_i)`` (see
    :mod:`convexdistill.layers.backends.torch_backend.logistic.implicit`).

    Leading dimensions broadcast; gradients of what was shared are sums over what shared it. The solve runs
    in float64, the answer has the dtype and device of the inputs.

    Args:
        features: X, (*B, n, d).
        labels: Y, (*B, n, C) with C ≥ 2: soft labels whose rows sum to 1, or to any mass ≥ 0, which counts like a
            sample weight. Or vectors (*B, n), exactly when ``labels.ndim == features.ndim - 1``: probabilities in
            [0, 1] of the second of two classes. Then the answer is one vector w with P = sigmoid(x·w + b) and
            penalty ½λ‖w‖², scikit-learn's binary model. Class indices become soft labels with
            ``torch.nn.functional.one_hot(...)`` and the dtype of the features.
        lam: λ ≥ 0: a number, or a tensor () or broadcastable to (*B, C), so that its last dimension
            counts columns of the labels. May require grad. For λ = 0 separable data have no minimum, which is an
            error; there rows of W sum to 0, and only a λ shared by all columns has a gradient.
        sample_weight: s ≥ 0, (*B, n). Default: all 1. May require grad, also where it is 0.
        intercept: ``"none"``; ``"free"``, unpenalised as in scikit-learn; or ``"penalized"``, the weight of
            a column of ones.
        backend: ``"auto"`` (Newton's method in torch), ``"torch"``, ``"cvxpylayers"`` (an exponential-cone
            program, for small problems and first derivatives), or a registered name.
        form: ``"primal"`` solves for d×C numbers, ``"dual"`` for n×C, ``"auto"`` for the fewer.
        method: ``"auto"``, or one the backend knows; torch knows ``"newton"``, which forms the Hessian, and
            ``"newton-cg"``, which does not and is taken where it would have more than 1024 rows; cvxpylayers knows
            ``"moreau"`` and ``"diffcp"``.
        on_failure: ``"raise"``; ``"warn"``, which returns the inaccurate answer with a
            :class:`~convexdistill.errors.NumericalWarning`; or ``"nan"``, which fills the failed batch
            elements with NaN and tells in ``fit.info.status``. Under ``torch.func`` transforms and
            ``torch.compile`` nothing can raise on values, so every policy acts as ``"nan"``.

    Returns:
        A :class:`LinearFit`: ``weight`` (*B, d, C), or (*B, d) for vector labels; ``intercept`` (*B, C),
        (*B,) or None; ``info``, whose ``steps`` counts Newton steps. ``fit.predict(query)`` gives logits.

    Raises:
        DtypeError: an argument is not a floating-point tensor, or dtypes differ.
        DeviceError: tensors are on different devices.
        ShapeError: shapes do not fit together, or labels have a single column.
        NonFiniteInputError: a value is NaN or infinite.
        ParameterRangeError: ``lam`` or a sample weight is negative, a row of labels sums to less than 0, a vector
            label is outside of [0, 1], or a class without any mass has a free intercept.
        UnknownNameError: ``intercept``, ``backend``, ``form``, ``method`` or ``on_failure`` is no known
            word.
        UnboundedError: there is no minimum (``lam=0`` and separable classes).
        SingularSystemError: the answer is not unique (``lam=0`` and dependent features).
        NotConvergedError: the optimality residual is above 1e-8, or a step still moves a logit by 1e-6.
        UnsupportedError: the backend cannot do what was asked.

    Example:
        >>> import torch
        >>> from convexdistill.layers import logistic_regression
        >>> X = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> Y = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]], requires_grad=True)
        >>> fit = logistic_regression(X, Y, lam=0.1)
        >>> fit.predict(X).softmax(-1).detach()
        tensor([[0.7969, 0.2031],
                [0.2266, 0.7734],
                [0.5348, 0.4652]])
        >>> fit.weight[0, 0].backward()
        >>> Y.grad.shape
        torch.Size([3, 2])
    """
    pick("intercept", intercept, INTERCEPTS)
    vector_labels = args.examples(features, labels)
    n = features.shape[-2]
    if not vector_labels and labels.shape[-1] < 2:
        raise ShapeError(
            f"labels has shape {tuple(labels.shape)}, one column, and the softmax of one class is always 1; pass "
            "two columns torch.cat([1 - labels, labels], -1), or a vector labels.squeeze(-1)."
        )
    args.require_length("sample_weight", sample_weight, n)
    args.require_columns("lam", lam, 1 if vector_labels else labels.shape[-1])

    def build(v: Values) -> tuple[LogisticProblem, Recover]:
        X, Y, lam = v["features"], v["labels"], v["lam"]
        assert X is not None
        assert Y is not None
        assert lam is not None
        return reduce(X, Y, lam, v["sample_weight"], intercept, vector_labels)

    return pipeline.run(
        LogisticProblem,
        [
            Argument("features", features, 2),
            Argument("labels", labels, 2),
            Argument("lam", lam, 1, "nonnegative", required=True, double=True),
            Argument("sample_weight", sample_weight, 1, "nonnegative"),
        ],
        build,
        backend=backend,
        form=form,
        method=method,
        on_failure=on_failure,
        vector_labels=vector_labels,
        rules=_rules(vector_labels, intercept),
    )


def reduce(
    X: Tensor, Y: Tensor, lam: Tensor, sample_weight: Tensor | None, intercept: str, binary: bool
) -> tuple[LogisticProblem, Recover]:
    """The plain problem, and the function from its answer to (weight, intercept).

    An intercept is the weight of a column of ones. A binary problem in w, with penalty ½λ‖w‖², is the one of two
    classes with 2λ: there W = [−w/2, w/2] by symmetry, so that z₂ − z₁ = x·w and ½·2λ‖W‖² = ½λ‖w‖².
    """
    if intercept != "none":
        X = torch.cat([X, X.new_ones((*X.shape[:-1], 1))], -1)
    if binary:
        Y, lam = torch.cat([1 - Y, Y], -1), 2 * lam

    def recover(V: Tensor) -> tuple[Tensor, Tensor | None]:
        V = V[..., 1:] - V[..., :1] if binary else V
        return (V, None) if intercept == "none" else (V[..., :-1, :], V[..., -1, :])

    return LogisticProblem(X, Y, lam, sample_weight, intercept == "free"), recover


def _rules(binary: bool, intercept: str) -> list[Rule]:
    """What soft labels must be for the problem to be convex, and a free intercept to be finite."""
    rules = [_PROBABILITIES if binary else _MASSES]
    if intercept == "free":
        rules.append(_NO_EMPTY_CLASS._replace(broken=_has_empty_binary_class) if binary else _NO_EMPTY_CLASS)
    return rules


def _is_no_probability(values: Values) -> Tensor:
    Y = _labels(values)
    return ((Y < 0) | (Y > 1)).flatten(-2).any(-1)


def _has_negative_mass(values: Values) -> Tensor:
    return (_labels(values).sum(-1) < 0).any(-1)


def _has_empty_class(values: Values) -> Tensor:
    return _any_empty(_labels(values), values["sample_weight"])


def _has_empty_binary_class(values: Values) -> Tensor:
    Y = _labels(values)
    return _any_empty(torch.cat([1 - Y, Y], -1), values["sample_weight"])


def _any_empty(Y: Tensor, s: Tensor | None) -> Tensor:
    return ((Y if s is None else s.unsqueeze(-1) * Y).sum(-2) <= 0).any(-1)


def _labels(values: Values) -> Tensor:
    Y = values["labels"]
    assert Y is not None
    return Y


_PROBABILITIES = Rule(
    _is_no_probability,
    "labels given as vectors are probabilities of the second of two classes, and must lie in [0, 1]; class "
    "indices become soft labels with torch.nn.functional.one_hot(labels.long()).to(features.dtype).",
    "labels",
    0.5,
)
_MASSES = Rule(
    _has_negative_mass,
    "a row of labels sums to less than 0, where the loss is not convex; soft labels are probabilities, so shift "
    "or clamp them first.",
    "labels",
    1.0,
)
_NO_EMPTY_CLASS = Rule(
    _has_empty_class,
    "a class has no (weighted) mass in labels, so its free intercept would run to minus infinity; drop the class, "
    'or use intercept="penalized" or "none".',
    "labels",
    0.5,
)
