"""``kmedoids``: the images with the smallest sum of distances from every image to its nearest chosen one.

Alternate between giving every image to its nearest medoid and moving every medoid to the image of its
cluster with the smallest sum of distances (Park and Jun 2009, "A simple and fast algorithm for K-medoids
clustering"), from a k-means++ start. Unlike k-means, outliers count by their distance and not its square.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convexdistill.select.distances import Points
from convexdistill.select.request import Request

_ITERATIONS = 50
_CANDIDATES = 1000  # of a cluster, those nearest to its mean: the medoid is hardly ever another


def kmedoids(request: Request) -> NDArray[np.int64]:
    """Indices into the source, distinct, from each group.

    Distances as in :func:`kmeans`. At most 50 iterations of O(N·(n + m)·d) time, m the smaller of 1,000 and
    the size of a cluster; O(N·d) memory besides blocks of 16 MB.
    """
    return request.by_group(_medoids)


def _medoids(points: NDArray[np.float32], count: int, seed: int) -> NDArray[np.int64]:
    cloud = Points(points)
    medoids = _start(cloud, count, seed)
    for _ in range(_ITERATIONS):
        nearest = _assign(cloud, medoids)
        order = np.argsort(nearest, kind="stable")
        clusters = np.split(order, np.searchsorted(nearest[order], np.arange(1, count)))
        moved = np.array([_medoid(cloud, cluster) for cluster in clusters])
        if np.array_equal(moved, medoids):
            break
        medoids = moved
    return medoids


def _start(cloud: Points, count: int, seed: int) -> NDArray[np.int64]:
    from sklearn.cluster import kmeans_plusplus  # scikit-learn takes a second to import

    _, drawn = kmeans_plusplus(cloud.points, count, x_squared_norms=cloud.squares, random_state=seed)
    # Where images coincide, one may be drawn twice: others stand in.
    spare = np.random.default_rng(seed).permutation(len(cloud))
    return np.array(list(dict.fromkeys([*drawn, *spare]))[:count])


def _assign(cloud: Points, medoids: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each point the position of its nearest medoid; a medoid is its own, so no cluster is empty."""
    nearest = np.empty(len(cloud), dtype=np.int64)
    for part, distances in cloud.subset(medoids).blocks(cloud):
        nearest[part] = distances.argmin(axis=1)
    nearest[medoids] = np.arange(len(medoids))
    return nearest


def _medoid(cloud: Points, cluster: NDArray[np.int64]) -> int:
    members = cloud.subset(cluster)
    if len(cluster) > _CANDIDATES:
        spread = np.square(members.points - members.points.mean(axis=0)).sum(axis=1)
        candidates = np.sort(np.argpartition(spread, _CANDIDATES)[:_CANDIDATES])
    else:
        candidates = np.arange(len(cluster))
    sums = np.empty(len(candidates))
    for part, distances in members.blocks(members.subset(candidates)):
        sums[part] = np.sqrt(distances).sum(axis=1, dtype=np.float64)
    return int(cluster[candidates[sums.argmin()]])
