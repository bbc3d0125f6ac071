"""The numbers of a report as one record: what ``--json`` writes, and what terminal and page show rounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from convexdistill.report.compare import Difference
from convexdistill.report.entries import Entry, against


def record(entries: Sequence[Entry]) -> dict[str, Any]:
    """Plain values: ``sets``, each with what its file says and with the numbers that belong to it.

    Each set has ``name``, ``images``, ``shape``, ``classes``, ``label_space``, ``is_cross``, ``bytes``,
    ``manifest`` (of the file) and ``metrics`` (``None`` without numbers); ``main``: the row that headlines are
    made of (``None`` without one), the best baseline, and the paired difference; ``against_first``: its main row
    minus the first set's.
    """
    return {
        "sets": [
            {
                "name": one.name,
                "images": len(one.distilled),
                "shape": list(one.distilled.shape),
                "classes": list(one.distilled.classes),
                "label_space": one.distilled.label_space,
                "is_cross": one.distilled.is_cross,
                "bytes": one.distilled.bytes,
                "manifest": dict(one.distilled.manifest),
                "metrics": dict(one.metrics) or None,
                "main": _main(one),
                "against_first": _plain(against(entries[0], one)) if k else None,
            }
            for k, one in enumerate(entries)
        ]
    }


def _main(one: Entry) -> dict[str, Any] | None:
    found = one.standing
    if found is None:
        return None
    row, best = found.row, found.best
    return {
        "network": row.network,
        "optimizer": row.optimizer,
        "accuracy_mean": row.accuracy_mean,
        "accuracy_std": row.accuracy_std,
        "accuracy_ci95": list(row.accuracy_ci95),
        "best_baseline": None if best is None else best.labels,
        "best_baseline_accuracy_mean": None if best is None else best.accuracy_mean,
        "minus_best": _plain(one.to_best),
    }


def _plain(gap: Difference | None) -> dict[str, Any] | None:
    return None if gap is None else asdict(gap)
