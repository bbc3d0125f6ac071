"""Accuracy over a number that settings differ in: records grouped, and drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from _learned_labels import key_of, pair, rows_of
from _records import Record
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Cells = dict[int, list[Record]]


def grouped_curves(records: Sequence[Record], over: str) -> dict[tuple[Any, ...], Cells]:
    """Records by data and base size, and within these by the field ``over`` of their settings."""
    groups: dict[tuple[Any, ...], Cells] = {}
    for record in records:
        cells = groups.setdefault(key_of(record), {})
        cells.setdefault(record["setting"][over], []).append(record)
    return groups


def panels(count: int, label: str) -> tuple[Figure, list[Axes]]:
    """A figure with a row of axes for test accuracy over something."""
    figure = Figure(figsize=(4.4 * count, 3.4), layout="constrained")
    axes = list(figure.subplots(1, count, squeeze=False)[0])
    for ax in axes:
        ax.set_xlabel(label, fontsize=8)
        ax.set_ylabel("test accuracy, %", fontsize=8)
        ax.grid(alpha=0.3)
    return figure, axes


def curve(groups: Mapping[tuple[Any, ...], Cells], label: str) -> Figure:
    """Mean accuracy of each kind of labels, with the standard deviation of all trainings as a band."""
    figure, axes = panels(len(groups), label)
    for ax, (key, cells) in zip(axes, groups.items(), strict=True):
        counts = sorted(cells)
        rows = [rows_of(cells[count]) for count in counts]
        for i, row in enumerate(rows[0]):
            means = np.array([found[i].accuracy_mean for found in rows])
            spreads = np.array([found[i].accuracy_std or 0.0 for found in rows])
            ax.semilogx(counts, means, "o-", ms=3, label=row.labels)
            ax.fill_between(counts, means - spreads, means + spreads, alpha=0.15)
        ax.set_title(f"{pair(key[0], key[1])}, {key[2]} base examples", fontsize=9)
        ax.legend(fontsize=7)
    return figure
