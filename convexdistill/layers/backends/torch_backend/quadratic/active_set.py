"""Which rows of a quadratic program are active at its answer: the part that has no derivative.

The interior-point method proposes a set of active rows; the linear system of that set gives a point and
multipliers to rounding; rows that this point breaks are added and rows with a negative multiplier dropped until
none is left (the primal-dual active set method, Hintermüller, Ito & Kunisch 2002). What is differentiable comes
after, in ``solver.py``, with the set held constant: it does not change near a solution without weakly
active rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from convexdistill.layers.backends.functions import differentiable
from convexdistill.layers.backends.torch_backend.quadratic import kkt
from convexdistill.layers.backends.torch_backend.quadratic.diagnosis import diagnose
from convexdistill.layers.backends.torch_backend.quadratic.interior_point import Iterate, interior_point
from convexdistill.layers.backends.torch_backend.quadratic.slacks import priceless
from convexdistill.layers.problems.quadratic import relative, violation
from convexdistill.layers.status import Status

CORRECTIONS = 20
ALL_AT_ONCE = 6  # corrections that may change many rows; later ones change one, which cannot cycle as easily
ACCURATE = 1e-12
WRONG = 1e-10
ACCEPT_BELOW = 1e-8


class Found(NamedTuple):
    """What a search found; no gradient goes through it.

    Attributes:
        x: (N, k).
        y: (N, r), multipliers: the certificate.
        active: (N, r) bool.
        settled: (N,) bool, whether the active rows determine x.
        reported: (N,) int8, codes of :class:`~convexdistill.layers.Status`.
        steps: (N,) int64, interior-point steps.
    """

    x: Tensor
    y: Tensor
    active: Tensor
    settled: Tensor
    reported: Tensor
    steps: Tensor


def search(
    P: Tensor,
    q: Tensor,
    R: Tensor,
    b: Tensor,
    strict: Tensor,
    slack: Tensor | None,
    unique: Tensor | None,
    equalities: int,
) -> Found:
    """Solve N programs and find their active rows, anywhere: eagerly, under transforms, and when compiling.

    Args:
        P: (N, k, k).
        q: (N, k).
        R: (N, r, k).
        b: (N, r).
        strict: (N,) bool, where P is known to be positive definite.
        slack: (k,) bool or None.
        unique: (k,) bool or None.
        equalities: how many rows are equalities.
    """
    inputs = [None if t is None else t.detach() for t in (P, q, R, b, strict, slack, unique)]
    if torch.compiler.is_compiling():
        return Found(*_search_op(*inputs, equalities))
    return Found(*differentiable(_Search, _Search, *inputs, equalities))


def _search(
    P: Tensor,
    q: Tensor,
    R: Tensor,
    b: Tensor,
    strict: Tensor,
    slack: Tensor | None,
    unique: Tensor | None,
    e: int,
) -> tuple[Tensor, ...]:
    """The search itself, on tensors whose values can be seen."""
    N, r = b.shape
    if N == 0 or r == e:
        flags = torch.ones_like(b, dtype=torch.bool)
        steps = torch.zeros(N, dtype=torch.int64, device=q.device)
        inside = Iterate(torch.zeros_like(q), torch.zeros_like(b), flags, steps)
    else:
        inside = _inside(P, q, R, b, slack, e)
    x, y, active, settled, error = correct(P, q, R, b, strict, e, unique, inside)
    # Where rows of R repeat each other, the multipliers of least norm may be negative, those from inside are not.
    other = violation(P, q, R, b, e, x, inside.y)
    y = torch.where((other < error).unsqueeze(-1), inside.y, y)
    error = torch.minimum(error, other)
    reported = torch.where(settled, 0, int(Status.SINGULAR)).to(torch.int8)
    lost = ~(error <= ACCEPT_BELOW)
    # A point far along a direction of descent may look stationary, relative to its size.
    suspect = lost | ~settled
    if N and bool(suspect.any()):
        codes = diagnose(P[suspect], q[suspect], R[suspect], b[suspect], e)
        codes = torch.where(lost[suspect] | (codes != int(Status.MAX_STEPS)), codes, reported[suspect])
        reported = reported.masked_scatter(suspect, codes)
    return x, y, active, settled, reported, inside.steps


def _inside(P: Tensor, q: Tensor, R: Tensor, b: Tensor, slack: Tensor | None, e: int) -> Iterate:
    """The interior-point method, on the program without slacks that cost nothing."""
    left_out = priceless(P, q, R, b, slack)
    if left_out is None:
        return interior_point(P, q, R, b, e, slack)
    found = interior_point(left_out.P, q, R, left_out.b, e, slack)
    x, active = left_out.settle(R, b, found.x, found.active)
    return Iterate(x, found.y, active, found.steps)


def correct(
    P: Tensor,
    q: Tensor,
    R: Tensor,
    b: Tensor,
    strict: Tensor,
    e: int,
    unique: Tensor | None,
    inside: Iterate,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x, y, active, settled and the violation, after corrections of the set that the method proposed."""
    active = inside.active
    x, y, kept = inside.x, inside.y, active
    best = torch.full_like(q[..., 0], float("inf"))
    settled = torch.ones_like(best, dtype=torch.bool)
    for attempt in range(CORRECTIONS):
        rows, m = select(active)
        K, f = system(P, q, R, b, rows, m)
        factor = kkt.factorise(K, q.shape[-1], strict)
        free = strict | kkt.determined(K, factor, q.shape[-1], None)
        start = _start(inside, rows, m, free)
        V = kkt.solve(K, f, start, factor).squeeze(-1)
        new_x = V[..., : q.shape[-1]]
        new_y = torch.zeros_like(b).scatter(-1, rows, V[..., q.shape[-1] :] * m)
        slack, multiplier, _ = relative(P, q, R, b, new_x, new_y)
        error = violation(P, q, R, b, e, new_x, new_y)
        better = error < best
        x, y = _where(better, new_x, x), _where(better, new_y, y)
        kept = _where(better, active, kept)
        held = free if unique is None else strict | kkt.determined(K, factor, q.shape[-1], unique)
        settled = torch.where(better, held, settled)
        best = torch.where(better, error, best)
        wrong = torch.where(active, -multiplier, -slack)
        wrong[..., :e] = 0.0
        flip = (wrong > WRONG) & (best > ACCURATE).unsqueeze(-1)
        if attempt >= ALL_AT_ONCE:
            flip &= wrong == wrong.amax(-1, keepdim=True)
        if not bool(flip.any()):
            break
        active = active ^ flip
    return x, y, kept, settled, best


def select(active: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the active rows, (N, a) for a the largest number of them, and their masks m, (N, a)."""
    count = int(active.sum(-1).max()) if active.numel() else 0
    rows = active.to(torch.int8).argsort(dim=-1, descending=True, stable=True)[..., :count]
    return rows, active.gather(-1, rows).double()


def system(P: Tensor, q: Tensor, R: Tensor, b: Tensor, rows: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """K and f of ``kkt.py`` for chosen rows; differentiable in P, q, R and b."""
    chosen = R.gather(-2, rows.unsqueeze(-1).expand(*rows.shape, R.shape[-1]))
    right = torch.where(m > 0, b.gather(-1, rows), 0.0)
    return kkt.assemble(P, chosen, m), torch.cat([-q, right], -1).unsqueeze(-1)


def _start(inside: Iterate, rows: Tensor, m: Tensor, free: Tensor) -> Tensor:
    """Zero where the rows determine x, the interior point where they do not."""
    point = torch.cat([inside.x, inside.y.gather(-1, rows) * m], -1)
    return torch.where(free.unsqueeze(-1), 0.0, point).unsqueeze(-1)


def _where(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(mask.unsqueeze(-1), new, old)


class _Search(torch.autograd.Function):
    """The search under transforms: what it sees are the values below every transform, so it may look at them."""

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return _search(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        return (None,) * 8

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        return (None,) * 6

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        """A mapped dimension is one more batch dimension."""
        size, data = info.batch_size, []
        for tensor, dim in zip(inputs[:5], in_dims[:5], strict=True):
            front = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            data.append(front.flatten(0, 1))
        found = search(*data, *inputs[5:])
        return tuple(t.unflatten(0, (size, -1)) for t in found), (0,) * 6


@torch.library.custom_op("convexdistill::quadratic_search", mutates_args=())
def _search_op(
    P: Tensor,
    q: Tensor,
    R: Tensor,
    b: Tensor,
    strict: Tensor,
    slack: Tensor | None,
    unique: Tensor | None,
    equalities: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The search as one opaque operation, whose loops ``torch.compile`` need not follow."""
    x, y, active, settled, reported, steps = (
        t.clone() for t in _search(P, q, R, b, strict, slack, unique, equalities)
    )
    return x, y, active, settled, reported, steps


@_search_op.register_fake
def _(
    P: Tensor,
    q: Tensor,
    R: Tensor,
    b: Tensor,
    strict: Tensor,
    slack: Tensor | None,
    unique: Tensor | None,
    equalities: int,
) -> tuple[Tensor, ...]:
    N = q.shape[0]
    flags = torch.empty_like(b, dtype=torch.bool)
    return (
        torch.empty_like(q),
        torch.empty_like(b),
        flags,
        q.new_empty(N, dtype=torch.bool),
        q.new_empty(N, dtype=torch.int8),
        q.new_empty(N, dtype=torch.int64),
    )
