"""``herding``: images whose running mean stays as near as possible to the mean of all.

The k-th choice is argmin_x ‖μ − (x_1 + … + x_{k−1} + x)/k‖ (Rebuffi et al. 2017, iCaRL, Algorithm 4, after
Welling 2009). About the mean, μ = 0, and with s the sum of what is chosen that is argmin ‖x‖² + 2 sᵀx.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convexdistill.select.distances import Points
from convexdistill.select.request import Request


def herding(request: Request) -> NDArray[np.int64]:
    """Indices into the source, distinct, from each group; no randomness, of equals the first image.

    Points as in :func:`kmeans`. O(n·N·d) time, O(N·d) memory.
    """
    return request.by_group(_herd)


def _herd(points: NDArray[np.float32], count: int, seed: int) -> NDArray[np.int64]:
    cloud = Points(points)
    left, total = cloud.squares.copy(), np.zeros(cloud.points.shape[1], dtype=np.float32)
    chosen = np.empty(count, dtype=np.int64)
    for k in range(count):
        chosen[k] = np.argmin(left + 2 * (cloud.points @ total))
        left[chosen[k]] = np.inf
        total += cloud.points[chosen[k]]
    return chosen
