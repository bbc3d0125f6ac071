"""The soft labels as a heat map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from convexdistill.distilled import DistilledSet
from convexdistill.report.drawing import NEGATIVE, POSITIVE, Canvas, Palette, Plot, new_figure
from convexdistill.report.words import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_GROUPS = 40


def heat_map(distilled: DistilledSet, name: str = "labels") -> Plot:
    """Soft labels: base examples, sorted by their own class, against target classes."""
    order = distilled.base_labels.sort(stable=True).indices
    labels = distilled.labels[order].numpy()
    groups = distilled.base_labels[order].numpy()
    n, classes = labels.shape
    largest = float(np.abs(labels).max()) or 1.0
    lowest = -largest if labels.min() < 0 else 0.0
    longest = max(len(shortened(name)) for name in distilled.classes)

    def draw(canvas: Canvas) -> Figure:
        palette, width = canvas.palette, canvas.width
        upright = classes * max(longest, 2) * 0.085 > width * 0.75
        height = float(np.clip(n * 0.085, 2.2, 7.0)) + 0.75 + (0.07 * longest if upright else 0.15)
        figure = new_figure(width, height)
        bar, ax = figure.subplots(2, 1, height_ratios=[0.1, height - 0.8])
        ax.imshow(_coloured(labels, largest), aspect="auto", interpolation="none")
        every = -(-classes // int(width * 7))
        ax.set_xticks(
            range(0, classes, every),
            [shortened(name) for name in distilled.classes[::every]],
            rotation=90 if upright else 0,
        )
        _group_ticks(ax, groups, source_classes(distilled), palette)
        ax.set_xlabel("class of the target")
        ax.set_ylabel("base images, by their own class")
        ax.tick_params(length=0)
        ax.spines[:].set_color(palette.rule)
        scale = np.linspace(lowest, largest, 256)
        bar.imshow(
            _coloured(scale[None], largest),
            aspect="auto",
            extent=(lowest, largest, 0, 1),
            interpolation="none",
        )
        bar.set_yticks([])
        bar.tick_params(length=2, labelsize=8.5)
        bar.xaxis.tick_top()
        bar.set_title("soft label")
        return figure

    signs = " Blue is positive, orange negative, the page’s own colour zero." if labels.min() < 0 else ""
    return Plot(
        name,
        f"Heat map of the soft labels: {n} base images against {classes} classes of the target, from "
        f"{labels.min():.2f} to {labels.max():.2f}.",
        f"One row for each base image, sorted by its own class; one column for each class of the target.{signs}",
        draw,
    )


def source_classes(distilled: DistilledSet) -> list[str]:
    """The name of the source class of every number in ``base_labels``."""
    names = [str(name) for name in distilled.manifest["source"].get("classes", ())]
    most = int(distilled.base_labels.max()) + 1
    return names + [f"class {k}" for k in range(len(names), most)]


def _group_ticks(ax: Axes, groups: NDArray[np.int64], names: Sequence[str], palette: Palette) -> None:
    """A name at the middle of each class's rows and a line between neighbours."""
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    ends = np.append(starts[1:], len(groups))
    for start in starts[1:]:
        ax.axhline(start - 0.5, color=palette.paper, linewidth=1.2)
    every = -(-len(starts) // _MOST_GROUPS)
    middles = (starts + ends - 1) / 2
    ax.set_yticks(middles[::every], [shortened(names[groups[start]]) for start in starts[::every]])


def _coloured(values: NDArray[np.floating], largest: float) -> NDArray[np.float64]:
    """RGBA of signed values: hue by sign, opacity by size."""
    from matplotlib.colors import ListedColormap

    table = ListedColormap([NEGATIVE, POSITIVE])((values > 0).astype(int))
    table[..., 3] = np.clip(np.abs(values) / largest, 0, 1)
    return np.asarray(table, dtype=np.float64)
