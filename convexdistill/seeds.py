"""Independent random streams from one seed.

Every random choice of a job (base examples, extractors, trainings, minibatches) draws from a stream of its
own, derived from the job's seed and a path of names. Adding a choice to one place so never shifts another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def child_seed(seed: int, *path: str | int) -> int:
    """A seed in ``[0, 2**63)`` for the stream at ``path`` below ``seed``.

    Example:
        >>> child_seed(0, "pool", 1) == child_seed(0, "pool", 1) != child_seed(0, "pool", 2)
        True
    """
    digest = hashlib.sha256(repr((seed, *path)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *path: str | int) -> torch.Generator:
    """A CPU generator for the stream at ``path`` below ``seed``."""
    return torch.Generator().manual_seed(child_seed(seed, *path))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global CPU generator inside the block and restore it afterwards.

    ``nn.Module`` constructors draw their initial weights from the global generator; this is the way to make
    them reproducible without changing the caller's random state.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed every device as well
        yield
