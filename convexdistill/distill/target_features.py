"""The target as the cross-entropy solve sees it: the features of every image, and heads trained on all of them.

Nothing here depends on the base examples, so that several base sets can share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from convexdistill import layers, progress
from convexdistill.data import ImageData, Preprocessing
from convexdistill.device import resolve_device
from convexdistill.distill.responses import Response
from convexdistill.distill.softmax import SoftmaxProblem, solve_softmax
from convexdistill.distill.views import absolute, each_view, mean_over_views
from convexdistill.errors import InvalidInputError, ParameterRangeError
from convexdistill.features import ExtractorSpec, FrozenExtractor, ModuleSpec, extract
from convexdistill.seeds import generator

# Weight decay of the full-data heads, relative, and their accuracy: scores to compare with need no more digits.
TEACHER_GAMMA, TEACHER_TOLERANCE = 1e-3, 1e-4


@dataclass(frozen=True)
class TargetFeatures:
    """Features of a target set under a pool.

    Attributes:
        pool: the specifications of the extractors.
        extractors: the extractors.
        features: for each, ``(N, d+1)`` float64, scaled to a mean squared norm of 1, and a column of ones.
        scales: for each, what features were multiplied by.
        heads: for each, the softmax regression ``(d+1, C)`` on all of these images.
        target: the images and labels, without those that were left out.
        fingerprint: that of the whole target set.
        preprocessing: normalisation of the images.
    """

    pool: tuple[ExtractorSpec | ModuleSpec, ...]
    extractors: tuple[FrozenExtractor, ...]
    features: tuple[Tensor, ...]
    scales: tuple[float, ...]
    heads: tuple[Tensor, ...]
    target: ImageData
    fingerprint: str
    preprocessing: Preprocessing

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        pool: Sequence[ExtractorSpec | ModuleSpec],
        target: ImageData,
        *,
        target_images: int | None = 20_000,
        preprocessing: Preprocessing | None = None,
        seed: int = 0,
        device: str | torch.device = "auto",
    ) -> TargetFeatures:
        """Compute features and heads; see :func:`convexdistill.distill.cross_entropy` for the arguments.

        Raises:
            ParameterRangeError: the pool is empty.
            InvalidInputError: the target is a test split.
        """
        if not pool:
            raise ParameterRangeError("a pool needs at least one extractor, found none")
        target.refuse_test("as target set")
        where = resolve_device(device)
        preprocessing = preprocessing or Preprocessing.fit(target)
        part = target
        if target_images is not None and target_images < len(target):
            order = torch.randperm(len(target), generator=generator(seed, "part of the target"))
            part = target.subset(order[:target_images])
        return cls((), (), (), (), (), part, target.fingerprint, preprocessing).extended(pool, where)

    @classmethod
    def given_or_of(
        cls,
        pool: Sequence[ExtractorSpec | ModuleSpec] | TargetFeatures,
        target: ImageData,
        *,
        preprocessing: Preprocessing | None = None,
        **options: Any,
    ) -> TargetFeatures:
        """The pool itself where it holds features of the target already, else :meth:`of`.

        Raises:
            InvalidInputError: features of another target, or of images that were preprocessed otherwise.
        """
        if not isinstance(pool, TargetFeatures):
            return cls.of(pool, target, preprocessing=preprocessing, **options)
        if pool.fingerprint != target.fingerprint:
            raise InvalidInputError(f"these features are not those of the target {target.name!r}")
        if preprocessing is not None and preprocessing != pool.preprocessing:
            raise InvalidInputError(
                "these features are of images with another preprocessing than the one given; leave it out, or "
                "give it to TargetFeatures.of"
            )
        return pool

    @torch.no_grad()
    def extended(
        self, pool: Sequence[ExtractorSpec | ModuleSpec], device: str | torch.device = "auto"
    ) -> TargetFeatures:
        """The same with further extractors, whose features and heads alone are computed."""
        where = resolve_device(device)
        extractors = tuple(spec.build(self.target.shape) for spec in pool)
        features, scales, heads = [], [], []
        with progress.task("features of the target", total=len(extractors)) as advance:
            for extractor in extractors:
                found = _extracted(extractor, self.target.images, self.preprocessing, where)
                length = float(found.square().sum(1).mean().sqrt())
                scales.append(1 / length if length > 0 else 1.0)
                features.append(with_ones(found, scales[-1]))
                full = SoftmaxProblem([Response(features[-1])], self.target.labels, self.target.num_classes)
                heads.append(solve_softmax(full, TEACHER_GAMMA, tolerance=TEACHER_TOLERANCE)[0])
                advance(1)
        return replace(
            self,
            pool=(*self.pool, *pool),
            extractors=(*self.extractors, *extractors),
            features=(*self.features, *features),
            scales=(*self.scales, *scales),
            heads=(*self.heads, *heads),
        )

    def base(self, images: Tensor, device: torch.device) -> list[Tensor]:
        """Features ``(n, d+1)`` of preprocessed base images, scaled like the target's, for each extractor."""
        return [
            with_ones(_extracted(extractor, images, None, device), scale)
            for extractor, scale in zip(self.extractors, self.scales, strict=True)
        ]

    def responses(self, base: Sequence[Tensor], lam: float, count: int = 1) -> list[Response]:
        """The response of each extractor to labels of base images with these features.

        Args:
            base: see :meth:`base`.
            lam: λ relative to the mean diagonal of ΦΦᵀ.
            count: V, how many rows share a label; see :mod:`convexdistill.distill.views`.
        """
        found = []
        for wide, features in zip(self.features, base, strict=True):
            each = each_view(torch.eye(len(features) // count, dtype=torch.float64), count)
            found.append(Response.of(wide, layers.ridge(features, each, absolute(lam, features, count)).weight))
        return found

    def teacher(self, base: Sequence[Tensor], count: int = 1) -> Tensor:
        """Logits ``(n, C)`` of the full-data heads on base images, mean over the pool and the views."""
        scores = [features @ head for features, head in zip(base, self.heads, strict=True)]
        return mean_over_views(torch.stack(scores).mean(0), count)


def with_ones(features: Tensor, scale: float) -> Tensor:
    """Scaled features and a column of ones."""
    return torch.cat([features * scale, torch.ones(len(features), 1, dtype=torch.float64)], 1)


def _extracted(
    extractor: FrozenExtractor, images: Tensor, preprocessing: Preprocessing | None, device: torch.device
) -> Tensor:
    features = extract(extractor.to(device), images.to(device), preprocessing).cpu()
    extractor.cpu()
    return features
