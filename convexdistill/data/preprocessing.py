"""From bytes to what a network sees: scaled to [0, 1], normalised channel by channel, whitened where asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from convexdistill.data.images import ImageData
from convexdistill.data.stream import ImageStream
from convexdistill.data.zca import Zca
from convexdistill.errors import DataError, DtypeError, FileFormatError, ParameterRangeError, ShapeError

FIT_IMAGES = 10_000  # of a stream; a mean over so many pixels is exact to three digits
CHUNK = 100  # images at a time


def _chunks(data: ImageData | ImageStream) -> Iterator[Tensor]:
    """The images that are fitted to: all of a data set, the first of a stream."""
    if isinstance(data, ImageData):
        yield from data.images.split(CHUNK)
        return
    seen = 0
    for images, _ in data.batches(CHUNK):
        yield images
        seen += len(images)
        if seen >= FIT_IMAGES:
            break


def _histograms(data: ImageData | ImageStream) -> Tensor:
    """How often each byte occurs in each channel, ``(c, 256)``: exact, and independent of the images' order."""
    counts = torch.zeros(data.shape[0], 256, dtype=torch.int64)
    for images in _chunks(data):
        for channel in range(len(counts)):
            counts[channel] += torch.bincount(images[:, channel].flatten(), minlength=256)
    if counts.sum() == 0:
        raise DataError(f"{data.name!r} holds no images to normalise by")
    return counts


@dataclass(frozen=True)
class Preprocessing:
    """Per-channel normalisation ``(x / 255 - mean) / std``, then ZCA where there is one.

    Attributes:
        mean: one value a channel, for pixels scaled to [0, 1].
        std: one positive value a channel, for pixels scaled to [0, 1].
        zca: whitening of normalised images; see :class:`convexdistill.data.zca.Zca`.

    Raises:
        ParameterRangeError: lengths differ, a value is not finite, a std is not positive, or ZCA is of images
            with other channels.

    Example:
        >>> from convexdistill.data import load
        >>> train = load("digits")
        >>> prepare = Preprocessing.fit(train)
        >>> prepare(train.images).dtype
        torch.float32
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    zca: Zca | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std):
            raise ParameterRangeError(
                f"mean and std need one value for each channel, found {len(self.mean)} and {len(self.std)}"
            )
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise ParameterRangeError(
                f"mean must be finite and std positive, found mean {self.mean}, std {self.std}"
            )
        if self.zca is not None and self.zca.shape[0] != len(self.mean):
            raise ParameterRangeError(
                f"ZCA is of images with {self.zca.shape[0]} channels, mean and std are of {len(self.mean)}"
            )

    @classmethod
    def fit(cls, data: ImageData | ImageStream, *, zca: float | None = None) -> Preprocessing:
        """The mean and the (population) standard deviation of each channel of ``data``, and its ZCA.

        Of a stream the first 10,000 images are read, the same for every shard of it. A channel that is the same
        everywhere has no spread to normalise by: its std is replaced by 1, so that it comes out as zeros and
        nothing is ever divided by zero.

        Args:
            data: what is fitted to.
            zca: regularisation of ZCA whitening, usually 0.1; ``None``: none. It helps networks without
                normalisation to learn from photographs, and hardly anything else (docs/results/leads.md).

        Raises:
            DataError: no images.
            ParameterRangeError: the regularisation is not a positive number.
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
        plain = cls(tuple(means), tuple(stds))
        return plain if zca is None else replace(plain, zca=Zca.fit(map(plain, _chunks(data)), zca))

    def __call__(self, images: Tensor) -> Tensor:
        """Normalised float32 ``(N, c, h, w)`` from uint8 ``(N, c, h, w)``, on the same device.

        Raises:
            DtypeError: the images are not bytes.
            ShapeError: not four dimensions, another number of channels than ``mean`` has, or another size than
                ZCA was fitted to.
        """
        if images.dtype != torch.uint8:
            raise DtypeError(f"images to be preprocessed must be uint8, found {images.dtype}")
        if images.ndim != 4 or images.shape[1] != len(self.mean):
            raise ShapeError(
                f"images must be (N, {len(self.mean)}, height, width), found "
                f"{tuple(images.shape)}; match_shape changes the number of channels"
            )
        return self.of_pixels(images.to(torch.float32).div_(255))

    def of_pixels(self, pixels: Tensor) -> Tensor:
        """The same for pixels ``(N, c, h, w)`` in [0, 1], in their own precision and differentiable.

        Raises:
            ShapeError: ZCA was fitted to images of another shape.
        """
        mean, std = (pixels.new_tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
        x = (pixels - mean) / std
        return x if self.zca is None else self.zca(x)

    def to_dict(self) -> dict[str, Any]:
        """What a manifest keeps: ``{"mean": [...], "std": [...]}``, and ``"zca"`` where there is one."""
        zca = {} if self.zca is None else {"zca": self.zca.to_dict()}
        return {"mean": list(self.mean), "std": list(self.std), **zca}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """The inverse of :meth:`to_dict`.

        Raises:
            FileFormatError: a key is missing, or a value is not what belongs there.
        """
        try:
            zca = Zca.from_dict(values["zca"]) if "zca" in values else None
            mean = tuple(float(value) for value in values["mean"])
            std = tuple(float(value) for value in values["std"])
            return cls(mean, std, zca)
        except FileFormatError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise FileFormatError(
                f"preprocessing needs 'mean' and 'std', one number for each channel: {error}"
            ) from error
