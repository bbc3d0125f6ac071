"""Moments of the target set: all that the squared-loss label solve needs to know of it.

For each extractor φ_k of a pool, with Φ_T the N×(d_k+1) matrix of target features and a last column of ones,
and T the N×C one-hot labels::

    gram.k  = Φ_Tᵀ Φ_T      (d_k+1, d_k+1)  float64
    cross.k = Φ_Tᵀ T        (d_k+1, C)      float64

They are plain sums over images: one pass makes them, memory does not depend on N, and the moments of two
parts of a data set add up to those of the whole. Centring and scaling are algebra on them afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convexdistill import progress
from convexdistill.data import ImageData, Preprocessing
from convexdistill.device import resolve_device
from convexdistill.errors import (
    FileFormatError,
    InvalidInputError,
    NonFiniteInputError,
    ParameterRangeError,
    ShapeError,
)
from convexdistill.features import (
    ExtractorSpec,
    FrozenExtractor,
    ModuleSpec,
    Shape,
    default_batch_size,
    spec_from_dict,
)
from convexdistill.features.network import output_features
from convexdistill.files import read_tensors, write_tensors

KIND = "moments"
FORMAT_VERSION = 1

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
            fingerprint of a data set, followed by ``#i/m`` where only its shard i of m was.
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
        parts = set(self.target["parts"])
        whole = {
            f"{data}#{i}/{count}" for data, _, count in map(_split_part, parts) for i in range(count) if count > 1
        }
        return sorted(whole - parts)

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

    def merge(self, other: Moments) -> Moments:
        """The moments of both parts together.

        Raises:
            InvalidInputError: different pools, preprocessing, classes or shapes, or a part that is in both.
        """
        mine, theirs = self._identity(), other._identity()
        if differing := [key for key in mine if mine[key] != theirs[key]]:
            raise InvalidInputError(f"these moments do not belong together: they differ in {', '.join(differing)}")
        for part in other.target["parts"]:
            if clash := [mine for mine in self.target["parts"] if _overlap(mine, part)]:
                raise InvalidInputError(f"images would be counted twice: {clash[0]} and {part} overlap")
        parts = sorted([*self.target["parts"], *other.target["parts"]])
        return replace(
            self,
            gram=tuple(a + b for a, b in zip(self.gram, other.gram, strict=True)),
            cross=tuple(a + b for a, b in zip(self.cross, other.cross, strict=True)),
            counts=self.counts + other.counts,
            target={**self.target, "parts": parts},
        )

    def save(self, path: str | Path) -> None:
        """Write the moments as safetensors with a manifest, atomically."""
        tensors = {"counts": self.counts}
        for k, (gram, cross) in enumerate(zip(self.gram, self.cross, strict=True)):
            tensors |= {f"gram.{k}": gram, f"cross.{k}": cross}
        manifest = {"kind": KIND, "format_version": FORMAT_VERSION, "images": self.images}
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
            list(map(_split_part, target["parts"]))
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
        for k, (gram, cross) in enumerate(zip(self.gram, self.cross, strict=True)):
            fits = gram.ndim == 2 and gram.shape[0] == gram.shape[1] == cross.shape[0]
            if not fits or cross.shape[1:] != self.counts.shape or gram.dtype != torch.float64:
                raise FileFormatError(f"{path}: gram.{k} and cross.{k} do not fit together")
            if not (gram.isfinite().all() and cross.isfinite().all()):
                raise FileFormatError(f"{path}: gram.{k} or cross.{k} holds NaN or infinity")
            # The ones column counts images, so the file checks itself.
            if abs(float(gram[-1, -1]) - total) > 1e-6 * total:
                raise FileFormatError(f"{path}: gram.{k} counts {float(gram[-1, -1])} images, the classes {total}")


def _split_part(part: str) -> tuple[str, int, int]:
    """Fingerprint of the data set, shard, number of shards."""
    data, _, shard = part.partition("#")
    index, _, count = shard.partition("/")
    return (data, int(index), int(count)) if shard else (data, 0, 1)


def _overlap(a: str, b: str) -> bool:
    """Whether two parts may share images: shards of one data set are disjoint only under one division."""
    (data_a, index_a, count_a), (data_b, index_b, count_b) = _split_part(a), _split_part(b)
    return data_a == data_b and (count_a != count_b or index_a == index_b)


@torch.no_grad()
def accumulate(
    pool: Sequence[Spec],
    target: ImageData,
    *,
    preprocessing: Preprocessing | None = None,
    shard: tuple[int, int] = (0, 1),
    batch_size: int | None = None,
    device: str | torch.device = "auto",
) -> Moments:
    """One pass over the target set; sums in float64.

    Args:
        pool: specifications of the extractors; see :func:`convexdistill.features.pool`.
        target: the labelled target set.
        preprocessing: normalisation; default: fitted to ``target``, all of it even for a shard.
            Different data sets that will be merged must be given a common one.
        shard: ``(i, m)`` sums over every m-th image, from the i-th on: one machine's share of the work.
        batch_size: images a batch; default: 64 on a CPU, 1024 elsewhere.
        device: where the features are computed.

    Raises:
        InvalidInputError: ``target`` is a test split.
        ParameterRangeError: the pool is empty, no such shard, or fewer images than shards.
        NonFiniteInputError: an extractor gives NaN or infinite features.

    Example:
        >>> import convexdistill as cd
        >>> target = cd.data.load("digits")
        >>> moments = cd.accumulate(cd.features.pool("convnet", count=1), target)
        >>> moments.images == len(target), moments.gram[0].shape
        (True, torch.Size([129, 129]))
    """
    target.refuse_test("as target set")
    if not pool:
        raise ParameterRangeError("a pool needs at least one extractor, found none")
    index, count = shard
    if not 0 <= index < count <= len(target):
        raise ParameterRangeError(
            f"shard {index}/{count}: shards count from 0, and each needs an image of the {len(target)}"
        )
    where = resolve_device(device)
    preprocessing = preprocessing or Preprocessing.fit(target)
    fingerprint = target.fingerprint
    if count > 1:
        fingerprint += f"#{index}/{count}"
        target = target.subset(range(index, len(target), count))
    extractors = tuple(spec.build(target.shape) for spec in pool)
    one_hot = nn.functional.one_hot(target.labels, target.num_classes).double()
    gram, cross = [], []
    batch_size = batch_size or default_batch_size(where)
    batches = list(zip(target.images.split(batch_size), one_hot.split(batch_size), strict=True))
    with progress.task("accumulate moments", total=len(extractors) * len(batches)) as advance:
        for spec, extractor in zip(pool, extractors, strict=True):
            extractor.to(where)
            G = R = torch.zeros((), dtype=torch.float64)
            for images, labels in batches:
                features = extractor(preprocessing(images.to(where))).cpu().double()
                if not features.isfinite().all():
                    raise NonFiniteInputError(
                        f"extractor {spec.to_dict()['network']!r} gives NaN or infinite features"
                    )
                features = torch.cat([features, torch.ones(len(features), 1, dtype=torch.float64)], 1)
                G = features.T @ features + G
                R = features.T @ labels + R
                advance(1)
            extractor.cpu()
            gram.append(G)
            cross.append(R)
    description = {
        "name": target.name,
        "split": target.split,
        "classes": list(target.classes),
        "shape": list(target.shape),
        "parts": [fingerprint],
    }
    counts = torch.tensor(target.counts)
    return Moments(tuple(gram), tuple(cross), counts, tuple(pool), extractors, preprocessing, description)
