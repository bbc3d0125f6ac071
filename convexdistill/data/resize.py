"""Bring images of one data set to the shape of another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from convexdistill.errors import DtypeError, ShapeError

_CHUNK = 1024  # images resized together; bounds the memory of the intermediate floats


def match_shape(images: Tensor, shape: Sequence[int]) -> Tensor:
    """Images in the channels, height and width that a network for another data set expects.

    RGB becomes grey by luma (0.2989 R + 0.587 G + 0.114 B, torchvision's ``rgb_to_grayscale``),
    grey becomes RGB by repetition, and the size changes by antialiased bilinear interpolation; the
    aspect ratio is not kept, as in the paper. Images that already fit are returned as they are.

    Args:
        images: ``(N, c, h, w)`` uint8, c = 1 or 3.
        shape: the wanted (channels, height, width).

    Returns:
        ``(N, *shape)`` uint8.

    Raises:
        DtypeError: the images are not bytes.
        ShapeError: the images are not (N, 1 or 3, h, w), or ``shape`` is not (1 or 3, >0, >0).

    Example:
        >>> match_shape(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), (1, 28, 28)).shape
        torch.Size([2, 1, 28, 28])
    """
    found = getattr(images, "dtype", type(images).__name__)
    if found != torch.uint8:
        raise DtypeError(f"match_shape needs a uint8 tensor of images, found {found}")
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ShapeError(f"images must be (N, 1 or 3, height, width), found {tuple(images.shape)}")
    if len(shape) != 3 or shape[0] not in (1, 3) or min(shape) < 1:
        raise ShapeError(f"shape must be (1 or 3, height, width), found {tuple(shape)}")
    channels, height, width = shape
    if tuple(images.shape[1:]) == tuple(shape):
        return images
    if images.shape[1] == 3 and channels == 1:
        from torchvision.transforms.v2 import functional as transforms

        images = transforms.rgb_to_grayscale(images)
    if images.shape[2:] != (height, width):
        images = torch.cat([_resize(part, height, width) for part in torch.split(images, _CHUNK)])
    if images.shape[1] == 1 and channels == 3:
        images = images.repeat(1, 3, 1, 1)
    return images


def _resize(images: Tensor, height: int, width: int) -> Tensor:
    # By way of floats. For bytes torch 2.14 has a kernel of its own on some processors only, so that
    # pixels would differ by one level from machine to machine; it also fails on RGB at 1×1.
    # Imported where it is used: torchvision takes seconds, and most jobs resize nothing.
    from torchvision.transforms.v2 import functional as transforms

    resized: Tensor = transforms.resize(
        images.float(), [height, width], interpolation=transforms.InterpolationMode.BILINEAR, antialias=True
    )
    return resized.round_().clamp_(0, 255).to(torch.uint8)
