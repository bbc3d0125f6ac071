"""Readers of streams: anything that can be iterated, and folders of class folders."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from convexdistill.data.pixels import to_array
from convexdistill.data.resize import match_shape
from convexdistill.data.stream import Chunk, Shard
from convexdistill.errors import DataError, NonFiniteInputError

Shape = tuple[int, int, int]


def picture(image: Image.Image, shape: Shape | None) -> Tensor:
    """One decoded image as ``(1, c, h, w)`` bytes; in ``shape``, or grey or RGB as it is."""
    grey = image.mode in ("1", "L") if shape is None else shape[0] == 1
    pixels = torch.from_numpy(np.array(image.convert("L" if grey else "RGB")))
    pixels = pixels[None, None] if grey else pixels.permute(2, 0, 1)[None]
    return pixels if shape is None else match_shape(pixels, shape)


def pixels_of(images: Any, where: str, shape: Shape | None = None) -> Tensor:
    """Bytes ``(b, c, h, w)`` of one image or a batch: bytes in 0..255, or floats in 0..1.

    In a stream nobody sees all pixels before the first batch, so that floats up to 255 cannot be told from
    floats up to 1, as :func:`convexdistill.data.pixels.to_images` does: they are refused.

    Raises:
        DataError: pixels of another kind or out of range, or not one or three channels.
        NonFiniteInputError: NaN or infinity among the pixels.
    """
    if isinstance(images, Image.Image):
        return picture(images, shape)
    pixels = images if isinstance(images, Tensor) else torch.from_numpy(np.array(to_array(images)))
    if pixels.ndim == 2:
        pixels = pixels[None, None]
    elif pixels.ndim == 3:
        channels_last = pixels.shape[0] not in (1, 3) and pixels.shape[2] in (1, 3)
        pixels = (pixels.permute(2, 0, 1) if channels_last else pixels)[None]
    elif pixels.ndim == 4 and pixels.shape[1] not in (1, 3):
        pixels = pixels.permute(0, 3, 1, 2)
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
        raise DataError(
            f"{where}: images must be (b, 1 or 3, height, width) or one (1 or 3, height, width), found "
            f"{tuple(to_array(images).shape)}; grey batches need their channel: images.unsqueeze(1)"
        )
    if pixels.is_floating_point():
        if not pixels.isfinite().all():
            raise NonFiniteInputError(f"{where}: NaN or infinity among the pixels; repair or drop those images")
        low, high = float(pixels.min()), float(pixels.max())
        if low < 0 or high > 1:
            raise DataError(
                f"{where}: float pixels must lie in 0..1, found {low:g}..{high:g}; give them before any "
                "normalisation (convexdistill normalises itself), or as bytes in 0..255"
            )
        pixels = (pixels * 255).round_().to(torch.uint8)
    elif pixels.dtype != torch.uint8:
        raise DataError(f"{where}: pixels must be bytes or floats in 0..1, found {pixels.dtype}")
    return pixels.cpu() if shape is None else match_shape(pixels.cpu(), shape)


@dataclass(frozen=True)
class IterableReader:
    """Reads whatever gives pairs (image, label) or (images, labels) when it is iterated.

    Every shard iterates all of it and keeps every m-th image.

    Attributes:
        make: gives a fresh iterator from the start.
        classes: names of the classes; labels are positions in it, or names.
        where: what to call the source in an error message.
        shape: what images are brought to; ``None``: as they come.
    """

    make: Callable[[], Iterator[Any]]
    classes: tuple[str, ...]
    where: str
    shape: Shape | None = None

    def chunks(self, shard: Shard, skip: int) -> Iterator[Chunk]:
        """Image k belongs to shard k mod m; what is skipped is read and dropped."""
        index, count = shard
        start = index + skip * count  # position of the first image that is wanted
        seen = 0
        names = {name: label for label, name in enumerate(self.classes)}
        for item in self.make():
            if not isinstance(item, tuple | list) or len(item) != 2:
                raise DataError(
                    f"{self.where}: item {seen} must be a pair (images, labels), found {type(item).__name__}"
                )
            labels = _labels(item[1], names, f"{self.where}, near image {seen}")
            first = start - seen if seen <= start else (start - seen) % count
            seen += len(labels)
            if first < len(labels):
                images = pixels_of(item[0], self.where, self.shape)
                if len(images) != len(labels):
                    raise DataError(f"{self.where}: {len(images)} images came with {len(labels)} labels")
                yield images[first::count], labels[first::count]


def _labels(labels: Any, names: Mapping[str, int], where: str) -> Tensor:
    if isinstance(labels, str):
        labels = [labels]
    if isinstance(labels, tuple | list) and labels and isinstance(labels[0], str):
        if unknown := [name for name in labels if name not in names]:
            raise DataError(
                f"{where}: the label {unknown[0]!r} is not among the classes; give classes= with every name"
            )
        labels = [names[name] for name in labels]
    found = torch.as_tensor(labels)
    if found.is_floating_point() or found.is_complex() or found.ndim > 1:
        raise DataError(
            f"{where}: labels must be whole numbers, one an image, found {found.dtype}, shape {tuple(found.shape)}"
        )
    return found.reshape(-1).to(torch.int64).cpu()


@dataclass(frozen=True)
class FolderReader:
    """Reads the files of class folders one by one, in the order of their names.

    Attributes:
        files: paths and labels of all images: about 200 bytes an image are held.
        shape: what images are brought to.
    """

    files: tuple[tuple[Path, int], ...]
    shape: Shape

    def chunks(self, shard: Shard, skip: int) -> Iterator[Chunk]:
        """Every m-th file from the i-th on; files that are skipped are not opened."""
        from convexdistill.data.folder import read_image

        index, count = shard
        for file, label in self.files[index + skip * count :: count]:
            yield torch.from_numpy(read_image(file, self.shape))[None], torch.tensor([label])


def again(source: Any) -> Callable[[], Iterator[Any]]:
    """What gives a fresh iterator of a source.

    Raises:
        DataError: the source can be read only once.
    """
    if callable(source) and not isinstance(source, Iterable):
        return source  # type: ignore[no-any-return]
    if iter(source) is source:
        raise DataError(
            f"a {type(source).__name__} can be read once only, and a pass may start again; give something that "
            "can: a DataLoader, an IterableDataset, or a function that returns the iterator"
        )
    return functools.partial(iter, source)
