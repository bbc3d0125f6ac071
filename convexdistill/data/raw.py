"""What every reader hands over: images and labels as found, before they are checked and parted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RawImages:
    """Images and labels of any kind that :func:`to_images` and :func:`index_labels` take.

    Attributes:
        images: tensor or array of pixels.
        labels: tensor, array or list of integers or strings.
        classes: class names, or None where the labels name themselves.
    """

    images: Any
    labels: Any
    classes: Sequence[Any] | None = None
