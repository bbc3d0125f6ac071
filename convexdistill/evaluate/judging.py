"""From trained networks to rows: the one look at the test split, and everything that is said about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from convexdistill.data import ImageData, Preprocessing
from convexdistill.evaluate.probabilities import Quality, quality
from convexdistill.evaluate.statistics import paired_difference, unpaired_difference
from convexdistill.evaluate.table import Row, summarise
from convexdistill.training import Trial, predictions

DISTILLED = "distilled"


@dataclass(frozen=True)
class Judged:
    """A trial that has been shown the test split.

    Attributes:
        trial: what was trained.
        test: accuracy in percent of each training; ``None`` where it diverged.
        validation: the same on the validation split.
        logits: ``(finite trainings, N, C)`` on the test split.
        validation_logits: the same on the part of the validation split that the steps were chosen on.
    """

    trial: Trial
    test: tuple[float | None, ...]
    validation: tuple[float | None, ...]
    logits: Tensor
    validation_logits: Tensor


def judge(
    trials: Sequence[Trial],
    seen: ImageData,
    test: ImageData,
    preprocessing: Preprocessing,
    device: torch.device,
) -> list[Judged]:
    """Show every network of every trial the test split, all of them side by side, once.

    Args:
        trials: with the networks that the validation split has chosen.
        seen: the part of the validation split that chose them.
        test: the test split.
        preprocessing: normalisation of all images.
        device: where the networks run.
    """
    going = [[not lost for lost in trial.diverged] for trial in trials]
    networks = [
        network
        for trial in trials
        for network, lost in zip(trial.networks, trial.diverged, strict=True)
        if not lost
    ]
    if not networks:
        nothing = torch.empty(0, 0, 0)
        return [Judged(t, (None,) * len(t.networks), (None,) * len(t.networks), nothing, nothing) for t in trials]
    logits, validation_logits = (predictions(networks, part, preprocessing, device) for part in (test, seen))
    finite = logits.isfinite().flatten(1).all(1)
    judged, start = [], 0
    for trial, ok in zip(trials, going, strict=True):
        mine = torch.arange(start, start := start + sum(ok))
        scores = ((logits[mine].argmax(-1) == test.labels).double().mean(1) * 100).tolist()
        found = iter(zip(mine.tolist(), scores, strict=True))
        accuracies: list[float | None] = []
        for kept in ok:
            position, score = next(found) if kept else (0, 0.0)
            accuracies.append(score if kept and finite[position] else None)
        validation = [v if a is not None else None for v, a in zip(trial.validation, accuracies, strict=True)]
        mine = mine[finite[mine]]
        judged.append(Judged(trial, tuple(accuracies), tuple(validation), logits[mine], validation_logits[mine]))
    return judged


def summarise_judged(judged: Sequence[Judged], validation: ImageData, test: ImageData, **facts: Any) -> Row:
    """The row of one kind of labels from what each base set gave.

    Args:
        judged: one for each base set.
        validation: the part of the validation split that was looked at.
        test: the test split.
        facts: further fields of the row.
    """
    recipes = [one.trial.candidate.recipe for one in judged]
    logits, validation_logits = (
        [getattr(one, name) for one in judged if len(one.logits)] for name in ("logits", "validation_logits")
    )
    found = (
        quality(torch.cat(logits), test.labels, torch.cat(validation_logits), validation.labels)
        if logits
        else None
    )
    return summarise(
        [one.test for one in judged],
        [one.validation for one in judged],
        labels=judged[0].trial.candidate.name,
        loss=recipes[0].loss,
        label_scale=_common([recipe.label_scale for recipe in recipes]),
        steps=tuple(one.trial.steps for one in judged),
        learning_rate=recipes[0].learning_rate,
        temperature=recipes[0].temperature if recipes[0].loss == "kl" else None,
        curve=_mean_curve([one.trial.curve for one in judged]),
        **_fields(found, test.classes),
        **facts,
    )


def with_differences(rows: Sequence[Row], runs: Mapping[str, Sequence[Sequence[float | None]]]) -> list[Row]:
    """The rows, those of distilled labels with their paired difference to every other kind of labels.

    Args:
        rows: trained in one and the same way.
        runs: by name of the labels, for each base set the test accuracy of each training; also of baselines
            that need no training.
    """
    paired = {
        name: found
        for name, theirs in runs.items()
        if name != DISTILLED and (found := paired_difference(runs[DISTILLED], theirs)) is not None
    }
    differences = {name: asdict(found) for name, found in paired.items()}
    return [replace(row, differences=differences) if row.labels == DISTILLED else row for row in rows]


def with_difference_to(row: Row, everything: Row) -> Row:
    """A distilled row with its difference to networks trained on everything, which pair up with nothing."""
    found = unpaired_difference(row.by_base_set, everything.by_base_set) if row.labels == DISTILLED else None
    if found is None:
        return row
    return replace(row, differences={**row.differences, everything.labels: asdict(found)})


def _fields(found: Quality | None, classes: Sequence[str]) -> dict[str, Any]:
    if found is None:
        return {}
    return {
        "temperature_fitted": found.temperature,
        "ece": found.ece,
        "brier": found.brier,
        "nll": found.nll,
        "calibration": found.calibration,
        "confusion": found.confusion,
        "worst_class": {"class": classes[found.worst_class], "accuracy": found.worst_recall},
    }


def _mean_curve(
    curves: Sequence[Sequence[tuple[int, float | None, float | None]]],
) -> tuple[tuple[int, float | None, float | None], ...]:
    """The mean over base sets of their curves: they were looked at after the same numbers of steps."""
    points = []
    for at_step in zip(*curves, strict=True):
        means, spreads = ([p[i] for p in at_step if p[i] is not None] for i in (1, 2))
        points.append((at_step[0][0], _mean(means), _mean(spreads)))
    return tuple(points)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _common(values: Sequence[float]) -> float | None:
    return values[0] if len(set(values)) == 1 else None
