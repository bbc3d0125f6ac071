"""Accuracy over a number that settings differ in: records grouped, and drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from _learned_tables import key_of, pair, rows_of
from _panels import panels
from _records import Record
from matplotlib.figure import Figure

Cells = dict[int, list[Record]]


def grouped_curves(records: Sequence[Record], over: str) -> dict[tuple[Any, ...], Cells]:
    """Records by data and base size, and within these by the field ``over`` of their settings."""
    groups: dict[tuple[Any, ...], Cells] = {}
    for record in records:
        cells = groups.setdefault(key_of(record), {})
        cells.setdefault(record["setting"][over], []).append(record)
    return groups


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
