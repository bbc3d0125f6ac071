"""Whitened images: ZCA, which published label solving uses on colour images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from convexdistill.data import ImageData, Preprocessing


@dataclass(frozen=True, eq=False)
class Whitened(Preprocessing):
    """Channels normalised, the mean image taken off, and the pixels decorrelated: x ↦ (x − m) W / s.

    W = (Σ + r·tr(Σ)/d · I)^(−1/2) for the covariance Σ of the d pixels: the regularisation of Nguyen, Novak, Xiao,
    Lee (2021, "Dataset Distillation with Infinitely Wide Convolutional Networks", r = 0.1). They bring every
    single image to mean 0 and norm 1 before, which is not done here, and do not divide by s, which brings the
    whole to a standard deviation of 1. For measurements only: manifests have no place for it, so that a set that
    was solved for under it must not be saved.

    Attributes:
        average: m, ``(d,)``.
        matrix: W / s, ``(d, d)``.
    """

    average: Tensor
    matrix: Tensor

    @classmethod
    def of(cls, data: ImageData, regularisation: float) -> Whitened:
        """The whitening of a data set."""
        plain = Preprocessing.fit(data)
        pixels = plain(data.images).flatten(1)
        average = pixels.mean(0)
        covariance = torch.zeros(len(average), len(average), dtype=torch.float64)
        for chunk in pixels.split(5000):
            centred = (chunk - average).double()
            covariance += centred.T @ centred / len(pixels)
        values, vectors = torch.linalg.eigh(covariance)
        shrunk = values + regularisation * values.mean()
        # The variances of whitened pixels add up to Σ λ/(λ + r·mean λ).
        spread = float((values / shrunk).mean().sqrt())
        matrix = (vectors * shrunk.rsqrt()) @ vectors.T / spread
        return cls(plain.mean, plain.std, average, matrix.float())

    def __call__(self, images: Tensor) -> Tensor:
        x = super().__call__(images)
        flat = (x.flatten(1) - self.average.to(x.device)) @ self.matrix.to(x.device)
        return flat.view_as(x)
