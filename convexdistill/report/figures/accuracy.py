"""Test accuracy of every row, and how much it depends on how a network is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from convexdistill.evaluate import Row
from convexdistill.report.compare import DISTILLED
from convexdistill.report.drawing import Canvas, Palette, Plot, bare, new_figure
from convexdistill.report.words import label_name, percent, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# A panel: its title, and the rows in it.
Panel = tuple[str, Sequence[Row]]


def accuracy(panels: Sequence[Panel]) -> Plot:
    """Mean, 95 % interval and the single runs of every row; best on top.

    Args:
        panels: at least one, with at least one row that has an accuracy.
    """
    panels = [(title, sorted((r for r in rows if r.runs), key=_mean)) for title, rows in panels]
    every = [row for _, rows in panels for row in rows]
    best = max(every, key=_mean)

    def draw(canvas: Canvas) -> Figure:
        sizes = [len(rows) + (0.9 if len(panels) > 1 else 0.2) for _, rows in panels]
        figure = new_figure(canvas.width, 0.34 * sum(sizes) + 0.55)
        axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=sizes)[:, 0]
        ends = _range(every)
        for ax, (title, rows) in zip(axes, panels, strict=True):
            _panel(ax, rows, ends, canvas.palette)
            if len(panels) > 1:
                ax.set_title(shortened(title, 34 if canvas.is_narrow else 70))
        axes[-1].set_xlabel("test accuracy, %")
        return figure

    return Plot(
        "accuracy",
        "Plot of test accuracy with 95 % intervals. "
        f"Highest: {label_name(best.labels)}, {percent(best.accuracy_mean)} %. "
        "The table above holds the same numbers.",
        "Large dot: mean. Line: 95 % interval; an arrow where it goes on beyond the plot. "
        "Faint dots: single trainings.",
        draw,
    )


def _mean(row: Row) -> float:
    return 0.0 if row.accuracy_mean is None else row.accuracy_mean


def _range(rows: Sequence[Row]) -> tuple[float, float]:
    """Ends of the axis: all runs, and of the intervals what does not squeeze them."""
    values = [value for row in rows for value in (*row.runs, _mean(row))]
    low, high = min(values), max(values)
    span = max(high - low, 4.0)
    ends = [end for row in rows for end in row.accuracy_ci95 if end is not None]
    ends = [end for end in ends if low - 0.35 * span <= end <= high + 0.35 * span]
    low, high = min([low, *ends]) - 0.05 * span, max([high, *ends]) + 0.05 * span
    return max(low, -1.0), min(high, 101.0)


def _panel(ax: Axes, rows: Sequence[Row], ends: tuple[float, float], palette: Palette) -> None:
    low, high = ends
    for y, row in enumerate(rows):
        chosen = row.labels == DISTILLED
        colour = palette.accent if chosen else palette.muted
        ax.axhline(y, color=palette.rule, linewidth=0.6, zorder=0)
        left, right = row.accuracy_ci95
        if left is not None and right is not None:
            ax.plot([max(left, low), min(right, high)], [y, y], color=colour, linewidth=2, alpha=0.85)
            for end, marker, edge, beyond in ((left, "<", low, left < low), (right, ">", high, right > high)):
                if beyond:
                    ax.plot([edge], [y], marker=marker, color=colour, markersize=6, clip_on=False)
                else:
                    ax.plot([end], [y], marker="|", color=colour, markersize=8, markeredgewidth=1.6)
        ax.plot(row.runs, [y - 0.3] * len(row.runs), "o", color=colour, alpha=0.45, markersize=4, mew=0)
        ax.plot([_mean(row)], [y], "o", color=colour, markersize=8, markeredgecolor=palette.paper, zorder=5)
        _at_the_end(ax, y, percent(row.accuracy_mean), colour if chosen else palette.ink, chosen)
    _names(ax, [row.labels for row in rows], palette)
    ax.set_xlim(low, high)


def flexibility(panels: Sequence[Panel]) -> Plot:
    """Accuracy of every kind of labels under every way of training: a dot each, and from worst to best.

    Args:
        panels: at least one; a kind of labels counts where it has more than one row with an accuracy.
    """
    kinds: list[tuple[str, list[tuple[str, list[float]]]]] = []
    for title, rows in panels:
        names = list(dict.fromkeys(row.labels for row in rows))
        of = {name: [_mean(r) for r in rows if r.labels == name and r.runs] for name in names}
        found = sorted(((n, v) for n, v in of.items() if len(v) > 1), key=lambda kind: np.median(kind[1]))
        kinds.append((title, found))
    every = [value for _, found in kinds for _, values in found for value in values]
    spread = {name: max(values) - min(values) for _, found in kinds for name, values in found}

    def draw(canvas: Canvas) -> Figure:
        palette = canvas.palette
        sizes = [len(found) + (0.9 if len(kinds) > 1 else 0.2) for _, found in kinds]
        figure = new_figure(canvas.width, 0.34 * sum(sizes) + 0.55)
        axes = figure.subplots(len(kinds), 1, sharex=True, squeeze=False, height_ratios=sizes)[:, 0]
        margin = 0.05 * max(max(every) - min(every), 4.0)
        for ax, (title, found) in zip(axes, kinds, strict=True):
            for y, (name, values) in enumerate(found):
                colour = palette.accent if name == DISTILLED else palette.muted
                ax.axhline(y, color=palette.rule, linewidth=0.6, zorder=0)
                ax.plot([min(values), max(values)], [y, y], color=colour, linewidth=2, alpha=0.6)
                ax.plot(values, [y] * len(values), "o", color=colour, alpha=0.5, markersize=5, mew=0)
                ax.plot([np.median(values)], [y], "|", color=palette.ink, markersize=14, markeredgewidth=2)
                _at_the_end(
                    ax, y, f"{percent(min(values))} – {percent(max(values))}", palette.ink, name == DISTILLED
                )
            _names(ax, [name for name, _ in found], palette)
            if len(kinds) > 1:
                ax.set_title(shortened(title, 34 if canvas.is_narrow else 70))
            ax.set_xlim(max(min(every) - margin, -1), min(max(every) + margin, 101))
        axes[-1].set_xlabel("test accuracy, %")
        return figure

    said = "; ".join(f"{label_name(name)}: {value:.1f} points" for name, value in spread.items())
    return Plot(
        "flexibility",
        f"Plot of test accuracy over all ways of training. From worst to best: {said}.",
        "One dot for each network, optimiser, learning rate and so on; the stroke is the median, the figures are "
        "the worst and the best.",
        draw,
    )


def _at_the_end(ax: Axes, y: float, text: str, colour: str, bold: bool) -> None:
    ax.annotate(
        text,
        (1, y),
        xycoords=("axes fraction", "data"),
        xytext=(11, 0),
        textcoords="offset points",
        va="center",
        color=colour,
        weight="bold" if bold else "normal",
    )


def _names(ax: Axes, labels: Sequence[str], palette: Palette) -> None:
    ax.set_yticks(range(len(labels)), [shortened(label_name(name), 24) for name in labels])
    for name, text in zip(labels, ax.get_yticklabels(), strict=True):
        if name == DISTILLED:
            text.set(color=palette.accent, weight="bold")
    ax.set_ylim(-0.6, len(labels) - 0.4)
    ax.tick_params(axis="y", length=0, pad=9)
    bare(ax, "bottom")
