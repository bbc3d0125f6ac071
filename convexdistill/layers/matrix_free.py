"""Ridge regression that never sees its features, only products with them: ``ridge_matrix_free``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from convexdistill.errors import NonFiniteInputError, ParameterRangeError, ShapeError
from convexdistill.layers import arguments as args
from convexdistill.layers import checks, pipeline
from convexdistill.layers.arguments import Argument, Values
from convexdistill.layers.backends.base import inside_transform, pick
from convexdistill.layers.backends.torch_backend.operator.preconditioners import WORDS
from convexdistill.layers.failure import ACCEPT_BELOW
from convexdistill.layers.operators import products
from convexdistill.layers.pipeline import Recover
from convexdistill.layers.problems.operator import OperatorProblem, require_adjoint, size_of
from convexdistill.layers.solution import LinearFit


def ridge_matrix_free(
    operator: Any,
    labels: Tensor,
    lam: float | Tensor = 1.0,
    *,
    method: str = "auto",
    preconditioner: str | Callable[[Tensor], Tensor] | None = None,
    rtol: float = 1e-10,
    max_steps: int | None = None,
    backend: str = "auto",
    on_failure: str = "raise",
) -> LinearFit:
    r"""Fit ridge regression on anything that can multiply, by conjugate gradients or LSMR.

    Minimises ``‖A W − Y‖² + Σ_c λ_c ‖W_c‖²``, like :func:`convexdistill.layers.ridge`, by products with A and
    Aᵀ: for sparse features, structured ones (convolutions, Kronecker products), and matrices too large to factor.
    The memory is a few times that of labels and weight. With λ = 0 it finds the least-squares answer of minimum
    norm. Differentiable, once, in labels, in λ, and in every tensor that the products use.

    Conjugate gradients (Hestenes & Stiefel 1952, as CGLS) need about √κ steps for a condition κ of AᵀA + λI, LSMR
    (Fong & Saunders 2011) as many, but with errors that grow like the condition of A instead of its square.
    The preconditioner of Frangella, Tropp & Udell 2021 makes κ small when the spectrum of A decays. Every
    column of every batch element converges on its own; the true residual is formed again at the end.

    Args:
        operator: A, (*B, n, d): a dense or sparse tensor; or an object with ``shape``, ``matmul`` or ``@``, and
            ``mT``, ``T`` or ``rmatmul`` (Aᵀy), whose products are float64; functions go in a
            :class:`~convexdistill.layers.LinearOperator`. Sparse tensors are (n, d) without batch.
        labels: Y, (*B, n, C); or vectors (*B, n), exactly when they have one dimension less than A.
        lam: λ ≥ 0: a number, or a tensor () or broadcastable to (*B, C).
        method: ``"cg"``; ``"lsmr"``; ``"auto"``: LSMR where a λ is 0, else conjugate gradients, and LSMR
            where those were not accurate.
        preconditioner: for conjugate gradients: ``"jacobi"`` (tensors only) undoes badly scaled features,
            ``"nystrom"`` a decaying spectrum; or a function r (*B, d, C) -> P⁻¹ r, symmetric positive definite.
        rtol: a column is done when ``‖Aᵀ(Y − A W) − λW‖ ≤ rtol ‖AᵀY‖``, or rounding allows no more. At most 1e-8,
            the accuracy that every layer promises. The answer's error is up to κ times that.
        max_steps: how many steps each method may take; default ``max(1000, 10 min(n, d))``.
        backend: as in ``ridge``.
        on_failure: as in ``ridge``; it holds for gradients as well. The iteration looks whether it is done, so it
            waits for the device under ``"nan"`` too.

    Returns:
        A :class:`LinearFit`: ``weight`` (*B, d, C), or (*B, d); ``intercept`` is None; ``info.steps`` (*B,) counts
        the steps of the slowest column. Its dtype is that of the labels.

    Raises:
        DtypeError: labels are no floating-point tensor, ``rtol`` or ``max_steps`` is no number, a tensor operator
            has another dtype, or the products of an object are not float64.
        DeviceError: tensors are on different devices.
        ShapeError: shapes do not fit together.
        NonFiniteInputError: a value is NaN or infinite.
        ParameterRangeError: λ is negative, ``rtol`` not in (0, 1e-8], or ``max_steps`` < 1.
        UnknownNameError: ``method``, ``preconditioner``, ``backend`` or ``on_failure`` is no known word.
        NotConvergedError: the steps ran out, or the optimality residual is above 1e-8; in the backward pass: the
            gradient is not accurate.
        InvalidInputError: ``rmatmul`` of an object is not the transpose of its ``matmul`` (not looked for under
            ``on_failure="nan"``).
        UnsupportedError: under ``torch.func`` transforms, in forward mode, for gradients of gradients, for an
            operator without a transpose, or for a preconditioner that does not go with operator or method.

    Example:
        >>> import torch
        >>> from convexdistill.layers import ridge_matrix_free
        >>> A = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]).to_sparse()
        >>> Y = torch.tensor([1.0, 0.0, 1.0], requires_grad=True)
        >>> fit = ridge_matrix_free(A, Y, lam=1.0)
        >>> fit.weight
        tensor([0.6250, 0.1250], grad_fn=<SqueezeBackward1>)
        >>> fit.weight[0].backward()
        >>> Y.grad
        tensor([ 0.3750, -0.1250,  0.2500])
    """
    if isinstance(preconditioner, str):
        pick("preconditioner", preconditioner, WORDS)
    checks.require_number("rtol", rtol)
    if max_steps is not None:
        checks.require_number("max_steps", max_steps, whole=True)
    if not 0 < rtol <= ACCEPT_BELOW:
        raise ParameterRangeError(
            f"rtol is {rtol}, but rtol must be in (0, {ACCEPT_BELOW}]; for a rougher answer give fewer max_steps "
            'with on_failure="warn".'
        )
    if max_steps is not None and max_steps < 1:
        raise ParameterRangeError(f"max_steps is {max_steps}, but max_steps must be >= 1.")
    arguments = [Argument("labels", labels, 2), Argument("lam", lam, 1, "nonnegative", required=True, double=True)]
    if isinstance(operator, Tensor):
        checks.require_tensor("operator", operator)
        checks.require_same_kind("labels", checks.require_tensor("labels", labels), "operator", operator)
        if operator.layout == torch.strided:
            arguments.append(Argument("operator", operator, 2))
        elif on_failure != "nan":
            coo = operator.detach() if operator.layout == torch.sparse_coo else operator.detach().to_sparse_coo()
            checks.require_finite("operator values", coo.coalesce().values())
    shape = _shape(operator)
    vector_labels = _check_shapes(shape, labels, lam)
    n, d = shape[-2:]
    steps = max(1000, 10 * min(n, d)) if max_steps is None else max_steps

    def build(v: Values) -> tuple[OperatorProblem, Recover]:
        Y, lam = v["labels"], v["lam"]
        assert Y is not None
        assert lam is not None
        A = products(v.get("operator", operator))
        size = size_of(A, Y.device)
        if on_failure != "nan" and not inside_transform():
            if not bool(size.isfinite().all()):
                raise NonFiniteInputError(
                    "products of the operator are NaN or infinite for finite vectors; look into its matmul."
                )
            if not A.adjoint:
                require_adjoint(A, size)
        return OperatorProblem(A, Y, lam, size, preconditioner, rtol, steps), lambda W: (W, None)

    return pipeline.run(
        OperatorProblem,
        arguments,
        build,
        backend=backend,
        form="auto",
        method=method,
        on_failure=on_failure,
        vector_labels=vector_labels,
    )


def _shape(operator: Any) -> torch.Size:
    """The shape (*B, n, d) of an operator, n and d positive.

    Raises:
        ShapeError: it has none.
    """
    shape = torch.Size(getattr(operator, "shape", ()))
    if len(shape) < 2:
        raise ShapeError(
            f"operator is a {type(operator).__qualname__} with shape {tuple(shape)}; it needs a shape (*B, n, d). "
            "Wrap functions in convexdistill.layers.LinearOperator(shape, matmul)."
        )
    if math.prod(shape[-2:]) == 0:
        raise ShapeError(f"operator has shape {tuple(shape)}: there is nothing to fit.")
    return shape


def _check_shapes(shape: torch.Size, labels: Tensor, lam: float | Tensor) -> bool:
    """Check labels and λ against the operator; whether labels are vectors.

    Raises:
        ShapeError: shapes do not fit together.
    """
    y = checks.require_tensor("labels", labels).shape
    vector_labels = len(y) == len(shape) - 1
    if len(y) < 2 - vector_labels or y[-1 if vector_labels else -2] != shape[-2]:
        raise ShapeError(
            f"labels has shape {tuple(y)} and operator {tuple(shape)}; labels must be (*B, n, C) or (*B, n) "
            f"with n = {shape[-2]}."
        )
    if not y[-1]:
        raise ShapeError(f"labels has shape {tuple(y)}: there are no columns to fit.")
    args.require_columns("lam", lam, 1 if vector_labels else y[-1])
    checks.require_broadcast(("operator", shape[:-2]), ("labels", y[:-1] if vector_labels else y[:-2]))
    return vector_labels
