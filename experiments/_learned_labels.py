"""What ``within_dataset`` and ``cross_dataset`` share: one base set, every kind of labels, networks from scratch.

Labels of both convex solves are trained on under both recipes: *centred* (mean squared error on labels × 8) and
*paper* (soft cross-entropy on softmax(4 × labels)). γ = 0.1 and these two scales are the same for every size and
data set: they are the defaults of the solves. The validation split picks the number of steps of every row, and the
row that speaks for the method; the networks of those steps see the test split, once.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from _records import Record, markdown_table
from torch import Tensor
from torch.nn.functional import one_hot

import convexdistill as cd
from convexdistill.data import ImageData
from convexdistill.device import resolve_device
from convexdistill.distilled import fresh_network
from convexdistill.evaluate.baselines import SMOOTHING, transferred_labels
from convexdistill.evaluate.table import summarise
from convexdistill.seeds import child_seed, generator
from convexdistill.training import Candidate, Recipe, accuracies, run_trials

POOL, GAMMA, CENTRED_SCALE, PAPER_SCALE = 5, 0.1, 8.0, 4.0
TARGET_IMAGES = 10_000  # a random part of the target, the same for both solves


@dataclass(frozen=True)
class Setting:
    """One base set."""

    target: str
    size: int
    network: str
    seed: int
    repeats: int = 3
    source: str | None = None


@functools.lru_cache(maxsize=1)
def prepared(
    target: str, data_root: str | None
) -> tuple[list[ImageData], ImageData, cd.Moments, cd.distill.TargetFeatures]:
    """The three splits, the part of the train split that labels are solved for, its moments and its features."""
    splits = [cd.data.load(target, split=split, root=data_root) for split in ("train", "validation", "test")]
    order = torch.randperm(len(splits[0]), generator=generator(0, "part of the target"))
    part = splits[0].subset(order[:TARGET_IMAGES].sort().values)
    pool = cd.features.pool("convnet", POOL)
    return splits, part, cd.accumulate(pool, part), cd.distill.TargetFeatures.of(pool, part)


def measure(setting: Setting, data_root: str | None) -> dict[str, Any]:
    (train, validation, test), part, moments, features = prepared(setting.target, data_root)
    across = setting.source is not None
    source = cd.data.load(setting.source, root=data_root) if across else train
    base = cd.select.choose(source, setting.size, balanced=not across, seed=setting.seed)
    seconds = {}
    start = time.perf_counter()
    squared = cd.distill.closed_form(moments, base, gamma=GAMMA)
    seconds["squared"] = time.perf_counter() - start
    start = time.perf_counter()
    crossed = cd.distill.cross_entropy(features, part, base, gamma=GAMMA, recipe="centred")
    seconds["cross-entropy"] = time.perf_counter() - start
    candidates = [*both("cross-entropy", crossed.labels), *both("squared", squared.labels)]
    if across:
        transferred = transferred_labels([squared], part)[0] - 1 / train.num_classes
        candidates.append(centred("transferred, centred", transferred))
    else:
        hot = one_hot(base.labels, train.num_classes).float()
        smooth = (1 - SMOOTHING) * hot + SMOOTHING / train.num_classes
        candidates.append(Candidate("one-hot, paper", hot, Recipe("soft-cross-entropy")))
        candidates.append(Candidate("smoothed 0.1, paper", smooth, Recipe("soft-cross-entropy")))
        candidates.append(centred("one-hot, centred", hot - 1 / train.num_classes))
    candidates.append(centred("teacher, centred", squared.baselines["teacher"]))
    trials = run_trials(
        candidates,
        squared.images,
        moments.preprocessing,
        validation,
        lambda seed: fresh_network(setting.network, train.shape, train.num_classes, seed),
        [child_seed(setting.seed, "within", r) for r in range(setting.repeats)],
        device=(device := resolve_device("auto")),
        description=f"train {setting.network}",
    )
    networks = [network for trial in trials for network in trial.networks]
    scores = accuracies(networks, test, moments.preprocessing, device)
    rows = [
        {
            "labels": trial.candidate.name,
            "steps": trial.steps,
            "validation": list(trial.validation),
            "test": scores[i * setting.repeats : (i + 1) * setting.repeats],
        }
        for i, trial in enumerate(trials)
    ]
    majority = torch.bincount(train.labels).argmax()
    return {
        "rows": rows,
        "constant": float((test.labels == majority).double().mean()) * 100,
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "duality_gap": crossed.manifest["certificate"]["duality_gap"],
        "classes": train.num_classes,
        "target_images": len(part),
        "test_images": len(test),
    }


def both(name: str, labels: Tensor) -> list[Candidate]:
    """Centred labels under either recipe."""
    probabilities = (PAPER_SCALE * labels).softmax(1)
    paper = Candidate(f"{name}, paper", probabilities, Recipe("soft-cross-entropy"))
    return [centred(f"{name}, centred", labels), paper]


def centred(name: str, labels: Tensor) -> Candidate:
    return Candidate(name, labels, Recipe("mse", CENTRED_SCALE))


def sections(records: Sequence[Record], goals: dict[tuple[str | None, str, int, str], float]) -> list[str]:
    """A table for each data set, size and network, from the records of its base sets."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        s = record["setting"]
        groups.setdefault((s["source"], s["target"], s["size"], s["network"]), []).append(record)
    lines = []
    for key, group in groups.items():
        source, target, size, network = key
        first = group[0]["result"]
        rows = []
        for i, row in enumerate(first["rows"]):
            mine = [record["result"]["rows"][i] for record in group]
            rows.append(
                summarise(
                    [one["test"] for one in mine],
                    [one["validation"] for one in mine],
                    labels=row["labels"],
                    network=network,
                    optimizer="adam",
                    loss=None,
                    label_scale=None,
                    steps=tuple(one["steps"] for one in mine),
                )
            )
        # Which of the two solves and recipes is "the" result is the validation split's to say.
        learned = [row for row in rows if row.labels.startswith(("cross-entropy", "squared"))]
        best = max(learned, key=lambda row: row.validation_mean)
        goal = goals.get((source, target, size, network))
        verdict = (
            "" if goal is None else f" Goal {goal:g}: {'reached' if best.accuracy_mean >= goal else 'missed'}."
        )
        lines += [
            "",
            f"## {'' if source is None else f'{source} → '}{target}, {size} base examples, {network}",
            "",
            f"{len(group)} base sets × {group[0]['setting']['repeats']} trainings; the validation split prefers "
            f"**{best.labels}: {best.accuracy_mean:.1f} %**.{verdict} The solves took "
            f"{_mean(r['result']['seconds']['squared'] for r in group):.1f} s (squared, moments given) and "
            f"{_mean(r['result']['seconds']['cross-entropy'] for r in group):.1f} s (cross-entropy, features "
            f"given) on shared cores; largest duality gap "
            f"{max(r['result']['duality_gap'] for r in group):.0e}. "
            f"{first['test_images']:,} test images, best constant {first['constant']:.1f} %.",
            "",
            *markdown_table(
                ("labels, recipe", "validation:", "test:", "95 % interval:", "between sets:", "steps:"),
                [
                    (
                        row.labels,
                        f"{row.validation_mean:.1f}",
                        f"{row.accuracy_mean:.1f} ± {row.accuracy_std:.1f}",
                        _span(row.accuracy_ci95),
                        "–" if row.std_base_sets is None else f"{row.std_base_sets:.1f}",
                        f"{min(row.steps)}–{max(row.steps)}",
                    )
                    for row in rows
                ],
            ),
        ]
    return lines


def _mean(values: Any) -> float:
    found = list(values)
    return float(sum(found) / len(found))


def _span(interval: tuple[float | None, float | None]) -> str:
    low, high = interval
    return "–" if low is None else f"{low:.1f} – {high:.1f}"
