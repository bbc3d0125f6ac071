"""Which images are for learning, which for choosing, which for reporting: fixed once and for all.

The permutations come from numpy's ``PCG64`` with one seed: its stream is fixed by numpy's
compatibility policy, so a split never depends on the version of torch, the device, or the machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convexdistill.errors import DataError, UnknownNameError

SPLITS = ("train", "validation", "test")
SPLIT_SEED = 20200615  # arXiv 2006.08572, 15 June 2020; a change would move every split
VALIDATION_SHARE = 0.1
TEST_SHARE = 0.2

Indices = NDArray[np.int64]


def check_split(split: str) -> str:
    """Return ``split`` if it is one of the three names.

    Raises:
        UnknownNameError: it is not.
    """
    if split not in SPLITS:
        raise UnknownNameError(f"unknown split {split!r}; the splits are {', '.join(SPLITS)}")
    return split


def hold_out(count: int, size: int | None) -> tuple[Indices, Indices]:
    """Part ``count`` official training images into train and validation.

    Args:
        count: how many images the official training set holds.
        size: how many go to validation; None is 10 %. A training set so small that ``size`` would
            take more than a fifth of it (somebody's cut-down copy) gives a fifth.

    Returns:
        Ascending indices of train, and of validation: disjoint, together all of ``range(count)``.

    Example:
        >>> train, validation = hold_out(60_000, 10_000)
        >>> len(train), len(validation)
        (50000, 10000)
    """
    size = round(VALIDATION_SHARE * count) if size is None else min(size, count // 5)
    order = np.random.Generator(np.random.PCG64(SPLIT_SEED)).permutation(count)
    return np.sort(order[size:]), np.sort(order[:size])


def stratify(labels: Indices) -> dict[str, Indices]:
    """Part images without official splits 70 / 10 / 20, class by class.

    Every class is parted in those shares to within one image. What rounding leaves over is carried
    from class to class, so that the shares of the whole are right even where the classes are tiny.
    A class with one or two images goes to train whole: what was never learned cannot be tested.

    Args:
        labels: ``(N,)`` class indices.

    Returns:
        Ascending indices of each split: disjoint, together all of ``range(N)``.

    Example:
        >>> parts = stratify(np.repeat(np.arange(4), 25))
        >>> [len(parts[name]) for name in SPLITS]
        [70, 10, 20]
    """
    rng = np.random.Generator(np.random.PCG64(SPLIT_SEED))
    parts: dict[str, list[Indices]] = {name: [] for name in SPLITS}
    # Starting at one half makes the first class round to the nearest.
    carry_test = carry_validation = 0.5
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        test = validation = 0
        if len(members) > 2:
            # The tiny amount keeps 0.1 * 10 + ... from landing just below a whole number.
            carry_test += TEST_SHARE * len(members) + 1e-9
            carry_validation += VALIDATION_SHARE * len(members) + 1e-9
            test, validation = int(carry_test), int(carry_validation)
            carry_test -= test
            carry_validation -= validation
        parts["test"].append(members[:test])
        parts["validation"].append(members[test : test + validation])
        parts["train"].append(members[test + validation :])
    return {name: np.sort(np.concatenate(chosen)) for name, chosen in parts.items()}


def stratified_split(labels: Indices, split: str, where: str) -> Indices:
    """The indices of one split of :func:`stratify`.

    Raises:
        DataError: the data set is too small for that split to hold anything.
    """
    indices = stratify(labels)[split]
    if len(indices) == 0:
        raise DataError(
            f"{where}: {len(labels)} images in {len(np.unique(labels))} classes are too few for a "
            f"{split} split (70 / 10 / 20 of each class of at least 3 images); add images"
        )
    return indices
