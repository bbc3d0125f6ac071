"""``Moments``: the sums over a target set, their file, and how the sums of parts become those of the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convexdistill.data import Preprocessing
from convexdistill.differences import differences
from convexdistill.errors import FileFormatError, InvalidInputError, ParameterRangeError, ShapeError
from convexdistill.features import ExtractorSpec, FrozenExtractor, ModuleSpec, Shape, spec_from_dict
from convexdistill.features.network import output_features
from convexdistill.files import read_tensors, write_tensors
from convexdistill.moments import parts

KIND = "moments"
FORMAT_VERSION = 2  # written with ZCA; 1 otherwise, for older programs to read
# Eigenvalues below this share of the largest are rounding: float64 sums carry no more.
RANK_TOLERANCE = 1e-13

Spec = ExtractorSpec | ModuleSpec


@dataclass(frozen=True)
class Moments:
    """Gram and cross moments of a target set under a pool of extractors.

    Attributes:
        gram: per extractor ``(d+1, d+1)`` float64; the last row and column belong to the ones.
        cross: per extractor ``(d+1, C)`` float64.
        counts: ``(C,)`` int64, images of each class.
        pool: the specifications of the extractors.
        extractors: the extractors themselves, for the shape of the target's images.
        preprocessing: normalisation of the images.
        target: ``name``, ``split``, ``classes``, ``shape`` and the ``parts`` that were summed: the
            fingerprint of a data set, followed by ``#i/m`` where only its shard i of m was. All m shards
            together are written as the whole.
    """

    gram: tuple[Tensor, ...]
    cross: tuple[Tensor, ...]
    counts: Tensor
    pool: tuple[Spec, ...]
    extractors: tuple[FrozenExtractor, ...]
    preprocessing: Preprocessing
    target: Mapping[str, Any]

    @property
    def images(self) -> int:
        """N, the number of images summed over."""
        return int(self.counts.sum())

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.counts)

    @property
    def missing(self) -> list[str]:
        """Shards that are needed before the moments speak for whole data sets."""
        return parts.missing(self.target["parts"])

    @property
    def shape(self) -> Shape:
        """Channels, height, width of the target's images."""
        channels, height, width = self.target["shape"]
        return channels, height, width

    def scaled(self, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Scale, Gram and cross moments of extractor k, per image, for centred labels.

        Features are scaled by one number so that their mean squared norm is 1, which makes λ and the weight of
        the ones independent of the extractor's own scale; one-hot labels are centred (minus 1/C).

        Returns:
            S ``(d+1,)``, what ones-augmented features are multiplied by; G = S·Φ_TᵀΦ_T·S / N ``(d+1, d+1)``;
            and R = S·Φ_Tᵀ(T − 1/C) / N ``(d+1, C)``.
        """
        gram, cross = self.gram[k], self.cross[k]
        total = gram.diagonal()[:-1].sum()  # N times the mean squared norm
        scale = (self.images / total).sqrt() if total > 0 else torch.ones_like(total)
        S = torch.cat([scale.expand(len(gram) - 1), torch.ones(1, dtype=torch.float64)])
        G = S[:, None] * gram * S / self.images
        R = S[:, None] * (cross - gram[:, -1:] / self.num_classes) / self.images  # 1ᵀΦ_T is a row of the Gram
        return S, G, R

    @cached_property
    def roots(self) -> tuple[tuple[Tensor, Tensor, Tensor], ...]:
        """Per extractor S, Q ``(r, d+1)`` and B ``(r, C)`` with QᵀQ = G and QᵀB = R of :meth:`scaled`.

        r is the rank of G. They depend on the target set alone, so that any number of base sets share them.
        """
        return tuple((S, *square_root(G, R)) for S, G, R in map(self.scaled, range(len(self.gram))))

    def holds(self, other: Moments) -> bool:
        """Whether every part of ``other`` is among the parts of these moments, alone or in a whole."""
        return parts.contain(self.target["parts"], other.target["parts"])

    def merge(self, other: Moments) -> Moments:
        """The moments of both parts together.

        Raises:
            InvalidInputError: different pools, preprocessing, classes or shapes, or a part that is in both.
        """
        if differ := differences(self._identity(), other._identity(), ("here", "in the other")):
            raise InvalidInputError(f"these moments do not belong together ({differ})")
        if clash := parts.overlapping(self.target["parts"], other.target["parts"]):
            raise InvalidInputError(f"images would be counted twice: {clash[0]} and {clash[1]} overlap")
        together = parts.joined([*self.target["parts"], *other.target["parts"]])
        return replace(
            self,
            gram=tuple(a + b for a, b in zip(self.gram, other.gram, strict=True)),
            cross=tuple(a + b for a, b in zip(self.cross, other.cross, strict=True)),
            counts=self.counts + other.counts,
            target={**self.target, "parts": together},
        )

    def save(self, path: str | Path) -> None:
        """Write the moments as safetensors with a manifest, atomically."""
        tensors = {"counts": self.counts}
        for k, (gram, cross) in enumerate(zip(self.gram, self.cross, strict=True)):
            tensors |= {f"gram.{k}": gram, f"cross.{k}": cross}
        version = 1 if self.preprocessing.zca is None else 2
        manifest = {"kind": KIND, "format_version": version, "images": self.images}
        write_tensors(path, tensors, {**manifest, **self._identity(), "target": dict(self.target)})

    @classmethod
    def load(cls, path: str | Path, *, pool: Sequence[Spec] | None = None) -> Moments:
        """Read moments and build their extractors again.

        Args:
            path: a file of :meth:`save`.
            pool: the pool, where it holds modules of the caller that a file cannot rebuild.

        Raises:
            FileFormatError: the file is damaged or foreign, or does not belong to ``pool``.
        """
        tensors, manifest = read_tensors(path, kind=KIND, version=FORMAT_VERSION)
        try:
            records = list(manifest["pool"])
            specs = tuple(map(spec_from_dict, records)) if pool is None else tuple(pool)
            target = {key: manifest["target"][key] for key in ("name", "split", "classes", "shape", "parts")}
            channels, height, width = target["shape"]
            list(map(parts.split, target["parts"]))
            gram = tuple(tensors[f"gram.{k}"] for k in range(len(specs)))
            cross = tuple(tensors[f"cross.{k}"] for k in range(len(specs)))
            counts = tensors["counts"]
            preprocessing = Preprocessing.from_dict(manifest["preprocessing"])
        except FileFormatError as error:
            raise FileFormatError(f"{path}: {error}") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FileFormatError(f"{path} lacks a part that moments have: {error}") from error
        if [spec.to_dict() for spec in specs] != records:
            raise FileFormatError(f"{path} was accumulated with another pool than the one given")
        if len(tensors) != 1 + 2 * len(specs):
            raise FileFormatError(f"{path} holds {len(tensors)} tensors, a pool of {len(specs)} has others")
        try:
            extractors = tuple(spec.build((channels, height, width)) for spec in specs)
            sizes = [output_features(extractor, (channels, height, width)) for extractor in extractors]
        except (ShapeError, ParameterRangeError) as error:
            raise FileFormatError(f"{path}: its extractors cannot be built ({error})") from error
        if sizes != [len(values) - 1 for values in gram]:
            raise FileFormatError(f"{path}: its extractors give {sizes} features, other than were summed")
        moments = cls(gram, cross, counts, specs, extractors, preprocessing, target)
        moments._validate(path)
        return moments

    def _identity(self) -> dict[str, Any]:
        return {
            "pool": [spec.to_dict() for spec in self.pool],
            "preprocessing": self.preprocessing.to_dict(),
            "classes": list(self.target["classes"]),
            "shape": list(self.target["shape"]),
        }

    def _validate(self, path: str | Path) -> None:
        total = self.images
        if self.counts.ndim != 1 or len(self.counts) != len(self.target["classes"]):
            raise FileFormatError(f"{path}: counts and classes do not fit together")
        if self.preprocessing.zca is not None and self.preprocessing.zca.shape != self.shape:
            raise FileFormatError(f"{path}: ZCA is of images of {self.preprocessing.zca.shape}, not {self.shape}")
        for k, (gram, cross) in enumerate(zip(self.gram, self.cross, strict=True)):
            fits = gram.ndim == 2 and gram.shape[0] == gram.shape[1] == cross.shape[0]
            if not fits or cross.shape[1:] != self.counts.shape or gram.dtype != torch.float64:
                raise FileFormatError(f"{path}: gram.{k} and cross.{k} do not fit together")
            if not (gram.isfinite().all() and cross.isfinite().all()):
                raise FileFormatError(f"{path}: gram.{k} or cross.{k} holds NaN or infinity")
            # The ones column counts images, so the file checks itself.
            if abs(float(gram[-1, -1]) - total) > 1e-6 * total:
                raise FileFormatError(f"{path}: gram.{k} counts {float(gram[-1, -1])} images, the classes {total}")


def square_root(G: Tensor, R: Tensor) -> tuple[Tensor, Tensor]:
    """Q and B with QᵀQ = G and QᵀB = R, on the range of G."""
    values, vectors = torch.linalg.eigh(G)
    keep = values > RANK_TOLERANCE * values[-1]
    values, vectors = values[keep].sqrt(), vectors[:, keep]
    return values[:, None] * vectors.T, (vectors.T @ R) / values[:, None]
