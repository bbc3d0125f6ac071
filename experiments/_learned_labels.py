"""What the tables of learned labels share: one base set, every kind of labels, networks from scratch.

γ, prior and label scale of both solves are chosen once for each data set, size and way of selection, on the
validation split, with a base set of its own that no row shows. The rows are five other base sets. For every row
the validation split picks the number of steps; the networks of those steps then see the test split, once. Labels
of the convex solves are trained on under both recipes: *centred* (mean squared error on labels times a scale) and
*paper* (soft cross-entropy on the softmax of labels times a scale); the validation split says which row speaks.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

import convexdistill as cd
from convexdistill.data import ImageData
from convexdistill.data.fetch import data_root as resolve_root
from convexdistill.device import resolve_device
from convexdistill.distilled import DistilledSet, fresh_network
from convexdistill.errors import ConvexDistillError, UnknownNameError
from convexdistill.evaluate.baselines import SMOOTHING, transferred_labels
from convexdistill.features import NETWORKS, Shape
from convexdistill.seeds import child_seed, generator
from convexdistill.select import BaseExamples
from convexdistill.training import Candidate, Recipe, accuracies, run_trials

POOL = 5
CHOICE_SEED = 1000  # of the base set that settings are chosen with
SOLVES = ("cross-entropy", "squared")
# What labels are made better by where the convex solve ends, and with which settings.
FURTHER: dict[str, dict[str, Any]] = {
    "alternate": {"rounds": 4, "count": 4},
    "unrolled": {"iterations": 60, "steps": 80, "count": 2},
}
DEARER = {"iterations": 25, "count": 1}  # of trainings to go through where the network is no LeNet
PAPER_SCALE = 4.0  # of these labels under the paper recipe
RECIPES = ("centred", "paper")


@dataclass(frozen=True)
class Setting:
    """One base set.

    Attributes:
        target: name of the data set, or its file below the data root.
        size: number of base examples.
        network: what is trained from scratch; see :func:`network_of`.
        seed: of the base set and of its trainings.
        select: how base examples are chosen.
        source: of base images; ``None``: the target. From another source they are not balanced.
        rows: ``"all"``; ``"some"``: without the squared loss and plain one-hot labels; or ``"few"``:
            cross-entropy, teacher and one-hot labels under the centred recipe only. ``"alternate"``: labels
            that are solved for again and again with networks trained on them among the extractors.
            ``"unrolled"``: labels that go on from the solve by the derivative of whole trainings.
        chooser: network that settings are chosen with.
        target_images: a random part of the target of this size is all that either solve sees.
        extractor: network of the pool; see :func:`network_of`.
        pool: number of extractors.
        repeats: trainings of each row.
        zca: regularisation of ZCA whitening; ``None``: channels are normalised only.
        augmentation: of the base images, in training and in the solves.
    """

    target: str
    size: int
    network: str
    seed: int
    select: str = "random"
    source: str | None = None
    rows: str = "all"
    chooser: str = "lenet"
    target_images: int = 10_000
    extractor: str = "convnet"
    pool: int = POOL
    repeats: int = 3
    zca: float | None = None
    augmentation: str = "none"


@dataclass(frozen=True)
class Target:
    """The splits, the part of the train split that labels are solved for, and what the solves know of it."""

    train: ImageData
    validation: ImageData
    test: ImageData
    part: ImageData
    features: cd.distill.TargetFeatures

    @functools.cached_property
    def moments(self) -> cd.Moments:
        """What the squared loss is solved from, which not every row asks for."""
        return cd.accumulate(self.features.pool, self.part, preprocessing=self.features.preprocessing)


@functools.lru_cache(maxsize=1)
def seen(target: str, data_root: str | None, images: int, extractor: str, count: int, zca: float | None) -> Target:
    """A target under a pool of random extractors."""
    train, validation, test = (
        cd.data.load(place(target, data_root), split=split, root=data_root)
        for split in ("train", "validation", "test")
    )
    part = part_of(train, images)
    kind, options = parsed(extractor)
    pool = cd.features.pool(kind, count, **options)
    fitted = cd.data.Preprocessing.fit(part, zca=zca)
    features = cd.distill.TargetFeatures.of(pool, part, target_images=None, preprocessing=fitted)
    return Target(train, validation, test, part, features)


def part_of(train: ImageData, images: int) -> ImageData:
    """The random part of a train split that labels are solved for, the same whoever asks."""
    order = torch.randperm(len(train), generator=generator(0, "part of the target"))
    return train.subset(order[:images].sort().values)


def place(name: str, data_root: str | None) -> str:
    """A file's path below the data root; other names stay."""
    return str(Path(resolve_root(data_root)) / name) if name.endswith(".npz") else name


def network_of(name: str) -> str | Callable[[Shape, int], nn.Module]:
    """The network of a name, which may end in width and norm: ``"convnet-32"``, ``"convnet-64-none"``."""
    kind, options = parsed(name)
    return functools.partial(NETWORKS[kind], **options) if options else kind


def parsed(name: str) -> tuple[str, dict[str, Any]]:
    """Kind and options of a network's name."""
    form = re.fullmatch(r"(?P<kind>[a-z]+)(-(?P<width>\d+)(-(?P<norm>[a-z]+))?)?", name)
    if form is None or form["kind"] not in NETWORKS:
        raise UnknownNameError(f"unknown network {name!r}; known are {', '.join(NETWORKS)}, NAME-WIDTH(-NORM)")
    options = {"norm": form["norm"]} if form["norm"] else {}
    return form["kind"], options | ({"width": int(form["width"])} if form["width"] else {})


def of(setting: Setting, data_root: str | None) -> Target:
    what = (setting.target_images, setting.extractor, setting.pool, setting.zca)
    return seen(setting.target, data_root, *what)


def chosen_base(setting: Setting, data_root: str | None) -> BaseExamples:
    """The base examples of a setting."""
    source = (
        cd.data.load(place(setting.source, data_root), root=data_root)
        if setting.source
        else of(setting, data_root).train
    )
    options = {}
    if setting.select != "random":
        options["features"] = selection_features(setting.target, data_root)
    return cd.select.choose(
        source, setting.size, method=setting.select, balanced=setting.source is None, seed=setting.seed, **options
    )


@functools.lru_cache(maxsize=1)
def selection_features(target: str, data_root: str | None) -> Tensor:
    """Features of the train split, of an extractor that labels are not solved for."""
    train = cd.data.load(place(target, data_root), root=data_root)
    (spec,) = cd.features.pool("convnet", 1, seed=7)
    return cd.features.extract(spec.build(train.shape), train.images, cd.data.Preprocessing.fit(train)).float()


@functools.lru_cache(maxsize=2)
def choice(setting: Setting, data_root: str | None) -> dict[str, dict[str, Any]]:
    """γ, prior, and label scale under each recipe, for each solve; see the docstring of the module."""
    known = of(setting, data_root)
    base = chosen_base(setting, data_root)
    found: dict[str, dict[str, Any]] = {}
    for solve in SOLVES if setting.rows == "all" else SOLVES[:1]:
        options: dict[str, Any] = {"network": network_of(setting.chooser), "seed": setting.seed}
        options["augmentation"] = setting.augmentation
        best = solved(solve, known, base, validation=known.validation, recipe="centred", **options)
        facts = {"gamma": best.manifest["gamma"], "prior": best.manifest["prior"]}
        scales = {"centred": best.recipe.label_scale}
        if setting.rows in ("all", "some"):
            paper = solved(solve, known, base, validation=known.validation, recipe="paper", **facts, **options)
            scales["paper"] = paper.manifest["logit_scale"]
        found[solve] = {**facts, "scales": scales, "tried": best.manifest["chosen_from"]}
    return found


def solved(solve: str, known: Target, base: BaseExamples, **options: Any) -> DistilledSet:
    """Labels by one of the two convex solves."""
    if solve == "squared":
        return cd.distill.closed_form(known.moments, base, **options)
    return cd.distill.cross_entropy(known.features, known.part, base, **options)


def candidates_of(setting: Setting, data_root: str | None) -> tuple[Tensor, list[Candidate], dict[str, Any]]:
    """Base images, every kind of labels for them, and what a record keeps of the choice and the solves."""
    settings = choice(replace(setting, seed=CHOICE_SEED, network=setting.chooser), data_root)
    known, base = of(setting, data_root), chosen_base(setting, data_root)
    classes = known.train.num_classes
    seconds, sets, candidates = {}, {}, []
    candidate = functools.partial(_candidate, setting.augmentation)
    for solve, facts in settings.items():
        start = time.perf_counter()
        sets[solve] = solved(
            solve,
            known,
            base,
            gamma=facts["gamma"],
            prior=facts["prior"],
            recipe="centred",
            augmentation=setting.augmentation,
        )
        seconds[solve] = round(time.perf_counter() - start, 3)
        for recipe, scale in facts["scales"].items():
            candidates.append(candidate(solve, recipe, sets[solve].labels, scale))
    crossed = sets["cross-entropy"]
    again = None
    if setting.rows in FURTHER:
        start = time.perf_counter()
        again = further(setting, known, base, settings["cross-entropy"])
        seconds[setting.rows] = round(time.perf_counter() - start, 3)
        candidates = [
            candidate(setting.rows, "centred", again.labels, settings["cross-entropy"]["scales"]["centred"]),
            candidate(setting.rows, "paper", again.labels, PAPER_SCALE),
            candidates[0],
        ]
    scale = settings["cross-entropy"]["scales"]["centred"]
    candidates.append(candidate("teacher", "centred", crossed.baselines["teacher"], scale))
    if setting.source is None:
        hot = one_hot(base.labels, classes).float()
        candidates.append(candidate("one-hot", "centred", hot - 1 / classes, scale))
        paper = Recipe("soft-cross-entropy", augmentation=setting.augmentation)
        if setting.rows == "all":
            candidates.append(Candidate("one-hot, paper", hot, paper))
        if setting.rows in ("all", "some"):
            smooth = (1 - SMOOTHING) * hot + SMOOTHING / classes
            candidates.append(Candidate("smoothed 0.1, paper", smooth, paper))
    else:
        near = transferred_labels([crossed], known.part)[0] - 1 / classes
        candidates.append(candidate("transferred", "centred", near, scale))
    certified = again if setting.rows == "alternate" and again is not None else crossed
    gap = certified.manifest["certificate"]["duality_gap"]
    facts = {"chosen": settings, "seconds": seconds, "duality_gap": gap, "target_images": len(known.part)}
    if again is not None:
        facts |= {name: again.manifest[name] for name in ("rounds", "outer_losses") if name in again.manifest}
    return crossed.images, candidates, facts


def further(setting: Setting, known: Target, base: BaseExamples, taken: dict[str, Any]) -> DistilledSet:
    """Labels that go on from the convex solve with these settings, for the network that is trained."""
    dearer = DEARER if setting.rows == "unrolled" and setting.network != "lenet" else {}
    return cd.distill.METHODS[setting.rows](
        known.features,
        known.part,
        base,
        known.validation,
        gamma=taken["gamma"],
        prior=taken["prior"],
        label_scale=taken["scales"]["centred"],
        recipe="centred",
        network=network_of(setting.network),
        seed=setting.seed,
        augmentation=setting.augmentation,
        **FURTHER[setting.rows] | dearer,
    )


def measure(setting: Setting, data_root: str | None) -> dict[str, Any]:
    """Solve, train, test: a record."""
    images, candidates, facts = candidates_of(setting, data_root)
    known = of(setting, data_root)
    majority = torch.bincount(known.train.labels).argmax()
    return {
        "rows": train_and_test(setting, known, images, candidates),
        **facts,
        "constant": float((known.test.labels == majority).double().mean()) * 100,
        "classes": known.train.num_classes,
        "test_images": len(known.test),
    }


def train_and_test(
    setting: Setting, known: Target, images: Tensor, candidates: Sequence[Candidate]
) -> list[dict[str, Any]]:
    """Networks from scratch on every candidate: steps by validation, then the test split."""
    device = resolve_device("auto")
    trials = run_trials(
        candidates,
        images,
        known.features.preprocessing,
        known.validation,
        lambda seed: fresh_network(network_of(setting.network), known.train.shape, known.train.num_classes, seed),
        [child_seed(setting.seed, "within", r) for r in range(setting.repeats)],
        device=device,
        description=f"train {setting.network}",
    )
    networks = [network for trial in trials for network in trial.networks]
    scores = accuracies(networks, known.test, known.features.preprocessing, device)
    if any(any(trial.diverged) for trial in trials):
        raise ConvexDistillError(f"a training of {setting} diverged: no mean can be given")
    return [
        {
            "labels": trial.candidate.name,
            "steps": trial.steps,
            "validation": list(trial.validation),
            "test": scores[i * setting.repeats : (i + 1) * setting.repeats],
        }
        for i, trial in enumerate(trials)
    ]


def _candidate(augmentation: str, name: str, recipe: str, labels: Tensor, scale: float) -> Candidate:
    """Centred labels under a recipe."""
    if recipe == "paper":
        probabilities = (scale * labels).softmax(1)
        return Candidate(f"{name}, paper", probabilities, Recipe("soft-cross-entropy", augmentation=augmentation))
    return Candidate(f"{name}, centred", labels, Recipe("mse", scale, augmentation=augmentation))
