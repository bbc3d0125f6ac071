"""One cone program: when an answer is optimal, how it is refined, and how it is differentiated.

The program, for a closed convex cone K and P symmetric, positive semidefinite:

    minimise ½ xᵀPx + qᵀx  over x and s,  subject to  Ax + s = b,  s ∈ K.

With y = Π_{K*}(v) and s = y − v (Moreau's decomposition, see ``cones``) a pair (x, v) is optimal exactly when

    F₁ = Px + q + Aᵀy = 0,      F₂ = Ax + s − b = 0,

because y ∈ K*, s ∈ K and yᵀs = 0 hold for every v. So F alone, relative to the sizes of its terms, says all there
is to say of an answer, whatever the solver said: this is the *residual*. Newton's method on F with

    J = [P   AᵀD  ]        D = ∂y/∂v
        [A   D − I]

refines a solver's answer (1e-8) to rounding (1e-15) in a step or two, and by the implicit function theorem the
same J differentiates it. For cotangents x̄ of x and ȳ of y let w = (w₁, w₂) solve Jᵀw = (x̄, Dȳ). Then

    q̄ = −w₁,    b̄ = w₂,    P̄ = −w₁ xᵀ,    Ā = −(y w₁ᵀ + w₂ xᵀ).

Whether w solves that system is checked as well. If J is singular, the least-squares solution w is taken: it
solves the system where the derivative exists (equal rows in A, say) and does not where there is none (the answer
is not unique), which the residual of w tells. Where yᵢ = sᵢ = 0 (a kink) one of the one-sided derivatives is
taken, as for relu.

Source: Robinson 1992, "Normal maps induced by linear transformations"; Agrawal, Barratt, Boyd, Busseti, Moursi
2019, "Differentiating through a cone program", arXiv 1904.09043; Busseti, Moursi, Boyd 2019, arXiv 1811.02157.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from scipy.sparse.csgraph import structural_rank

from convexdistill.layers.conic.cones import DENSE_UP_TO, Cones, blockwise, split
from convexdistill.layers.conic.curved import Array

TINY = float(np.finfo(np.float64).tiny)
REFINE_STEPS = 6
REFINE_BELOW = 1e-13
FLOOR = 1e-4
LEAST_SQUARES_ABOVE = 1e-10
LEAST_SQUARES_DENSE_UP_TO = 1500


@dataclass(frozen=True, eq=False)
class Program:
    """P (n, n) sparse and full, q (n,), A (m, n) sparse, b (m,), and the cones of the rows."""

    P: Any
    q: Array
    A: Any
    b: Array
    cones: Cones

    @property
    def finite(self) -> bool:
        """Whether no entry is NaN or infinite."""
        return all(np.isfinite(part).all() for part in (self.P.data, self.q, self.A.data, self.b))

    @cached_property
    def matrices(self) -> tuple[Any, Any]:
        """P and A, as dense arrays where they are small."""
        dense = sum(self.A.shape) <= DENSE_UP_TO
        return (self.P.toarray(), self.A.toarray()) if dense else (self.P, self.A)

    @cached_property
    def sizes(self) -> tuple[Any, Any]:
        """|P| and |A|, entry by entry."""
        return abs(self.matrices[0]), abs(self.matrices[1])

    @cached_property
    def lengths(self) -> tuple[float, float]:
        """What the data alone say of the size of x: the smallest size that they suggest, and the typical one.

        Suggestions are ‖q‖/‖P‖ and |bᵢ|/‖Aᵢ‖₁; of the latter the median is typical, so that one bound of 1e20
        (which means: none) does not make everything else look small.
        """
        by_q = _over(_norm(self.q), _norm(self.P.data))
        rows = self.sizes[1] @ np.ones(len(self.q))
        given = (self.b != 0) & (rows > 0)
        by_b = np.abs(self.b[given]) / rows[given]
        if not by_b.size:
            return by_q or 1.0, by_q or 1.0
        return min(float(by_b.min()), by_q or np.inf), max(float(np.median(by_b)), by_q)

    def scaled(self) -> tuple[Program, float, float]:
        """The same program in units in which x and the objective have size 1, and the units of x and of y.

        With x = αx̂, s = αŝ and y = γŷ the program of P̂ = (α/γ)P, q̂ = q/γ and b̂ = b/α has the answer x̂, ŝ, ŷ:
        solvers with absolute tolerances do not see how small or large the user's units are.
        """
        alpha = self.lengths[1]
        gamma = max(alpha * _norm(self.P.data), _norm(self.q)) or 1.0
        scaled = Program(self.P * (alpha / gamma), self.q / gamma, self.A, self.b / alpha, self.cones)
        return (scaled, alpha, gamma) if scaled.finite else (self, 1.0, 1.0)


@dataclass(eq=False)
class Point:
    """An answer x with its dual y and slack s, how well it meets the conditions, and what differentiates it."""

    x: Array
    v: Array
    y: Array
    s: Array
    D: Any
    F: Array
    residual: float
    factor: Any = field(default=None, repr=False)


def measure(program: Program, x: Array, v: Array, slack: Array) -> Point:
    """The point of a pair (x, v); its residual is NaN where it cannot be judged.

    The residual is the largest entry of F over the sum of the sizes of the terms it is made of,

        |F₁|ⱼ / (|P||x| + |A|ᵀ|y| + |q|)ⱼ,      |F₂|ᵢ / (|A||x| + |s| + |b|)ᵢ,

    so that no constraint hides behind a larger one; a second-order, semidefinite, … cone counts as one. Where all
    terms of an entry are 0, rounding is measured against 1e-4 of what x and y as a whole would give there.

    Source: Oettli and Prager 1964 (componentwise backward error).
    """
    (P, A), q, b = program.matrices, program.q, program.b
    with np.errstate(over="ignore", invalid="ignore"):
        y, s, D = split(program.cones, v, slack)
        F1, F2 = P @ x + q + A.T @ y, A @ x + s - b
        size_P, size_A = program.sizes
        size_y, size_s = (blockwise(program.cones, np.abs(part)) for part in (y, s))
        size_x, whole_y = np.abs(x), np.full(len(y), size_y.max(initial=0.0))
        whole_x = np.full(len(x), max(size_x.max(initial=0.0), program.lengths[0]))
        scale1 = size_P @ size_x + size_A.T @ size_y + np.abs(q)
        scale2 = blockwise(program.cones, size_A @ size_x + np.abs(b)) + size_s
        scale1 = scale1 + FLOOR * (size_P @ whole_x + size_A.T @ (whole_y if whole_y.any() else whole_y + 1.0))
        scale2 = scale2 + FLOOR * (size_A @ whole_x)
        errors = np.abs(np.concatenate([F1, F2])) / np.maximum(np.concatenate([scale1, scale2]), TINY)
    residual = float("nan") if np.isnan(errors).any() else float(errors.max(initial=0.0))
    return Point(x, v, y, s, D, np.concatenate([F1, F2]), residual)


def refine(program: Program, point: Point) -> Point:
    """Newton's method on F from a solver's point, as long as it brings the residual down.

    Where J is singular (the dual is not unique, say) the smallest step does as well.
    """
    for _ in range(REFINE_STEPS):
        if not point.residual > REFINE_BELOW:
            return point
        factor = _factor(program, point)
        closer = _after(program, point, _solve(factor, -point.F))
        if closer is None and point.residual > LEAST_SQUARES_ABOVE:
            closer = _after(program, point, _least_squares(factor[0], -point.F))
        if closer is None or closer.residual > 0.5 * point.residual:
            return closer or point
        point = closer
    return point


def _after(program: Program, point: Point, step: Array | None) -> Point | None:
    """The point after a step, or None where that is not better."""
    if step is None:
        return None
    n = len(point.x)
    closer = measure(program, point.x + step[:n], point.v + step[n:], point.s)
    return closer if closer.residual < point.residual else None


def adjoint(program: Program, point: Point, x_bar: Array, y_bar: Array) -> tuple[Array, Array, float]:
    """Solve Jᵀw = (x̄, Dȳ).

    Returns:
        w₁ (n,), w₂ (m,), and the relative residual of w.
    """
    n = len(point.x)
    right = np.concatenate([x_bar, point.D @ y_bar])
    size = _norm(right)
    if size == 0:
        return np.zeros(n), np.zeros(len(point.v)), 0.0
    factor = _factor(program, point)
    J = factor[0]
    w = _solve(factor, right / size, transposed=True)
    error = float("inf") if w is None else _norm(J.T @ w - right / size)
    if w is None or not error <= 1e-9:
        other = _least_squares(J.T, right / size)
        other_error = _norm(J.T @ other - right / size)
        if w is None or other_error < error:
            w, error = other, other_error
    return size * w[:n], size * w[n:], error


def infeasible(program: Program, y: Array, tolerance: float = 1e-6) -> bool:
    """Whether y ∈ K* proves that there is no feasible x of a size near that of the data.

    Every feasible x has 0 ≤ sᵀy = bᵀy − xᵀAᵀy, so ‖x‖ ≥ −bᵀy / ‖Aᵀy‖ when bᵀy < 0.
    """
    gain = -float(program.b @ y)
    with np.errstate(all="ignore"):
        return gain > 0 and _norm(program.A.T @ y) * program.lengths[1] <= tolerance * gain


def unbounded(program: Program, x: Array, s: Array, tolerance: float = 1e-6) -> bool:
    """Whether x with Ax + s = 0, s ∈ K, Px = 0 and qᵀx < 0 is a direction along which the objective falls."""
    gain, size = -float(program.q @ x), _norm(x)
    flat = _norm(program.P @ x) <= tolerance * max(_norm(program.P.data) * size, TINY)
    allowed = _norm(program.A @ x + s) <= tolerance * max(_norm(program.A.data) * size, TINY)
    return gain > tolerance * _norm(program.q) * size and flat and allowed


def _factor(program: Program, point: Point) -> Any:
    """J and its LU factors, kept with the point; the factors are None where J is singular."""
    if point.factor is None:
        (P, A), m = program.matrices, len(point.v)
        if sp.issparse(A):
            blocks = [[P, A.T @ point.D], [A, point.D - sp.eye_array(m, format="csc")]]
            J = sp.block_array(blocks, format="csc")
            J.eliminate_zeros()
        else:
            J = np.block([[P, A.T @ point.D], [A, point.D - np.eye(m)]])
        point.factor = (J, _lu(J))
    return point.factor


def _lu(J: Any) -> Any:
    """A function ``(right, transposed) -> solution``, or None where J is singular or not finite."""
    if not sp.issparse(J):
        if not np.isfinite(J).all():
            return None
        LU, pivots, info = scipy.linalg.lapack.dgetrf(J)
        solve = scipy.linalg.lapack.dgetrs
        return None if info else lambda right, transposed: solve(LU, pivots, right, trans=int(transposed))[0]
    # SuperLU writes to the terminal when whole blocks are missing, so those are found before.
    if not np.isfinite(J.data).all() or structural_rank(J) < J.shape[0]:
        return None
    try:
        lu = spla.splu(J)
    except RuntimeError:
        return None
    return lambda right, transposed: lu.solve(right, "T" if transposed else "N")


def _solve(factor: Any, right: Array, transposed: bool = False) -> Array | None:
    """J⁻¹ or J⁻ᵀ times a vector, with one step of iterative refinement; None where there is none."""
    J, lu = factor
    if lu is None:
        return None
    J = J.T if transposed else J
    with np.errstate(all="ignore"):
        found: Array = lu(right, transposed)
        found = found + lu(right - J @ found, transposed)
    return found if np.isfinite(found).all() else None


def _least_squares(J: Any, right: Array) -> Array:
    """The smallest solution of min ‖Jw − right‖."""
    if J.shape[0] <= LEAST_SQUARES_DENSE_UP_TO:
        dense = J.toarray() if sp.issparse(J) else J
        if not np.isfinite(dense).all():
            return np.zeros(J.shape[1])
        found: Array = scipy.linalg.lstsq(dense, right, cond=1e-12)[0]
        return found
    iterative: Array = spla.lsmr(J, right, atol=1e-13, btol=1e-13, maxiter=4 * J.shape[0])[0]
    return iterative


def _norm(values: Array) -> float:
    """The Euclidean norm, of the smallest and largest numbers too, whose squares numpy loses."""
    with np.errstate(over="ignore"):
        size = float(np.linalg.norm(values))
    if 1e-140 < size < 1e140 or not values.size:
        return size
    peak = float(np.abs(values).max())
    return peak * float(np.linalg.norm(values / peak)) if 0 < peak < float("inf") else peak


def _over(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator > 0 else 0.0
