"""The one shape in which images travel: bytes, labels, and where they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from convexdistill.errors import DataError, InvalidInputError


@dataclass(frozen=True)
class ImageData:
    """Labelled images, held as bytes.

    Attributes:
        images: ``(N, c, h, w)`` uint8, c = 1 or 3.
        labels: ``(N,)`` int64, each in ``[0, len(classes))``.
        classes: the names of the classes, in label order.
        name: the data set's name, as the user gave it (``"mnist"``, ``"letters.npz"``).
        split: ``"train"``, ``"validation"`` or ``"test"``.

    Raises:
        DataError: shapes, dtypes or labels do not fit together, or there is no image.

    Example:
        >>> import torch
        >>> data = ImageData(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]),
        ...                  ("zero", "one"), name="toy", split="train")
        >>> len(data), data.shape, data.num_classes
        (2, (1, 8, 8), 2)
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str
    split: str

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        where = f"data set {self.name!r} ({self.split})"
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise DataError(
                f"{where}: images must be uint8 of shape (N, 1 or 3, height, width), "
                f"found {images.dtype} of shape {tuple(images.shape)}"
            )
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise DataError(
                f"{where}: labels must be int64 of shape ({len(images)},), "
                f"found {labels.dtype} of shape {tuple(labels.shape)}"
            )
        if len(images) == 0:
            raise DataError(f"{where} holds no images")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(self.classes):
            raise DataError(
                f"{where}: labels run from {low} to {high}, but there are {len(self.classes)} "
                f"classes, so they must lie in 0..{len(self.classes) - 1}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def num_classes(self) -> int:
        """The number of classes, present among the labels or not."""
        return len(self.classes)

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """The number of images of each class."""
        return tuple(torch.bincount(self.labels, minlength=self.num_classes).tolist())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over shape, pixels, labels and class names: same data, same fingerprint."""
        digest = hashlib.sha256()
        digest.update(repr((tuple(self.images.shape), self.classes)).encode())
        digest.update(self.images.contiguous().numpy().tobytes())
        digest.update(self.labels.contiguous().numpy().tobytes())
        return f"sha256:{digest.hexdigest()}"

    def refuse_test(self, purpose: str) -> None:
        """Raise if this is a test split: it reports, and may not take part in anything before that.

        Args:
            purpose: what it was about to be used for.

        Raises:
            InvalidInputError: the split is ``"test"``.
        """
        if self.split == "test":
            raise InvalidInputError(
                f"the test split of {self.name!r} cannot be used {purpose}: it may only report; take the "
                "train or the validation split"
            )

    def subset(self, indices: Sequence[int] | Tensor) -> ImageData:
        """The images at ``indices``, in that order, under the same name and split."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        return ImageData(self.images[index], self.labels[index], self.classes, name=self.name, split=self.split)
