"""Kernel ridge regression as a differentiable layer: the function ``kernel_ridge``."""

from __future__ import annotations

import torch
from torch import Tensor

from convexdistill.errors import ShapeError
from convexdistill.layers import arguments as args
from convexdistill.layers import checks, pipeline
from convexdistill.layers.arguments import Argument, Rule, Values
from convexdistill.layers.backends.base import pick
from convexdistill.layers.problems.kernel import KernelRidgeProblem
from convexdistill.layers.reduction import INTERCEPTS, Recover
from convexdistill.layers.ridge import intercept_rules
from convexdistill.layers.solution import LinearFit

ASYMMETRY = 1e-5  # beside the largest entry; more cannot be rounding of float32 or float64


def kernel_ridge(
    gram: Tensor,
    labels: Tensor,
    lam: float | Tensor = 1.0,
    *,
    sample_weight: Tensor | None = None,
    intercept: str = "none",
    backend: str = "auto",
    method: str = "auto",
    on_failure: str = "raise",
) -> LinearFit:
    r"""Fit ridge regression in the function space of a kernel; the answer is differentiable in all that went in.

    Minimises ``Σ_i s_i ‖f(x_i) + b − y_i‖² + λ‖f‖²``, whose answer is f = Σ_i a_i k(x_i, ·) with
    ``(SK + λI) A = SY`` for K_ij = k(x_i, x_j) and S = diag(s). ``lam`` is the ``alpha`` of scikit-learn's
    ``KernelRidge(kernel="precomputed")``, and for ``gram = X Xᵀ`` the model is that of
    :func:`~convexdistill.layers.ridge`, with W = XᵀA. It is the inner problem of kernel inducing points (Nguyen et
    al. 2021, arXiv 2011.00050). With U = (K + λS⁻¹)⁻¹ ∂L/∂A: ``∂L/∂Y = U``, ``∂L/∂K = −(UAᵀ + AUᵀ)/2``,
    ``∂L/∂λ = −⟨U, S⁻¹A⟩``.

    Gradients take gram as symmetric: those of the entries ij and ji are equal, half of what the pair changes.
    Leading dimensions broadcast; gradients of what was shared are sums over what shared it. The solve runs in
    float64, the answer has the dtype and device of the inputs.

    Args:
        gram: K, (*B, n, n), symmetric and positive semi-definite. (Of negative eigenvalues only those that make
            K + λI indefinite are seen, and refused.)
        labels: Y, (*B, n, C); or vectors (*B, n), exactly when ``labels.ndim == gram.ndim - 1``.
        lam: λ ≥ 0: a number, or a tensor () or broadcastable to (*B, C), so that its last dimension counts columns
            of the labels. May require grad.
        sample_weight: s ≥ 0, (*B, n). Default: all 1. May require grad, also at zero (for λ > 0).
        intercept: ``"none"``; ``"free"``, unpenalised, which centres the kernel in its function space and needs
            λ > 0; or ``"penalized"``, which adds 1 to the kernel.
        backend: ``"auto"``, ``"torch"``, or a registered name.
        method: ``"cholesky"``; ``"eigh"``, which knows the condition exactly; or ``"auto"``, Cholesky, and where
            it finds the system singular the eigenvalues.
        on_failure: ``"raise"``, ``"warn"`` or ``"nan"``, as in :func:`~convexdistill.layers.ridge`.

    Returns:
        A :class:`LinearFit`: ``weight`` the coefficients A, (*B, n, C), or (*B, n) for vector labels;
        ``intercept`` (*B, C), (*B,) or None; ``info``. Its ``predict`` takes the kernel between queries and
        examples, (*B, m, n).

    Raises:
        DtypeError: an argument is not a floating-point tensor, or dtypes differ.
        DeviceError: tensors are on different devices.
        ShapeError: gram is not square, or shapes do not fit together.
        NonFiniteInputError: a value is NaN or infinite.
        ParameterRangeError: ``lam`` or a sample weight is negative, or gram is not symmetric, or K + λI is
            indefinite.
        UnknownNameError: ``intercept``, ``backend``, ``method`` or ``on_failure`` is no known word.
        SingularSystemError: K + λI is singular, so that the answer is not unique.
        NotConvergedError: the optimality residual is above 1e-8.
        UnsupportedError: the backend has no solver for it.

    Example:
        >>> import torch
        >>> from convexdistill.layers import kernel_ridge
        >>> points = torch.tensor([[0.0], [1.0], [2.0]], requires_grad=True)
        >>> def kernel(a, b):
        ...     return (-0.5 * (a - b.mT) ** 2).exp()
        >>> fit = kernel_ridge(kernel(points, points), torch.tensor([0.0, 1.0, 0.0]), lam=0.1)
        >>> predicted = fit.predict(kernel(torch.tensor([[1.0]]), points))
        >>> predicted.detach()
        tensor([0.8017])
        >>> predicted.sum().backward()
        >>> points.grad.shape
        torch.Size([3, 1])
    """
    pick("intercept", intercept, INTERCEPTS)
    vector_labels = _shapes(gram, labels, lam, sample_weight)

    def build(v: Values) -> tuple[KernelRidgeProblem, Recover]:
        K, Y, lam, s = v["gram"], v["labels"], v["lam"], v["sample_weight"]
        assert K is not None
        assert Y is not None
        assert lam is not None
        K = 0.5 * (K + K.mT)
        if intercept == "none":
            return KernelRidgeProblem(K, Y, lam, s), _no_intercept
        if intercept == "penalized":
            return KernelRidgeProblem(K + 1.0, Y, lam, s), _sum_as_intercept
        return _centre(K, Y, lam, s)

    return pipeline.run(
        KernelRidgeProblem,
        [
            Argument("gram", gram, 2),
            Argument("labels", labels, 2),
            Argument("lam", lam, 1, "nonnegative", required=True, double=True),
            Argument("sample_weight", sample_weight, 1, "nonnegative"),
        ],
        build,
        backend=backend,
        form="auto",
        method=method,
        on_failure=on_failure,
        vector_labels=vector_labels,
        rules=[*_symmetry(gram), *intercept_rules(sample_weight, intercept)],
    )


def _shapes(gram: Tensor, labels: Tensor, lam: float | Tensor, sample_weight: Tensor | None) -> bool:
    """Check the shapes; true for vector labels."""
    k = checks.require_tensor("gram", gram).shape
    if len(k) < 2 or k[-1] != k[-2]:
        raise ShapeError(
            f"gram has shape {tuple(k)}; it must be (*B, n, n), the kernel of the n examples with themselves."
        )
    checks.require_tensor("labels", labels)
    n = k[-1]
    vector_labels = labels.ndim == len(k) - 1
    if labels.ndim < 2 - vector_labels or labels.shape[-1 if vector_labels else -2] != n:
        raise ShapeError(
            f"labels has shape {tuple(labels.shape)} and gram {tuple(k)}; labels must be (*B, n, C) or (*B, n) "
            f"with n = {n}. Labels with one dimension less than gram are read as vectors (*B, n); to share one "
            "matrix (n, C) over a batch, pass labels.unsqueeze(0)."
        )
    if not n or not labels.shape[-1]:
        missing = "columns" if n else "examples"
        raise ShapeError(f"labels has shape {tuple(labels.shape)}: there are no {missing} to fit.")
    args.require_length("sample_weight", sample_weight, n, of="gram")
    args.require_columns("lam", lam, 1 if vector_labels else labels.shape[-1])
    return vector_labels


def _symmetry(gram: Tensor) -> list[Rule]:
    """A gram matrix is symmetric up to the rounding of its dtype."""
    tolerance = max(ASYMMETRY, torch.finfo(gram.dtype).eps ** 0.5)

    def broken(values: Values) -> Tensor:
        K = values["gram"]
        assert K is not None
        K = K.detach()
        skew: Tensor = (K - K.mT).abs().amax((-2, -1)) > tolerance * K.abs().amax((-2, -1))
        return skew

    message = (
        f"gram is not symmetric: gram and its transpose differ by more than {tolerance:.0e} of the largest entry. "
        "Pass the kernel of the examples with themselves; for rounding alone, pass (gram + gram.mT) / 2."
    )
    return [Rule(broken, message, "gram", 1.0)]


def _centre(K: Tensor, Y: Tensor, lam: Tensor, s: Tensor | None) -> tuple[KernelRidgeProblem, Recover]:
    """The problem without its free intercept: kernel and labels taken from their weighted means.

    With shares w = s / Σs the centred kernel is (I − 1wᵀ) K (I − w1ᵀ). Its coefficients A sum to 0, so they are
    those of the kernel itself, and b = ȳ − wᵀKA.
    """
    n = K.shape[-1]
    w = torch.full_like(K[..., 0], 1 / n) if s is None else s / s.sum(-1, keepdim=True)
    w = w.unsqueeze(-2)  # (*B, 1, n)
    mean = w @ K
    centred = K - mean - mean.mT + mean @ w.mT
    y_mean = w @ Y

    def recover(A: Tensor) -> tuple[Tensor, Tensor | None]:
        A = A - w.mT * A.sum(-2, keepdim=True)  # rounding left a sum
        return A, (y_mean - mean @ A).squeeze(-2)

    return KernelRidgeProblem(centred, Y - y_mean, lam, s), recover


def _no_intercept(A: Tensor) -> tuple[Tensor, Tensor | None]:
    return A, None


def _sum_as_intercept(A: Tensor) -> tuple[Tensor, Tensor | None]:
    return A, A.sum(-2)
