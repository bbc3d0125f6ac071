"""Subgroups of the test split: a column of values, one for each test image, from an array or a file."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convexdistill.errors import DataError, MissingDataError, ParameterRangeError

# A column of numbers with more distinct values than this is cut into parts of equal size.
MOST_VALUES = 12
# A column of words with more distinct values than this is a name of each image, not a group.
MOST_GROUPS = 100
MISSING = "missing"


def read_column(place: str | Path) -> tuple[str, NDArray[Any]]:
    """A column and its name, from ``FILE:COLUMN`` of a ``.csv`` or ``.npz``, or from a ``.npy``.

    ``:COLUMN`` may be left out where the file holds one column only. Nothing is ever unpickled.

    Returns:
        the name, and ``(N,)`` values; those of a ``.csv`` are numbers where all of them are.

    Raises:
        MissingDataError: no such file.
        DataError: it cannot be read, or has no such column.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "writers.csv"
        >>> _ = file.write_text("writer,slant\\nanna,0.1\\nbert,0.3\\n")
        >>> read_column(f"{file}:slant")
        ('slant', array([0.1, 0.3]))
    """
    text = str(place)
    path, name = (Path(text), "") if Path(text).is_file() else _parted(text)
    if not path.is_file():
        raise MissingDataError(
            f"no file {path} to read subgroups from; give FILE.csv:COLUMN, FILE.npz:ARRAY or FILE.npy"
        )
    try:
        columns = _readers[path.suffix.lower()](path)
    except KeyError:
        raise DataError(
            f"{path}: subgroups are read from .csv, .npz and .npy, not from {path.suffix or 'this'}"
        ) from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from error
    if not name and len(columns) == 1:
        name = next(iter(columns))
    if name not in columns:
        wanted = f"no column {name!r}" if name else "more than one column"
        raise DataError(
            f"{path} has {wanted}; take one of: {', '.join(map(repr, columns)) or 'nothing'}, as {path}:NAME"
        )
    return name, columns[name]


def _parted(text: str) -> tuple[Path, str]:
    path, _, name = text.rpartition(":")
    return (Path(path), name) if path else (Path(text), "")


def _read_csv(path: Path) -> dict[str, NDArray[Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file, strict=True))
    if not rows:
        raise ValueError("the file is empty")
    head, *body = rows
    body = [row for row in body if row]
    if uneven := [k for k, row in enumerate(body, 2) if len(row) != len(head)]:
        raise ValueError(f"line {uneven[0]} does not have the {len(head)} values that the first line names")
    return {name.strip(): _typed([row[k].strip() for row in body]) for k, name in enumerate(head)}


def _typed(words: list[str]) -> NDArray[Any]:
    try:
        return np.array([float(word) if word else np.nan for word in words])
    except ValueError:
        return np.array(words, dtype=str)


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _read_npy(path: Path) -> dict[str, NDArray[Any]]:
    return {path.stem: np.load(path, allow_pickle=False)}


_readers: Mapping[str, Any] = {".csv": _read_csv, ".npz": _read_npz, ".npy": _read_npy}


def group_names(values: Any, count: int, name: str, parts: int = 4) -> NDArray[np.str_]:
    """The group of every test image: the values themselves, or parts of equal size where they are many numbers.

    Args:
        values: ``(count,)`` words, whole numbers, numbers or booleans, in the order of the test split.
        count: test images.
        name: of the column, for messages.
        parts: how many parts a column with more than 12 distinct numbers is cut into.

    Returns:
        ``(count,)`` names; ``"missing"`` where the value is NaN or an empty word.

    Raises:
        DataError: another length than the test split, more than one dimension, one group only, or so many
            that they are names of the images.
        ParameterRangeError: fewer than two parts.

    Example:
        >>> group_names([0.0, 1.0, 1.0], 3, "smoker").tolist()
        ['0', '1', '1']
        >>> group_names(np.arange(100) / 10, 100, "slant", parts=2).tolist()[::50]
        ['0 to 4.95', '4.95 to 9.9']
    """
    array = np.asarray(values)
    if array.ndim != 1 or len(array) != count:
        raise DataError(
            f"the column {name!r} has shape {array.shape}, but the test split has {count:,} images: it needs one "
            "value for each of them, in their order"
        )
    if parts < 2:
        raise ParameterRangeError(f"a column is cut into at least 2 parts, found {parts}")
    if array.dtype.kind == "f":
        names = _of_numbers(array, parts)
    elif array.dtype.kind in "iu" and len(np.unique(array)) > MOST_VALUES:
        names = _of_numbers(array.astype(np.float64), parts)
    elif array.dtype.kind in "iubUS":
        words = array.astype(str)
        names = np.where(words == "", MISSING, words)
    else:
        raise DataError(f"the column {name!r} holds {array.dtype}; it may hold words, numbers or booleans")
    found = len(np.unique(names))
    if not 2 <= found <= MOST_GROUPS:
        what = "one group only" if found < 2 else f"{found:,} groups"
        raise DataError(f"the column {name!r} makes {what} of the test split; 2 to {MOST_GROUPS} can be compared")
    return np.asarray(names, dtype=np.str_)


def in_order(names: Iterable[str]) -> list[str]:
    """Each name once: numbers by their size, then words from A.

    Example:
        >>> in_order(["10 to 20", "b", "9 to 10", "a", "b"])
        ['9 to 10', '10 to 20', 'a', 'b']
    """

    def key(name: str) -> tuple[float, str]:
        try:
            return float(name.partition(" ")[0]), name
        except ValueError:
            return math.inf, name

    return sorted(set(names), key=key)


def _of_numbers(array: NDArray[np.floating[Any]], parts: int) -> NDArray[np.str_]:
    known = array[np.isfinite(array)]
    names = np.full(len(array), MISSING, dtype="U64")
    if len(np.unique(known)) <= MOST_VALUES:
        names[np.isfinite(array)] = [f"{value:g}" for value in known]
        return names
    edges = np.unique(np.quantile(known, np.linspace(0, 1, parts + 1)))
    part = np.clip(np.searchsorted(edges, known, side="right") - 1, 0, len(edges) - 2)
    labels = np.array([f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges)])
    names[np.isfinite(array)] = labels[part]
    return names
