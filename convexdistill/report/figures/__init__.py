"""Every figure of a report, as plots that can be drawn on the page or into files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from convexdistill.evaluate import Row
from convexdistill.report import words
from convexdistill.report.compare import DISTILLED, panels
from convexdistill.report.drawing import Plot
from convexdistill.report.entries import Entry
from convexdistill.report.figures.accuracy import Panel, accuracy, flexibility
from convexdistill.report.figures.calibration import calibration
from convexdistill.report.figures.confusion import confusion
from convexdistill.report.figures.curves import curves
from convexdistill.report.figures.groups import excess
from convexdistill.report.figures.labels import heat_map

# More ways of training than this are not drawn one by one, but as a whole.
_MOST_PANELS = 6


def plots_of(entries: Sequence[Entry]) -> dict[str, Plot]:
    """All figures of one set or of a comparison, by name; those whose numbers are missing are left out.

    ``accuracy``, ``flexibility``, ``curves``, ``calibration``, ``confusion``, ``labels`` and ``groups``; of a
    comparison the last two come once for each set, as ``labels-1``, ``labels-2``, ….
    """
    named = _main_rows(entries)
    found = [
        *_accuracies(entries),
        curves(named),
        calibration(named),
        confusion(_confused(entries, named), entries[0].distilled.classes),
    ]
    for k, one in enumerate(entries, 1):
        suffix = f"-{k}" if len(entries) > 1 else ""
        found += [heat_map(one.distilled, f"labels{suffix}"), excess(_subgroups(one), f"groups{suffix}")]
    return {plot.name: plot for plot in found if plot is not None}


def _subgroups(one: Entry) -> list[dict[str, object]]:
    return list(one.metrics.get("subgroups") or [])


def _accuracies(entries: Sequence[Entry]) -> list[Plot]:
    """A panel for each set, or of a single set for each way of training where they are few."""
    shown: list[Panel] = [(one.name, [r for r in one.standing.panel if r.runs]) for one in entries if one.standing]
    if len(entries) == 1:
        ways: list[Panel] = [
            (_way(rows), [r for r in rows if r.runs]) for rows in panels(entries[0].rows).values()
        ]
        shown = ways if len(ways) <= _MOST_PANELS else shown
    shown = [(title, rows) for title, rows in shown if rows]
    repeated: list[Panel] = [(one.name, one.rows) for one in entries if _has_many_ways(one.rows)]
    return ([accuracy(shown)] if shown else []) + ([flexibility(repeated)] if repeated else [])


def _way(rows: Sequence[Row]) -> str:
    """How these rows were trained, without their loss."""
    trained = next((row for row in rows if row.network is not None), None)
    return "" if trained is None else words.training(trained, with_loss=False)


def _has_many_ways(rows: Sequence[Row]) -> bool:
    return any(count > 2 for count in Counter(row.labels for row in rows if row.runs).values())


def _main_rows(entries: Sequence[Entry]) -> list[tuple[str, Row]]:
    """Of one set, every kind of labels trained in the main way; of several, the distilled labels of each."""
    standings = [(one.name, one.standing) for one in entries if one.standing is not None]
    if len(entries) > 1:
        return [(name, found.row) for name, found in standings]
    return [(words.label_name(row.labels), row) for _, found in standings for row in found.panel]


def _confused(entries: Sequence[Entry], named: Sequence[tuple[str, Row]]) -> list[tuple[str, Row]]:
    """The distilled labels beside the best baseline that has a matrix, or each set of a comparison."""
    if len(entries) > 1:
        return list(named)
    rivals = [(name, row) for name, row in named if row.labels != DISTILLED and row.confusion]
    best = max(rivals, key=lambda one: one[1].mean, default=None)
    return [(name, row) for name, row in named if row.labels == DISTILLED] + ([best] if best else [])
