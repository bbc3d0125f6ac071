r"""Linear support vector machines with soft labels: the function ``linear_svm``.

With scores z_i = x_i W + b, both kinds minimise ``Σ_i s_i loss(z_i, y_i) + ½ Σ_c λ_c ‖W_c‖²``.

*Crammer–Singer*, for rows of labels on the simplex:

    loss(z, y) = max_c (z_c − y_c) − Σ_c y_c (z_c − y_c)

For one-hot labels of class k this is ``max_c (z_c − z_k + [c ≠ k])``, the hinge of Crammer & Singer (2001). Its
dual bounds the multipliers of row i by α_i ≤ s_i y_i, Σ_c α_ic = 0, as in MetaOptNet (Lee et al. 2019, arXiv
1904.03758, equation 6), whatever the labels. With t_i for the maximum it is the program

    min ½ Σ_c λ_c ‖W_c‖² + Σ_i s_i (t_i − Σ_c y_ic z_ic)    subject to  z_ic − t_i ≤ y_ic

*One-vs-rest*, for labels in [0, 1], each column on its own:

    loss(z, y) = y max(0, 1 − z) + (1 − y) max(0, 1 + z)

is the expected hinge of a label that is +1 with probability y and −1 otherwise; a program with two slacks an
example.

The *primal* form has W for unknowns, the *dual* form A with W = XᵀA, (n, C): then XXᵀ takes the place of X, and
XXᵀ that of the identity in the penalty. The second is smaller where n < d.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from convexdistill.errors import ShapeError
from convexdistill.layers import arguments as args
from convexdistill.layers import pipeline
from convexdistill.layers.arguments import Argument, Rule, Values
from convexdistill.layers.backends.base import pick
from convexdistill.layers.problems.quadratic import QuadraticProblem
from convexdistill.layers.reduction import INTERCEPTS, Recover
from convexdistill.layers.solution import LinearFit
from convexdistill.layers.svm_programs import Design, crammer_singer, one_vs_rest

Write = Callable[[Design, Tensor, Tensor, Tensor], tuple[QuadraticProblem, Recover]]

KINDS: dict[str, Write] = {"crammer-singer": crammer_singer, "one-vs-rest": one_vs_rest}
SUM_WITHIN = 1e-4


def linear_svm(
    features: Tensor,
    labels: Tensor,
    lam: float | Tensor = 1.0,
    *,
    kind: str = "crammer-singer",
    sample_weight: Tensor | None = None,
    intercept: str = "none",
    backend: str = "auto",
    form: str = "auto",
    method: str = "auto",
    on_failure: str = "raise",
) -> LinearFit:
    r"""Fit a linear support vector machine to soft labels; differentiable in every tensor that went in.

    Minimises ``Σ_i s_i loss(x_i W + b, y_i) + ½ Σ_c λ_c ‖W_c‖²`` with one of two losses:

    - ``"crammer-singer"``: ``max_c (z_c − y_c) − Σ_c y_c (z_c − y_c)``, for rows of labels that sum to 1;
    - ``"one-vs-rest"``: ``Σ_c y_c max(0, 1 − z_c) + (1 − y_c) max(0, 1 + z_c)``.

    For one-hot labels these are the losses of scikit-learn's ``LinearSVC(loss="hinge")`` with ``C = 1 / lam``. A
    quadratic program, solved in float64; the answer has the dtype and device of the inputs.

    W is piecewise smooth in the inputs; at the points between two pieces the derivative is that of one of them,
    everywhere else all derivatives are exact.

    Args:
        features: X, (*B, n, d).
        labels: Y in [0, 1], (*B, n, C), C ≥ 2 and rows that sum to 1 for ``"crammer-singer"``; or, for
            ``"one-vs-rest"``, vectors (*B, n), exactly when ``labels.ndim == features.ndim - 1``.
        lam: λ > 0: a number, or a tensor () or broadcastable to (*B, C). May require grad.
        kind: ``"crammer-singer"`` (Crammer & Singer 2001; MetaOptNet, Lee et al. 2019, arXiv 1904.03758) or
            ``"one-vs-rest"``.
        sample_weight: s ≥ 0, (*B, n). Default: all 1.
        intercept: ``"none"``; ``"penalized"``, the weight of a column of ones, as in ``LinearSVC``; or ``"free"``,
            as in ``SVC``. For ``"crammer-singer"`` only differences of a free intercept count, so it sums to 0;
            and where a free intercept is not unique (no example lies on a margin), that is reported as singular.
        backend: ``"auto"`` (torch), ``"torch"``, or a registered name.
        form: ``"primal"`` has the weight for unknowns; ``"dual"`` one vector an example, for n ≤ d examples that
            do not repeat each other; ``"auto"`` the fewer, but the weight where examples are seen to repeat.
        method: ``"auto"``, or one the backend knows.
        on_failure: ``"raise"``, ``"warn"`` or ``"nan"``, as in :func:`~convexdistill.layers.ridge`.

    Returns:
        A :class:`LinearFit`: ``weight`` (*B, d, C), or (*B, d) for vector labels; ``intercept`` (*B, C),
        (*B,) or None; ``info``.

    Raises:
        DtypeError: an argument is not a floating-point tensor, or dtypes differ.
        DeviceError: tensors are on different devices.
        ShapeError: shapes do not fit together, or ``"crammer-singer"`` has a single column.
        NonFiniteInputError: a value is NaN or infinite.
        ParameterRangeError: ``lam`` is not positive, a sample weight is negative, labels lie outside [0, 1], or
            rows of labels do not sum to 1 for ``"crammer-singer"``.
        UnknownNameError: ``kind``, ``intercept``, ``backend``, ``form``, ``method`` or ``on_failure`` is no known
            word.
        SingularSystemError: a free intercept is not unique.
        NotConvergedError: the optimality residual is above 1e-8.
        UnsupportedError: ``form="dual"`` with more examples than features, or the backend cannot do what was
            asked.

    Example:
        >>> import torch
        >>> from convexdistill.layers import linear_svm
        >>> X = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> Y = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.7, 0.3]], requires_grad=True)
        >>> fit = linear_svm(X, Y, lam=2.0)
        >>> fit.weight.detach()
        tensor([[ 0.5000, -0.5000],
                [-0.3000,  0.3000]])
        >>> fit.weight[1, 1].backward()
        >>> bool(Y.grad[2, 1] > 0)
        True
    """
    pick("kind", kind, tuple(KINDS))
    pick("intercept", intercept, INTERCEPTS)
    vector_labels = args.examples(features, labels)
    C = 1 if vector_labels else labels.shape[-1]
    if kind == "crammer-singer" and C == 1:
        raise ShapeError(
            f'labels has shape {tuple(labels.shape)}: kind="crammer-singer" compares columns, so it needs at '
            'least two; for one column of labels use kind="one-vs-rest".'
        )
    args.require_length("sample_weight", sample_weight, features.shape[-2])
    args.require_columns("lam", lam, C)

    def build(v: Values) -> tuple[QuadraticProblem, Recover]:
        X, Y, lam, s = v["features"], v["labels"], v["lam"], v["sample_weight"]
        assert X is not None
        assert Y is not None
        assert lam is not None
        s = X.new_ones(X.shape[-2]) if s is None else s
        return KINDS[kind](Design.of(X, intercept, form), Y, lam, s)

    return pipeline.run(
        QuadraticProblem,
        [
            Argument("features", features, 2),
            Argument("labels", labels, 2),
            Argument("lam", lam, 1, "positive", required=True, double=True),
            Argument("sample_weight", sample_weight, 1, "nonnegative"),
        ],
        build,
        backend=backend,
        form=form,
        method=method,
        on_failure=on_failure,
        vector_labels=vector_labels,
        rules=_label_rules(kind, C, features.dtype),
    )


def _label_rules(kind: str, columns: int, dtype: torch.dtype) -> list[Rule]:
    """Labels are probabilities."""
    within = max(SUM_WITHIN, 4 * columns * torch.finfo(dtype).eps)

    def outside(v: Values) -> Tensor:
        Y = v["labels"]
        assert Y is not None
        return ((Y < 0) | (Y > 1)).flatten(-2).any(-1)

    def unnormalised(v: Values) -> Tensor:
        Y = v["labels"]
        assert Y is not None
        return ((Y.sum(-1) - 1).abs() > within).any(-1)

    rules = [
        Rule(
            outside,
            "labels must lie in [0, 1] for a support vector machine; give probabilities (a softmax of scores).",
            "labels",
            1 / columns,
        )
    ]
    if kind == "crammer-singer":
        message = (
            'rows of labels must sum to 1 with kind="crammer-singer"; divide them by their sum, '
            'or use kind="one-vs-rest".'
        )
        rules.append(Rule(unnormalised, message, "labels", 1 / columns))
    return rules
