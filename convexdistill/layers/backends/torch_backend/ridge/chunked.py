"""A ridge problem of any size as a loop over chunks, forward and backward; see ``stream.py`` for one chunk.

Nothing that grows with the batch is kept for the backward pass, unless it fits into half of the memory: then
factors and answers are; else they are worked out again, chunk by chunk (as ``torch.utils.checkpoint`` would, which
however adds a gradient of the size of the whole input for every chunk).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convexdistill.errors import NotConvergedError, UnsupportedError
from convexdistill.layers.backends.base import inside_transform
from convexdistill.layers.backends.first_order import first_order
from convexdistill.layers.backends.gradients import ACCEPT_BELOW
from convexdistill.layers.backends.torch_backend.ridge import stream
from convexdistill.layers.backends.torch_backend.ridge.factors import harmless
from convexdistill.layers.backends.torch_backend.ridge.stream import Design, Factors
from convexdistill.layers.chunk_plan import Chunks, Sizes, columns_at_once
from convexdistill.layers.problems.base import TINY

HIDDEN = (
    "ridge_in_chunks does not run under torch.func transforms, torch.compile, forward mode or batched gradients; "
    "use leading batch dimensions, or convexdistill.layers.ridge."
)
SECOND = (
    "ridge_in_chunks has no gradients of gradients; use convexdistill.layers.ridge, whose solves are "
    "differentiable to any order."
)


class Flat(NamedTuple):
    """An argument with one batch dimension, shared by elements that have the same owner.

    Attributes:
        tensor: (N, ...).
        owner: (B,) which of the N belongs to an element; None where N = B and each has its own.
        instead: read in place of what has no meaning (NaN, infinity, and below 0 for an ``instead`` of 1), so that
            an element that failed leaves no NaN in what others share with it; None to read everything as it is.
    """

    tensor: Tensor
    owner: Tensor | None
    instead: float | None = None

    def read(self, batch: slice, *where: slice, copy: bool = True) -> Tensor:
        """Some rows and columns for some elements, float64."""
        copy = copy or self.instead is not None
        if self.owner is None:
            values = self.tensor[(batch, *where)].to(torch.float64, copy=copy)
        else:
            values = self.tensor[(slice(None), *where)].index_select(0, self.owner[batch]).double()
        if self.instead is None:
            return values
        values.nan_to_num_(self.instead, self.instead, self.instead)
        return values.masked_fill_(values < 0, self.instead) if self.instead else values

    def add(self, gradient: Tensor, batch: slice, where: tuple[slice, ...], values: Tensor) -> None:
        """Add to the gradient of some rows and columns, summed over elements that share them."""
        values = values.to(gradient.dtype)
        if self.owner is None:
            gradient[(batch, *where)] += values
        else:
            gradient[(slice(None), *where)].index_add_(0, self.owner[batch], values)


class Job(NamedTuple):
    """What is to be solved, and how.

    Attributes:
        sizes: of the problem.
        chunks: how it is cut.
        owners: for features, labels, λ and weights, the owner of :class:`Flat`.
        intercept: ``"none"``, ``"free"`` or ``"penalized"``.
        method: ``"auto"``, ``"cholesky"`` or ``"qr"``.
        keep: whether factors and answers are kept for the backward pass.
        on_failure: what becomes of gradients that are not accurate.
    """

    sizes: Sizes
    chunks: Chunks
    owners: tuple[Tensor | None, ...]
    intercept: str
    method: str
    keep: bool
    on_failure: str

    def batches(self) -> Iterator[slice]:
        """The chunks of the batch."""
        for start in range(0, self.sizes.batch, self.chunks.batch):
            yield slice(start, min(start + self.chunks.batch, self.sizes.batch))

    def targets(self, width: int | None = None) -> Iterator[slice]:
        """The chunks of the targets."""
        width = width or self.chunks.targets
        for start in range(0, self.sizes.targets, width):
            yield slice(start, min(start + width, self.sizes.targets))


class Answer(NamedTuple):
    """What :func:`solve` returns.

    Attributes:
        weight: (B, d, C), differentiable.
        bias: (B, C), differentiable; empty where there is no intercept.
        residual: (B,).
        condition: (B,).
        singular: (B,) bool.
        corrected: whether an answer was corrected, as a tensor ().
        qr: whether QR ran, as a tensor ().
    """

    weight: Tensor
    bias: Tensor
    residual: Tensor
    condition: Tensor
    singular: Tensor
    corrected: Tensor
    qr: Tensor


def solve(job: Job, X: Tensor, Y: Tensor, lam: Tensor, s: Tensor | None) -> Answer:
    """Solve chunk by chunk; differentiable once in X (N, n, d), Y (N, n, C), λ (N, 1 or C) and s (N, n).

    Raises:
        UnsupportedError: under a transform; in the backward pass, for gradients of gradients.
    """
    if inside_transform():
        raise UnsupportedError(HIDDEN)
    return Answer(*_Chunked.apply(job, X, Y, lam, s))


class _Parts(NamedTuple):
    X: Flat
    Y: Flat
    lam: Flat
    s: Flat | None


def _design(job: Job, parts: _Parts, batch: slice) -> tuple[Design, Tensor | None]:
    """The design of a chunk, and the shares p = s / Σs (b, n, 1) of a free intercept."""
    n, d = parts.X.tensor.shape[-2:]
    s = None if parts.s is None else parts.s.read(batch, slice(None)).unsqueeze(-1)
    shares = mean = None
    if job.intercept == "free":
        ones = torch.ones(batch.stop - batch.start, n, 1, dtype=torch.float64, device=parts.X.tensor.device)
        shares = ones / n if s is None else s / _total(s, -2)
    root = None if s is None else s.sqrt()
    changed = shares is not None or root is not None

    def read(rows: slice, columns: slice) -> Tensor:
        return parts.X.read(batch, rows, columns, copy=changed)

    columns = columns_at_once(job.sizes, job.chunks.rows)
    dual = job.sizes.form == "dual"
    design = Design(read, n, d, root, None, job.intercept == "penalized", job.chunks.rows, columns, dual)
    if shares is not None:
        mean = sum(shares[:, rows].mT @ block for rows, block in design.blocks())
        assert isinstance(mean, Tensor)
        design = design._replace(mean=mean)
    return design, shares


def _systems(
    job: Job, parts: _Parts, batch: slice, design: Design, kept: list[Factors] | None
) -> Iterator[tuple[slice, Factors]]:
    """Targets, and the factors of their system; new ones go to ``kept``, or come from there."""
    lam = parts.lam.read(batch, slice(None))
    if kept:
        for i, factors in enumerate(kept):
            for columns in [slice(i, i + 1)] if lam.shape[-1] > 1 else job.targets():
                yield columns, factors
        return
    G = stream.gram(design)
    for i in range(lam.shape[-1]):
        factors = stream.factor(design, G, lam[:, i], job.method)
        if job.on_failure == "nan":
            factors = factors._replace(factor=harmless(factors.method, (factors.factor,), factors.singular)[0])
        if kept is not None:
            kept.append(factors)
        for columns in [slice(i, i + 1)] if lam.shape[-1] > 1 else job.targets():
            yield columns, factors


def _total(s: Tensor, dim: int) -> Tensor:
    """Σs; 1 where all weights are 0, of elements that have no meaning."""
    total = s.sum(dim, keepdim=True)
    return total.masked_fill(total == 0, 1.0)


def _centred(parts: _Parts, batch: slice, columns: slice, shares: Tensor | None, design: Design) -> Any:
    """rows -> labels there less their mean, (b, r, c), and that mean."""

    def raw(rows: slice) -> Tensor:
        return parts.Y.read(batch, rows, columns)

    if shares is None:
        return raw, None
    slices = [slice(i, min(i + design.rows, design.n)) for i in range(0, design.n, design.rows)]
    mean = sum(shares[:, rows].mT @ raw(rows) for rows in slices)
    return (lambda rows: raw(rows).sub_(mean)), mean


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, job: Job, X: Tensor, Y: Tensor, lam: Tensor, s: Tensor | None) -> Any:
        parts = _parts(job, X, Y, lam, s)
        B, C, d = job.sizes.batch, job.sizes.targets, X.shape[-1]
        weight = X.new_empty(B, d, C)
        bias = X.new_empty(B, 0 if job.intercept == "none" else C)
        gradient, size, square, condition = (X.new_zeros(B, dtype=torch.float64) for _ in range(4))
        singular = torch.zeros(B, dtype=torch.bool, device=X.device)
        kept: dict[int, tuple[list[Factors], list[Tensor]]] = {}
        corrected = qr = False
        keep = job.keep and any(ctx.needs_input_grad)
        for batch in job.batches():
            design, shares = _design(job, parts, batch)
            memory: list[Factors] | None = [] if keep else None
            answers: list[Tensor] = []
            for columns, factors in _systems(job, parts, batch, design, memory):
                labels, mean = _centred(parts, batch, columns, shares, design)
                W, g, y = stream.fit(design, factors, labels)
                gradient[batch] += g
                size[batch] += y
                weight[batch, :, columns] = W[:, :d].to(weight.dtype)
                if design.mean is not None:
                    bias[batch, columns] = (mean - design.mean @ W).squeeze(-2).to(bias.dtype)
                elif design.ones:
                    bias[batch, columns] = W[:, -1].to(bias.dtype)
                if keep:
                    answers.append(W)
                square[batch] = factors.square
                condition[batch] = torch.maximum(condition[batch], factors.condition)
                singular[batch] |= factors.singular
                corrected |= factors.corrections > 0
                qr |= factors.method == "qr"
            if memory is not None:
                kept[batch.start] = (memory, answers)
        residual = (gradient / (square * size).clamp_min(TINY)).sqrt()
        ctx.save_for_backward(X, Y, lam, s)
        ctx.job, ctx.kept = job, kept
        facts = residual, condition, singular, torch.tensor(corrected), torch.tensor(qr)
        ctx.mark_non_differentiable(*facts)
        return weight, bias, *facts

    @staticmethod
    def backward(ctx: Any, weight_bar: Tensor, bias_bar: Tensor, *_: Tensor) -> Any:
        if inside_transform(weight_bar, bias_bar):
            raise UnsupportedError(HIDDEN)
        inputs = ctx.saved_tensors
        with torch.no_grad():
            needed = ctx.needs_input_grad[1:]
            grads = _gradients(ctx.job, ctx.kept, needed, inputs, weight_bar.detach(), bias_bar.detach())
        if torch.is_grad_enabled():
            depends = [t for t in (*inputs, weight_bar, bias_bar) if t is not None]
            grads = [None if g is None else first_order(g, SECOND, *depends) for g in grads]
        return None, *grads


def _parts(job: Job, X: Tensor, Y: Tensor, lam: Tensor, s: Tensor | None) -> _Parts:
    x, y, penalty, w = job.owners
    zero, one = (0.0, 1.0) if job.on_failure == "nan" else (None, None)
    return _Parts(
        Flat(X, x, zero), Flat(Y, y, zero), Flat(lam, penalty, one), None if s is None else Flat(s, w, one)
    )


def _gradients(
    job: Job,
    kept: dict[int, tuple[list[Factors], list[Tensor]]],
    needed: tuple[bool, ...],
    inputs: tuple[Tensor, ...],
    weight_bar: Tensor,
    bias_bar: Tensor,
) -> list[Tensor | None]:
    """Gradients to X, Y, λ and s where they are needed, written chunk by chunk."""
    parts = _parts(job, *inputs)
    grads = [torch.zeros_like(t) if want else None for t, want in zip(inputs, needed, strict=True)]
    for batch in job.batches():
        design, shares = _design(job, parts, batch)
        memory, answers = kept.get(batch.start, (None, []))
        for i, (columns, factors) in enumerate(_systems(job, parts, batch, design, memory)):
            labels, _ = _centred(parts, batch, columns, shares, design)
            W = answers[i] if answers else stream.fit(design, factors, labels)[0]
            W_bar = weight_bar[batch, :, columns].double()
            b_bar = bias_bar[batch, columns].double().unsqueeze(-2) if bias_bar.shape[-1] else None
            if b_bar is not None and design.ones:
                W_bar = torch.cat([W_bar, b_bar], -2)
            elif b_bar is not None and design.mean is not None:
                W_bar = W_bar - design.mean.mT @ b_bar
            U, error = stream.adjoint(design, factors, W_bar)
            U = _accept(job, batch, factors, U, error, W_bar)
            if grads[2] is not None:
                values = -(U * W).sum(-2)
                shared = parts.lam.tensor.shape[-1] == 1
                where = slice(0, 1) if shared else columns
                parts.lam.add(grads[2], batch, (where,), values.sum(-1, keepdim=True) if shared else values)
            if grads[0] is not None or grads[1] is not None or grads[3] is not None:
                _spread(parts, batch, columns, design, shares, labels, W, U, b_bar, grads)
    return grads


def _spread(
    parts: _Parts,
    batch: slice,
    columns: slice,
    design: Design,
    shares: Tensor | None,
    labels: Any,
    W: Tensor,
    U: Tensor,
    b_bar: Tensor | None,
    grads: list[Tensor | None],
) -> None:
    """The gradients to examples, block by block; the formulas stand in ``stream.py``.

    A free intercept b = ȳ − x̄W adds p_i b̄ to the labels, −p_i b̄Wᵀ to the features and ⟨b̄, E_i⟩ / Σs to weights.
    """
    d = design.d
    to_X, to_Y, _, to_s = grads
    for rows, D in design.blocks():
        DU = D @ U
        E = labels(rows).sub_(D @ W) if to_X is not None or to_s is not None else None
        if to_s is not None and parts.s is not None and E is not None:
            values = (E * DU).sum(-1)
            if shares is not None and b_bar is not None:
                values = values + (E * b_bar).sum(-1) / _total(parts.s.read(batch, slice(None)), -1)
            parts.s.add(to_s, batch, (rows,), values)
        DU = design.weighted(DU, rows)
        if shares is not None and b_bar is not None:
            DU = DU + shares[:, rows] * b_bar
        if to_Y is not None:
            parts.Y.add(to_Y, batch, (rows, columns), DU)
        if to_X is not None and E is not None:
            values = torch.cat([design.weighted(E, rows), -DU], -1) @ torch.cat([U[:, :d], W[:, :d]], -1).mT
            parts.X.add(to_X, batch, (rows, slice(None)), values)


def _accept(job: Job, batch: slice, factors: Factors, U: Tensor, error: Tensor, W_bar: Tensor) -> Tensor:
    """U where it solves S U = W̄ to a backward error of 1e-8; else raise, or NaN.

    Raises:
        NotConvergedError: it does not for some element, unless ``on_failure="nan"``.
    """
    size = (factors.square + factors.lam) * torch.linalg.matrix_norm(U) + torch.linalg.matrix_norm(W_bar)
    relative = error.sqrt() / size.clamp_min(TINY)
    wrong = ~(relative <= ACCEPT_BELOW)
    if job.on_failure == "nan":
        return U.masked_fill(wrong[:, None, None], float("nan"))
    if not bool(wrong.any()) or not bool(W_bar.isfinite().all()):  # NaN that came in goes out as NaN
        return U
    failed = [batch.start + i for i in torch.nonzero(wrong).reshape(-1).tolist()]
    raise NotConvergedError(
        f"the gradient of ridge_in_chunks is not accurate for batch elements {failed[:8]}: backward error "
        f"{float(relative[wrong].max()):.1e}. Raise lam, or use convexdistill.layers.ridge with method='svd'.",
        batch_indices=tuple(failed),
    )
