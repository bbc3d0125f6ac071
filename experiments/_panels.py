"""A row of axes for test accuracy over something."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure


def panels(count: int, label: str) -> tuple[Figure, list[Axes]]:
    """A figure with a row of axes for test accuracy over something."""
    figure = Figure(figsize=(4.4 * count, 3.4), layout="constrained")
    axes = list(figure.subplots(1, count, squeeze=False)[0])
    for ax in axes:
        ax.set_xlabel(label, fontsize=8)
        ax.set_ylabel("test accuracy, %", fontsize=8)
        ax.grid(alpha=0.3)
    return figure, axes
