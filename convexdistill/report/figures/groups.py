"""Whom distillation costs more: the excess gap of every group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from convexdistill.report.compare import DISTILLED
from convexdistill.report.drawing import Canvas, Plot, bare, new_figure
from convexdistill.report.words import shortened, signed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A page can hold no more; the table has the others.
_MOST = 60


def excess(subgroups: Sequence[Mapping[str, Any]], name: str = "groups") -> Plot | None:
    """The excess gap of the distilled labels on every group, with intervals; ``None`` where there is none.

    Args:
        subgroups: records as :meth:`convexdistill.evaluate.BiasReport.to_dicts` makes them.
        name: of the figure.
    """
    rows = [one for one in subgroups if one["labels"] == DISTILLED and one.get("excess") is not None][:_MOST]
    if not rows:
        return None
    columns = list(dict.fromkeys(row["group"] for row in rows))

    def draw(canvas: Canvas) -> Figure:
        palette = canvas.palette
        parts = [[row for row in rows if row["group"] == column][::-1] for column in columns]
        sizes = [len(part) + 0.9 for part in parts]
        figure = new_figure(canvas.width, 0.26 * sum(sizes) + 0.6)
        axes = figure.subplots(len(parts), 1, sharex=True, squeeze=False, height_ratios=sizes)[:, 0]
        for ax, part, column in zip(axes, parts, columns, strict=True):
            for y, row in enumerate(part):
                low, high = row["excess_ci95"]
                colour = palette.accent if clear(row) else palette.muted
                ax.plot([low, high], [y, y], color=colour, linewidth=2)
                style = {"color": colour} if clear(row) else {"color": palette.paper, "markeredgecolor": colour}
                ax.plot([row["excess"]], [y], "o", markersize=6, **style)
            ax.axvline(0, color=palette.ink, linewidth=0.8)
            ax.set_yticks(range(len(part)), [shortened(str(row["value"]), 20) for row in part])
            ax.set_ylim(-0.7, len(part) - 0.3)
            ax.set_title(shortened(column, 30))
            ax.tick_params(axis="y", length=0)
            bare(ax, "bottom")
        axes[-1].set_xlabel("excess gap, points")
        return figure

    worst = min(rows, key=lambda row: row["excess"])
    return Plot(
        name,
        f"Plot of the excess gap of every group. Lowest: {worst['group']} {worst['value']}, "
        f"{signed(worst['excess'], 1)} points.",
        "Left of zero: distillation costs this group more than the others. Line: 95 % interval; a full dot where "
        "it leaves zero out.",
        draw,
    )


def clear(row: Mapping[str, Any]) -> bool:
    """Whether the interval of the excess leaves zero out."""
    low, high = row["excess_ci95"]
    return low is not None and high is not None and (low > 0 or high < 0)
