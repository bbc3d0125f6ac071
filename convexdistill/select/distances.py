"""Euclidean distances between points, a block at a time: no rule ever holds an N×N matrix."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_BLOCK = 2**22  # entries of a block of distances: 16 MB in float32
_NOISE = 1e-6  # share of ‖x‖² + ‖c‖² below which a difference in float32 is rounding


class Points:
    """Points ``(N, d)`` about their mean, with their squared norms.

    ‖x − c‖² = ‖x‖² − 2xᵀc + ‖c‖² needs one matrix product, but cancels where all points lie far from the
    origin: hence about the mean.
    """

    def __init__(self, points: NDArray[np.float32]) -> None:
        self.points = points - points.mean(axis=0)
        self.squares = np.einsum("nd,nd->n", self.points, self.points)

    def __len__(self) -> int:
        return len(self.points)

    def subset(self, indices: NDArray[np.int64]) -> Points:
        """Some of the points, about the same origin."""
        part = object.__new__(Points)
        part.points, part.squares = self.points[indices], self.squares[indices]
        return part

    def squared(self, others: Points) -> NDArray[np.float32]:
        """Squared distances ``(len(others), N)``; the caller sees to it that they are few."""
        sums = others.squares[:, None] + self.squares
        distances: NDArray[np.float32] = sums - 2 * (others.points @ self.points.T)
        # A point is at distance 0 from itself, not at the root of the rounding of its square.
        distances[distances < _NOISE * sums] = 0
        return distances

    def blocks(self, others: Points) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Squared distances from slices of ``others`` to all points, each block of at most 16 MB or one row."""
        step = max(1, _BLOCK // len(self))
        for start in range(0, len(others), step):
            part = slice(start, min(start + step, len(others)))
            yield part, self.squared(others.subset(np.arange(part.start, part.stop)))
