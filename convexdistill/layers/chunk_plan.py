"""How to cut a large ridge problem into chunks that stay under a memory ceiling.

The memory of a chunk of ``batch`` elements, ``rows`` examples and ``targets`` columns is, in float64 numbers,

    batch × (7 p² + 6 rows k + 8 targets (rows + k) + [dual: 4 n targets + 3 n w] + [4 n])

with k features (d, and 1 for a penalized intercept), p = k in the primal form and n in the dual: the Gram matrix,
its factor and the workspace of the factorisation; a block of features and its gradient; a block of labels,
answers, residuals and corrections; in the dual what goes through the n×n system, and w = rows k / n columns of
features at a time (at least one); with weights or a free intercept, their roots and shares. Measured peaks lie
below it (tests/layers/test_chunks.py).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from convexdistill.errors import ParameterRangeError

UNITS = {"": 1, "B": 1}
UNITS |= {f"{prefix}B": 1000**i for i, prefix in enumerate(("k", "M", "G", "T"), 1)}
UNITS |= {f"{prefix}iB": 1024**i for i, prefix in enumerate(("K", "M", "G", "T"), 1)}
# A block of so many rows is as quick as a larger one, and so many columns make a matrix product pay.
ROWS, FEW_ROWS = 1024, 16
TARGETS = 32
NUMBER = 8  # bytes of a float64


class Sizes(NamedTuple):
    """The sizes of a problem.

    Attributes:
        batch: how many systems.
        n: examples.
        k: features, counting a column of ones.
        targets: columns of labels.
        form: ``"primal"`` or ``"dual"``.
        weighted: whether there are weights, or a free intercept.
    """

    batch: int
    n: int
    k: int
    targets: int
    form: str
    weighted: bool = False


class Chunks(NamedTuple):
    """How many batch elements, rows and targets go into a chunk."""

    batch: int
    rows: int
    targets: int


def parse_memory(memory: int | str) -> int:
    """A number of bytes.

    Args:
        memory: bytes, or a text such as ``"512MiB"``, ``"1.5 GiB"`` or ``"2GB"``.

    Raises:
        ParameterRangeError: it is no positive number of bytes.

    Example:
        >>> parse_memory("1.5KiB"), parse_memory("2GB"), parse_memory(4096)
        (1536, 2000000000, 4096)
    """
    size = 0
    if isinstance(memory, str):
        found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]*)\s*", memory)
        if found and found[2] in UNITS:
            size = int(float(found[1]) * UNITS[found[2]])
    elif isinstance(memory, int) and not isinstance(memory, bool):
        size = memory
    if size <= 0:
        raise ParameterRangeError(
            f"memory={memory!r} is no positive number of bytes; give an int, or a text such as '512MiB' or '2GB'."
        )
    return size


def working_memory(sizes: Sizes, chunks: Chunks) -> int:
    """Bytes that a chunk needs beside inputs and outputs; the formula stands at the top of this file."""
    batch, rows, targets = chunks
    p = sizes.k if sizes.form == "primal" else sizes.n
    numbers = 7 * p * p + 6 * rows * sizes.k + 8 * targets * (rows + sizes.k)
    if sizes.form == "dual":
        numbers += 4 * sizes.n * targets + 3 * sizes.n * columns_at_once(sizes, rows)
    if sizes.weighted:
        numbers += 4 * sizes.n
    return NUMBER * batch * numbers


def columns_at_once(sizes: Sizes, rows: int) -> int:
    """How many columns of features (n×w) fit where a block of rows (rows×k) fits."""
    return min(sizes.k, max(1, rows * sizes.k // sizes.n))


def fits(sizes: Sizes, memory: int) -> bool:
    """Whether one element fits in chunks that are not too small to be quick."""
    return working_memory(sizes, Chunks(1, min(sizes.n, FEW_ROWS), min(sizes.targets, TARGETS))) <= memory


def plan_chunks(sizes: Sizes, memory: int, kept: int = 0) -> Chunks:
    """The largest chunks that stay under the ceiling.

    The batch is cut first, then rows, then targets; at last rows are as many as still fit, up to 1024.

    Args:
        sizes: of the problem.
        memory: the ceiling, in bytes.
        kept: bytes of it that are taken already.

    Raises:
        ParameterRangeError: not even one element fits; the message names the bytes that it needs.
    """
    room = memory - kept
    few, most = min(sizes.n, FEW_ROWS), min(sizes.n, ROWS)
    for rows, targets in ((most, sizes.targets), (few, sizes.targets), (few, TARGETS), (few, 1), (1, 1)):
        smallest = Chunks(1, rows, min(targets, sizes.targets))
        if working_memory(sizes, smallest) <= room:
            while rows < most and working_memory(sizes, smallest._replace(rows=min(2 * rows, most))) <= room:
                rows = min(2 * rows, most)
            chunks = smallest._replace(rows=rows)
            return chunks._replace(batch=max(1, min(sizes.batch, room // working_memory(sizes, chunks))))
    need = kept + working_memory(sizes, smallest)
    raise ParameterRangeError(
        f"memory={memory} bytes is too little: one element with n={sizes.n} examples and {sizes.k} features needs "
        f"{need} bytes in the {sizes.form} form, in the smallest chunks. Give more, or reduce the features."
    )
