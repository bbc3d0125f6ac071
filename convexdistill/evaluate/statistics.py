"""Intervals and paired differences of accuracies that were measured base set by base set.

The design is nested: trainings within base sets. Trainings on one base set share its luck, so the base sets are
the independent observations wherever there are several of them; with a single one the trainings are, and every
interval speaks for that set alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Runs = Sequence[Sequence[float]]
"""For each base set, the accuracy of each training."""

Interval = tuple[float | None, float | None]

RESAMPLES = 4000


def interval(runs: Runs) -> Interval:
    """95 % interval of the mean accuracy, by Student's t on the base sets' means.

    An accuracy cannot leave 0 … 100, so neither does the interval.

    Args:
        runs: for each base set, the accuracy of each training.

    Example:
        >>> low, high = interval([[90.0, 92.0], [93.0, 95.0]])
        >>> round(low, 1), round(high, 1)
        (73.4, 100.0)
    """
    mean, low, high = _t_interval(observations(runs))
    if low is None or high is None or mean is None:
        return None, None
    return max(0.0, low), min(100.0, high)


def bootstrap_interval(runs: Runs) -> Interval:
    """95 % percentile interval of the mean accuracy, by a nested bootstrap.

    Base sets are drawn with replacement, then trainings within each of them (Davison and Hinkley 1997, section
    3.8). Unlike Student's t it assumes no shape of the distribution; with two or three base sets it is too
    narrow, as there are so few different draws. It is the same for the same runs: the draws have a fixed seed.

    Args:
        runs: for each base set, the accuracy of each training.

    Example:
        >>> bootstrap_interval([[90.0, 92.0], [93.0, 95.0]])
        (90.5, 94.5)
    """
    groups = [np.asarray(group, dtype=float) for group in runs if len(group)]
    if sum(map(len, groups)) < 2:
        return None, None
    draw = np.random.default_rng(0)
    # Means of each base set, resampled as often as it may be drawn; then base sets are drawn among them.
    means = np.stack(
        [group[draw.integers(len(group), size=(RESAMPLES, len(groups), len(group)))].mean(-1) for group in groups],
        axis=-1,
    )  # (resamples, draw, base set)
    chosen = draw.integers(len(groups), size=(RESAMPLES, len(groups), 1))
    found = np.take_along_axis(means, chosen, axis=-1).mean((1, 2))
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


@dataclass(frozen=True)
class Paired:
    """Distilled minus baseline, in points of accuracy.

    Attributes:
        mean: the mean difference.
        low: lower end of its 95 % interval by Student's t; ``None`` of a single pair.
        high: upper end.
        pairs: how many pairs.
        over: what is paired: ``"base sets"``, or ``"trainings"`` where there is a single base set;
            ``"unpaired base sets"`` or ``"unpaired trainings"`` where nothing pairs up.
    """

    mean: float
    low: float | None
    high: float | None
    pairs: int
    over: str


def paired_difference(
    ours: Sequence[Sequence[float | None]], theirs: Sequence[Sequence[float | None]]
) -> Paired | None:
    """The paired difference of two kinds of labels on the same base sets; ``None`` where nothing pairs up.

    Trainings with the same number share their seed. Those of which either has diverged are left out, both of
    them. A baseline that is not trained has one accuracy a base set, which is compared with every training.

    Args:
        ours: for each base set, the accuracy of each training; ``None`` where it diverged.
        theirs: the same of the baseline.

    Example:
        >>> found = paired_difference([[90.0, 92.0], [93.0, 95.0]], [[88.0], [90.0]])
        >>> found.mean, found.pairs, found.over
        (3.5, 2, 'base sets')
    """
    if len(ours) != len(theirs):
        return None
    differences = []
    for mine, other in zip(ours, theirs, strict=True):
        wide = list(other) * len(mine) if len(other) == 1 else list(other)
        if len(wide) != len(mine):
            return None
        pairs = zip(mine, wide, strict=True)
        differences.append([a - b for a, b in pairs if a is not None and b is not None])
    mean, low, high = _t_interval(found := observations(differences))
    if mean is None:
        return None
    return Paired(mean, low, high, len(found), "base sets" if len(ours) > 1 else "trainings")


def unpaired_difference(ours: Runs, theirs: Runs) -> Paired | None:
    """The difference of two means, with Welch's 95 % interval; ``None`` without runs.

    The observations of either side are the means of its base sets, or its trainings where it has a single one.

    Args:
        ours: for each base set, the accuracy of each training.
        theirs: the same of the other.

    Example:
        >>> found = unpaired_difference([[90.0, 92.0]], [[97.0, 98.0, 99.0]])
        >>> found.mean, round(found.low, 1), found.over
        (-7.0, -13.0, 'unpaired trainings')
        >>> unpaired_difference([[90.0, 90.5], [92.0, 91.5]], [[97.0, 98.0, 99.0]]).over
        'unpaired base sets'
    """
    over = f"unpaired {'base sets' if len(ours) > 1 or len(theirs) > 1 else 'trainings'}"
    a, b = observations(ours), observations(theirs)
    if not (a and b):
        return None
    mean = float(np.mean(a) - np.mean(b))
    pairs = min(len(a), len(b))
    if pairs < 2:
        return Paired(mean, None, None, pairs, over)
    if len({*a}) == len({*b}) == 1:  # no spread at all
        return Paired(mean, mean, mean, pairs, over)
    from scipy import stats  # takes half a second to import

    found = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    return Paired(mean, float(found.low), float(found.high), pairs, over)


def observations(runs: Runs) -> list[float]:
    """The independent observations: the base sets' means, or the trainings of a single base set."""
    if len(runs) == 1:
        return list(runs[0])
    return [float(np.mean(group)) for group in runs if len(group)]


def _t_interval(values: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """Mean and 95 % interval, each ``None`` where there are too few values for it."""
    if not values:
        return None, None, None
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None, None
    from scipy import stats  # takes half a second to import

    error = float(stats.sem(values))
    if error == 0:
        return mean, mean, mean
    low, high = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=error)
    return mean, float(low), float(high)
