"""Bring pixels of any common kind and layout to bytes of shape (N, c, h, w)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convexdistill.errors import DataError, NonFiniteInputError, ShapeError

_CHANNELS = (1, 3)
_CHUNK = 1 << 24  # pixels looked at together, so that the checks need little memory


def to_array(values: Any) -> NDArray[Any]:
    """A tensor (from any device), an array, or nested lists, as an array.

    Raises:
        ShapeError: the lists are ragged.
    """
    if isinstance(values, Tensor):
        # numpy has no bfloat16
        values = values.float() if values.dtype == torch.bfloat16 else values
        return np.asarray(values.numpy(force=True))
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ShapeError(
            f"lists or arrays of different lengths cannot be read as one array ({error}); bring "
            f"all images to one size"
        ) from error


def to_images(images: Any, where: str) -> Tensor:
    """Bytes of shape ``(N, c, h, w)``, c = 1 or 3, from pixels of any kind that is unambiguous.

    Args:
        images: ``(N, h, w)``, ``(N, h, w, 1 or 3)`` or ``(N, 1 or 3, h, w)``; tensor or array.
            Bytes and other integers hold 0..255, booleans black and white. Floats hold 0..1 when
            none of them is above 1, else 0..255; they are rounded to the nearest byte.
        where: what to call the images in an error message.

    Raises:
        ShapeError: another number of dimensions or channels, or a layout that can be read two ways.
        NonFiniteInputError: NaN or infinity among the pixels.
        DataError: pixels below 0 or above 255, or of a type that holds no numbers.

    Example:
        >>> to_images(np.full((2, 4, 5), 0.5), "example").shape
        torch.Size([2, 1, 4, 5])
    """
    array = _channels_first(to_array(images), where)
    array = _to_bytes(array, where)
    # The copy makes the memory our own (writable, contiguous), whatever it was cut from.
    return torch.from_numpy(np.array(array, order="C"))


def _channels_first(array: NDArray[Any], where: str) -> NDArray[Any]:
    if array.ndim == 3:
        return array[:, None]
    if array.ndim == 4:
        first, last = array.shape[1] in _CHANNELS, array.shape[3] in _CHANNELS
        if first and last:
            raise ShapeError(
                f"{where}: images of shape {array.shape} can be read as (N, channels, height, "
                f"width) and as (N, height, width, channels); give grey images as (N, height, "
                f"width), or make them larger than 3 pixels"
            )
        if first:
            return array
        if last:
            return np.moveaxis(array, 3, 1)
    raise ShapeError(
        f"{where}: images must be (N, height, width) or (N, height, width, 1 or 3) or "
        f"(N, 1 or 3, height, width), found {array.shape}; convert other channels to grey or RGB"
    )


def _to_bytes(array: NDArray[Any], where: str) -> NDArray[np.uint8]:
    kind = array.dtype.kind
    if array.dtype == np.uint8:
        return array
    if kind == "b":
        return array.astype(np.uint8) * np.uint8(255)
    if kind not in "iuf":
        raise DataError(
            f"{where}: pixels of type {array.dtype} cannot be read; give bytes (0..255) or floats in 0..1"
        )
    flat = array.reshape(-1)
    if kind == "f":
        _refuse(~np.isfinite(flat), array.shape, where, "NaN or infinity", NonFiniteInputError)
    _refuse((flat < 0) | (flat > 255), array.shape, where, "below 0 or above 255", DataError)
    if kind != "f":
        return array.astype(np.uint8)
    scale = 255.0 if flat.size and flat.max() <= 1 else 1.0
    out = np.empty(flat.shape, dtype=np.uint8)
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK].astype(np.float64)
        out[start : start + _CHUNK] = np.rint(part * scale)
    return out.reshape(array.shape)


def _refuse(
    wrong: NDArray[np.bool_],
    shape: tuple[int, ...],
    where: str,
    what: str,
    error: type[DataError] | type[NonFiniteInputError],
) -> None:
    count = int(np.count_nonzero(wrong))
    if count:
        image, channel, row, column = (int(i) for i in np.unravel_index(np.argmax(wrong), shape))
        raise error(
            f"{where}: {count} pixel{'s are' if count > 1 else ' is'} {what}, the first in image "
            f"{image} (channel {channel}, row {row}, column {column}); give bytes (0..255) or "
            f"floats in 0..1, before any normalisation, and repair or drop those images"
        )
