"""Who is served worse: accuracy by group, against networks trained on everything, with intervals.

For a kind of labels ℓ and a group g of the test split, with a(ℓ, g) the mean accuracy on g in percent,

    gap(ℓ, g)    = a(ℓ, g) − a(full data, g)        what distillation costs this group
    excess(ℓ, g) = gap(ℓ, g) − gap(ℓ, everyone)     what it costs this group beyond the others.

Labels whose gap is −10 everywhere are worse, but not unfair; an excess whose interval leaves zero out says
that the group pays more (below zero) or less than its share.

Intervals are percentile bootstraps (Efron and Tibshirani 1993, chapter 13) that redraw everything that
chance has drawn: test images, base sets, trainings within a base set, and trainings on the full data. With a
single base set they speak for that set alone; with k base sets they are about √(k/(k−1)) too short.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convexdistill.errors import BackendUnavailableError
from convexdistill.evaluate.groups import in_order

DRAWS = 1000
EVERYONE = "everyone"
FULL_DATA = "full-data"

Correct = NDArray[np.bool_]
"""Whether the networks of one base set were right: ``(trainings, test images)``."""


@dataclass(frozen=True)
class GroupRow:
    """One kind of labels on one group.

    Attributes:
        labels: ``"distilled"``, ``"full-data"``, or the name of a baseline.
        group: the column, ``"class"`` or one of the caller's; ``"everyone"`` for the whole test split.
        value: the group within the column.
        count: test images in it.
        accuracy: mean test accuracy on it, percent.
        gap: ``accuracy`` minus that of networks trained on the full data; ``None`` of these themselves.
        gap_ci95: its 95 % interval.
        excess: ``gap`` minus the gap of everyone; ``None`` of everyone.
        excess_ci95: its 95 % interval.
    """

    labels: str
    group: str
    value: str
    count: int
    accuracy: float
    gap: float | None = None
    gap_ci95: tuple[float | None, float | None] = (None, None)
    excess: float | None = None
    excess_ci95: tuple[float | None, float | None] = (None, None)


@dataclass(frozen=True)
class Disparity:
    """How far apart the groups of a column are under one kind of labels.

    Attributes:
        labels: as in :class:`GroupRow`.
        group: the column.
        difference: accuracy of the best served group minus that of the worst, in points.
        worst: the group with the lowest accuracy.
    """

    labels: str
    group: str
    difference: float
    worst: str


@dataclass(frozen=True)
class BiasReport:
    """Accuracy by group.

    Attributes:
        rows: every kind of labels on every group; the whole test split first.
        disparities: every kind of labels on every column.
        network: what was trained.
        seconds: how long it took.
    """

    rows: tuple[GroupRow, ...]
    disparities: tuple[Disparity, ...]
    network: str
    seconds: float

    def row(self, labels: str, group: str = EVERYONE, value: str = EVERYONE) -> GroupRow:
        """One row.

        Raises:
            KeyError: there is none.
        """
        for row in self.rows:
            if (row.labels, row.group, row.value) == (labels, group, value):
                return row
        raise KeyError((labels, group, value))

    def to_dicts(self) -> dict[str, Any]:
        """Plain records, as ``metrics.json`` holds them: ``subgroups`` and ``disparities``."""
        return {
            "subgroups": [{**asdict(row), "network": self.network} for row in self.rows],
            "disparities": [{**asdict(one), "network": self.network} for one in self.disparities],
        }


def by_group(
    correct: Mapping[str, Sequence[Correct]],
    full: Correct,
    groups: Mapping[str, NDArray[np.str_]],
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> tuple[tuple[GroupRow, ...], tuple[Disparity, ...]]:
    """Accuracy, gap and excess of every kind of labels on every group.

    Args:
        correct: by kind of labels, for each base set ``(trainings, N)``.
        full: the same of networks trained on everything, ``(trainings, N)``.
        groups: by column, ``(N,)`` names.
        seed: of the bootstrap.
        draws: of the bootstrap.

    Raises:
        BackendUnavailableError: fairlearn is not installed.

    Example:
        >>> full = np.ones((2, 4), dtype=bool)
        >>> ours = [np.array([[True, True, True, False]] * 2)]
        >>> hands = np.array(["left", "left", "right", "right"])
        >>> rows, (apart, _) = by_group({"distilled": ours}, full, {"hand": hands}, draws=10)
        >>> [(row.value, row.accuracy, row.gap, row.excess) for row in rows if row.labels == "distilled"]
        [('everyone', 75.0, -25.0, None), ('left', 100.0, 0.0, 25.0), ('right', 50.0, -50.0, -25.0)]
        >>> apart.difference, apart.worst
        (50.0, 'right')
    """
    parts = {(EVERYONE, EVERYONE): np.ones(full.shape[1], dtype=bool)}
    parts |= {(name, value): of == value for name, of in groups.items() for value in in_order(of.tolist())}
    members = np.stack(list(parts.values()))  # (groups, N)
    drawn = _Drawn(members, seed, draws)
    reference = drawn.accuracies([full])
    rows: list[GroupRow] = []
    disparities: list[Disparity] = []
    for labels, sets in {**correct, FULL_DATA: [full]}.items():
        frames = {name: _frame(sets, full, of) for name, of in groups.items()}
        is_reference = labels == FULL_DATA
        gaps = drawn.accuracies(sets) - reference
        for k, (group, value) in enumerate(parts):
            frame = next(iter(frames.values())).overall if group == EVERYONE else frames[group].by_group.loc[value]
            row = GroupRow(labels, group, value, int(members[k].sum()), float(frame["accuracy"]))
            if not is_reference:
                whole = rows[-k] if k else None  # the first row of these labels
                row = _with_gap(row, float(frame["gap"]), gaps[k], whole, gaps[k] - gaps[0])
            rows.append(row)
        for name, frame in frames.items():
            accuracy = frame.by_group["accuracy"]
            apart = float(frame.difference(method="between_groups")["accuracy"])
            disparities.append(Disparity(labels, name, apart, str(accuracy.idxmin())))
    return tuple(rows), tuple(disparities)


def _with_gap(
    row: GroupRow, gap: float, gaps: NDArray[np.float64], whole: GroupRow | None, excesses: NDArray[np.float64]
) -> GroupRow:
    facts: dict[str, Any] = {**asdict(row), "gap": gap, "gap_ci95": _ends(gaps)}
    if whole is not None:
        assert whole.gap is not None
        facts |= {"excess": gap - whole.gap, "excess_ci95": _ends(excesses)}
    return GroupRow(**facts)


def _ends(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.nanquantile(values, (0.025, 0.975))  # a tiny group may be missing from a draw
    return float(low), float(high)


def _frame(sets: Sequence[Correct], full: Correct, groups: NDArray[np.str_]) -> Any:
    """fairlearn's frame of how often each test image is classified rightly: with everything, and with ``sets``."""
    try:
        from fairlearn.metrics import MetricFrame
    except ImportError as error:
        raise BackendUnavailableError(
            "the bias report needs fairlearn; install it with: pip install 'convexdistill[bias]'"
        ) from error
    ours = np.mean([part.mean(0) for part in sets], 0)
    metrics = {
        "accuracy": lambda whole, our: 100 * float(np.mean(our)),
        "gap": lambda whole, our: 100 * float(np.mean(our) - np.mean(whole)),
    }
    return MetricFrame(metrics=metrics, y_true=full.mean(0), y_pred=ours, sensitive_features=groups)


class _Drawn:
    """The bootstrap: the same redrawn test images for every kind of labels, so that differences are paired."""

    def __init__(self, members: NDArray[np.bool_], seed: int, draws: int) -> None:
        self.random, self.draws = np.random.default_rng(seed), draws
        images = members.shape[1]
        times = self.random.multinomial(images, np.full(images, 1 / images), size=draws).astype(np.float32)
        self.weights = [times[:, of] for of in members]
        self.members = members

    def accuracies(self, sets: Sequence[Correct]) -> NDArray[np.float64]:
        """``(groups, draws)``, in percent."""
        share = self._shares([len(part) for part in sets])  # (draws, all trainings)
        every = np.concatenate(sets).astype(np.float32)
        found = []
        for of, weight in zip(self.members, self.weights, strict=True):
            with np.errstate(invalid="ignore"):
                accuracy = weight @ every[:, of].T / weight.sum(1, keepdims=True)
            found.append((accuracy.astype(np.float64) * share).sum(1))
        return 100 * np.stack(found)

    def _shares(self, trainings: Sequence[int]) -> NDArray[np.float64]:
        """How much each training counts in each draw: base sets redrawn, then trainings within each."""
        sets = len(trainings)
        of_sets = self.random.multinomial(sets, np.full(sets, 1 / sets), size=self.draws) / sets
        parts = []
        for k, count in enumerate(trainings):
            # A base set that is drawn twice has its trainings redrawn twice.
            times = np.maximum(np.rint(of_sets[:, k] * sets).astype(int), 1) * count
            within = self.random.multinomial(times, np.full(count, 1 / count)) / times[:, None]
            parts.append(of_sets[:, k : k + 1] * within)
        return np.concatenate(parts, 1)
