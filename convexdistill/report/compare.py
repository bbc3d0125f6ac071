"""Which row is the main one, which baseline comes nearest to it, and is the difference more than luck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convexdistill.evaluate import Row
from convexdistill.evaluate.statistics import observations, paired_difference

DISTILLED = "distilled"
FULL_DATA = "full-data"
ONE_HOT = ("one-hot", "one-hot-recipe")


@dataclass(frozen=True)
class Difference:
    """One row minus another, in points of accuracy.

    Attributes:
        mean: the mean difference.
        low: lower end of its 95 % interval; ``None`` of a single pair.
        high: upper end.
        pairs: how many pairs; of unpaired rows, the smaller number of observations.
        over: what is paired, ``"base sets"`` or ``"trainings"``; ``"unpaired"`` where nothing is.
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

    Rows of the same base images share the luck of each base set, which cancels; trainings with the same number
    share their seed. A random subset has images of its own, and shares the seeds alone. What the evaluation has
    recorded is taken as it is; it alone knows which trainings have diverged.

    Example:
        >>> facts = dict(network=None, optimizer=None, loss=None, label_scale=None, steps=())
        >>> from convexdistill.evaluate.table import summarise
        >>> a = summarise([[90.0, 92.0], [93.0, 95.0]], [[0.0]], labels="distilled", **facts)
        >>> b = summarise([[88.0], [90.0]], [[0.0]], labels="nearest-neighbour", **facts)
        >>> found = difference(a, b)
        >>> found.mean, found.pairs, found.over, found.is_clear
        (3.5, 2, 'base sets', False)
    """
    if recorded := row.differences.get(baseline.labels):
        return Difference(**recorded)
    if row.diverged or baseline.diverged:
        return None
    found = paired_difference(row.by_base_set, baseline.by_base_set)
    return None if found is None else Difference(found.mean, found.low, found.high, found.pairs, found.over)


def unpaired(row: Row, other: Row) -> Difference | None:
    """The difference of rows on different base images: Welch's interval, which assumes no equal spread.

    The observations of either row are the means of its base sets, or its trainings where it has a single one.

    Example:
        >>> facts = dict(network=None, optimizer=None, loss=None, label_scale=None, steps=())
        >>> from convexdistill.evaluate.table import summarise
        >>> a = summarise([[90.0, 92.0, 91.0]], [[0.0]], labels="distilled", **facts)
        >>> b = summarise([[80.0, 84.0]], [[0.0]], labels="distilled", **facts)
        >>> found = unpaired(a, b)
        >>> found.mean, found.pairs, found.over, found.is_clear
        (9.0, 2, 'unpaired', False)
    """
    a, b = observations(row.by_base_set), observations(other.by_base_set)
    if not a or not b:
        return None
    mean, pairs = float(np.mean(a) - np.mean(b)), min(len(a), len(b))
    if pairs < 2 or (np.ptp(a) == 0 and np.ptp(b) == 0):
        return Difference(mean, None, None, pairs, "unpaired")
    from scipy import stats  # takes half a second to import

    ends = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    return Difference(mean, float(ends.low), float(ends.high), pairs, "unpaired")


Setting = tuple[object, ...]


def setting(row: Row) -> Setting | None:
    """How a row was trained, but for the loss, which follows the labels; ``None`` where nothing was trained."""
    if row.network is None:
        return None
    steps = row.steps if row.steps_by == "given" else None
    return (row.network, row.optimizer, row.learning_rate, row.augmentation, row.order, steps)


def _stands_with(row: Row, way: Setting | None) -> bool:
    """Whether a row is compared with those that were trained in this way."""
    if row.labels == FULL_DATA and way is not None:
        return row.network == way[0]
    return setting(row) in (way, None)


def panels(rows: Sequence[Row]) -> dict[Setting | None, list[Row]]:
    """Rows by how they were trained; a row without a network stands with each of them."""
    trained = [row for row in rows if row.network is not None]
    ways = dict.fromkeys(setting(row) for row in trained if row.labels != FULL_DATA)
    ways = ways or dict.fromkeys(map(setting, trained)) or {None: None}
    return {way: [row for row in rows if _stands_with(row, way)] for way in ways}


@dataclass(frozen=True)
class Standing:
    """The main row and what it is measured against, all trained in the same way.

    Attributes:
        row: the first distilled row.
        best: the baseline with the highest test accuracy, if there is any.
        one_hot: the better of the one-hot rows, whatever their recipe, if there is any.
        panel: all rows that were trained like the main one, once for each kind of labels, in their order.
    """

    row: Row
    best: Row | None
    one_hot: Row | None
    panel: tuple[Row, ...]


def standing(rows: Sequence[Row]) -> Standing | None:
    """Where the distilled labels stand; ``None`` where there is no distilled row."""
    row = next((row for row in rows if row.labels == DISTILLED), None)
    if row is None:
        return None
    panel: dict[str, Row] = {DISTILLED: row}
    for rival in rows:
        if _stands_with(rival, setting(row)):
            panel.setdefault(rival.labels, rival)
    # The full data is a ceiling, not a rival: it does without distillation, and without its economy.
    rivals = [r for r in panel.values() if r.labels not in (DISTILLED, FULL_DATA) and r.accuracy_mean is not None]

    def top(group: Sequence[Row]) -> Row | None:
        return max(group, key=lambda r: r.mean, default=None)

    return Standing(row, top(rivals), top([r for r in rivals if r.labels in ONE_HOT]), tuple(panel.values()))
