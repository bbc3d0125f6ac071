"""``choose``: keep a handful of real examples. A new rule is one file and one line in ``RULES``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convexdistill.data import ImageData
from convexdistill.errors import (
    DataError,
    DtypeError,
    NonFiniteInputError,
    ParameterRangeError,
    ShapeError,
    UnknownNameError,
)
from convexdistill.moments import Moments
from convexdistill.select.base import BaseExamples
from convexdistill.select.facility_location import facility_location
from convexdistill.select.herding import herding
from convexdistill.select.kcenter import kcenter
from convexdistill.select.kmeans import kmeans
from convexdistill.select.kmedoids import kmedoids
from convexdistill.select.leverage import leverage
from convexdistill.select.random import random
from convexdistill.select.request import Group, Request
from convexdistill.select.solve_aware import solve_aware

RULES: dict[str, Callable[[Request], NDArray[np.int64]]] = {
    "random": random,
    "kmeans": kmeans,
    "kmedoids": kmedoids,
    "herding": herding,
    "kcenter": kcenter,
    "facility-location": facility_location,
    "leverage": leverage,
    "solve-aware": solve_aware,
}
USES_MOMENTS = ("leverage", "solve-aware")


def choose(
    source: ImageData,
    size: int,
    method: str = "random",
    balanced: bool = True,
    seed: int = 0,
    features: Any = None,
    moments: Moments | None = None,
) -> BaseExamples:
    """Choose ``size`` base examples from ``source``, reproducibly.

    Args:
        source: where to choose from; a train split.
        size: how many, at least 1.
        method: ``"random"`` draws. ``"kmeans"``, ``"kmedoids"``, ``"herding"``, ``"kcenter"`` and
            ``"facility-location"`` choose by distances within each class. ``"leverage"`` draws by ridge
            leverage scores. ``"solve-aware"`` always adds the image that most lowers the loss of the label
            solve. Each one's module says what it minimises, its cost, and whether the seed plays a part.
        balanced: ``size / C`` examples of each class. What does not divide goes, one each, to
            classes drawn by the seed. False ignores the classes, as the paper does when
            the source is another data set.
        seed: not negative.
        features: ``(N, d)`` features of the source's images, for rules that measure distances;
            without them these use the pixels, scaled to [0, 1].
        moments: the target's moments: ``"solve-aware"`` needs them, ``"leverage"`` reads them where they
            are given.

    Raises:
        ParameterRangeError: ``size`` is below 1 or above ``len(source)``, or ``seed`` is negative.
        UnknownNameError: no such method.
        InvalidInputError: ``source`` is a test split, or ``"solve-aware"`` is asked for without moments.
        DataError: a class has too few examples for a balanced set.
        ShapeError, DtypeError, NonFiniteInputError: ``features`` do not fit the source.

    Example:
        >>> from convexdistill.data import load
        >>> base = choose(load("digits"), 30, method="kmeans")
        >>> torch.bincount(base.labels).tolist()
        [3, 3, 3, 3, 3, 3, 3, 3, 3, 3]
    """
    groups, rng = _plan(source, size, method, balanced, seed)
    request = Request(source, groups, rng, _checked(features, source), moments)
    chosen = RULES[method](request)
    # By class, then position: the order says nothing, and pictures of the set are easy to read.
    labels = source.labels.numpy()
    chosen = chosen[np.lexsort((chosen, labels[chosen]))]
    indices = torch.from_numpy(chosen)
    return BaseExamples(
        images=source.images[indices],
        labels=source.labels[indices],
        classes=source.classes,
        indices=indices,
        source=source.name,
        split=source.split,
        fingerprint=source.fingerprint,
        method=method,
        balanced=balanced,
        seed=seed,
    )


def check(source: ImageData, size: int, method: str = "random", balanced: bool = True, seed: int = 0) -> None:
    """Raise what :func:`choose` would raise before it looks at any image: cheap, and known before long work."""
    _plan(source, size, method, balanced, seed)


def _plan(
    source: ImageData, size: int, method: str, balanced: bool, seed: int
) -> tuple[tuple[Group, ...], np.random.Generator]:
    source.refuse_test("for base examples")
    if method not in RULES:
        raise UnknownNameError(f"unknown selection {method!r}; known are {', '.join(RULES)}")
    size, seed = _whole(size, "size", 1), _whole(seed, "seed", 0)
    if size > len(source):
        raise ParameterRangeError(
            f"size is {size}, but {source.name!r} ({source.split}) holds only {len(source)} "
            f"images; choose a smaller size"
        )
    rng = np.random.Generator(np.random.PCG64(seed))
    if balanced:
        return _one_group_a_class(source, size, rng), rng
    return (Group(np.arange(len(source), dtype=np.int64), size),), rng


def _whole(value: Any, name: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ParameterRangeError(f"{name} must be a whole number of at least {least}, found {value!r}")
    return int(value)


def _one_group_a_class(source: ImageData, size: int, rng: np.random.Generator) -> tuple[Group, ...]:
    share, extra = divmod(size, source.num_classes)
    held = np.array(source.counts)
    short = np.flatnonzero(held < share)
    if len(short):
        raise _too_few(source, int(short[0]), share, size)
    able = np.flatnonzero(held > share)
    if len(able) < extra:
        raise _too_few(source, int(np.flatnonzero(held == share)[0]), share + 1, size)
    counts = np.full(source.num_classes, share)
    counts[rng.choice(able, size=extra, replace=False)] += 1
    labels = source.labels.numpy()
    return tuple(Group(np.flatnonzero(labels == label), int(count)) for label, count in enumerate(counts))


def _too_few(source: ImageData, label: int, needed: int, size: int) -> DataError:
    return DataError(
        f"class {source.classes[label]!r} of {source.name!r} ({source.split}) has "
        f"{source.counts[label]} examples, but a balanced set of {size} needs {needed}; choose a "
        f"smaller size, or balanced=False (--unbalanced)"
    )


def _checked(features: Any, source: ImageData) -> NDArray[np.float32] | None:
    if features is None:
        return None
    array = features.detach().cpu().numpy() if isinstance(features, Tensor) else np.asarray(features)
    if array.ndim != 2 or len(array) != len(source):
        raise ShapeError(
            f"features must be ({len(source)}, d), one row for each image of {source.name!r} "
            f"({source.split}), found {array.shape}"
        )
    if array.dtype.kind not in "iuf":
        raise DtypeError(f"features must be real numbers, found {array.dtype}")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        array = array.astype(np.float32)
    wrong = ~np.isfinite(array).all(axis=1)
    if wrong.any():
        raise NonFiniteInputError(
            f"features hold NaN or infinity in {int(wrong.sum())} rows, the first is row "
            f"{int(np.argmax(wrong))}; repair or drop those images"
        )
    return array
