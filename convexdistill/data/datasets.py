"""Read a map-style ``torch.utils.data.Dataset`` of (image, label) pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convexdistill.data.pixels import to_array
from convexdistill.data.raw import RawImages
from convexdistill.errors import DataError, ShapeError


def read_dataset(dataset: Any) -> RawImages:
    """Every item, once, in order.

    ``dataset.classes`` names the classes where it has exactly one name for each label.

    Raises:
        DataError: an item is not a pair (image, label).
        ShapeError: the images differ in shape.
    """
    kind = type(dataset).__name__
    images: list[NDArray[Any]] = []
    labels: list[Any] = []
    for index in range(len(dataset)):
        item = dataset[index]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise DataError(
                f"{kind}: item {index} must be a pair (image, label), found {type(item).__name__}; "
                f"wrap the dataset so that it returns pairs"
            )
        image = _pixels(item[0])
        if images and image.shape != images[0].shape:
            raise ShapeError(
                f"{kind}: item {index} has shape {image.shape}, item 0 {images[0].shape}; bring "
                f"all to one size, for example with torchvision.transforms.v2.Resize((32, 32))"
            )
        images.append(image)
        labels.append(_label(item[1], kind, index))
    if not images:
        raise DataError(f"{kind} holds no images")
    return RawImages(np.stack(images), np.array(labels), _names(dataset, labels))


def _pixels(image: Any) -> NDArray[Any]:
    if isinstance(image, Image.Image):
        return np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    return to_array(image)


def _label(label: Any, kind: str, index: int) -> Any:
    value = label if isinstance(label, str) else to_array(label)
    if not isinstance(value, str) and value.size != 1:
        raise DataError(
            f"{kind}: the label of item {index} has shape {value.shape}; one class index or name is needed"
        )
    return value if isinstance(value, str) else value.reshape(()).item()


def _names(dataset: Any, labels: Sequence[Any]) -> Sequence[Any] | None:
    classes = getattr(dataset, "classes", None)
    if not isinstance(classes, tuple | list):
        return None
    # Some torchvision classes name labels that never occur ("N/A"); such lists name nothing here.
    complete = set(labels) in (set(range(len(classes))), set(map(str, classes)))
    return classes if complete else None
