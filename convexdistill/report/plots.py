"""The figures, as SVG to be put into the page: text stays text, colours are the page's own.

Drawn with matplotlib's object-oriented interface alone, so that no global state is touched.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from convexdistill.distilled import DistilledSet
from convexdistill.evaluate import Row
from convexdistill.report.compare import DISTILLED
from convexdistill.report.words import label_name, network, optimizer, percent, shortened

# Colours that stand for variables of the page's style sheet, which knows light from dark.
INK, MUTED, ACCENT, RULE, PAPER = "#000001", "#000002", "#000003", "#000004", "#000005"
_VARIABLES = {INK: "ink", MUTED: "muted", ACCENT: "accent", RULE: "rule", PAPER: "paper"}

# Blue for positive, orange for negative labels: apart for every kind of colour vision, and strong enough on
# light and on dark; opacity tells the size, so that zero is the page itself.
POSITIVE, NEGATIVE = (0.16, 0.47, 0.84), (0.87, 0.42, 0.05)

WIDE, NARROW = 7.6, 3.6
_MOST_GROUPS = 40
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.parse_math": False,  # class names are no mathematics
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": RULE,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
}


def accuracy_svg(rows: Sequence[Row], width: float = WIDE) -> str:
    """Test accuracy of every row: mean, 95 % interval and the single runs; best on top.

    One panel for each network and optimiser; a row without a network stands in each of them.

    Args:
        rows: at least one.
        width: in inches of 72 points; the page shows one of two by the width of the screen.
    """
    rows = [row for row in rows if row.accuracy_mean is not None]
    settings: list[tuple[str | None, str | None]]
    settings = list(dict.fromkeys((r.network, r.optimizer) for r in rows if r.network is not None))
    settings = settings or [(None, None)]
    panels = [
        sorted((r for r in rows if (r.network, r.optimizer) in (setting, (None, None))), key=lambda row: row.mean)
        for setting in settings
    ]
    sizes = [len(panel) + (0.9 if len(panels) > 1 else 0.2) for panel in panels]
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": f"accuracy{width}"}):
        figure = Figure(figsize=(width, 0.34 * sum(sizes) + 0.55), layout="constrained")
        axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=sizes)[:, 0]
        low, high = _range(rows)
        for ax, panel, setting in zip(axes, panels, settings, strict=True):
            _accuracy_panel(ax, panel, low, high)
            if len(panels) > 1:
                ax.set_title(f"{network(setting[0])}, {optimizer(setting[1])}", loc="left", fontsize=9.5)
        axes[-1].set_xlabel("test accuracy, %")
        best = max(rows, key=lambda row: row.mean)
        return _to_svg(
            figure,
            f"accuracy-{width:g}",
            "Plot of test accuracy with 95 % intervals. "
            f"Highest: {label_name(best.labels)}, {percent(best.accuracy_mean)} %. "
            "The table above holds the same numbers.",
        )


def _range(rows: Sequence[Row]) -> tuple[float, float]:
    """Ends of the axis: all runs, and of the intervals what does not squeeze them."""
    values = [value for row in rows for value in (*row.runs, row.mean)]
    low, high = min(values), max(values)
    span = max(high - low, 4.0)
    ends = [end for row in rows for end in row.accuracy_ci95 if end is not None]
    ends = [end for end in ends if low - 0.35 * span <= end <= high + 0.35 * span]
    low, high = min([low, *ends]) - 0.05 * span, max([high, *ends]) + 0.05 * span
    return max(low, -1.0), min(high, 101.0)


def _accuracy_panel(ax: Axes, rows: Sequence[Row], low: float, high: float) -> None:
    for y, row in enumerate(rows):
        chosen = row.labels == DISTILLED
        colour = ACCENT if chosen else MUTED
        ax.axhline(y, color=RULE, linewidth=0.6, zorder=0)
        left, right = row.accuracy_ci95
        if left is not None and right is not None:
            ax.plot([max(left, low), min(right, high)], [y, y], color=colour, linewidth=2, alpha=0.85)
            for end, marker, edge, beyond in ((left, "<", low, left < low), (right, ">", high, right > high)):
                if beyond:
                    ax.plot([edge], [y], marker=marker, color=colour, markersize=6, clip_on=False)
                else:
                    ax.plot([end], [y], marker="|", color=colour, markersize=8, markeredgewidth=1.6)
        ax.plot(row.runs, [y - 0.3] * len(row.runs), "o", color=colour, alpha=0.45, markersize=4, mew=0)
        ax.plot([row.mean], [y], "o", color=colour, markersize=8, markeredgecolor=PAPER, zorder=5)
        ax.annotate(
            percent(row.accuracy_mean),
            (1, y),
            xycoords=("axes fraction", "data"),
            xytext=(11, 0),
            textcoords="offset points",
            va="center",
            color=colour if chosen else INK,
            weight="bold" if chosen else "normal",
        )
    ax.set_yticks(range(len(rows)), [shortened(label_name(row.labels), 24) for row in rows])
    for row, text in zip(rows, ax.get_yticklabels(), strict=True):
        if row.labels == DISTILLED:
            text.set(color=ACCENT, weight="bold")
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.set_xlim(low, high)
    ax.tick_params(axis="y", length=0, pad=9)
    ax.spines[["left", "right", "top"]].set_visible(False)


def heat_map_svg(distilled: DistilledSet, width: float = WIDE) -> str:
    """Soft labels: base examples, sorted by their own class, against target classes.

    Args:
        distilled: the set.
        width: in inches of 72 points.
    """
    order = distilled.base_labels.sort(stable=True).indices
    labels = distilled.labels[order].numpy()
    groups = distilled.base_labels[order].numpy()
    n, classes = labels.shape
    largest = float(np.abs(labels).max()) or 1.0
    lowest = -largest if labels.min() < 0 else 0.0
    longest = max(len(shortened(name)) for name in distilled.classes)
    upright = classes * max(longest, 2) * 0.085 > width * 0.75
    height = float(np.clip(n * 0.085, 2.2, 7.0)) + 0.75 + (0.07 * longest if upright else 0.15)
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": f"labels{width}"}):
        figure = Figure(figsize=(width, height), layout="constrained")
        bar, ax = figure.subplots(2, 1, height_ratios=[0.1, height - 0.8])
        ax.imshow(_coloured(labels, largest), aspect="auto", interpolation="none")
        every = -(-classes // int(width * 7))
        ax.set_xticks(
            range(0, classes, every),
            [shortened(name) for name in distilled.classes[::every]],
            rotation=90 if upright else 0,
        )
        _group_ticks(ax, groups, source_classes(distilled))
        ax.set_xlabel("class of the target")
        ax.set_ylabel("base images, by their own class")
        ax.tick_params(length=0)
        ax.spines[:].set_color(RULE)
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
        bar.set_title("soft label", fontsize=9.5, loc="left")
        return _to_svg(
            figure,
            f"labels-{width:g}",
            f"Heat map of the soft labels: {n} base images against {classes} classes of the target, from "
            f"{labels.min():.2f} to {labels.max():.2f}.",
        )


def source_classes(distilled: DistilledSet) -> list[str]:
    """The name of the source class of every number in ``base_labels``."""
    names = [str(name) for name in distilled.manifest["source"].get("classes", ())]
    most = int(distilled.base_labels.max()) + 1
    return names + [f"class {k}" for k in range(len(names), most)]


def _group_ticks(ax: Axes, groups: NDArray[np.int64], names: Sequence[str]) -> None:
    """A name at the middle of each class's rows and a line between neighbours."""
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    ends = np.append(starts[1:], len(groups))
    for start in starts[1:]:
        ax.axhline(start - 0.5, color=PAPER, linewidth=1.2)
    every = -(-len(starts) // _MOST_GROUPS)
    middles = (starts + ends - 1) / 2
    ax.set_yticks(middles[::every], [shortened(names[groups[start]]) for start in starts[::every]])


def _coloured(values: NDArray[np.floating], largest: float) -> NDArray[np.float64]:
    """RGBA of signed values: hue by sign, opacity by size."""
    table = ListedColormap([NEGATIVE, POSITIVE])((values > 0).astype(int))
    table[..., 3] = np.clip(np.abs(values) / largest, 0, 1)
    return np.asarray(table, dtype=np.float64)


def _to_svg(figure: Figure, prefix: str, label: str) -> str:
    """The figure as one ``<svg>`` element without fixed size, fonts, colours or metadata of its own."""
    figure.patch.set_visible(False)
    for ax in figure.axes:
        ax.patch.set_visible(False)
    file = io.StringIO()
    facts = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with warnings.catch_warnings():
        # The browser draws the text, so it does not matter which letters matplotlib's font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        FigureCanvasSVG(figure).print_svg(file, metadata=facts)  # type: ignore[no-untyped-call]
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'^<svg[^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img" LABEL>', svg)
    svg = svg.replace("LABEL", f'aria-label="{_attribute(label)}"', 1)
    # Two figures on one page may not share ids.
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg).replace("xlink:href", "href")
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
