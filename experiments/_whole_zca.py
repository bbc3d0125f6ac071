"""ZCA by the whole covariance of the pixels, which the library's leaves out between frequencies."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from convexdistill.data import ImageData, Preprocessing


@dataclass(frozen=True, eq=False)
class WholeZca(Preprocessing):
    """Channels normalised, then x ↦ (x − m) W, with :class:`convexdistill.data.zca.Zca`'s W of the whole Σ.

    For measurements only: manifests have no place for its d² numbers, so that a set that was solved for under it
    must not be saved.

    Attributes:
        average: m, ``(d,)``.
        matrix: W, ``(d, d)``.
    """

    average: Tensor = field(kw_only=True)
    matrix: Tensor = field(kw_only=True)

    def of_pixels(self, pixels: Tensor) -> Tensor:
        x = super().of_pixels(pixels)
        return ((x.flatten(1) - self.average.to(x)) @ self.matrix.to(x)).view_as(x)


def whole_zca(data: ImageData, fitted: Preprocessing) -> WholeZca:
    """The whole whitening with the regularisation of one that was fitted to ``data``."""
    assert fitted.zca is not None
    plain = replace(fitted, zca=None)
    pixels = plain(data.images).flatten(1)
    average = pixels.mean(0)
    covariance = torch.zeros(len(average), len(average), dtype=torch.float64)
    for chunk in pixels.split(5000):
        centred = (chunk - average).double()
        covariance += centred.T @ centred / len(pixels)
    values, vectors = torch.linalg.eigh(covariance)
    shrunk = values + fitted.zca.regularisation * values.mean()
    # The variances of whitened pixels add up to Σ λ/(λ + r·mean λ).
    spread = float((values / shrunk).mean().sqrt())
    matrix = (vectors * shrunk.rsqrt()) @ vectors.T / spread
    return WholeZca(plain.mean, plain.std, average=average, matrix=matrix.float())
