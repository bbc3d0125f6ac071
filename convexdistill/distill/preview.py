"""A look ahead that trains nothing: labels judged by the ridge head of an extractor that is not in the pool.

Labels that are fitted to a pool of extractors may be over-fitted to it; one that they have not met tells. It costs
one ridge solve for all settings together, where training networks to choose takes most of a distillation's time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from convexdistill import layers
from convexdistill.data import ImageData, Preprocessing
from convexdistill.distill.views import absolute, each_view
from convexdistill.features import ExtractorSpec, ModuleSpec, extract
from convexdistill.seeds import child_seed
from convexdistill.training import validation_part

SHORTLIST = 2  # settings that networks are trained for


def shortlist(
    solves: Mapping[tuple[str, float], Tensor],
    pool: Sequence[ExtractorSpec | ModuleSpec],
    shown: Tensor,
    preprocessing: Preprocessing,
    validation: ImageData,
    *,
    lam: float,
    seed: int,
) -> tuple[dict[tuple[str, float], Tensor], list[dict[str, float | str]]]:
    """The solves whose ridge heads do best on the validation split, under an extractor of the pool's kind.

    Args:
        solves: centred solved labels ``(n, C)`` by prior and γ.
        pool: extractors that the labels were solved with. A pool of the caller's own modules, or of pretrained
            networks, has no fresh member of its kind: nothing is left out then.
        shown: ``(V, n, c, h, w)``: the views of the base images, preprocessed, in the target's shape.
        preprocessing: normalisation of the validation split.
        validation: the split that chooses; a fixed part of it is looked at.
        lam: λ of the ridge head, relative to the mean diagonal of ΦΦᵀ.
        seed: of the fresh extractor.

    Returns:
        At most :data:`SHORTLIST` solves, in the order in which they came, and what a manifest keeps: prior, γ and
        accuracy in percent of each; empty where nothing was left out.
    """
    first = pool[0]
    if len(solves) <= SHORTLIST or not isinstance(first, ExtractorSpec) or first.options.get("weights"):
        return dict(solves), []
    fresh = replace(first, seed=child_seed(seed, "not in the pool"))
    part = validation_part(validation)
    extractor = fresh.build(part.shape)
    base, seen = extract(extractor, shown.flatten(0, 1), None), extract(extractor, part.images, preprocessing)
    scale = seen.square().sum(1).mean().rsqrt()
    base, seen = (torch.cat([f * scale, torch.ones(len(f), 1, dtype=f.dtype)], 1) for f in (base, seen))
    # A head is linear in its labels, so the heads of all settings are the columns of one solve.
    labels = each_view(torch.cat(list(solves.values()), 1), len(shown))
    heads = layers.ridge(base, labels, absolute(lam, base, len(shown))).weight
    scores = (seen @ heads).view(len(seen), len(solves), -1)
    right = (scores.argmax(-1) == part.labels[:, None]).double().mean(0) * 100
    previewed: list[dict[str, float | str]] = [
        {"prior": prior, "gamma": gamma, "accuracy": accuracy}
        for (prior, gamma), accuracy in zip(solves, right.tolist(), strict=True)
    ]
    kept = set(right.topk(SHORTLIST).indices.tolist())
    return {key: labels for i, (key, labels) in enumerate(solves.items()) if i in kept}, previewed
