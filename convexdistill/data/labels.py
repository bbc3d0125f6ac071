"""Bring labels of any common kind to class indices 0..C-1, and keep the names of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convexdistill.data.pixels import to_array
from convexdistill.errors import DataError, ShapeError


def index_labels(
    labels: Any, classes: Sequence[Any] | None, count: int, where: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Class indices and class names.

    Args:
        labels: ``(count,)`` integers (not negative) or strings.
        classes: the names of the classes. Integer labels then index it from 0, string labels are
            among it. None: the distinct labels in ascending order name themselves.
        count: the number of images.
        where: what to call the labels in an error message.

    Returns:
        ``(count,)`` int64 indices into the second value, the tuple of names.

    Raises:
        ShapeError: not one label an image, or ``classes`` is not one list.
        DataError: negative, fractional, NaN or infinite labels, labels outside ``classes``, or fewer than two
            classes.

    Example:
        >>> index_labels(["cat", "dog", "cat"], None, 3, "pets")
        (array([0, 1, 0]), ('cat', 'dog'))
    """
    array = to_array(labels)
    if array.shape == (count, 1):
        array = array[:, 0]
    if array.shape != (count,):
        raise ShapeError(
            f"{where}: labels must be one value for each of the {count} images, found shape {array.shape}"
        )
    if count == 0:
        raise DataError(f"{where} holds no images")
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8", "replace")
    elif array.dtype.kind == "b":
        array = array.astype(np.int64)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        first = int(np.flatnonzero(~np.isfinite(array))[0])
        raise DataError(f"{where}: label {first} is {array[first]}; leave that image out, or give it a class")
    if array.dtype.kind not in "iuU":
        raise DataError(
            f"{where}: labels must be whole numbers or strings, found {array.dtype}; convert them, "
            f"for example with labels.astype(int)"
        )
    if array.dtype.kind != "U":
        _refuse_negative(array, where)
    values, index = np.unique(array, return_inverse=True)
    if len(values) < 2:
        raise DataError(f"{where}: all {count} labels are {values[0].item()!r}; at least 2 classes are needed")
    if classes is None:
        return index.astype(np.int64), tuple(str(value) for value in values)
    if to_array(classes).ndim != 1:
        raise ShapeError(f"{where}: classes must be one list of names")
    names = tuple(str(name) for name in classes)
    return _positions(values, names, where)[index], names


def _refuse_negative(array: NDArray[Any], where: str) -> None:
    wrong = array < 0
    if wrong.any():
        first = int(np.argmax(wrong))
        raise DataError(
            f"{where}: {int(wrong.sum())} labels are negative, the first is {array[first]} at "
            f"image {first}; number the classes from 0, and drop images without a class"
        )


def _positions(values: NDArray[Any], names: tuple[str, ...], where: str) -> NDArray[np.int64]:
    """Where each distinct label stands among the names."""
    if len(set(names)) != len(names):
        raise DataError(f"{where}: classes holds a name twice; name every class once")
    if len(names) != len(values):
        raise DataError(
            f"{where}: classes names {len(names)} classes, but the labels hold {len(values)} "
            f"different values; give exactly one name for each class that has images"
        )
    if values.dtype.kind == "U":
        unknown = sorted(set(values.tolist()) - set(names))
        if unknown:
            raise DataError(f"{where}: the label {unknown[0]!r} is not among classes; add it")
        return np.array([names.index(value) for value in values.tolist()], dtype=np.int64)
    if int(values[-1]) >= len(names):
        raise DataError(
            f"{where}: labels index classes from 0, so they must lie in 0..{len(names) - 1}; found {values[-1]}"
        )
    return values.astype(np.int64)
