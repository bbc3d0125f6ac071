"""``kmeans``: the real images nearest to the centres of as many clusters."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from convexdistill.select.request import Request

_MINI_BATCH_ABOVE = 10_000  # points; full Lloyd iterations on more take minutes, not seconds


def kmeans(request: Request) -> NDArray[np.int64]:
    """Indices into the source, distinct, from each group.

    Distances are taken between the features where there are any, else between pixels scaled to
    [0, 1]. Groups of more than 10,000 images are clustered in mini-batches. O(iterations·n·N·d) time,
    O(N·(n + d)) memory for n of N images with d features.
    """
    return request.by_group(lambda points, count, seed: _nearest(points, _centres(points, count, seed)))


def _centres(points: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    from sklearn.cluster import KMeans, MiniBatchKMeans  # scikit-learn takes a second to import
    from sklearn.exceptions import ConvergenceWarning

    if len(points) > _MINI_BATCH_ABOVE:
        model = MiniBatchKMeans(count, random_state=seed, n_init=1, batch_size=4096)
    else:
        model = KMeans(count, random_state=seed, n_init=1)
    with warnings.catch_warnings():
        # Fewer different images than clusters: then some centres coincide, which is harmless here.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(points)
    return np.asarray(model.cluster_centers_, dtype=np.float32)


def _nearest(points: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.int64]:
    """For each centre in turn the nearest point that no earlier centre has taken."""
    taken = np.zeros(len(points), dtype=bool)
    nearest = np.empty(len(centres), dtype=np.int64)
    # The shorter form of the distance below cancels where all points lie far from the origin.
    shift = points.mean(axis=0)
    points, centres = points - shift, centres - shift
    squares = np.einsum("nd,nd->n", points, points)
    for index, centre in enumerate(centres):
        # |x - c|^2 less the constant |c|^2: the order of the points is the same.
        distances = squares - 2 * (points @ centre)
        distances[taken] = np.inf
        nearest[index] = np.argmin(distances)
        taken[nearest[index]] = True
    return nearest
