"""Least squares of minimum norm as a differentiable layer: the function ``least_squares``."""

from __future__ import annotations

import torch
from torch import Tensor

from convexdistill.errors import ParameterRangeError
from convexdistill.layers import arguments as args
from convexdistill.layers import checks, pipeline
from convexdistill.layers.arguments import Argument, Values
from convexdistill.layers.backends.base import pick
from convexdistill.layers.problems.least_squares import LeastSquaresProblem
from convexdistill.layers.reduction import Recover, reduce
from convexdistill.layers.ridge import intercept_rules
from convexdistill.layers.solution import LinearFit

INTERCEPTS = ("none", "free")


def least_squares(
    features: Tensor,
    labels: Tensor,
    *,
    sample_weight: Tensor | None = None,
    intercept: str = "none",
    rcond: float | None = None,
    backend: str = "auto",
    method: str = "auto",
    on_failure: str = "raise",
) -> LinearFit:
    r"""Fit least squares; of all solutions the one of smallest norm, ``W = X⁺Y``.

    Minimises ``Σ_i s_i ‖x_i W + b − y_i‖²``, and among the minimisers ``‖W‖``. Features may depend on each other
    and outnumber the examples. The derivative is that of the pseudo-inverse at constant rank (Golub & Pereyra
    1973, "The differentiation of pseudo-inverses and nonlinear least squares problems whose variables separate"):
    ``dW = X⁺(dY − dX W) + (XᵀX)⁺ dXᵀ (Y − XW) + (I − X⁺X) dXᵀ X⁺ᵀ W``, in reverse and forward mode and to any
    order.

    The rank is the number of singular values above ``rcond`` times the largest; the others count as zero, and the
    answer and its derivatives are those of the nearest matrix of that rank. Where a singular value lies within a
    factor of 10 of the cut, the rank, and with it the answer, is a matter of luck: that is said by a
    :class:`~convexdistill.errors.NumericalWarning` (under ``on_failure="nan"`` and transforms, where nothing may
    look at values, by ``fit.info.condition * rcond > 0.1``).

    Leading dimensions broadcast; gradients of what was shared are sums over what shared it. The solve runs in
    float64, the answer has the dtype and device of the inputs.

    Args:
        features: X, (*B, n, d).
        labels: Y, (*B, n, C); or vectors (*B, n), exactly when ``labels.ndim == features.ndim - 1``.
        sample_weight: s ≥ 0, (*B, n). Default: all 1. May require grad; its gradient at a weight of zero is NaN,
            since the rank may change there.
        intercept: ``"none"`` or ``"free"``, unpenalised as in scikit-learn's ``LinearRegression``.
        rcond: 0 ≤ rcond < 1. Default: max(n, d) times the machine epsilon of the features' dtype, as in NumPy
            (that of float32 for shorter ones, which would leave too little).
        backend: ``"auto"``, ``"torch"``, or a registered name. (There is no cvxpylayers form: without strict
            convexity the derivative of a conic program's solution is not defined.)
        method: ``"qr"``, which needs full rank; ``"svd"``; or ``"auto"``, QR where it proves the rank full and the
            condition below 1e8, else the SVD.
        on_failure: ``"raise"``, ``"warn"`` or ``"nan"``, as in :func:`~convexdistill.layers.ridge`.

    Returns:
        A :class:`LinearFit`: ``weight`` (*B, d, C), or (*B, d) for vector labels; ``intercept`` (*B, C), (*B,) or
        None; ``info``, whose ``method`` says what ran and whose ``condition`` is σ₁/σ_r of the r singular values
        that are kept (with ``"qr"`` a bound of it).

    Raises:
        DtypeError: an argument is not a floating-point tensor, or dtypes differ.
        DeviceError: tensors are on different devices.
        ShapeError: shapes do not fit together.
        NonFiniteInputError: a value is NaN or infinite.
        ParameterRangeError: a sample weight is negative, or ``rcond`` is out of range.
        UnknownNameError: ``intercept``, ``backend``, ``method`` or ``on_failure`` is no known word.
        SingularSystemError: ``method="qr"``, and the features are dependent.
        NotConvergedError: the optimality residual is above 1e-8.
        UnsupportedError: the backend has no solver for it.

    Example:
        >>> import torch
        >>> from convexdistill.layers import least_squares
        >>> X = torch.tensor([[1.0, 1.0], [2.0, 2.0], [0.0, 0.0]])  # the same feature twice
        >>> Y = torch.tensor([[1.0], [2.0], [5.0]], requires_grad=True)
        >>> fit = least_squares(X, Y)
        >>> fit.weight.T, fit.info.method
        (tensor([[0.5000, 0.5000]], grad_fn=<PermuteBackward0>), 'svd')
        >>> fit.weight[0].sum().backward()
        >>> Y.grad.T
        tensor([[0.1000, 0.2000, 0.0000]])
    """
    pick("intercept", intercept, INTERCEPTS)
    vector_labels = args.examples(features, labels)
    n, d = features.shape[-2:]
    args.require_length("sample_weight", sample_weight, n)
    if rcond is not None:
        checks.require_number("rcond", rcond)
    precision = min(torch.finfo(features.dtype).eps, torch.finfo(torch.float32).eps)
    cut = max(n, d) * precision if rcond is None else float(rcond)
    if not (0 <= cut < 1 or rcond is None):
        raise ParameterRangeError(f"rcond is {cut}, but rcond must be >= 0 and < 1.")

    def build(v: Values) -> tuple[LeastSquaresProblem, Recover]:
        X, Y = v["features"], v["labels"]
        assert X is not None
        assert Y is not None
        plain, recover = reduce(X, Y, X.new_zeros(1), v["sample_weight"], intercept)
        plain = plain.plain()
        noise = None
        if intercept == "free":
            # Centring leaves rounding of the size of what was taken away, which is no information.
            rows = X if v["sample_weight"] is None else v["sample_weight"].sqrt().unsqueeze(-1) * X
            taken = torch.linalg.matrix_norm((rows - plain.features).detach())
            noise = max(n, d) * torch.finfo(torch.float64).eps * taken
        return LeastSquaresProblem(plain.features, plain.labels, cut, noise, precision), recover

    return pipeline.run(
        LeastSquaresProblem,
        [
            Argument("features", features, 2),
            Argument("labels", labels, 2),
            Argument("sample_weight", sample_weight, 1, "nonnegative"),
        ],
        build,
        backend=backend,
        form="auto",
        method=method,
        on_failure=on_failure,
        vector_labels=vector_labels,
        rules=intercept_rules(sample_weight, intercept),
    )
