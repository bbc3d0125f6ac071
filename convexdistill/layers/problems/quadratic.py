r"""Quadratic programs, and the test that an answer solves one.

Minimise ``½ xᵀPx + qᵀx`` over x with ``Rx = b`` in the first rows of R and ``Rx ≤ b`` in the others. A point x
with multipliers y (≥ 0 for the inequalities) solves it exactly when the Karush–Kuhn–Tucker conditions hold (Boyd
& Vandenberghe 2004, "Convex Optimization", section 5.5.3); with s = b − Rx:

    stationarity   Px + q + Rᵀy = 0
    equalities     s_i = 0
    inequalities   min(s_i, y_i) = 0

The last line says s ≥ 0, y ≥ 0 and s_i y_i = 0 at once. Unlike the gap Σ s_i y_i it is of first order in the
error: a gap of 1e-8 leaves x uncertain by 1e-4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from convexdistill.layers.problems.base import TINY, broadcast_shapes


@dataclass(frozen=True, eq=False)
class QuadraticProblem:
    """L independent quadratic programs for every batch element, which is solved when all of them are.

    The answer is x, (*B, L, k), its certificate the multipliers y, (*B, L, r). Leading dimensions broadcast.

    Attributes:
        quadratic: P, (*B, L, k, k) float64, symmetric, positive semidefinite.
        linear: q, (*B, L, k).
        rows: R, (*B, L, r, k).
        bounds: b, (*B, L, r), +inf in a row that bounds nothing.
        equalities: how many of the rows, from the first, are equalities.
        slack: (k,) bool, or None: variables t that only measure by how much rows Rx − t ≤ b are exceeded, at a
            price q ≥ 0, at most one a row. Where the price is 0, t is the least that its rows allow (nothing else
            would determine it), and that row counts as active.
        unique: (k,) bool, which variables must be unique (an answer that is not is reported as singular), or None
            for all.
        curvature: (*B, L), a lower bound of the eigenvalues of P that is known beforehand, or None: where it is
            not negligible beside ‖P‖ the answer is unique, however badly conditioned.
        form: what a layer calls this way of writing its problem, for the record.
    """

    quadratic: Tensor
    linear: Tensor
    rows: Tensor
    bounds: Tensor
    equalities: int = 0
    slack: Tensor | None = None
    unique: Tensor | None = None
    curvature: Tensor | None = None
    form: str = "primal"

    @property
    def shape(self) -> torch.Size:
        """The common leading dimensions (*B, L)."""
        return broadcast_shapes(
            self.quadratic.shape[:-2], self.linear.shape[:-1], self.rows.shape[:-2], self.bounds.shape[:-1]
        )

    @property
    def batch_shape(self) -> torch.Size:
        """The common leading dimensions *B."""
        return self.shape[:-1]

    @property
    def answer_shape(self) -> torch.Size:
        """(*B, L, k)."""
        return torch.Size((*self.shape, self.linear.shape[-1]))

    def residual(self, answer: Tensor, dual: Tensor | None = None) -> Tensor:
        """The largest relative violation of the conditions above over the L programs, (*B,); see ``violation``."""
        with torch.no_grad():
            P, q, R, b = (t.detach() for t in (self.quadratic, self.linear, self.rows, self.bounds))
            y = torch.zeros_like(b) if dual is None else dual.detach()
            found = violation(P, q, R, b, self.equalities, answer.detach(), y)
            return found.expand(self.shape).amax(-1)


def violation(P: Tensor, q: Tensor, R: Tensor, b: Tensor, equalities: int, x: Tensor, y: Tensor) -> Tensor:
    """The largest relative violation of the KKT conditions, (...,), without a unit of its own.

    Stationarity is measured against g = ‖ |P||x| + |q| + |R|ᵀ|y| ‖, the size of what cancels in it; the slack of
    row i against ‖R_i‖ X + |b_i| with X = ‖x‖ + ‖q‖/‖P‖, the size of x and of a step of steepest descent; the
    multiplier of row i against g/‖R_i‖.

    Args:
        P: (..., k, k).
        q: (..., k).
        R: (..., r, k).
        b: (..., r).
        equalities: number of equalities.
        x: (..., k).
        y: (..., r).
    """
    slack, multiplier, stationary = relative(P, q, R, b, x, y)
    wrong = torch.cat([slack[..., :equalities], torch.minimum(slack, multiplier)[..., equalities:]], -1)
    if wrong.shape[-1]:
        stationary = torch.maximum(stationary, wrong.abs().amax(-1))
    return stationary


def relative(P: Tensor, q: Tensor, R: Tensor, b: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Slacks and multipliers (..., r) in relative units, and the relative error of stationarity (...,)."""
    norm = torch.linalg.vector_norm
    length, size = norm(R, dim=-1), norm(P, dim=(-2, -1))
    error = times(P, x) + q + times(R.mT, y)
    terms = times(P.abs(), x.abs()) + q.abs() + times(R.mT.abs(), y.abs())
    # A part of ‖P‖‖x‖ as well: where P, q and y leave exactly nothing, rounding must not count as an error.
    g = (norm(terms, dim=-1) + 1e-3 * size * norm(x, dim=-1)).clamp_min(TINY).unsqueeze(-1)
    reach = norm(x, dim=-1) + torch.where(size > 0, norm(q, dim=-1) / size.clamp_min(TINY), 0.0)
    bounded = b.isfinite()
    b = torch.where(bounded, b, 0.0)
    scale = (length * reach.unsqueeze(-1) + b.abs()).clamp_min(TINY)
    slack = torch.where(bounded, (b - times(R, x)) / scale, 1.0)
    stationary: Tensor = norm(error, dim=-1) / g.squeeze(-1)
    return slack, y * length / g, stationary


def times(M: Tensor, v: Tensor) -> Tensor:
    """The product of a matrix and a vector, over leading dimensions that broadcast."""
    return (M @ v.unsqueeze(-1)).squeeze(-1)
