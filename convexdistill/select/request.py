"""What a selection rule is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convexdistill.data import ImageData
from convexdistill.moments import Moments

# Chooses ``count`` of the points ``(N, d)``, distinct; the last argument is a seed.
Pick = Callable[[NDArray[np.float32], int, int], NDArray[np.int64]]


@dataclass(frozen=True)
class Group:
    """Choose ``count`` of ``members``. One group a class when balanced, one of all otherwise."""

    members: NDArray[np.int64]
    count: int


@dataclass(frozen=True)
class Request:
    """The input of every rule, checked.

    Attributes:
        source: the images to choose from.
        groups: disjoint; each holds at least as many members as are to be chosen.
        rng: the only source of randomness.
        features: ``(N, d)`` finite float32 features of the source's images, or None.
        moments: the target's moments, for rules that look ahead to the solve, or None.
    """

    source: ImageData
    groups: tuple[Group, ...]
    rng: np.random.Generator
    features: NDArray[np.float32] | None = None
    moments: Moments | None = None

    @property
    def size(self) -> int:
        """How many are to be chosen in all."""
        return sum(group.count for group in self.groups)

    def points(self, members: NDArray[np.int64]) -> NDArray[np.float32]:
        """What distances are taken between: the features where there are any, else pixels in [0, 1]."""
        if self.features is not None:
            return self.features[members]
        pixels = self.source.images.numpy()[members]
        return pixels.reshape(len(members), -1).astype(np.float32) / np.float32(255)

    def by_group(self, pick: Pick) -> NDArray[np.int64]:
        """Indices into the source: what ``pick`` chooses of the points of each group by itself."""
        chosen = []
        for group in self.groups:
            # Drawn for each group, needed or not, so that one class never moves another's choice.
            seed = int(self.rng.integers(2**31))
            if group.count == len(group.members):
                chosen.append(group.members)
            elif group.count > 0:
                chosen.append(group.members[pick(self.points(group.members), group.count, seed)])
        return np.concatenate(chosen)
