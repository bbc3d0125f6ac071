"""The names of parts of data sets: a fingerprint, followed by ``#i/m`` for shard i of m."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence


def named(fingerprint: str, shard: tuple[int, int]) -> str:
    """The name of a shard; a whole data set is its fingerprint alone.

    Example:
        >>> named("f", (1, 4)), named("f", (0, 1))
        ('f#1/4', 'f')
    """
    index, count = shard
    return f"{fingerprint}#{index}/{count}" if count > 1 else fingerprint


def split(part: str) -> tuple[str, int, int]:
    """Fingerprint of the data set, shard, number of shards.

    Raises:
        ValueError: this is no name of a part.
    """
    data, _, shard = part.partition("#")
    index, _, count = shard.partition("/")
    return (data, int(index), int(count)) if shard else (data, 0, 1)


def missing(parts: Iterable[str]) -> list[str]:
    """What is needed before these parts speak for whole data sets.

    Example:
        >>> missing(["f#0/3", "f#2/3", "g"])
        ['f#1/3']
    """
    found = set(parts)
    divided = {(data, count) for data, _, count in map(split, found) if count > 1}
    return sorted({named(data, (i, count)) for data, count in divided for i in range(count)} - found)


def joined(parts: Iterable[str]) -> list[str]:
    """The parts in order, all shards of one division written as the whole.

    Example:
        >>> joined(["f#1/2", "g#0/2", "f#0/2"])
        ['f', 'g#0/2']
    """
    shards: dict[tuple[str, int], list[int]] = defaultdict(list)
    for data, index, count in map(split, parts):
        shards[data, count].append(index)
    names = []
    for (data, count), indices in shards.items():
        whole = len(indices) == count
        names += [data] if whole else [named(data, (index, count)) for index in indices]
    return sorted(names)


def overlapping(mine: Sequence[str], theirs: Sequence[str]) -> tuple[str, str] | None:
    """Two parts that may share images: shards of one data set are disjoint only under one division.

    Example:
        >>> overlapping(["f#0/2"], ["f#1/2"]), overlapping(["f#0/2"], ["f#1/3"])
        (None, ('f#0/2', 'f#1/3'))
    """
    for part in theirs:
        data, index, count = split(part)
        for other in mine:
            other_data, other_index, other_count = split(other)
            if data == other_data and (count != other_count or index == other_index):
                return other, part
    return None


def contain(mine: Sequence[str], theirs: Sequence[str]) -> bool:
    """Whether all of theirs are among mine; the whole holds its shards.

    Example:
        >>> contain(["f", "g#0/2"], ["f#1/3"]), contain(["f", "g#0/2"], ["g"])
        (True, False)
    """
    return all(part in mine or split(part)[0] in mine for part in theirs)
