"""Which row is the main one, which baseline comes nearest to it, and is the difference more than luck."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any

import numpy as np
from scipy import stats

from convexdistill.distilled import DistilledSet
from convexdistill.errors import FileFormatError
from convexdistill.evaluate import Row

DISTILLED = "distilled"
_AGAIN = "write it again with `convexdistill evaluate FILE --json metrics.json`"


def rows_of(metrics: Mapping[str, Any] | None, distilled: DistilledSet) -> tuple[Row, ...]:
    """The rows of a metrics record; none where there is no record, or nothing was evaluated.

    Raises:
        FileFormatError: a row cannot be read, or the numbers are those of another distilled set.
    """
    if metrics is None:
        return ()
    facts: dict[str, object] = {
        "target": distilled.manifest["target"]["name"],
        "base_size": len(distilled),
        "certificate": distilled.manifest["certificate"],
    }
    if other := [key for key, value in facts.items() if metrics.get(key, value) != value]:
        raise FileFormatError(
            f"the metrics belong to another distilled set (they differ in {', '.join(other)}); {_AGAIN}"
        )
    records = metrics.get("results", [])
    if not isinstance(records, list):
        raise FileFormatError(f"the metrics' results are no list; {_AGAIN}")
    return tuple(_row(record) for record in records)


def _row(record: Mapping[str, Any]) -> Row:
    try:
        values = {
            field.name: record[field.name]
            for field in fields(Row)
            if field.name in record or (field.default is MISSING and field.default_factory is MISSING)
        }
        low, high = values["accuracy_ci95"]
        for name in ("steps", "runs", "validation_runs"):
            values[name] = tuple(values[name])
        numbers = [values["accuracy_mean"], values["validation_mean"]]
        for value in (*numbers, *values["runs"]):
            if value is not None or not values.get("diverged"):
                float(value)
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"a row of the metrics cannot be read ({error!r}); {_AGAIN}") from error
    return Row(**{**values, "accuracy_ci95": (low, high)})


@dataclass(frozen=True)
class Difference:
    """Distilled minus baseline, in points of accuracy, base set by base set (or training by training).

    Attributes:
        mean: the mean difference.
        low: lower end of its 95 % interval; ``None`` of a single pair.
        high: upper end.
        pairs: how many pairs.
        over: what is paired, ``"base sets"`` or ``"trainings"``.
    """

    mean: float
    low: float | None
    high: float | None
    pairs: int
    over: str

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def difference(row: Row, baseline: Row) -> Difference | None:
    """The paired difference of two rows; ``None`` where their runs do not pair up.

    Every row trains on the same base images, so the luck of a base set cancels; trainings with the same
    number share their seed.

    Example:
        >>> facts = dict(network=None, optimizer=None, loss=None, label_scale=None, steps=())
        >>> from convexdistill.evaluate.table import summarise
        >>> a = summarise([[90.0, 92.0], [93.0, 95.0]], [[0.0]], labels="distilled", **facts)
        >>> b = summarise([[88.0], [90.0]], [[0.0]], labels="nearest-neighbour", **facts)
        >>> found = difference(a, b)
        >>> found.mean, found.pairs, found.over, found.is_clear
        (3.5, 2, 'base sets', False)
    """
    if row.base_sets != baseline.base_sets:
        return None
    if row.base_sets > 1:
        ours, theirs, over = _set_means(row), _set_means(baseline), "base sets"
    else:
        ours, theirs, over = list(row.runs), list(baseline.runs), "trainings"
    if not ours or len(ours) != len(theirs):
        return None
    pairs = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean = float(np.mean(pairs))
    if len(pairs) < 2:
        return Difference(mean, None, None, len(pairs), over)
    margin = float(stats.t.ppf(0.975, len(pairs) - 1) * stats.sem(pairs))
    return Difference(mean, mean - margin, mean + margin, len(pairs), over)


def _set_means(row: Row) -> list[float]:
    return [float(group.mean()) for group in np.array_split(np.asarray(row.runs), row.base_sets)]


@dataclass(frozen=True)
class Standing:
    """The main row and what it is measured against, all with its network and optimiser.

    Attributes:
        row: the first distilled row.
        best: the baseline with the highest test accuracy, if there is any.
        one_hot: the better of the one-hot rows, whatever their recipe, if there is any.
    """

    row: Row
    best: Row | None
    one_hot: Row | None


def standing(rows: Sequence[Row]) -> Standing | None:
    """Where the distilled labels stand; ``None`` where there is no distilled row."""
    row = next((row for row in rows if row.labels == DISTILLED), None)
    if row is None:
        return None
    settings = {(row.network, row.optimizer), (None, None)}
    rivals = [r for r in rows if r.labels != DISTILLED and (r.network, r.optimizer) in settings]

    def top(group: Sequence[Row]) -> Row | None:
        return max(group, key=lambda r: r.mean, default=None)

    return Standing(row, top(rivals), top([r for r in rivals if r.labels in ("one-hot", "one-hot-recipe")]))
