"""What a selection rule is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convexdistill.data import ImageData


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
    moments: Any = None
