"""The table that every reader sees: one row a kind of labels, network and optimiser."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Row:
    """Accuracies, in percent, of one kind of labels.

    Attributes:
        labels: ``"distilled"`` or the name of a baseline.
        network: what was trained; ``None`` where there is no network.
        optimizer: what it was trained with; ``None`` where nothing is trained.
        loss: ``"mse"`` or ``"soft-cross-entropy"``; ``None`` where nothing is trained.
        label_scale: what the labels were multiplied by; ``None`` where base sets chose different scales.
        steps: number of steps that the validation split chose, one for each base set.
        validation_mean: mean validation accuracy at those steps.
        accuracy_mean: mean test accuracy.
        accuracy_std: standard deviation over all trainings; ``None`` of a single one.
        accuracy_ci95: 95 % interval of the mean, see :func:`interval`; ``(None, None)`` of a single run.
        std_base_sets: standard deviation of the base sets' means; ``None`` of a single base set.
        std_training: standard deviation of trainings on the same base set; ``None`` where there is one.
        base_sets: number of base sets.
        runs: test accuracy of every training, base set by base set.
        validation_runs: validation accuracy of every training, in the same order.
    """

    labels: str
    network: str | None
    optimizer: str | None
    loss: str | None
    label_scale: float | None
    steps: tuple[int, ...]
    validation_mean: float
    accuracy_mean: float
    accuracy_std: float | None
    accuracy_ci95: tuple[float | None, float | None]
    std_base_sets: float | None
    std_training: float | None
    base_sets: int
    runs: tuple[float, ...]
    validation_runs: tuple[float, ...]


def interval(runs: Sequence[Sequence[float]]) -> tuple[float | None, float | None]:
    """95 % interval of the mean accuracy, by Student's t.

    Trainings on one base set share its luck, so with several base sets their means are the independent
    observations; with a single base set the trainings are, and the interval speaks for that set alone.
    An accuracy cannot leave 0 … 100, so neither does the interval.

    Args:
        runs: for each base set, the accuracy of each training.

    Example:
        >>> low, high = interval([[90.0, 92.0], [93.0, 95.0]])
        >>> round(low, 1), round(high, 1)
        (73.4, 100.0)
    """
    values = [float(np.mean(group)) for group in runs] if len(runs) > 1 else list(runs[0])
    if len(values) < 2:
        return None, None
    mean, error = float(np.mean(values)), float(stats.sem(values))
    if error == 0:
        return mean, mean
    low, high = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=error)
    return max(0.0, float(low)), min(100.0, float(high))


def summarise(runs: Sequence[Sequence[float]], validation_runs: Sequence[Sequence[float]], **facts: Any) -> Row:
    """A row from the runs of each base set, and what else is known of it."""
    flat = [value for group in runs for value in group]
    flat_validation = [value for group in validation_runs for value in group]
    within = [group for group in runs if len(group) > 1]
    return Row(
        validation_mean=float(np.mean(flat_validation)),
        accuracy_mean=float(np.mean(flat)),
        accuracy_std=_std(flat),
        accuracy_ci95=interval(runs),
        std_base_sets=_std([float(np.mean(group)) for group in runs]),
        std_training=math.sqrt(np.mean([np.var(g, ddof=1) for g in within])) if within else None,
        base_sets=len(runs),
        runs=tuple(flat),
        validation_runs=tuple(flat_validation),
        **facts,
    )


def _std(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


@dataclass(frozen=True)
class EvaluationTable:
    """Rows, in the order in which they are shown.

    Attributes:
        rows: the rows.
        seconds: how long it took.
    """

    rows: tuple[Row, ...]
    seconds: float

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def row(self, labels: str, network: str | None = None, optimizer: str | None = None) -> Row:
        """The first row with these labels (and network and optimiser, where given).

        Raises:
            KeyError: there is none.
        """
        for row in self.rows:
            if row.labels == labels and network in (None, row.network) and optimizer in (None, row.optimizer):
                return row
        raise KeyError(labels)

    def to_dicts(self) -> list[dict[str, Any]]:
        """Plain records, as ``metrics.json`` holds them."""
        return [asdict(row) for row in self.rows]
