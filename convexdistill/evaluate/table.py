"""The table that every reader sees: one row a kind of labels, network and optimiser."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from convexdistill.evaluate.statistics import Interval, bootstrap_interval, interval


@dataclass(frozen=True)
class Row:
    """Accuracies, in percent, of one kind of labels.

    Attributes:
        labels: ``"distilled"`` or the name of a baseline.
        network: what was trained; ``None`` where there is no network.
        optimizer: what it was trained with; ``None`` where nothing is trained.
        loss: ``"mse"``, ``"soft-cross-entropy"`` or ``"kl"``; ``None`` where nothing is trained.
        label_scale: what the labels were multiplied by; ``None`` where base sets chose different scales.
        steps: number of steps, one for each base set.
        validation_mean: mean validation accuracy at those steps; ``None`` where all trainings diverged.
        accuracy_mean: mean test accuracy; ``None`` where all trainings diverged.
        accuracy_std: standard deviation over all trainings; ``None`` of a single one.
        accuracy_ci95: 95 % interval of the mean by Student's t, see
            :func:`convexdistill.evaluate.statistics.interval`; ``(None, None)`` of a single run.
        std_base_sets: standard deviation of the base sets' means; ``None`` of a single base set. It holds a
            share of the trainings' own spread, since each mean is over a few of them: its square is expected to
            be the variance of the choice of base images plus ``std_training`` squared over the trainings a set.
        std_training: standard deviation of trainings on the same base set; ``None`` where there is one.
        base_sets: number of base sets.
        runs: test accuracy of every training that did not diverge, base set by base set.
        validation_runs: validation accuracy of the same trainings, in the same order.
        trainings: how many of the runs belong to each base set.
        diverged: number of trainings whose logits became NaN or infinite; they are in no mean.
        learning_rate: of the optimiser.
        temperature: of the loss ``"kl"``, else ``None``.
        augmentation: what was done to the base images in training, or ``"none"``.
        order: how minibatches were drawn.
        steps_by: who chose the number of steps: ``"validation"``, or ``"given"`` by the user.
        accuracy_bootstrap_ci95: 95 % interval of the mean by a nested bootstrap, see
            :func:`convexdistill.evaluate.statistics.bootstrap_interval`.
        worst_class: ``class`` (its name) and ``accuracy`` (percent, mean over trainings) of the class that is
            recognised least.
        temperature_fitted: what logits were divided by before probabilities were read off, fitted on the
            validation split; see :mod:`convexdistill.evaluate.probabilities` for this and the next five.
        ece: expected calibration error, 0 … 1.
        brier: Brier score, 0 … 2.
        nll: negative log-likelihood in nats.
        calibration: mean confidence, accuracy, count for each of 15 bins of confidence.
        confusion: counts, rows true classes, columns predictions, summed over trainings.
        curve: steps, mean validation accuracy and its standard deviation over trainings, at each checkpoint.
        differences: on distilled rows, by name of the baseline that was trained in the same way: ``mean``,
            ``low``, ``high``, ``pairs``, ``over``; distilled minus baseline in points, see
            :func:`convexdistill.evaluate.statistics.paired_difference`.
        seconds: of training, this row's share.
    """

    labels: str
    network: str | None
    optimizer: str | None
    loss: str | None
    label_scale: float | None
    steps: tuple[int, ...]
    validation_mean: float | None
    accuracy_mean: float | None
    accuracy_std: float | None
    accuracy_ci95: Interval
    std_base_sets: float | None
    std_training: float | None
    base_sets: int
    runs: tuple[float, ...]
    validation_runs: tuple[float, ...]
    trainings: tuple[int, ...] = ()
    diverged: int = 0
    learning_rate: float | None = None
    temperature: float | None = None
    augmentation: str | None = None
    order: str | None = None
    steps_by: str | None = None
    accuracy_bootstrap_ci95: Interval = (None, None)
    worst_class: Mapping[str, Any] | None = None
    temperature_fitted: float | None = None
    ece: float | None = None
    brier: float | None = None
    nll: float | None = None
    calibration: tuple[tuple[float | None, float | None, int], ...] = ()
    confusion: tuple[tuple[int, ...], ...] | None = None
    curve: tuple[tuple[int, float | None, float | None], ...] = ()
    differences: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def mean(self) -> float:
        """``accuracy_mean``, and 0 where all trainings diverged: for sorting and for axes."""
        return 0.0 if self.accuracy_mean is None else self.accuracy_mean

    @property
    def by_base_set(self) -> list[list[float]]:
        """``runs``, base set by base set."""
        sizes = self.trainings or [len(part) for part in np.array_split(self.runs, max(self.base_sets, 1))]
        ends = np.cumsum(sizes).tolist()
        return [list(self.runs[end - size : end]) for end, size in zip(ends, sizes, strict=True)]


def summarise(
    runs: Sequence[Sequence[float | None]], validation_runs: Sequence[Sequence[float | None]], **facts: Any
) -> Row:
    """A row from the runs of each base set, and what else is known of it.

    Args:
        runs: for each base set, the test accuracy of each training; ``None`` where it diverged.
        validation_runs: the same on the validation split.
        facts: further fields of :class:`Row`.
    """
    kept = [[value for value in group if value is not None] for group in runs]
    flat = [value for group in kept for value in group]
    flat_validation = [value for group in validation_runs for value in group if value is not None]
    within = [group for group in kept if len(group) > 1]
    means = [float(np.mean(group)) for group in kept if group]
    return Row(
        validation_mean=float(np.mean(flat_validation)) if flat_validation else None,
        accuracy_mean=float(np.mean(flat)) if flat else None,
        accuracy_std=_std(flat),
        accuracy_ci95=interval(kept),
        accuracy_bootstrap_ci95=bootstrap_interval(kept),
        std_base_sets=_std(means),
        std_training=math.sqrt(np.mean([np.var(g, ddof=1) for g in within])) if within else None,
        base_sets=len(runs),
        runs=tuple(flat),
        validation_runs=tuple(flat_validation),
        trainings=tuple(map(len, kept)),
        diverged=sum(map(len, runs)) - len(flat),
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
        how: ``seed`` and ``repeats`` of the trainings, and the ``machine``; empty of a table made by hand.
    """

    rows: tuple[Row, ...]
    seconds: float
    how: Mapping[str, Any] = field(default_factory=dict)

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
