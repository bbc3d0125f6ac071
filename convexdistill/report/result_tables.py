"""The tables of an evaluation: its rows, the sets of a comparison, and distilled labels minus baselines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from convexdistill.evaluate import Row
from convexdistill.evaluate.baselines import UNTRAINED
from convexdistill.report import words
from convexdistill.report.compare import DISTILLED, FULL_DATA, Difference
from convexdistill.report.entries import Entry, against
from convexdistill.report.tables import Cell, Heading, Line, Table

Read = Callable[[Row], Cell]


def _number(key: str, show: Callable[[Any], str]) -> Read:
    return lambda row: Cell(show(getattr(row, key)), getattr(row, key))


def _word(show: Callable[[Row], str]) -> Read:
    return lambda row: Cell(show(row))


def _ends(key: str) -> Read:
    return lambda row: Cell(words.interval(getattr(row, key)), getattr(row, key)[0])


def _worst(row: Row) -> Cell:
    if row.worst_class is None:
        return Cell(words.DASH)
    return Cell(words.worst(row.worst_class), float(row.worst_class["accuracy"]))


def _accuracy(row: Row) -> Cell:
    if row.accuracy_mean is None:
        return Cell("diverged" if row.diverged else words.DASH)
    spread = "" if row.accuracy_std is None else f" ± {words.percent(row.accuracy_std)}"
    return Cell(words.percent(row.accuracy_mean) + spread, row.accuracy_mean)


_ALWAYS = {
    "labels",
    "network",
    "optimizer",
    "loss",
    "steps",
    "validation_mean",
    "accuracy_mean",
    "accuracy_ci95",
    "runs",
}
# These stand only where they differ.
_WHERE_THEY_DIFFER = {"learning_rate", "augmentation", "order"}
# What a line of the terminal has room for.
_BRIEF = _ALWAYS | {"worst_class", "ece", "diverged"}
_COLUMNS: dict[str, tuple[Heading, Read]] = {
    "labels": (Heading("labels", False), _word(lambda row: words.label_name(row.labels))),
    "accuracy_mean": (Heading("test %", True, "mean ± standard deviation over all trainings"), _accuracy),
    "accuracy_ci95": (Heading("95 % interval", True, "Student’s t"), _ends("accuracy_ci95")),
    "network": (Heading("network", False), _word(lambda row: words.network(row.network))),
    "optimizer": (Heading("optimiser", False), _word(lambda row: words.optimizer(row.optimizer))),
    "learning_rate": (Heading("learning rate"), _number("learning_rate", words.number)),
    "augmentation": (Heading("augmentation", False), _word(lambda row: row.augmentation or words.DASH)),
    "order": (Heading("order", False, "how minibatches were drawn"), _word(lambda row: row.order or words.DASH)),
    "loss": (Heading("loss", False, "× what the labels were multiplied by"), _word(words.loss)),
    "steps": (
        Heading("steps", True, "chosen on the validation split, for each base set"),
        lambda row: Cell(words.steps(row.steps), max(row.steps, default=None)),
    ),
    "validation_mean": (Heading("valid. %"), _number("validation_mean", words.percent)),
    "worst_class": (Heading("worst class", True, "lowest mean recall"), _worst),
    "ece": (Heading("ECE", True, "expected calibration error, 0 to 1"), _number("ece", words.fraction)),
    "brier": (Heading("Brier", True, "Brier score, 0 to 2"), _number("brier", words.fraction)),
    "nll": (Heading("NLL", True, "negative log-likelihood, nats"), _number("nll", words.fraction)),
    "accuracy_bootstrap_ci95": (
        Heading("bootstrap", True, "95 % interval by a nested bootstrap"),
        _ends("accuracy_bootstrap_ci95"),
    ),
    "std_base_sets": (
        Heading("std, sets", True, "standard deviation: what the choice of base images does"),
        _number("std_base_sets", words.percent),
    ),
    "std_training": (
        Heading("std, trainings", True, "standard deviation: what the training’s own seed does"),
        _number("std_training", words.percent),
    ),
    "diverged": (Heading("diverged", True, "trainings that are in no mean"), _number("diverged", str)),
    "runs": (
        Heading("runs", True, "base sets × trainings on each"),
        lambda row: Cell(words.runs(row), len(row.runs)),
    ),
    "seconds": (Heading("time", True, "of training, this row’s share"), _number("seconds", words.seconds)),
}


def results(named: Sequence[tuple[str, Sequence[Row]]], *, brief: bool = False) -> Table:
    """Every row of the evaluation; of several sets, with a column that names the set.

    Args:
        named: the rows of each set, with its name.
        brief: what fits on a terminal.
    """
    rows = [(name, row) for name, part in named for row in part]
    keys = [key for key in _COLUMNS if _is_shown(key, [row for _, row in rows], brief)]
    many = len(named) > 1
    lines = [
        Line(
            (*([Cell(name)] if many else []), *(_COLUMNS[key][1](row) for key in keys)),
            row.labels == DISTILLED,
        )
        for name, row in rows
    ]
    headings = [*([Heading("set", False)] if many else []), *(_COLUMNS[key][0] for key in keys)]
    caption = "Networks trained from scratch on these images alone, and tested on the target’s test split."
    return Table("accuracy-table", caption, tuple(headings), tuple(lines))


def _is_shown(key: str, rows: Sequence[Row], brief: bool) -> bool:
    trained = [getattr(row, key) for row in rows if row.network is not None]
    if key in _WHERE_THEY_DIFFER or (brief and key == "optimizer"):
        return any(value != trained[0] for value in trained)
    if brief and key not in _BRIEF:
        return False
    return key in _ALWAYS or any(value not in (None, 0, (None, None)) for value in trained)


def sets(entries: Sequence[Entry]) -> Table:
    """One line for each set of a comparison: its size, what it reaches, and what that is worth."""
    names = (
        Heading("set", False),
        Heading("test %"),
        Heading("95 % interval", True, "Student’s t"),
        Heading("minus best", True, "distilled minus the best baseline, points, 95 % interval"),
        Heading("best baseline", False),
        Heading(f"minus {words.shortened(entries[0].name, 16)}", True, "points, 95 % interval"),
        Heading("images"),
        Heading("bytes", True, "images, labels, ZCA if any"),
        Heading("method", False),
        Heading("network", False),
    )
    reached = [one.standing.row.mean if one.standing else -1.0 for one in entries]
    lines = []
    for k, one in enumerate(entries):
        distilled, found = one.distilled, one.standing
        cells = [Cell(one.name), *([Cell(words.DASH)] * 4)]
        if found is not None:
            cells[1:] = [
                _accuracy(found.row),
                Cell(words.interval(found.row.accuracy_ci95), found.row.accuracy_ci95[0]),
                _gap(one.to_best),
                Cell(words.DASH if found.best is None else words.label_name(found.best.labels)),
            ]
        cells += [
            _gap(against(entries[0], one)) if k else Cell(words.DASH),
            Cell(f"{len(distilled):,}", len(distilled)),
            Cell(f"{distilled.bytes['total']:,}", distilled.bytes["total"]),
            Cell(distilled.manifest["method"]),
            Cell(words.DASH if found is None else words.network(found.row.network)),
        ]
        lines.append(Line(tuple(cells), reached[k] == max(reached) >= 0))
    return Table("sets", "The sets, each with its main network.", names, tuple(lines))


def _gap(gap: Difference | None) -> Cell:
    """A difference with its interval."""
    return Cell(words.DASH) if gap is None else Cell(words.gap(gap.mean, gap.low, gap.high), gap.mean)


def differences(entries: Sequence[Entry]) -> Table | None:
    """Distilled minus every baseline, for each way of training that was recorded; ``None`` where none was."""
    many = len(entries) > 1
    several = sum(row.labels == DISTILLED for one in entries for row in one.rows) > len(entries)
    lines = [
        Line(
            (
                *([Cell(one.name)] if many else []),
                Cell(words.label_name(name)),
                *([Cell(words.training(row))] if several else []),
                _gap_of(found),
                Cell(f"{found['pairs']} {found['over']}", found["pairs"]),
            )
        )
        for one in entries
        for row in one.rows
        for name, found in row.differences.items()
    ]
    names = (
        Heading("minus", False),
        *([Heading("trained with", False)] if several else []),
        Heading("points (95 % interval)"),
        Heading("pairs"),
    )
    caption = _paired_how({name for one in entries for row in one.rows for name in row.differences})
    head = (*([Heading("set", False)] if many else []), *names)
    return Table("differences", caption, head, tuple(lines)) if lines else None


def _paired_how(names: Set[str]) -> str:
    """What pairs up with these baselines: not all have the images, the seeds or a training."""
    said = ["Distilled labels minus each baseline, paired: the same base images, the same seeds"]
    if "random-subset" in names:
        said.append(f"“{words.label_name('random-subset')}” shares the seeds alone")
    if names & set(UNTRAINED):
        said.append("what needs no training shares the base images alone")
    if FULL_DATA in names:
        said.append("the full data shares neither, and is not paired")
    return "; ".join(said) + "."


def _gap_of(record: Mapping[str, Any]) -> Cell:
    return Cell(words.gap(record["mean"], record["low"], record["high"]), record["mean"])
