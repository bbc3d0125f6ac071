"""From bytes to what a network sees: scaled to [0, 1], then normalised channel by channel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from convexdistill.data.images import ImageData
from convexdistill.data.stream import ImageStream
from convexdistill.errors import DataError, DtypeError, FileFormatError, ParameterRangeError, ShapeError

FIT_IMAGES = 10_000  # of a stream; a mean over so many pixels is exact to three digits


def _histograms(data: ImageData | ImageStream) -> Tensor:
    """How often each byte occurs in each channel, ``(c, 256)``: exact, and independent of the images' order."""
    counts = torch.zeros(data.shape[0], 256, dtype=torch.int64)
    seen = 0
    chunks = (data.images,) if isinstance(data, ImageData) else (images for images, _ in data.batches(100))
    for images in chunks:
        for channel in range(len(counts)):
            counts[channel] += torch.bincount(images[:, channel].flatten(), minlength=256)
        seen += len(images)
        if seen >= FIT_IMAGES:
            break
    if seen == 0:
        raise DataError(f"{data.name!r} holds no images to normalise by")
    return counts


@dataclass(frozen=True)
class Preprocessing:
    """Per-channel normalisation ``(x / 255 - mean) / std``.

    Attributes:
        mean: one value a channel, for pixels scaled to [0, 1].
        std: one positive value a channel, for pixels scaled to [0, 1].

    Raises:
        ParameterRangeError: lengths differ, a value is not finite, or a std is not positive.

    Example:
        >>> from convexdistill.data import load
        >>> train = load("digits")
        >>> prepare = Preprocessing.fit(train)
        >>> prepare(train.images).dtype
        torch.float32
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std):
            raise ParameterRangeError(
                f"mean and std need one value for each channel, found {len(self.mean)} and {len(self.std)}"
            )
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise ParameterRangeError(
                f"mean must be finite and std positive, found mean {self.mean}, std {self.std}"
            )

    @classmethod
    def fit(cls, data: ImageData | ImageStream) -> Preprocessing:
        """The mean and the (population) standard deviation of each channel of ``data``.

        Of a stream the first 10,000 images are read, the same for every shard of it.

        A channel that is the same everywhere has no spread to normalise by: its std is replaced by
        1, so that it comes out as zeros and nothing is ever divided by zero.
        """
        means, stds = [], []
        values = torch.arange(256, dtype=torch.float64) / 255
        for histogram in _histograms(data).double():
            weights = histogram / histogram.sum()
            mean = weights @ values
            std = float((weights @ (values - mean).square()).sqrt())
            constant = int((histogram > 0).sum()) == 1
            means.append(float(mean))
            stds.append(1.0 if constant else std)
        return cls(tuple(means), tuple(stds))

    def __call__(self, images: Tensor) -> Tensor:
        """Normalised float32 ``(N, c, h, w)`` from uint8 ``(N, c, h, w)``, on the same device.

        Raises:
            DtypeError: the images are not bytes.
            ShapeError: not four dimensions, or another number of channels than ``mean`` has.
        """
        if images.dtype != torch.uint8:
            raise DtypeError(f"images to be preprocessed must be uint8, found {images.dtype}")
        if images.ndim != 4 or images.shape[1] != len(self.mean):
            raise ShapeError(
                f"images must be (N, {len(self.mean)}, height, width), found "
                f"{tuple(images.shape)}; match_shape changes the number of channels"
            )
        mean = torch.tensor(self.mean, dtype=torch.float32, device=images.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, dtype=torch.float32, device=images.device).view(1, -1, 1, 1)
        return images.to(torch.float32).div_(255).sub_(mean).div_(std)

    def to_dict(self) -> dict[str, list[float]]:
        """What a manifest keeps: ``{"mean": [...], "std": [...]}``."""
        return {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """The inverse of :meth:`to_dict`.

        Raises:
            FileFormatError: a key is missing, or a value is not a list of usable numbers.
        """
        try:
            mean = tuple(float(value) for value in values["mean"])
            std = tuple(float(value) for value in values["std"])
            return cls(mean, std)
        except (KeyError, TypeError, ValueError) as error:
            raise FileFormatError(
                f"preprocessing needs 'mean' and 'std', one number for each channel: {error}"
            ) from error
