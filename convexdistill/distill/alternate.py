"""``alternate``: solve, train on the labels, solve again with the bodies of the trained networks.

The convex solve knows networks only as frozen extractors. Here it is told what networks become when they are
trained on its labels: each round trains some, adds their bodies to the pool of random ones, and solves again,
until the validation accuracy stops rising. (Bohdal et al. 2020, §RR, train their one extractor on the current
labels in turn with label steps; the solve here is exact, and the pool keeps its random members.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from convexdistill.data import ImageData, Preprocessing
from convexdistill.distill.closed_form import closed_form
from convexdistill.distill.cross_entropy import cross_entropy
from convexdistill.distill.target_features import TargetFeatures
from convexdistill.distill.trained import trained_pool
from convexdistill.distilled import DistilledSet
from convexdistill.errors import InvalidInputError, ParameterRangeError, UnknownNameError
from convexdistill.features import ExtractorSpec, ModuleSpec, Shape
from convexdistill.moments import accumulate
from convexdistill.seeds import child_seed
from convexdistill.select import BaseExamples
from convexdistill.training import Recipe

Specs = Sequence[ExtractorSpec | ModuleSpec]
Solve = Callable[[Specs], DistilledSet]
OUTER = ("cross-entropy", "squared")


def alternate(
    pool: Specs | TargetFeatures,
    target: ImageData,
    base: BaseExamples,
    validation: ImageData,
    *,
    outer: str = "cross-entropy",
    rounds: int = 4,
    count: int = 3,
    lam: float = 1e-3,
    gamma: float | None = 0.1,
    prior: str | None = "zero",
    label_scale: float | None = None,
    recipe: Recipe | str | None = None,
    augmentation: str = "none",
    network: str | Callable[[Shape, int], nn.Module] = "lenet",
    target_images: int | None = 20_000,
    preprocessing: Preprocessing | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
) -> DistilledSet:
    """Learn soft labels with a pool of random extractors and of such as were trained on the labels before.

    Args:
        pool: random extractors, part of every round; or what they make of the target,
            :meth:`TargetFeatures.of`, to be shared by several base sets under ``outer="cross-entropy"``.
        target: the labelled target set.
        base: base examples.
        validation: the target's validation split; it chooses settings in every round, and the round.
        outer: ``"cross-entropy"`` or ``"squared"``: :func:`convexdistill.distill.cross_entropy` or
            :func:`convexdistill.distill.closed_form` solves.
        rounds: at most so many solves after the first.
        count: networks trained in a round; each gives its body half-way and at the end.
        lam: see :func:`convexdistill.distill.closed_form`.
        gamma: likewise; ``None`` chooses anew in every round.
        prior: likewise.
        label_scale: likewise.
        recipe: likewise.
        augmentation: likewise; the networks whose bodies are taken are trained under it, too.
        network: what is trained from scratch, to choose and as extractor.
        target_images: under ``outer="cross-entropy"`` a random part of the target of at most that size is looked
            at; ``None``: all of it.
        preprocessing: normalisation; default: fitted to ``target``.
        seed: of everything random.
        device: where networks run.

    Returns:
        The set of the best round. Its manifest has ``rounds``: the validation accuracy of each, in percent.

    Raises:
        ParameterRangeError: a number of rounds below 1, and what the solves raise.
        UnknownNameError: no such outer loss.
        InvalidInputError: no validation split, or one that cannot be used.

    Example:
        >>> import convexdistill as cd
        >>> digits, validation = cd.data.load("digits"), cd.data.load("digits", split="validation")
        >>> base = cd.select.choose(digits, size=20, seed=0)
        >>> specs = cd.features.pool(count=1, width=8)
        >>> mixed = cd.distill.alternate(specs, digits, base, validation, rounds=1, count=1, label_scale=8.0,
        ...                              recipe="centred")
        >>> len(mixed.manifest["rounds"])
        2
    """
    if rounds < 1:
        raise ParameterRangeError(f"alternation needs at least 1 round, found {rounds}")
    if outer not in OUTER:
        raise UnknownNameError(f"unknown outer loss {outer!r}; known are {', '.join(OUTER)}")
    if outer != "cross-entropy" and isinstance(pool, TargetFeatures):
        raise InvalidInputError(f"outer loss {outer!r} needs extractors: it sees the target through moments")
    if validation is None:
        raise InvalidInputError("alternation stops by the validation accuracy: give a validation split")
    options: dict[str, Any] = {
        "lam": lam,
        "gamma": gamma,
        "prior": prior,
        "label_scale": label_scale,
        "recipe": recipe,
        "augmentation": augmentation,
        "network": network,
        "seed": seed,
        "device": device,
    }

    # What random extractors make of the target is the same in every round.
    specs, seen = pool.pool if isinstance(pool, TargetFeatures) else pool, None
    if outer == "cross-entropy":
        seen = TargetFeatures.given_or_of(
            pool, target, target_images=target_images, preprocessing=preprocessing, seed=seed, device=device
        )

    def solve(trained: Specs) -> DistilledSet:
        if seen is not None:
            return cross_entropy(seen.extended(trained, device), target, base, validation, **options)
        moments = accumulate([*specs, *trained], target, preprocessing=preprocessing, device=device)
        return closed_form(moments, base, validation, **options)

    best = current = solve(())
    accuracies = [validation_accuracy(best)]
    for r in range(rounds):
        trained = trained_pool(
            current.images,
            current.labels,
            current.preprocessing,
            current.recipe,
            network=network,
            count=count,
            seed=child_seed(seed, "round", r),
            device=device,
        )
        current = solve(trained)
        accuracies.append(validation_accuracy(current))
        if accuracies[-1] <= max(accuracies[:-1]):
            break
        best = current
    return replace(best, manifest={**best.manifest, "method": "alternate", "outer": outer, "rounds": accuracies})


def best_pool(pools: Sequence[Specs], solve: Solve) -> DistilledSet:
    """Solve with every pool, and keep the set with the best validation accuracy.

    The way to choose width and depth of random extractors, or their kind.

    Args:
        pools: what to choose from.
        solve: from a pool to a distilled set, with a validation split among its settings.

    Returns:
        The best set. Its manifest has ``pools``: the first extractor and the validation accuracy of each.

    Raises:
        ParameterRangeError: no pool.
        InvalidInputError: the solve has chosen nothing on a validation split.

    Example:
        >>> import convexdistill as cd
        >>> digits, validation = cd.data.load("digits"), cd.data.load("digits", split="validation")
        >>> base = cd.select.choose(digits, size=20, seed=0)
        >>> def solve(pool):
        ...     moments = cd.accumulate(pool, digits)
        ...     return cd.distill.closed_form(moments, base, validation, gamma=0.1, label_scale=8.0)
        >>> pools = [cd.features.pool(count=1, width=width) for width in (4, 16)]
        >>> len(cd.distill.best_pool(pools, solve).manifest["pools"])
        2
    """
    if not pools:
        raise ParameterRangeError("there is no pool to choose from")
    sets = [solve(pool) for pool in pools]
    accuracies = [validation_accuracy(one) for one in sets]
    tried = [
        {"extractor": pool[0].to_dict(), "validation_mean": accuracy}
        for pool, accuracy in zip(pools, accuracies, strict=True)
    ]
    best = sets[accuracies.index(max(accuracies))]
    return replace(best, manifest={**best.manifest, "pools": tried})


def validation_accuracy(distilled: DistilledSet) -> float:
    """Mean validation accuracy in percent of the setting that was taken.

    Raises:
        InvalidInputError: nothing was chosen on a validation split.
    """
    tried = distilled.manifest.get("chosen_from") or ()
    if not tried:
        raise InvalidInputError(
            "this set has no validation accuracy: give the solve a validation split, and leave it something to "
            "choose"
        )
    return float(max(one["validation_mean"] for one in tried))
