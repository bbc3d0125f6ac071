"""The source's features beside the target's moments: what rules that look ahead to the label solve work on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convexdistill import progress
from convexdistill.data import ImageData, match_shape
from convexdistill.features import extract
from convexdistill.moments import Moments

_ROWS = 4096  # images whose float64 features are held at once


@dataclass(frozen=True)
class TargetSpace:
    """One extractor's features of the source, ones-augmented and scaled, and the moments of the target.

    The features are held as the extractor gives them, in float32; augmented and scaled to float64 they are
    only seen a slice at a time.

    Attributes:
        features: ``(N, d)`` float32.
        scale: ``(d+1,)``; see :meth:`convexdistill.moments.Moments.scaled`.
        gram: G, ``(d+1, d+1)``.
        cross: R, ``(d+1, C)``.
    """

    features: NDArray[np.float32]
    scale: NDArray[np.float64]
    gram: NDArray[np.float64]
    cross: NDArray[np.float64]

    def rows(self, part: slice) -> NDArray[np.float64]:
        """Some of the augmented, scaled features φ, ``(rows, d+1)``."""
        features = self.features[part]
        augmented = np.empty((len(features), len(self.scale)))
        augmented[:, :-1], augmented[:, -1] = features, 1
        augmented *= self.scale
        return augmented

    def slices(self) -> Iterator[NDArray[np.float64]]:
        """All of them, a slice at a time."""
        for start in range(0, len(self.features), _ROWS):
            yield self.rows(slice(start, start + _ROWS))

    def times(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """φ_iᵀv for all i and a vector ``(d+1,)`` or matrix ``(d+1, m)``."""
        return np.concatenate([rows @ values for rows in self.slices()])

    def norms(self) -> NDArray[np.float64]:
        """φ_iᵀGφ_i, ``(N,)``."""
        return np.concatenate([np.einsum("nd,nd->n", rows @ self.gram, rows) for rows in self.slices()])


def target_spaces(source: ImageData, moments: Moments) -> Iterator[TargetSpace]:
    """One for each extractor of the pool; the source's images are brought to the target's shape."""
    with progress.task("features of the source", total=len(moments.extractors)) as advance:
        for k, extractor in enumerate(moments.extractors):
            parts = [
                extract(extractor, match_shape(images, moments.shape), moments.preprocessing).float().numpy()
                for images in source.images.split(_ROWS)
            ]
            scale, gram, cross = (tensor.numpy() for tensor in moments.scaled(k))
            yield TargetSpace(np.concatenate(parts), scale, gram, cross)
            advance(1)
