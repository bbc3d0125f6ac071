"""``leverage``: images drawn with a probability proportional to their ridge leverage score.

The score of an image is φᵀ(G + μI)⁻¹φ: how much of the target's feature space it spans by itself that others
do not. μ = Σ_{i>n} e_i / n, with e the eigenvalues of G in falling order, is the ridge at which n images can
stand for the Gram (Cohen, Musco and Musco 2017, "Input sparsity time low-rank approximation via ridge
leverage score sampling"). Drawing one after the other without replacement is the Gumbel-top-n trick (Vieira
2014): the n largest of log score + Gumbel noise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convexdistill.select.request import Request
from convexdistill.select.target_space import TargetSpace, target_spaces

_LEAST_RIDGE = 1e-10  # relative to the largest eigenvalue: float64 sums carry no more


def leverage(request: Request) -> NDArray[np.int64]:
    """Indices into the source, distinct, from each group.

    With moments: the mean score over the extractors of the pool, in the Gram of the target. Without: the
    points of :func:`kmeans` in their own Gram. O(N·d² + d³) time for each extractor, O(N·d + d²) memory.
    """
    if request.moments is not None:
        spaces = target_spaces(request.source, request.moments)
        scores = np.stack([leverage_scores(space, request.size) for space in spaces]).mean(axis=0)
    else:
        scores = leverage_scores(_own_space(request), request.size)
    keys = np.log(np.maximum(scores, np.finfo(float).tiny)) + request.rng.gumbel(size=len(scores))
    chosen = [
        group.members[np.argsort(-keys[group.members], kind="stable")[: group.count]] for group in request.groups
    ]
    return np.concatenate(chosen)


def leverage_scores(space: TargetSpace, size: int) -> NDArray[np.float64]:
    """Ridge leverage scores ``(N,)`` for a choice of ``size`` images."""
    values, vectors = np.linalg.eigh(space.gram)
    ridge = max(values[: max(0, len(values) - size)].sum() / size, _LEAST_RIDGE * values[-1])
    whitened = vectors / np.sqrt(np.maximum(values, 0) + ridge)
    return np.concatenate([np.square(rows @ whitened).sum(axis=1) for rows in space.slices()])


def _own_space(request: Request) -> TargetSpace:
    """The points in their own Gram, scaled to a mean squared norm of 1."""
    points = request.points(np.arange(len(request.source)))
    width = points.shape[1] + 1
    norm = float(np.einsum("nd,nd->", points, points, dtype=np.float64)) / len(points)
    scale = np.append(np.full(width - 1, 1 / np.sqrt(norm) if norm > 0 else 1.0), 1.0)
    space = TargetSpace(points, scale, gram=np.zeros((width, width)), cross=np.zeros((width, 0)))
    for rows in space.slices():
        space.gram[:] += rows.T @ rows / len(points)
    return space
