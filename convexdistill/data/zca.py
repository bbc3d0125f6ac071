"""ZCA whitening, one frequency at a time: what makes the pixels of photographs nearly independent."""

from __future__ import annotations

import base64
import binascii
import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.fft
import torch
from torch import Tensor

from convexdistill.errors import FileFormatError, NonFiniteInputError, ParameterRangeError, ShapeError

# Below this share of the mean square, a variance is what rounding leaves of images that are all the same.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Zca:
    """Whitening x ↦ (x − m) W of normalised images, with W = s (Σ + r·σ²·I)^(−1/2), by frequencies.

    Σ is the covariance of the pixels, σ² its mean diagonal, r the regularisation, and s makes the mean variance
    of whitened pixels 1. Statistics of photographs hardly depend on the place in the image, which makes different
    frequencies of a two-dimensional cosine transform nearly uncorrelated (Ahmed, Natarajan, Rao 1974, "Discrete
    Cosine Transform"): Σ keeps the c × c covariance of the channels at each frequency and leaves out those
    between frequencies. W then takes h·w·c² numbers instead of (h·w·c)²: of CIFAR-10 9,216 instead of 9.4 million;
    docs/results/leads.md has labels by either. The regularisation is that of Nguyen, Novak, Xiao, Lee (2021,
    "Dataset Distillation with Infinitely Wide Convolutional Networks", r = 0.1), who bring each single image to
    mean 0 and norm 1 before, which is not done here.

    Attributes:
        regularisation: r.
        shape: channels, height and width of the images.
        mean: ``(h, w, c)``, the transform of the mean image m; and
        gains: ``(h, w, c, c)``, W at each frequency: both as base64 of little-endian float16, row by row.

    Raises:
        FileFormatError: texts that do not hold so many finite numbers.

    Example:
        >>> from convexdistill.data import Preprocessing, load
        >>> digits = load("digits")
        >>> white = Preprocessing.fit(digits, zca=0.1)
        >>> white(digits.images).var(0).mean().round(decimals=2)
        tensor(1.)
    """

    regularisation: float
    shape: tuple[int, int, int]
    mean: str = field(repr=False)
    gains: str = field(repr=False)

    def __post_init__(self) -> None:
        check_regularisation(self.regularisation)
        _ = self.transform

    @functools.cached_property
    def transform(self) -> tuple[Tensor, Tensor]:
        """Mean ``(h, w, c)`` and gains ``(h, w, c, c)`` in float32, for :func:`whiten`."""
        c, h, w = self.shape
        return _decoded(self.mean, (h, w, c)), _decoded(self.gains, (h, w, c, c))

    @property
    def nbytes(self) -> int:
        """Size of its numbers, as a file keeps them."""
        return len(self.mean) + len(self.gains)

    @classmethod
    def fit(cls, batches: Iterable[Tensor], regularisation: float) -> Zca:
        """The whitening of normalised images ``(N, c, h, w)``, in float64, batch by batch.

        Images that are all the same have no spread to divide by, and stay as they are but for their mean.

        Raises:
            ParameterRangeError: the regularisation is not a positive number, or there is no image.
            ShapeError: a batch that is not ``(N, c, h, w)``, or has images of another shape than the first.
            NonFiniteInputError: a batch holds NaN or infinity.
        """
        check_regularisation(regularisation)
        count = 0
        shape: tuple[int, ...] = ()
        total, products = torch.zeros(()), torch.zeros(())
        for images in batches:
            shape = shape or tuple(images.shape[1:])
            if len(shape) != 3 or shape != tuple(images.shape[1:]):
                raise ShapeError(f"ZCA needs batches of images of one shape, found {tuple(images.shape)}")
            waves = cosines(images.double())
            total = total + waves.sum(0)
            products = products + torch.stack([(waves * one[:, None]).sum(0) for one in waves.unbind(1)])
            count += len(images)
        if count == 0:
            raise ParameterRangeError("ZCA needs images to be fitted to, found none")
        if not products.isfinite().all():
            raise NonFiniteInputError("images that ZCA is fitted to hold NaN or infinite values")
        mean = (total / count).permute(1, 2, 0)
        second = (products / count).permute(2, 3, 0, 1)
        variances, axes = torch.linalg.eigh(second - mean[..., :, None] * mean[..., None, :])
        variances = variances.clamp(min=0)
        if variances.mean() <= ROUNDING * second.diagonal(dim1=-2, dim2=-1).mean():
            gains = torch.eye(shape[0], dtype=torch.float64).expand_as(second)
        else:
            shrunk = variances + regularisation * variances.mean()
            spread = (variances / shrunk).mean().sqrt()  # of the pixels after (Σ + r·σ²·I)^(−1/2)
            gains = (axes * shrunk.rsqrt()[..., None, :]) @ axes.mT / spread
        c, h, w = shape
        return cls(regularisation, (c, h, w), _encoded(mean), _encoded(gains))

    def __call__(self, x: Tensor) -> Tensor:
        """Whitened images ``(N, c, h, w)``, differentiable.

        Raises:
            ShapeError: images of another shape than the whitening was fitted to.
        """
        if tuple(x.shape[1:]) != tuple(self.shape):
            raise ShapeError(
                f"ZCA was fitted to images of {'×'.join(map(str, self.shape))}, found "
                f"{'×'.join(map(str, x.shape[1:]))}; match_shape resizes them"
            )
        return whiten(x, *self.transform)

    def to_dict(self) -> dict[str, Any]:
        """What a manifest keeps: the four attributes."""
        texts = {"mean": self.mean, "gains": self.gains}
        return {"regularisation": self.regularisation, "shape": list(self.shape), **texts}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Zca:
        """The inverse of :meth:`to_dict`.

        Raises:
            FileFormatError: a key is missing or holds something else.
        """
        try:
            c, h, w = map(int, values["shape"])
            return cls(float(values["regularisation"]), (c, h, w), values["mean"], values["gains"])
        except FileFormatError:
            raise
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise FileFormatError(
                f"zca needs 'regularisation', 'shape', 'mean' and 'gains', as its writer leaves them: {error}"
            ) from error


def whiten(x: Tensor, mean: Tensor, gains: Tensor) -> Tensor:
    """Cosine transform, minus the mean, times the gains of each frequency, and back.

    Args:
        x: images ``(N, c, h, w)``.
        mean: ``(h, w, c)``.
        gains: ``(h, w, c, c)``.

    Returns:
        ``(N, c, h, w)``, differentiable, in the precision of ``x``.
    """
    waves = cosines(x) - mean.to(x).permute(2, 0, 1)
    per_channel = gains.to(x).permute(3, 2, 0, 1).unbind()  # what each channel gives to all
    mixed = per_channel[0] * waves[:, 0, None]
    for c, gain in enumerate(per_channel[1:], start=1):
        mixed = mixed + gain * waves[:, c, None]
    return cosines(mixed, inverse=True).contiguous()


def cosines(x: Tensor, *, inverse: bool = False) -> Tensor:
    """The orthonormal two-dimensional cosine transform of the last two dimensions."""
    rows, columns = (_basis(size).to(x) for size in x.shape[-2:])
    if inverse:
        rows, columns = rows.T, columns.T
    # rows · x · columnsᵀ by two products of one large matrix each: one for every image would take longer.
    return ((x @ columns.T).mT @ rows.T).mT


def check_regularisation(value: float) -> None:
    """Raise unless it is a positive number.

    Raises:
        ParameterRangeError: anything else.
    """
    if isinstance(value, bool | str) or not (math.isfinite(value) and value > 0):
        raise ParameterRangeError(
            f"the regularisation of ZCA must be a positive number, found {value!r}; 0.1 is usual"
        )


@functools.lru_cache(maxsize=16)
def _basis(size: int) -> Tensor:
    """``(size, size)``, an orthonormal cosine a row."""
    return torch.from_numpy(scipy.fft.dct(np.eye(size), axis=0, norm="ortho"))


def _encoded(values: Tensor) -> str:
    return base64.b64encode(values.numpy().astype("<f2").tobytes()).decode("ascii")


def _decoded(text: str, shape: tuple[int, ...]) -> Tensor:
    try:
        values = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f2").astype(np.float32)
    except (TypeError, ValueError, binascii.Error) as error:
        raise FileFormatError(f"zca holds a text that is not base64 of float16 numbers: {error}") from error
    if values.size != math.prod(shape):
        raise FileFormatError(f"zca should hold {math.prod(shape)} numbers, found {values.size}")
    if bad := int((~np.isfinite(values)).sum()):
        raise FileFormatError(f"zca holds {bad} NaN or infinite values of {values.size}")
    return torch.from_numpy(values.reshape(shape))
