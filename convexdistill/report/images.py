"""Pictures as data URIs, so that the page needs nothing beside itself."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image
from torch import Tensor

# Side, in CSS pixels, that a picture of the gallery comes nearest to.
SIDE = 64


def png_uri(image: Tensor) -> str:
    """One image as a PNG data URI, pixel for pixel.

    Args:
        image: ``(c, h, w)`` uint8, c = 1 or 3.

    Example:
        >>> import torch
        >>> png_uri(torch.zeros(1, 8, 8, dtype=torch.uint8))[:22]
        'data:image/png;base64,'
    """
    pixels = np.ascontiguousarray(image.detach().cpu().permute(1, 2, 0).numpy())
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def shown_size(height: int, width: int) -> tuple[int, int]:
    """Height and width at which a picture is shown: a whole multiple of its pixels wherever that is small
    enough, so that every pixel stays a sharp square.

    Example:
        >>> shown_size(8, 8), shown_size(28, 28), shown_size(32, 32), shown_size(300, 150)
        ((64, 64), (56, 56), (64, 64), (64, 32))
    """
    longest = max(height, width)
    if longest > 1.25 * SIDE:
        return max(1, round(height * SIDE / longest)), max(1, round(width * SIDE / longest))
    factor = max(1, int(SIDE / longest + 0.5))
    return height * factor, width * factor
