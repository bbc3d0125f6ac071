"""What the tables of learned labels share: one base set, every kind of labels, networks from scratch.

γ, prior and label scale of both solves are chosen once for each data set, size and way of selection, on the
validation split, with a base set of its own that no row shows. The rows are five other base sets. For every row
the validation split picks the number of steps; the networks of those steps then see the test split, once. Labels
of the convex solves are trained on under both recipes: *centred* (mean squared error on labels times a scale) and
*paper* (soft cross-entropy on the softmax of labels times a scale); the validation split says which row speaks.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from _records import Record, markdown_table
from torch import Tensor, nn
from torch.nn.functional import one_hot

import convexdistill as cd
from convexdistill.data import ImageData
from convexdistill.data.fetch import data_root as resolve_root
from convexdistill.device import resolve_device
from convexdistill.distilled import DistilledSet, fresh_network
from convexdistill.evaluate.baselines import SMOOTHING, transferred_labels
from convexdistill.evaluate.table import Row, summarise
from convexdistill.features import NETWORKS, Shape
from convexdistill.seeds import child_seed, generator
from convexdistill.select import BaseExamples
from convexdistill.training import Candidate, Recipe, accuracies, run_trials

POOL = 5
CHOICE_SEED = 1000  # of the base set that settings are chosen with
SOLVES = ("cross-entropy", "squared")
LEARNED = (*SOLVES, "alternate")  # rows that speak for learned labels
ROUNDS, TRAINED = 4, 4  # of the alternation: at most so many rounds, so many networks in each
PAPER_SCALE = 4.0  # of its labels under the paper recipe
RECIPES = ("centred", "paper")


@dataclass(frozen=True)
class Setting:
    """One base set.

    Attributes:
        target: name of the data set, or its file below the data root.
        size: number of base examples.
        network: what is trained from scratch; a name that may end in a width, ``"convnet-32"``.
        seed: of the base set and of its trainings.
        select: how base examples are chosen.
        source: of base images; ``None``: the target. From another source they are not balanced.
        rows: ``"all"``; ``"some"``: without the squared loss and plain one-hot labels; or ``"few"``:
            cross-entropy, teacher and one-hot labels under the centred recipe only. ``"alternate"``: labels
            that are solved for again and again with networks trained on them among the extractors.
        chooser: network that settings are chosen with.
        target_images: a random part of the target of this size is all that either solve sees.
        extractor: network of the pool.
        repeats: trainings of each row.
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
    repeats: int = 3


@dataclass(frozen=True)
class Target:
    """The splits, the part of the train split that labels are solved for, and what the solves know of it."""

    train: ImageData
    validation: ImageData
    test: ImageData
    part: ImageData
    moments: cd.Moments
    features: cd.distill.TargetFeatures


@functools.lru_cache(maxsize=1)
def seen(target: str, data_root: str | None, images: int, extractor: str) -> Target:
    """A target under a pool of random extractors."""
    train, validation, test = (
        cd.data.load(place(target, data_root), split=split, root=data_root)
        for split in ("train", "validation", "test")
    )
    order = torch.randperm(len(train), generator=generator(0, "part of the target"))
    part = train.subset(order[:images].sort().values)
    pool = cd.features.pool(extractor, POOL)
    features = cd.distill.TargetFeatures.of(pool, part, target_images=None)
    return Target(train, validation, test, part, cd.accumulate(pool, part), features)


def place(name: str, data_root: str | None) -> str:
    """A file's path below the data root; other names stay."""
    return str(Path(resolve_root(data_root)) / name) if name.endswith(".npz") else name


def network_of(name: str) -> str | Callable[[Shape, int], nn.Module]:
    """The network of a name, which may end in its width: ``"convnet-32"``."""
    kind, _, width = name.partition("-")
    return functools.partial(NETWORKS[kind], width=int(width)) if width else kind


def of(setting: Setting, data_root: str | None) -> Target:
    return seen(setting.target, data_root, setting.target_images, setting.extractor)


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
    for solve, facts in settings.items():
        start = time.perf_counter()
        sets[solve] = solved(solve, known, base, gamma=facts["gamma"], prior=facts["prior"], recipe="centred")
        seconds[solve] = round(time.perf_counter() - start, 3)
        for recipe, scale in facts["scales"].items():
            candidates.append(_candidate(solve, recipe, sets[solve].labels, scale))
    crossed = sets["cross-entropy"]
    rounds = None
    if setting.rows == "alternate":
        start = time.perf_counter()
        taken = settings["cross-entropy"]
        again = cd.distill.alternate(
            known.features,
            known.part,
            base,
            known.validation,
            rounds=ROUNDS,
            count=TRAINED,
            gamma=taken["gamma"],
            prior=taken["prior"],
            label_scale=taken["scales"]["centred"],
            recipe="centred",
            network=network_of(setting.network),
            seed=setting.seed,
        )
        seconds["alternate"], rounds = round(time.perf_counter() - start, 3), again.manifest["rounds"]
        candidates = [
            _candidate("alternate", "centred", again.labels, taken["scales"]["centred"]),
            _candidate("alternate", "paper", again.labels, PAPER_SCALE),
            candidates[0],
        ]
    scale = settings["cross-entropy"]["scales"]["centred"]
    candidates.append(_candidate("teacher", "centred", crossed.baselines["teacher"], scale))
    if setting.source is None:
        hot = one_hot(base.labels, classes).float()
        candidates.append(_candidate("one-hot", "centred", hot - 1 / classes, scale))
        paper = Recipe("soft-cross-entropy")
        if setting.rows == "all":
            candidates.append(Candidate("one-hot, paper", hot, paper))
        if setting.rows in ("all", "some"):
            smooth = (1 - SMOOTHING) * hot + SMOOTHING / classes
            candidates.append(Candidate("smoothed 0.1, paper", smooth, paper))
    else:
        near = transferred_labels([crossed], known.part)[0] - 1 / classes
        candidates.append(_candidate("transferred", "centred", near, scale))
    gap = crossed.manifest["certificate"]["duality_gap"]
    facts = {"chosen": settings, "seconds": seconds, "duality_gap": gap}
    return crossed.images, candidates, facts if rounds is None else {**facts, "rounds": rounds}


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
        known.moments.preprocessing,
        known.validation,
        lambda seed: fresh_network(network_of(setting.network), known.train.shape, known.train.num_classes, seed),
        [child_seed(setting.seed, "within", r) for r in range(setting.repeats)],
        device=device,
        description=f"train {setting.network}",
    )
    networks = [network for trial in trials for network in trial.networks]
    scores = accuracies(networks, known.test, known.moments.preprocessing, device)
    return [
        {
            "labels": trial.candidate.name,
            "steps": trial.steps,
            "validation": list(trial.validation),
            "test": scores[i * setting.repeats : (i + 1) * setting.repeats],
        }
        for i, trial in enumerate(trials)
    ]


def _candidate(name: str, recipe: str, labels: Tensor, scale: float) -> Candidate:
    """Centred labels under a recipe."""
    if recipe == "paper":
        return Candidate(f"{name}, paper", (scale * labels).softmax(1), Recipe("soft-cross-entropy"))
    return Candidate(f"{name}, centred", labels, Recipe("mse", scale))


@dataclass(frozen=True)
class Goal:
    """Test accuracy to be reached, and the best published one."""

    accuracy: float
    published: float | None = None


Key = tuple[Any, ...]  # source, target, size, network, select; of groups also whether labels alternate


def key_of(record: Record) -> Key:
    s = record["setting"]
    return s["source"], s["target"], s["size"], s["network"], s["select"], s["rows"] == "alternate"


def grouped(records: Sequence[Record]) -> dict[Key, list[Record]]:
    """Records by everything but the seed."""
    groups: dict[Key, list[Record]] = {}
    for record in records:
        groups.setdefault(key_of(record), []).append(record)
    return groups


def rows_of(group: Sequence[Record]) -> list[Row]:
    """A row for each kind of labels, over the base sets of a group."""
    return [
        summarise(
            [record["result"]["rows"][i]["test"] for record in group],
            [record["result"]["rows"][i]["validation"] for record in group],
            labels=row["labels"],
            network=group[0]["setting"]["network"],
            optimizer="adam",
            loss=None,
            label_scale=None,
            steps=tuple(record["result"]["rows"][i]["steps"] for record in group),
        )
        for i, row in enumerate(group[0]["result"]["rows"])
    ]


def spokesman(rows: Sequence[Row]) -> Row:
    """The row of learned labels that the validation split prefers."""
    return max((row for row in rows if row.labels.startswith(LEARNED)), key=lambda row: row.validation_mean)


def overview(records: Sequence[Record], goals: dict[Key, Goal]) -> list[str]:
    """One line for each group: what validation prefers, beside its baselines and its goal."""
    lines = []
    for key, group in grouped(records).items():
        source, target, size, network, select, _ = key
        rows = rows_of(group)
        best = spokesman(rows)
        rivals = [row for row in rows if not row.labels.startswith(LEARNED)]
        rival = max(rivals, key=lambda row: row.accuracy_mean)
        goal = goals.get(key[:5])
        lines.append(
            (
                pair(source, target),
                size,
                network,
                select,
                len(group),
                f"**{spread(best)}**",
                best.labels,
                f"{spread(rival)} ({rival.labels})",
                "–" if goal is None else f"{goal.accuracy:g}",
                "–" if goal is None else "reached" if best.accuracy_mean >= goal.accuracy else "missed",
                "–" if goal is None or goal.published is None else f"{goal.published:g}",
            )
        )
    columns = ["data", "base:", "network", "chosen by", "sets:", "learned labels:", "which", "best baseline:"]
    return markdown_table([*columns, "goal:", "", "published:"], lines)


def sections(records: Sequence[Record]) -> list[str]:
    """A table for each group, with every row."""
    lines = []
    for key, group in grouped(records).items():
        source, target, size, network, select, alternates = key
        first = group[0]["result"]
        chosen = first["chosen"]
        taken = "; ".join(
            f"{solve}: γ {facts['gamma']:g}, prior {facts['prior']}, scales "
            + ", ".join(f"{scale:g} ({recipe})" for recipe, scale in facts["scales"].items())
            for solve, facts in chosen.items()
        )
        times = ", ".join(
            f"{name} {sum(r['result']['seconds'][name] for r in group) / len(group):.1f} s"
            for name in first["seconds"]
        )
        lines += [
            "",
            f"## {pair(source, target)}, {size} base examples ({select}), {network}"
            + (", alternating" if alternates else ""),
            "",
            f"{len(group)} base sets × {group[0]['setting']['repeats']} trainings, "
            f"{group[0]['setting']['target_images']:,} target images at most, "
            f"{first['test_images']:,} test images, best constant {first['constant']:.1f} %. "
            f"Chosen on validation: {taken}. Solves: {times} on a shared "
            f"core; largest duality gap {max(r['result']['duality_gap'] for r in group):.0e}.",
            "",
            *markdown_table(
                ("labels, recipe", "validation:", "test:", "95 % interval:", "between sets:", "steps:"),
                [
                    (
                        row.labels,
                        f"{row.validation_mean:.1f}",
                        spread(row),
                        _span(row.accuracy_ci95),
                        "–" if row.std_base_sets is None else f"{row.std_base_sets:.1f}",
                        f"{min(row.steps)}–{max(row.steps)}",
                    )
                    for row in rows_of(group)
                ],
            ),
        ]
    return lines


def spread(row: Row) -> str:
    """Mean ± standard deviation over all trainings."""
    return f"{row.accuracy_mean:.1f}" + ("" if row.accuracy_std is None else f" ± {row.accuracy_std:.1f}")


def pair(source: str | None, target: str) -> str:
    """How a page names a source and a target."""
    return (f"{Path(source).stem} → " if source else "") + Path(target).stem


def _span(interval: tuple[float | None, float | None]) -> str:
    low, high = interval
    return "–" if low is None else f"{low:.1f} – {high:.1f}"
