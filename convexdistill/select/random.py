"""``random``: every image of a group is as likely as every other (the paper's rule, §2.2)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convexdistill.select.request import Request


def random(request: Request) -> NDArray[np.int64]:
    """Indices into the source, drawn without replacement from each group."""
    chosen = [request.rng.choice(group.members, size=group.count, replace=False) for group in request.groups]
    return np.concatenate(chosen)
