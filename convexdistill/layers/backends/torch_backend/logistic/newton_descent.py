"""Newton steps down to the minimum of a logistic objective, all batch elements at once.

Every step goes (nearly) to the minimum along Newton's direction by lengths that cannot overshoot, see
``softmax.line_minimum``: the objective falls monotonically from any start, and ends with quadratic convergence.
An element is done when a full step moves no logit of an example by more than 1e-8: logits have no unit, and what
is left after such a step is of the order of its square. (The gradient alone cannot tell: for separable data and
λ = 0 it goes to zero along steps that never end.) Elements that are done keep what they have.

How many steps that takes depends on the values, which ``torch.func`` transforms and ``torch.compile`` hide. For
them the descent is one opaque operator that takes and returns tensors with leading batch dimensions: what it does
inside is not traced, and a ``vmap`` over it is one more batch dimension.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from convexdistill.layers.backends.base import inside_transform
from convexdistill.layers.backends.torch_backend.logistic import newton_factors as newton
from convexdistill.layers.backends.torch_backend.logistic.newton_factors import Factor
from convexdistill.layers.backends.torch_backend.logistic.softmax import (
    hessian_apply,
    line_minimum,
    misfit,
    without_shift,
)

STEPS = 100
DONE = 1e-8
HOPELESS = 200.0  # a range of logits at which probabilities are about to be exactly 0
CG_LIMIT = 500


class Descent(NamedTuple):
    """Where the Newton steps ended.

    Attributes:
        W: (*B, D, C).
        L: of the factor of the last step, near which H has hardly moved since.
        scale: likewise.
        change: how far the last step moved a logit, (*B,).
        spread: the largest range of an example's logits, (*B,).
        steps: how many steps each element took, (*B,) int32.
    """

    W: Tensor
    L: Tensor
    scale: Tensor
    change: Tensor
    spread: Tensor
    steps: Tensor

    @property
    def factor(self) -> Factor:
        """The factor of the last step."""
        return self.L, self.scale, None, None


def descend(
    X: Tensor,
    w: Tensor,
    T: Tensor,
    penalty: Tensor,
    gauged: Tensor,
    start: Tensor,
    free: bool = False,
    method: str = "newton",
) -> Descent:
    """Newton steps from ``start`` to the minimum; without gradient.

    Args:
        X: (*B, n, D).
        w: masses, (*B, n).
        T: targets, (*B, n, C).
        penalty: Λ, (*B, D, C).
        gauged: (*B, D, 1), 1 where a row of W has to sum to zero.
        start: (*B, D, C), with such rows.
        free: whether the last row is an intercept without penalty.
        method: ``"newton"``, or ``"newton-cg"``, which does not form the Hessian.
    """
    if inside_transform():
        return Descent(*_opaque(X, w, T, penalty, gauged, start, free, method))
    return _descend(X, w, T, penalty, gauged, start, free, method)


def _descend(
    X: Tensor, w: Tensor, T: Tensor, penalty: Tensor, gauged: Tensor, start: Tensor, free: bool, method: str
) -> Descent:
    W = start
    change = torch.full(w.shape[:-1], float("inf"), dtype=X.dtype, device=X.device)
    done = torch.zeros_like(change, dtype=torch.bool)
    steps = torch.zeros_like(change, dtype=torch.int32)
    endless = (penalty[..., : X.shape[-1] - free, :] == 0).flatten(-2).any(-1)
    for _ in range(STEPS):
        Z = X @ W
        P = torch.softmax(Z, -1)
        gradient = X.mT @ misfit(P, w, T) + penalty * W
        factor = newton.factorise(X, w, P, penalty, gauged, method)
        direction = -_direction(X, w, P, penalty, gauged, factor, gradient, change, method)
        ZD = X @ direction
        slope, bend = ((penalty * V * direction).sum((-2, -1)) for V in (W, direction))
        t, moved = line_minimum(Z, ZD, w, T, slope, bend)
        W = torch.where(done[..., None, None], W, W + t[..., None, None] * direction)
        change = torch.where(done, change, moved)
        steps = steps + ~done
        done = done | (moved <= DONE) | (endless & (_range(Z) > HOPELESS))
        if bool(done.all()):
            break
    return Descent(W, *factor[:2], change, _range(X @ W), steps)


def _direction(
    X: Tensor,
    w: Tensor,
    P: Tensor,
    penalty: Tensor,
    gauged: Tensor,
    factor: Factor,
    gradient: Tensor,
    change: Tensor,
    method: str,
) -> Tensor:
    """H⁻¹ times the gradient, as exactly as quadratic convergence asks (Dembo, Eisenstat & Steihaug 1982).

    Rounding must not lead to rows with another sum than zero, of which no logit would tell.
    """
    if method == "newton":
        return without_shift(newton.apply(factor, gradient), gauged)

    def product(V: Tensor) -> Tensor:
        return hessian_apply(X, w, P, penalty, V)

    tolerance = change.square().clamp(1e-10, 1e-2)
    return newton.solve(product, factor, gauged, gradient, tolerance, CG_LIMIT, look=True)[0]


def _range(Z: Tensor) -> Tensor:
    """The largest range of a row, (*B,)."""
    return (Z.amax(-1) - Z.amin(-1)).amax(-1)


Six = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
_SCHEMA = (
    "(Tensor X, Tensor w, Tensor T, Tensor penalty, Tensor gauged, Tensor start, bool free, str method)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


@torch.library.custom_op("convexdistill::logistic_descent", mutates_args=(), schema=_SCHEMA)
def _opaque(
    X: Tensor, w: Tensor, T: Tensor, penalty: Tensor, gauged: Tensor, start: Tensor, free: bool, method: str
) -> Six:
    """The descent, for those who may not look inside."""
    found = _descend(X, w, T, penalty, gauged, start, free, method)
    return tuple(t.clone() if t is start else t for t in found)  # type: ignore[return-value]


@_opaque.register_fake
def _shapes(
    X: Tensor, w: Tensor, T: Tensor, penalty: Tensor, gauged: Tensor, start: Tensor, free: bool, method: str
) -> Six:
    """Empty tensors of the shapes that the descent returns."""
    *batch, D, C = penalty.shape
    blocks, order = (1, C * D) if method == "newton" else (C, D)
    change = X.new_empty(batch)
    return (
        X.new_empty((*batch, D, C)),
        X.new_empty((*batch, blocks, order, order)),
        X.new_empty((*batch, blocks, order)),
        change,
        torch.empty_like(change),
        torch.empty_like(change, dtype=torch.int32),
    )


@_opaque.register_vmap
def _one_more_batch_dimension(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
    """A ``vmap`` is the descent with one more leading dimension, over which what is not mapped is shared."""
    tensors = [
        t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)
        for t, dim in zip(arguments[:6], in_dims[:6], strict=True)
    ]
    return _opaque(*tensors, *arguments[6:]), (0,) * 6
