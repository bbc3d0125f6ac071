"""Small distilled sets and records, made by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch

from convexdistill.distilled import DistilledSet
from convexdistill.evaluate import metrics
from convexdistill.evaluate.table import EvaluationTable, Row, summarise
from convexdistill.report import render_report
from convexdistill.training import Recipe

Record = dict[str, Any]
CROSS_CHECK = {
    "n": 12,
    "d": 33,
    "relative_difference": 1.6e-12,
    "torch_seconds": 0.0013,
    "cvxpylayers_seconds": 0.0092,
    "cvxpylayers_setup_seconds": 0.53,
}


def distilled_set(
    n: int = 12,
    classes: Sequence[str] = ("zero", "one", "two"),
    *,
    shape: tuple[int, int, int] = (1, 8, 8),
    space: str = "centred",
    target: str = "digits",
    source: str | None = None,
    source_classes: Sequence[str] | None = None,
    recipe: Recipe | None = None,
    **facts: Any,
) -> DistilledSet:
    """A set of random images and labels; ``source`` makes it one across data sets."""
    draw = torch.Generator().manual_seed(0)
    own = list(source_classes or classes)
    labels = torch.randn(n, len(classes), generator=draw) * 0.4
    if space == "probability":
        labels = labels.softmax(1)
    place = {"split": "train", "shape": list(shape)}
    manifest = {
        "target": {**place, "name": target, "classes": list(classes), "parts": ["sha256:" + "ab" * 32]},
        "source": {
            **place,
            "name": source or target,
            "classes": own,
            "fingerprint": "sha256:" + ("cd" if source else "ab") * 32,
        },
        "selection": {"method": "random", "balanced": True, "seed": 0},
        "method": "closed-form",
        "backend": "torch",
        "preprocessing": {"mean": [0.5] * shape[0], "std": [0.25] * shape[0]},
        "recipe": (recipe or Recipe("mse", label_scale=8.0, steps=3, batch_size=5)).to_dict(),
        "extractors": [{"network": "convnet", "options": {"width": 8}, "seed": s} for s in (7, 8)],
        "lam": 1e-3,
        "gamma": 0.1,
        "prior": "zero",
        "certificate": {
            "outer_loss": 0.2934,
            "residual": 8.7e-16,
            "condition": 17.9,
            "solver": "torch/primal/cholesky",
            "cross_check": CROSS_CHECK,
        },
        "chosen_from": [
            {"gamma": g, "label_scale": 8.0, "steps": 3, "validation_mean": 90.0 + g} for g in (0.1, 1.0)
        ],
        "seed": 0,
        "versions": {"convexdistill": "0.1.0", "torch": "2"},
        **facts,
    }
    return DistilledSet(
        torch.randint(0, 256, (n, *shape), generator=draw, dtype=torch.uint8),
        labels,
        space,
        torch.arange(n),
        torch.arange(n) % len(own),
        manifest,
    )


def row(labels: str, runs: Sequence[Sequence[float]], **facts: Any) -> Row:
    """A row of the evaluation from its test accuracies, base set by base set."""
    trained: Record = {
        "network": "lenet",
        "optimizer": "adam",
        "loss": "mse",
        "label_scale": 8.0,
        "steps": tuple(range(60, 60 + 60 * len(runs), 60)),
    }
    if labels == "nearest-neighbour":
        trained = {**dict.fromkeys(trained), "steps": ()}
    validation = [[value - 0.37 for value in group] for group in runs]
    return summarise(runs, validation, labels=labels, **{**trained, **facts})


def whole_row(labels: str, runs: Sequence[Sequence[float]], classes: int = 3, **facts: Any) -> Row:
    """A row with everything that an evaluation records."""
    mean = sum(map(sum, runs)) / sum(map(len, runs))
    found: Record = {
        "learning_rate": 0.001,
        "augmentation": "none",
        "order": "shuffled",
        "worst_class": {"class": "two", "accuracy": mean - 8.25},
        "temperature_fitted": 0.2,
        "ece": 0.0456 + mean / 1e4,
        "brier": 0.1234,
        "nll": 0.4567,
        "calibration": tuple(
            (None, None, 0) if k < 4 else ((k + 0.5) / 15, (k + 0.2) / 15, 10 * k) for k in range(15)
        ),
        "confusion": tuple(tuple(50 if i == j else i + j for j in range(classes)) for i in range(classes)),
        "curve": ((60, mean - 9, 1.5), (120, mean - 2, 1.0), (180, mean, None)),
        "differences": {"teacher": {"mean": 2.94, "low": 1.25, "high": 4.63, "pairs": 2, "over": "base sets"}}
        if labels == "distilled"
        else {},
        "seconds": 12.5,
    }
    return row(labels, runs, **{**found, **facts})


def whole_record(distilled: DistilledSet) -> Record:
    """Numbers of everything a report can show: many ways of training, one that diverged, groups and cost."""
    classes = len(distilled.classes)
    rows = [whole_row("distilled", [[90.11, 91.23], [92.34, 93.45]], classes)]
    rows += [whole_row("one-hot", [[70.12, 71.56], [72.67, 73.78]], classes, loss="kl", temperature=2.0)]
    rows += [whole_row("teacher", [[87.24, 88.35], [89.46, 90.57]], classes)]
    for rate in (0.01, 0.03, 0.1):
        for labels, start in (("distilled", 90.0), ("one-hot", 80.0), ("teacher", 85.0)):
            runs = [[start - 20 * rate, start - 10 * rate], [start, start + 1]]
            rows.append(whole_row(labels, runs, classes, optimizer="sgd", learning_rate=rate))
    lost: list[list[float | None]] = [[None, None], [None, None]]
    facts = {"network": "lenet", "loss": "mse", "label_scale": 8.0, "steps": (60, 120), "learning_rate": 1.0}
    rows.append(summarise(lost, lost, labels="distilled", optimizer="sgd", **facts))
    rows.append(row("nearest-neighbour", [[75.68], [76.79]]))
    groups = [("everyone", "everyone", 300)] + [("class", name, 100) for name in distilled.classes]
    subgroups = [
        {
            "labels": labels,
            "group": group,
            "value": value,
            "count": count,
            "accuracy": accuracy - k,
            "gap": None if labels == "full-data" else accuracy - 99.0,
            "gap_ci95": [None, None] if labels == "full-data" else [accuracy - 101.0, accuracy - 97.5],
            "excess": None if group == "everyone" or labels == "full-data" else -1.25 * k,
            "excess_ci95": [-1.25 * k - 1, -1.25 * k + 1],
        }
        for labels, accuracy in (("distilled", 91.5), ("one-hot", 72.25), ("full-data", 99.0))
        for k, (group, value, count) in enumerate(groups)
    ]
    return {
        **record(distilled, rows),
        "subgroups": subgroups,
        "disparities": [{"labels": "distilled", "group": "class", "difference": 2.5, "worst": "two"}],
        "cost": {
            "distil_seconds": 21.34,
            "train_distilled_seconds": 1.87,
            "train_full_seconds": 93.2,
            "train_full_is": "extrapolated",
            "energy_kwh": {"distil": 0.00021, "train_distilled": 0.00002, "train_full": 1.5},
            "pays_off_after": 1,
        },
    }


def record(distilled: DistilledSet, rows: Sequence[Row]) -> Record:
    """What ``metrics.json`` would hold."""
    times = {"accumulate": 1.0, "solve": 2.5, "evaluate": 0.25, "total": 130.0}
    sets = [distilled] * (rows[0].base_sets if rows else 1)
    return metrics(sets, EvaluationTable(tuple(rows), 1.0, {"seed": 0}), times)


def usual_rows() -> list[Row]:
    """Two base sets, two trainings; distilled on top, by a clear margin."""
    return [
        row("distilled", [[90.11, 91.23], [92.34, 93.45]]),
        row("one-hot", [[70.12, 71.56], [72.67, 73.78]], loss="soft-cross-entropy", label_scale=1.0),
        row("one-hot-recipe", [[80.89, 81.91], [82.02, 83.13]]),
        row("teacher", [[87.24, 88.35], [89.46, 90.57]]),
        row("nearest-neighbour", [[75.68], [76.79]]),
    ]


@pytest.fixture
def distilled() -> DistilledSet:
    return distilled_set()


@pytest.fixture
def numbers(distilled: DistilledSet) -> Mapping[str, Any]:
    return record(distilled, usual_rows())


@pytest.fixture
def rows() -> list[Row]:
    return usual_rows()


@pytest.fixture(scope="session")
def make_set() -> Callable[..., DistilledSet]:
    return distilled_set


@pytest.fixture(scope="session")
def make_row() -> Callable[..., Row]:
    return row


@pytest.fixture
def everything(distilled: DistilledSet) -> Record:
    return whole_record(distilled)


@pytest.fixture(scope="session")
def make_everything() -> Callable[..., Record]:
    return whole_record


@pytest.fixture(scope="session")
def make_record() -> Callable[..., Record]:
    return record


@pytest.fixture(scope="session")
def html() -> str:
    """The page of ``distilled`` and ``numbers``; drawing it takes a second, so it is drawn once."""
    made = distilled_set()
    return render_report(made, record(made, usual_rows()))


@pytest.fixture(scope="session")
def full_html() -> str:
    """The page of ``distilled`` and ``everything``."""
    made = distilled_set()
    return render_report(made, whole_record(made))
