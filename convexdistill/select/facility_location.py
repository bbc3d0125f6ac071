"""``facility-location``: greedily lower the sum of distances from every image to its nearest chosen one.

Maximises f(S) = Σ_i max_{j∈S} (D − ‖x_i − x_j‖), monotone and submodular, so that the greedy choice reaches
1 − 1/e of the best (Nemhauser, Wolsey and Fisher 1978). Submodular means that a gain never grows when more
is chosen: gains of earlier rounds are upper bounds, and only the candidates whose bound is on top are looked
at again (lazy greedy, Minoux 1978). The result is exactly that of the plain greedy rule.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convexdistill.select.distances import Points
from convexdistill.select.request import Request

_CANDIDATES = 10_000
_TOGETHER = 128  # candidates looked at again in one matrix product


def facility_location(request: Request) -> NDArray[np.int64]:
    """Indices into the source, distinct, from each group; of equals the first image.

    Points as in :func:`kmeans`. Where a group holds more than 10,000 images, a random 10,000 of them may be
    chosen (and every image is still to be near one of the chosen): m = min(N, 10,000). About 2·m·N·d time
    for the first two choices, little more for all others; O(N·d) memory besides blocks of 16 MB.
    """
    return request.by_group(_lazy_greedy)


def _lazy_greedy(points: NDArray[np.float32], count: int, seed: int) -> NDArray[np.int64]:
    cloud = Points(points)
    candidates = np.arange(len(cloud))
    if len(candidates) > _CANDIDATES:
        drawn = np.random.default_rng(seed).choice(candidates, max(count, _CANDIDATES), replace=False)
        candidates = np.sort(drawn)
    # No two points are farther apart than this, so the first choice is the one with the least sum.
    nearest = np.full(len(cloud), 2 * np.sqrt(cloud.squares.max()), dtype=np.float32)
    bounds = np.full(len(candidates), np.inf)
    chosen = np.empty(count, dtype=np.int64)
    for k in range(count):
        fresh = bounds == -np.inf  # what is chosen is not looked at again
        while not fresh[best := int(bounds.argmax())]:
            stale = np.flatnonzero(~fresh)
            if len(stale) > _TOGETHER:
                stale = np.sort(stale[np.argpartition(-bounds[stale], _TOGETHER)[:_TOGETHER]])
            bounds[stale] = _gains(cloud, candidates[stale], nearest)
            fresh[stale] = True
        chosen[k] = candidates[best]
        bounds[best] = -np.inf
        np.minimum(nearest, np.sqrt(cloud.squared(cloud.subset(chosen[k : k + 1]))[0]), out=nearest)
    return chosen


def _gains(cloud: Points, candidates: NDArray[np.int64], nearest: NDArray[np.float32]) -> NDArray[np.float64]:
    gains = np.empty(len(candidates))
    for part, distances in cloud.blocks(cloud.subset(candidates)):
        gains[part] = np.maximum(nearest - np.sqrt(distances), 0).sum(axis=1, dtype=np.float64)
    return gains
