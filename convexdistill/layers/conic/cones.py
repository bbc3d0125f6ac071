"""The cones of a program, and the one thing needed of them: the split of a vector into dual and slack.

Moreau's decomposition: every v is y − s with y = Π_{K*}(v) in the dual cone, s = Π_K(−v) in the cone, and
yᵀs = 0, in exactly one way. So a single vector v stands for a dual and a slack that are feasible and
complementary *exactly*, and its derivative D = ∂y/∂v (symmetric, 0 ⪯ D ⪯ I; ∂s/∂v = D − I) is block diagonal:

    zero cone (equalities)   y = v                      D = I
    nonnegative              y = v⁺                     D = [v > 0]
    second order, v = (t,u)  y = ½(t + ‖u‖)(1, û)       D = ½ [[1, ûᵀ], [û, (1 + t/‖u‖) I − (t/‖u‖) ûûᵀ]]
    positive semidefinite    y = Q λ⁺ Qᵀ                D: H ↦ Q (B ∘ (QᵀHQ)) Qᵀ,  B_ij = (λi⁺ − λj⁺)/(λi − λj)
    exponential, power       y = v + Π_K(−v)            D = I − ∂Π_K(−v), see ``curved``

The order and the scaling of rows are those of SCS: zero, nonnegative, second order, semidefinite (lower triangle
by columns, off-diagonal entries times √2), exponential (x, y, z), power.

Source: Moreau 1962; Malick and Sendov 2006 (semidefinite D); Busseti, Moursi, Boyd 2019, "Solution refinement at
regular points of conic problems", arXiv 1811.02157.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.sparse as sp

from convexdistill.layers.conic import curved
from convexdistill.layers.conic.curved import Array

# Up to this many rows matrices are dense, where sparse ones cost more in bookkeeping than they save.
DENSE_UP_TO = 250


@dataclass(frozen=True)
class Cones:
    """Sizes of the cones, in the order of their rows.

    Attributes:
        zero: number of equalities.
        nonneg: number of inequalities.
        soc: dimensions of the second-order cones.
        psd: sides of the semidefinite cones.
        exp: number of exponential cones.
        power: exponents of the three-dimensional power cones.
    """

    zero: int = 0
    nonneg: int = 0
    soc: tuple[int, ...] = ()
    psd: tuple[int, ...] = ()
    exp: int = 0
    power: tuple[float, ...] = ()

    @property
    def rows(self) -> int:
        """How many rows they have together."""
        triangles = sum(k * (k + 1) // 2 for k in self.psd)
        return self.zero + self.nonneg + sum(self.soc) + triangles + 3 * (self.exp + len(self.power))


def split(cones: Cones, v: Array, slack: Array) -> tuple[Array, Array, Any]:
    """Split v (m,) into y − s.

    Args:
        cones: the cones.
        v: (m,).
        slack: (m,) a point near s, where the exponential and power cones start their search.

    Returns:
        y (m,), s (m,), and D (m, m), sparse where it is large; NaN where a projection was not found.
    """
    y, end = v.copy(), cones.zero + cones.nonneg
    diagonal = np.ones(end)
    active = v[cones.zero : end] > 0
    y[cones.zero : end][~active] = 0.0
    diagonal[cones.zero :] = active
    blocks: list[Array] = []
    for size in cones.soc:
        rows = slice(end, end + size)
        y[rows], D = _second_order(v[rows])
        blocks.append(D)
        end += size
    for side in cones.psd:
        rows = slice(end, end + side * (side + 1) // 2)
        y[rows], D = _semidefinite(v[rows], side)
        blocks.append(D)
        end = rows.stop
    for count, powers in ((cones.exp, None), (len(cones.power), np.asarray(cones.power))):
        if not count:
            continue
        rows = slice(end, end + 3 * count)
        p, near = -v[rows].reshape(-1, 3), slack[rows].reshape(-1, 3)
        s, D = curved.project_exp(p, near) if powers is None else curved.project_power(p, powers, near)
        y[rows] = (s - p).reshape(-1)
        blocks += list(np.eye(3) - D)
        end = rows.stop
    return y, y - v, _block_diagonal(diagonal, blocks)


def _block_diagonal(diagonal: Array, blocks: list[Array]) -> Any:
    """A matrix with entries and then blocks on its diagonal; sparse where it is large."""
    size = len(diagonal) + sum(map(len, blocks))
    if size > DENSE_UP_TO:
        return sp.block_diag([sp.diags_array(diagonal), *blocks] if len(diagonal) else blocks, format="csc")
    matrix, end = np.zeros((size, size)), len(diagonal)
    np.fill_diagonal(matrix[:end, :end], diagonal)
    for block in blocks:
        matrix[end : end + len(block), end : end + len(block)] = block
        end += len(block)
    return matrix


def blockwise(cones: Cones, sizes: Array) -> Array:
    """Sizes (m,) of rows, where all rows of a cone that is not made of half-lines get the largest of theirs."""
    out, end = sizes.copy(), cones.zero + cones.nonneg
    lengths = [*cones.soc, *(k * (k + 1) // 2 for k in cones.psd), *[3] * (cones.exp + len(cones.power))]
    if lengths:
        starts = end + np.concatenate([[0], np.cumsum(lengths)[:-1]])
        out[end:] = np.repeat(np.maximum.reduceat(sizes, starts), lengths)
    return out


def _second_order(v: Array) -> tuple[Array, Array]:
    t, u = v[0], v[1:]
    r = float(np.linalg.norm(u))
    if r <= t:
        return v.copy(), np.eye(len(v))
    if r <= -t:
        return np.zeros_like(v), np.zeros((len(v), len(v)))
    direction = u / r
    D = np.empty((len(v), len(v)))
    D[0, 0], D[0, 1:], D[1:, 0] = 1.0, direction, direction
    D[1:, 1:] = (1 + t / r) * np.eye(len(u)) - (t / r) * np.outer(direction, direction)
    return 0.5 * (t + r) * np.concatenate([[1.0], direction]), 0.5 * D


def _semidefinite(v: Array, side: int) -> tuple[Array, Array]:
    basis = _symmetric_basis(side)
    lam, Q = (
        np.linalg.eigh(np.tensordot(v, basis, 1)) if np.isfinite(v).all() else (v[:side] * np.nan, np.eye(side))
    )
    plus = np.maximum(lam, 0.0)
    # Entries of QᵀEQ for every basis matrix E, as vectors: the rotation of the space of symmetric matrices.
    rotated = np.einsum("ai,kab,bj->kij", Q, basis, Q, optimize=True)
    rotation = np.tensordot(rotated, basis, ((1, 2), (1, 2)))  # (entries of E, entries of the result)
    above = lam > 0
    gap = np.where(above[:, None] != above[None, :], lam[:, None] - lam[None, :], 1.0)
    ratio = np.where(above[:, None] & above[None, :], 1.0, (plus[:, None] - plus[None, :]) / gap)
    ratio = np.where(~above[:, None] & ~above[None, :], 0.0, ratio)
    rows, columns = _lower_triangle(side)
    D = (rotation * ratio[rows, columns]) @ rotation.T
    return rotation @ np.where(rows == columns, plus[rows], 0.0), D


def _lower_triangle(side: int) -> tuple[Any, Any]:
    """Rows and columns of the lower triangle, by columns."""
    columns, rows = np.triu_indices(side)
    return rows, columns


@lru_cache(maxsize=16)
def _symmetric_basis(side: int) -> Array:
    """Orthonormal basis of the symmetric matrices (k, side, side), in the order of SCS."""
    rows, columns = _lower_triangle(side)
    basis = np.zeros((len(rows), side, side))
    scale = np.where(rows == columns, 1.0, np.sqrt(0.5))
    entries = np.arange(len(rows))
    basis[entries, rows, columns] = scale
    basis[entries, columns, rows] = scale
    return basis
