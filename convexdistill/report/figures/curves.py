"""Learning curves: validation accuracy against steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from convexdistill.evaluate import Row
from convexdistill.report.compare import DISTILLED
from convexdistill.report.drawing import Canvas, Plot, bare, new_figure
from convexdistill.report.words import percent, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Lines differ in colour, in dashes and in markers, so that none of the three is needed.
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)), (0, (3, 3, 1, 3)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def curves(named: Sequence[tuple[str, Row]]) -> Plot | None:
    """One line for each row that has a curve; ``None`` where none has.

    Args:
        named: rows with the names that the legend gives them; at most eight are drawn.
    """
    shown = [(name, row, _known(row)) for name, row in named if len(_known(row)) > 1][: len(_DASHES)]
    if not shown:
        return None

    def draw(canvas: Canvas) -> Figure:
        palette = canvas.palette
        lines = -(-len(shown) // (2 if canvas.is_narrow else 4))
        figure = new_figure(canvas.width, 2.9 + 0.2 * lines)
        ax = figure.subplots()
        for k, (name, row, points) in enumerate(shown):
            steps, means, stds = zip(*points, strict=True)
            colour = palette.lines[k]
            ax.plot(
                steps,
                means,
                linestyle=_DASHES[k],
                marker=_MARKERS[k],
                color=colour,
                linewidth=2.2 if row.labels == DISTILLED else 1.5,
                markersize=5,
                markeredgecolor=palette.paper,
                label=shortened(name, 24),
            )
            if None not in stds:
                low = [mean - std for mean, std in zip(means, stds, strict=True)]
                high = [mean + std for mean, std in zip(means, stds, strict=True)]
                ax.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0)
        ax.grid(axis="y", color=palette.rule, linewidth=0.6)
        ax.set_axisbelow(True)
        ax.set_xlabel("training steps")
        ax.set_ylabel("validation accuracy, %")
        bare(ax, "bottom")
        columns = 2 if canvas.is_narrow else 4
        figure.legend(loc="outside upper left", ncols=columns, frameon=False, fontsize=9, handlelength=3)
        return figure

    ends = "; ".join(
        f"{name}: {percent(points[-1][1])} % after {points[-1][0]} steps" for name, _, points in shown
    )
    return Plot(
        "curves",
        f"Learning curves: mean validation accuracy against training steps. {ends}.",
        "Mean validation accuracy of the trainings; the band is one standard deviation to each side. The test "
        "split takes no part in this.",
        draw,
    )


def _known(row: Row) -> list[tuple[int, float, float | None]]:
    return [(step, mean, std) for step, mean, std in row.curve if mean is not None]
