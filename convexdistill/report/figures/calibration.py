"""Calibration: how often a network is right when it is so and so sure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from convexdistill.evaluate import Row
from convexdistill.report.compare import DISTILLED
from convexdistill.report.drawing import Canvas, Plot, bare, new_figure
from convexdistill.report.words import fraction, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_PANELS = 6


def calibration(named: Sequence[tuple[str, Row]]) -> Plot | None:
    """A reliability diagram for each row that has one; ``None`` where none has.

    Args:
        named: rows with the names of their panels; at most six are drawn.
    """
    shown = [(name, row) for name, row in named if any(count for *_, count in row.calibration)][:_MOST_PANELS]
    if not shown:
        return None

    def draw(canvas: Canvas) -> Figure:
        palette = canvas.palette
        columns = min(len(shown), 2 if canvas.is_narrow else 3)
        lines = -(-len(shown) // columns)
        side = canvas.width / (2 if canvas.is_narrow else 3)
        figure = new_figure(canvas.width, lines * side + 0.5)
        axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
        for ax in axes.flat[len(shown) :]:
            ax.set_axis_off()
        for ax, (name, row) in zip(axes.flat, shown, strict=False):
            points = [(c, a, n) for c, a, n in row.calibration if n and c is not None and a is not None]
            confidence, accuracy, count = (np.array(values, dtype=float) for values in zip(*points, strict=True))
            colour = palette.accent if row.labels == DISTILLED else palette.muted
            ax.plot([0, 1], [0, 1], color=palette.muted, linewidth=0.8, linestyle=":")
            ax.vlines(confidence, confidence, accuracy, color=colour, linewidth=1.5, alpha=0.6)
            ax.plot(confidence, accuracy, color=colour, linewidth=1, alpha=0.5)
            ax.scatter(
                confidence,
                accuracy,
                clip_on=False,
                s=8 + 130 * count / count.sum(),
                color=colour,
                linewidths=0,
                zorder=3,
            )
            ax.set_title(f"{shortened(name, 20)}\nECE {fraction(row.ece)}", fontsize=9)
            ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
            ax.set_xticks([0, 0.5, 1])
            ax.set_yticks([0, 0.5, 1])
            bare(ax, "bottom", "left")
        figure.supxlabel("confidence", fontsize=9.5)
        figure.supylabel("accuracy", fontsize=9.5)
        return figure

    said = "; ".join(f"{name}: {fraction(row.ece)}" for name, row in shown)
    return Plot(
        "calibration",
        f"Calibration plots: accuracy against confidence in 15 bins. Expected calibration error: {said}.",
        "A dot for each of 15 bins of confidence, as large as its share of the test images; on the dotted line a "
        "network is right as often as it believes. Probabilities after one temperature for each row, fitted on "
        "the validation split. ECE: the mean distance from the line.",
        draw,
    )
