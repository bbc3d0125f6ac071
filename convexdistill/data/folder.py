"""Read a folder of class folders of images."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torchvision.datasets import ImageFolder

from convexdistill.data.raw import RawImages
from convexdistill.data.resize import match_shape
from convexdistill.errors import DataError

_GREY = {"1", "L", "LA"}
_COLOUR = {"RGB", "RGBA", "P", "PA", "CMYK", "YCbCr", "HSV", "LAB"}
_MOST_BYTES = 16 * 2**30  # what would not fit into a laptop's memory is refused, not attempted


def read_folder(path: Path) -> RawImages:
    """All images below ``path``; the class is the name of the folder directly under it.

    All become grey where every image is grey, RGB otherwise. Where sizes differ, every image is
    resized to the most common size (the larger of two that are equally common), aspect ratio not
    kept; for another choice, resize beforehand.

    Raises:
        DataError: no class folders, one without an image, or an image that cannot be read.
    """
    listed, names = class_files(path)
    files = [file for file, _ in listed]
    kinds = [_kind(file) for file in files]
    sizes = Counter(size for size, _ in kinds)
    height, width = max(sizes, key=lambda size: (sizes[size], size[0] * size[1], size))
    channels = 1 if all(grey for _, grey in kinds) else 3
    if len(files) * channels * height * width > _MOST_BYTES:
        raise DataError(
            f"{path}: {len(files)} images of {height}×{width} need more than "
            f"{_MOST_BYTES // 2**30} GiB of memory; resize them first, for example to 64×64"
        )
    images = np.empty((len(files), channels, height, width), dtype=np.uint8)
    for index, file in enumerate(files):
        images[index] = read_image(file, (channels, height, width))
    labels = np.array([label for _, label in listed])
    return RawImages(images[:, 0] if channels == 1 else images, labels, names)


def class_files(path: Path) -> tuple[list[tuple[Path, int]], list[str]]:
    """The images below ``path`` with their labels, in the order of their names, and the names of the classes.

    Raises:
        DataError: no class folders, or one without an image.
    """
    try:
        found = ImageFolder(str(path), allow_empty=False)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{path} is not a folder of class folders of images ({reason}); it needs one folder "
            f"for each class, with at least one image in each"
        ) from error
    return [(Path(file), label) for file, label in found.samples], list(found.classes)


def own_shape(file: Path) -> tuple[int, int, int]:
    """Channels, height and width of an image as it is stored."""
    (height, width), grey = _kind(file)
    return (1 if grey else 3), height, width


def _kind(file: Path) -> tuple[tuple[int, int], bool]:
    """Height and width as it will be read, and whether the image is grey; reads the header only."""
    with _opened(file) as image:
        if image.mode not in _GREY | _COLOUR:
            raise DataError(
                f"{file}: pixels of mode {image.mode!r} have no fixed scale to bytes; convert the image to 8 bits"
            )
        turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientations that swap the sides
        width, height = image.size
        return ((width, height) if turned else (height, width)), image.mode in _GREY


def read_image(file: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """One image as ``shape`` (channels, height, width), upright."""
    with _opened(file) as image:
        upright = ImageOps.exif_transpose(image).convert("L" if shape[0] == 1 else "RGB")
        pixels = torch.from_numpy(np.array(upright))
    pixels = pixels[None, None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)[None]
    return np.asarray(match_shape(pixels, shape)[0].numpy())


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """The image; whatever its decoder stumbles over, now or later, names the file."""
    try:
        with Image.open(file) as image:
            yield image
    except (DataError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{file} cannot be read as an image ({reason}); repair or delete it") from error
