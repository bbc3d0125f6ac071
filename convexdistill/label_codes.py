"""Soft labels in few bytes: each row keeps its most telling classes, each value as a small whole number.

A row y of C labels becomes, in this order (numbers little-endian, bits packed from the lowest):

==============  ================================  =====================================================
what            bytes                             where
==============  ================================  =====================================================
low, step       4 + 4 (float32)                   with ``bits``
rest            4 (float32)                       with ``top_k``: the value of every class that is not kept
classes kept    ⌈k·⌈log₂ C⌉ / 8⌉                   with ``top_k``, ascending
values          ⌈k·bits / 8⌉, else 4k (float32)    k = C without ``top_k``
==============  ================================  =====================================================

**Bits.** The values v of a row are written as q = round((v − low) / step), with low = min v and
step = (max v − min v) / (2^bits − 1), and read as low + q·step: never off by more than half a step.

**Top-k.** What is not kept is read as its own mean, which leaves the sum of the row as it was. Kept are the k
classes for which the squared error of that is least: the others lie next to each other in the sorted row, so
every window of C − k neighbours is tried. For probabilities these are nearly always the k largest; labels of
either sign keep their largest negatives too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convexdistill.errors import FileFormatError, ParameterRangeError

MOST_BITS = 16


def check_code(bits: Any, top_k: Any, classes: int) -> None:
    """Raise unless labels over so many classes can be written this way.

    Raises:
        ParameterRangeError: ``bits`` is not 1 … 16 or None, ``top_k`` is not 1 … C − 1 or None, or both are
            None.
    """
    for name, value, most in (("bits", bits, MOST_BITS), ("top_k", top_k, classes - 1)):
        if value is not None and (type(value) is not int or not 1 <= value <= most):
            raise ParameterRangeError(f"{name} must be a whole number of 1 to {most}, found {value!r}")
    if bits is None and top_k is None:
        raise ParameterRangeError("to compress labels give bits, top_k or both")


def encode(labels: Tensor, bits: int | None, top_k: int | None) -> Tensor:
    """Labels ``(n, C)`` float32, finite, to codes ``(n, bytes a row)`` uint8.

    Raises:
        ParameterRangeError: see :func:`check_code`; or a row's values are too far apart for float32.

    Example:
        >>> codes = encode(torch.eye(10), bits=4, top_k=2)
        >>> codes.shape, bool((decode(codes, 4, 2, 10) == torch.eye(10)).all())
        (torch.Size([10, 14]), True)
    """
    classes = labels.shape[1]
    check_code(bits, top_k, classes)
    values = labels.numpy().astype(np.float64)
    head, kept = [], []
    if top_k is not None:
        columns, rest = _telling(values, top_k)
        head.append(rest[:, None])
        kept.append(_pack(columns, _index_bits(classes)))
        values = np.take_along_axis(values, columns, axis=1)
    if bits is None:
        kept.append(_bytes(values))
    else:
        low = values.min(axis=1, keepdims=True)
        with np.errstate(over="ignore"):
            step = ((values.max(axis=1, keepdims=True) - low) / (2**bits - 1)).astype(np.float32)
        if not np.isfinite(step).all():
            raise ParameterRangeError(f"labels of one row are too far apart for {bits} bits; take more")
        head = [low, step, *head]
        exact = np.divide(values - low, step, out=np.zeros_like(values), where=step > 0)
        kept.append(_pack(np.clip(np.rint(exact), 0, 2**bits - 1).astype(np.int64), bits))
    return torch.from_numpy(np.hstack([*map(_bytes, head), *kept]))


def decode(
    codes: Tensor, bits: int | None, top_k: int | None, classes: int, *, probabilities: bool = False
) -> Tensor:
    """Codes ``(n, bytes a row)`` to labels ``(n, C)`` float32: the same bits on every machine.

    Args:
        codes: of :func:`encode`.
        bits: as when encoded.
        top_k: as when encoded.
        classes: C.
        probabilities: rows are put back onto the simplex: nothing below 0, divided by their sum.

    Raises:
        FileFormatError: these are not codes of such labels.
    """
    if codes.dtype != torch.uint8 or codes.ndim != 2 or codes.shape[1] != row_bytes(bits, top_k, classes):
        raise FileFormatError(
            f"codes of labels over {classes} classes (bits {bits}, top_k {top_k}) should be uint8 of shape "
            f"(n, {row_bytes(bits, top_k, classes)}), found {codes.dtype} of shape {tuple(codes.shape)}"
        )
    raw, count = codes.numpy(), classes if top_k is None else top_k
    numbers = 4 * (2 * (bits is not None) + (top_k is not None))
    head, tail = _floats(raw[:, :numbers]), raw[:, numbers:]
    if not np.isfinite(head).all():
        raise FileFormatError("codes of labels hold NaN or infinity")
    columns = None
    if top_k is not None:
        size = _packed(top_k, _index_bits(classes))
        columns, tail = _unpack(tail[:, :size], top_k, _index_bits(classes)), tail[:, size:]
        if columns.max(initial=0) >= classes or (np.diff(columns, axis=1) <= 0).any():
            raise FileFormatError(f"codes of labels name classes that are not among the {classes}, or one twice")
    if bits is None:
        values = _floats(tail)
    else:
        values = head[:, :1] + _unpack(tail, count, bits) * head[:, 1:2]
    if columns is not None:
        labels = np.repeat(head[:, -1:], classes, axis=1)
        np.put_along_axis(labels, columns, values, axis=1)
        values = labels
    if probabilities:
        values = np.maximum(values, 0)
        with np.errstate(invalid="ignore"):
            values = values / values.sum(axis=1, keepdims=True)
    return torch.from_numpy(values.astype(np.float32))


def decode_as_recorded(codes: Tensor, record: Any, classes: int, label_space: str) -> Tensor:
    """What codes stand for, by the ``label_code`` of a manifest.

    Raises:
        FileFormatError: the record does not say how labels are coded, or these are not such codes.
    """
    try:
        bits, top_k = record["bits"], record["top_k"]
        check_code(bits, top_k, classes)
    except (KeyError, TypeError, ParameterRangeError) as error:
        raise FileFormatError(f"label_code in the manifest does not say how labels are coded: {error}") from error
    return decode(codes, bits, top_k, classes, probabilities=label_space == "probability")


def row_bytes(bits: int | None, top_k: int | None, classes: int) -> int:
    """Bytes of one row of codes.

    Example:
        >>> row_bytes(4, None, 10), row_bytes(4, 2, 10), row_bytes(None, 2, 10)
        (13, 14, 13)
    """
    count = classes if top_k is None else top_k
    values = 4 * count if bits is None else 8 + _packed(count, bits)
    return values + (0 if top_k is None else 4 + _packed(top_k, _index_bits(classes)))


def _telling(values: NDArray[np.float64], top_k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The classes to keep, ascending, and the mean of the others."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    others = values.shape[1] - top_k
    # Squared error of a window about its mean, from running sums about the row's own mean.
    centred = ordered - ordered.mean(axis=1, keepdims=True)
    sums, squares = (np.pad(part.cumsum(axis=1), ((0, 0), (1, 0))) for part in (centred, np.square(centred)))
    error = squares[:, others:] - squares[:, : top_k + 1]
    error -= np.square(sums[:, others:] - sums[:, : top_k + 1]) / others
    start = error.argmin(axis=1)[:, None]
    place = np.arange(values.shape[1])
    inside = (place >= start) & (place < start + others)
    rest = ordered[inside].reshape(-1, others).mean(axis=1)
    return np.sort(order[~inside].reshape(-1, top_k), axis=1), rest


def _index_bits(classes: int) -> int:
    return (classes - 1).bit_length()


def _packed(count: int, bits: int) -> int:
    return -(-count * bits // 8)


def _pack(values: NDArray[np.int64], bits: int) -> NDArray[np.uint8]:
    """``(n, k)`` whole numbers below 2^bits to ``(n, ⌈k·bits/8⌉)`` bytes."""
    spread = (values[:, :, None] >> np.arange(bits)) & 1
    return np.packbits(spread.reshape(len(values), -1).astype(np.uint8), axis=1, bitorder="little")


def _unpack(packed: NDArray[np.uint8], count: int, bits: int) -> NDArray[np.int64]:
    spread = np.unpackbits(packed, axis=1, count=count * bits, bitorder="little")
    return spread.reshape(len(packed), count, bits).astype(np.int64) @ (1 << np.arange(bits))


def _bytes(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(values.reshape(len(values), -1).astype("<f4")).view(np.uint8)


def _floats(raw: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.ascontiguousarray(raw).view("<f4").astype(np.float64)
