"""``kcenter``: every next image is the one farthest from all that are chosen.

The largest distance from an image to its nearest chosen one is at most twice the smallest possible
(Gonzalez 1985; as a coreset for networks: Sener and Savarese 2018). It likes outliers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convexdistill.select.distances import Points
from convexdistill.select.request import Request


def kcenter(request: Request) -> NDArray[np.int64]:
    """Indices into the source, distinct, from each group; no randomness, of equals the first image.

    Starts with the image nearest to the mean. Points as in :func:`kmeans`. O(n·N·d) time, O(N·d) memory.
    """
    return request.by_group(_farthest_first)


def _farthest_first(points: NDArray[np.float32], count: int, seed: int) -> NDArray[np.int64]:
    cloud = Points(points)
    chosen = np.empty(count, dtype=np.int64)
    chosen[0] = cloud.squares.argmin()
    nearest = np.full(len(cloud), np.inf, dtype=np.float32)
    for k in range(1, count):
        last = chosen[k - 1 : k]
        np.minimum(nearest, cloud.squared(cloud.subset(last))[0], out=nearest)
        nearest[last] = -1  # below every distance: never again
        chosen[k] = nearest.argmax()
    return chosen
