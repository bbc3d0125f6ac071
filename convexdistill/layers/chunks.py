"""Ridge regression under a memory ceiling: ``ridge_in_chunks``."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor

from convexdistill.errors import DtypeError, ParameterRangeError, UnsupportedError
from convexdistill.layers import checks, failure, pipeline
from convexdistill.layers.arguments import Argument
from convexdistill.layers.backends import require_torch
from convexdistill.layers.backends.base import Plan, has_tangent, inside_transform, pick
from convexdistill.layers.backends.torch_backend.ridge import chunked
from convexdistill.layers.chunk_plan import NUMBER, Chunks, Sizes, fits, parse_memory, plan_chunks
from convexdistill.layers.pipeline import FORMS
from convexdistill.layers.reduction import INTERCEPTS
from convexdistill.layers.ridge import ridge, ridge_arguments
from convexdistill.layers.solution import LinearFit, SolveInfo
from convexdistill.layers.status import Status

METHODS = ("auto", "cholesky", "qr")


def ridge_in_chunks(
    features: Tensor,
    labels: Tensor,
    lam: float | Tensor = 1.0,
    *,
    memory: int | str = "1GiB",
    sample_weight: Tensor | None = None,
    intercept: str = "none",
    form: str = "auto",
    method: str = "auto",
    on_failure: str = "raise",
) -> LinearFit:
    """Fit ridge regression with a ceiling on the working memory, in the forward and in the backward pass.

    The problem and the answer of :func:`convexdistill.layers.ridge`, cut over batch, examples and targets so
    that beside inputs, answers and gradients no more than ``memory`` is in use; see
    :func:`convexdistill.layers.chunk_plan.working_memory` for what is counted. Features are read in blocks of
    rows, and the float64 Gram matrix is summed over blocks, so float32 features are never copied as a whole:
    50,000 examples of 4,096 features work beside them in less than 1 GiB (their float64 copy alone is 1.5).
    Differentiable, once, in all tensors.

    Args:
        features: X, (*B, n, d). Batch dimensions that cannot be viewed as one are copied.
        labels: Y, (*B, n, C), or vectors (*B, n). Label sets that share all features are rearranged, in a copy.
        lam: λ ≥ 0: a number, or a tensor () or broadcastable to (*B, C).
        memory: the ceiling in bytes, or a text such as ``"512MiB"`` or ``"2GB"``. What PyTorch and its libraries
            take for themselves does not count.
        sample_weight: s ≥ 0, (*B, n), or None for 1.
        intercept: as in ``ridge``.
        form: ``"primal"`` (d×d), ``"dual"`` (n×n), or ``"auto"``, the smaller. The dual's gradients want λ > 0.
        method: ``"cholesky"``; ``"qr"``, which adds one block of rows to R after the other; ``"auto"``: QR for the
            chunks whose condition is above 1e10.
        on_failure: as in ``ridge``; gradients that are not accurate raise under ``"warn"`` too.

    Returns:
        A :class:`LinearFit`, as from ``ridge``.

    Raises:
        ParameterRangeError: ``memory`` is no number of bytes, or too little for one element (the message names
            the bytes that it needs); λ or a sample weight is negative, or weights sum to 0 with a free intercept.
        DtypeError: an argument is not a floating-point tensor, or dtypes differ.
        DeviceError: tensors are on different devices.
        ShapeError: shapes do not fit together.
        NonFiniteInputError: a value is NaN or infinite.
        UnknownNameError: ``intercept``, ``form``, ``method`` or ``on_failure`` is no known word.
        SingularSystemError: the answer is not unique (``lam=0`` and dependent features).
        NotConvergedError: the optimality residual is above 1e-8.
        UnsupportedError: under transforms, in forward mode, for gradients of gradients, or inside ``use_backend``
            of another backend than torch.

    Example:
        >>> import torch
        >>> from convexdistill.layers import ridge_in_chunks
        >>> fit = ridge_in_chunks(torch.randn(1000, 8), torch.randn(1000, 3), memory="20KiB")
        >>> fit.weight.shape, fit.info.ok.item()
        (torch.Size([8, 3]), True)
    """
    require_torch("ridge_in_chunks")
    for name, word, known in (
        ("intercept", intercept, INTERCEPTS),
        ("form", form, FORMS),
        ("method", method, METHODS),
        ("on_failure", on_failure, failure.POLICIES),
    ):
        pick(name, word, known, "for ridge_in_chunks" if name == "method" else "")
    ceiling = parse_memory(memory)
    vector_labels, arguments = ridge_arguments(features, labels, lam, sample_weight, None, None)
    if inside_transform() or has_tangent(features, labels, lam, sample_weight):
        raise UnsupportedError(chunked.HIDDEN)
    X, Y = features, labels.unsqueeze(-1) if vector_labels else labels
    penalty = _lam(lam, X)
    batch = _check(arguments, X, Y, penalty, sample_weight)
    if on_failure != "nan":
        _check_values(X, Y, penalty, sample_weight, intercept)
    if batch.numel() == 0:
        return ridge(X, labels, lam, sample_weight=sample_weight, intercept=intercept, on_failure="nan")

    n, d = X.shape[-2:]
    C = Y.shape[-1]
    columns = None  # of the labels' own, where batch dimensions became columns
    leading = [
        X.shape[:-2],
        penalty.shape[:-1],
        torch.Size() if sample_weight is None else sample_weight.shape[:-1],
    ]
    inner = batch
    if all(shape.numel() == 1 for shape in leading) and batch.numel() > 1:
        # One system, many label sets: they become columns, and one factorisation serves all.
        columns, inner = C, torch.Size()
        Y = Y.expand(*batch, n, C).movedim(-2, 0).reshape(1, n, -1)
        if penalty.shape[-1] > 1:
            penalty = penalty.reshape(1, C).repeat(1, batch.numel())
        C = Y.shape[-1]
    k = d + (intercept == "penalized")
    form = ("primal" if k <= n else "dual") if form == "auto" else form
    weighted = sample_weight is not None or intercept == "free"
    sizes = Sizes(inner.numel(), n, k, C, form, weighted)
    copied = 0 if columns is None else Y.numel() * Y.element_size()
    keep = NUMBER * sizes.batch * ((k if form == "primal" else n) ** 2 * penalty.shape[-1] + k * C)
    wants = torch.is_grad_enabled() and any(
        isinstance(t, Tensor) and t.requires_grad for t in (X, Y, penalty, sample_weight)
    )
    kept = keep if wants and keep + copied <= ceiling // 2 and fits(sizes, ceiling - keep - copied) else 0
    chunks = plan_chunks(sizes, ceiling, kept + copied)

    pipeline.announce("RidgeProblem", "torch", lambda: _plan(sizes, chunks, method))
    flat: list[Tensor | None] = []
    owners: list[Tensor | None] = []
    for tensor, core in ((X, 2), (Y, 2), (penalty, 1), (sample_weight, 1)):
        if tensor is None:
            owners.append(None)
            flat.append(None)
            continue
        mine = torch.Size() if inner != batch else tensor.shape[: tensor.ndim - core]
        flat.append(tensor.reshape(-1, *tensor.shape[tensor.ndim - core :]))
        owners.append(_owner(mine, inner, X.device))
    job = chunked.Job(sizes, chunks, tuple(owners), intercept, method, kept > 0, on_failure)
    x, y, penalties, weights = flat
    assert x is not None
    assert y is not None
    assert penalties is not None
    answer = chunked.solve(job, x, y, penalties, weights)

    info = _judge(answer, flat, tuple(owners), intercept, form, inner)
    weight = answer.weight.reshape(*inner, d, C)
    bias = None if intercept == "none" else answer.bias.reshape(*inner, C)
    if columns is not None:
        weight = weight.reshape(d, *batch, columns).movedim(0, -2)
        bias = None if bias is None else bias.reshape(*batch, columns)
        info = SolveInfo(
            info.backend,
            info.form,
            info.method,
            info.status.expand(batch),
            info.residual.expand(batch),
            None if info.condition is None else info.condition.expand(batch),
        )
    info = failure.mark_overflow(info, weight, bias)
    failure.enforce(info, on_failure)
    if on_failure == "nan":
        failed = (info.status != 0)[..., None]
        weight = weight.masked_fill(failed[..., None], float("nan"))
        bias = None if bias is None else bias.masked_fill(failed, float("nan"))
    if vector_labels:
        weight, bias = weight.squeeze(-1), None if bias is None else bias.squeeze(-1)
    return LinearFit(weight, bias, info, vector_labels)


def _plan(sizes: Sizes, chunks: Chunks, method: str) -> Plan:
    """What runs, and in which pieces."""
    methods = METHODS[1:] if method == "auto" else (method,)
    why = (
        f"chunks of {chunks.batch} of {sizes.batch} batch elements, {chunks.rows} of {sizes.n} rows and "
        f"{chunks.targets} of {sizes.targets} targets"
    )
    return Plan(sizes.form, methods, why)


def _lam(lam: float | Tensor, X: Tensor) -> Tensor:
    """λ as a tensor (*B, 1 or C).

    Raises:
        DtypeError: it is neither a number nor a floating-point tensor.
    """
    if isinstance(lam, Tensor):
        return checks.require_tensor("lam", lam).reshape(1) if lam.ndim == 0 else checks.require_tensor("lam", lam)
    if isinstance(lam, bool) or not isinstance(lam, Real):
        raise DtypeError(f"lam must be a number or a torch.Tensor, got {type(lam).__qualname__}.")
    return torch.tensor([float(lam)], dtype=torch.float64, device=X.device)


def _check(
    arguments: Sequence[Argument], X: Tensor, Y: Tensor, penalty: Tensor, sample_weight: Tensor | None
) -> torch.Size:
    """The common leading dimensions, after checks of dtypes and devices; nothing is copied.

    Raises:
        DtypeError: dtypes differ, or a value is no floating-point tensor.
        DeviceError: devices differ.
        ShapeError: leading dimensions do not broadcast.
    """
    checks.require_values("features", X)
    for name, value, *_, double in arguments:
        if isinstance(value, Tensor):
            checks.require_same_kind("features", X, name, checks.require_tensor(name, value), double=double)
    named = [("features", X.shape[:-2]), ("labels", Y.shape[:-2]), ("lam", penalty.shape[:-1])]
    if sample_weight is not None:
        named.append(("sample_weight", sample_weight.shape[:-1]))
    return checks.require_broadcast(*named)


def _check_values(X: Tensor, Y: Tensor, penalty: Tensor, sample_weight: Tensor | None, intercept: str) -> None:
    """Raise on values without a meaning; a sum finds NaN and infinity without a copy.

    Raises:
        NonFiniteInputError: a value is NaN or infinite.
        ParameterRangeError: a value has the wrong sign, or all weights are zero with a free intercept.
    """
    named = {"features": X, "labels": Y, "lam": penalty, "sample_weight": sample_weight}
    for name, tensor in named.items():
        if tensor is not None and not bool(tensor.detach().sum().isfinite()):
            checks.require_finite(name, tensor)
    checks.require_sign("lam", penalty)
    if sample_weight is not None:
        checks.require_sign("sample_weight", sample_weight)
        if intercept == "free" and bool((sample_weight.detach().sum(-1) == 0).any()):
            raise ParameterRangeError(
                'sample_weight sums to 0, which leaves the intercept of intercept="free" undetermined; '
                "give at least one example a positive weight."
            )


def _owner(mine: torch.Size, batch: torch.Size, device: torch.device) -> Tensor | None:
    """For every element of the batch, flattened, the flat index of what it takes from an argument."""
    if mine.numel() == batch.numel():
        return None
    return torch.arange(mine.numel(), device=device).reshape(mine).expand(batch).reshape(-1)


def _judge(
    answer: chunked.Answer,
    flat: Sequence[Tensor | None],
    owners: Sequence[Tensor | None],
    intercept: str,
    form: str,
    batch: torch.Size,
) -> SolveInfo:
    """The record of what ran; NaN in an element's inputs shows in sums over them."""
    nonfinite = invalid = torch.zeros_like(answer.singular)
    for i, (tensor, owner) in enumerate(zip(flat, owners, strict=True)):
        if tensor is None:
            continue
        bad = ~tensor.detach().flatten(1).sum(-1).isfinite()
        wrong = torch.zeros_like(bad) if i < 2 else (tensor.detach() < 0).flatten(1).any(-1)
        if i == 3 and intercept == "free":
            wrong = wrong | (tensor.detach().sum(-1) == 0)
        nonfinite = nonfinite | (bad if owner is None else bad[owner])
        invalid = invalid | (wrong if owner is None else wrong[owner])
    reported = answer.singular.to(torch.int8) * int(Status.SINGULAR)
    status = failure.judge(answer.residual, reported, nonfinite, invalid)
    method = "qr" if bool(answer.qr) else "cholesky-refined" if bool(answer.corrected) else "cholesky"
    return SolveInfo(
        "torch",
        form,
        method,
        status.reshape(batch),
        answer.residual.reshape(batch),
        answer.condition.reshape(batch),
    )
