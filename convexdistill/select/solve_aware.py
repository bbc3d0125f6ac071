"""``solve-aware``: always add the image that most lowers the loss which the label solve will reach.

That is, the solve without augmentation: the image is looked at as it is, not in its views.
Greedy forward selection in the metric of the target's moments; the mathematics, and what is exact about it,
stand in :mod:`convexdistill.select.forward`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convexdistill.errors import InvalidInputError
from convexdistill.select.forward import forward_selection
from convexdistill.select.request import Request
from convexdistill.select.target_space import target_spaces


def solve_aware(request: Request) -> NDArray[np.int64]:
    """Indices into the source, distinct, with the groups' counts as quotas; no randomness.

    Chosen for all groups together. O(n·N·d) time and O(N·d) memory, d the sum of the features of all
    extractors of the pool, after one pass of the extractors over the source.

    Raises:
        InvalidInputError: there are no moments.
    """
    if request.moments is None:
        raise InvalidInputError(
            "selection 'solve-aware' looks ahead to the label solve and needs moments=, the target's moments; "
            "make them with convexdistill.accumulate"
        )
    groups = np.full(len(request.source), -1, dtype=np.int64)
    for index, group in enumerate(request.groups):
        groups[group.members] = index
    quotas = np.array([group.count for group in request.groups], dtype=np.int64)
    return forward_selection(target_spaces(request.source, request.moments), groups, quotas).chosen
