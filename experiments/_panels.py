"""Axes for test accuracy over something."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure


def panels(count: int, label: str, columns: int | None = None) -> tuple[Figure, list[Axes]]:
    """A figure with axes for test accuracy over something, in one row or in rows of so many columns."""
    wide = min(count, columns or count)
    rows = math.ceil(count / wide)
    figure = Figure(figsize=(4.4 * wide, 3.4 * rows), layout="constrained")
    every = list(figure.subplots(rows, wide, squeeze=False).flat)
    for ax in every[count:]:
        ax.remove()
    for ax in every[:count]:
        ax.set_xlabel(label, fontsize=8)
        ax.set_ylabel("test accuracy, %", fontsize=8)
        ax.grid(alpha=0.3)
    return figure, every[:count]
