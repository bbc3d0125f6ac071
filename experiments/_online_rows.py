"""The paper's online methods as one table of the page within data sets, from the records of their own script."""

from __future__ import annotations

import numpy as np
from _records import RESULTS, markdown_table, read


def online_section() -> list[str]:
    """Accuracy and seconds of both, beside the closed form's on the same base set; nothing without records."""
    records = read(RESULTS / "online_methods.jsonl")
    if not records:
        return []
    closed = {
        (r["setting"]["target"], r["setting"]["base_size"]): r
        for r in records
        if r["setting"]["method"] == "closed-form"
    }
    rows = []
    for record in records:
        setting, result = record["setting"], record["result"]
        reference = closed.get((setting["target"], setting["base_size"]))
        ratio = "–"
        if reference is not None and reference is not record:
            ratio = f"{result['cpu_seconds'] / reference['result']['cpu_seconds']:.0f}×"
        rows.append(
            (
                setting["target"],
                setting["base_size"],
                setting["method"],
                setting["epochs"] if result["curve"] else "–",
                *(_spread(result["test"].get(name)) for name in ("plain", "ridge")),
                f"{result['cpu_seconds']:,.0f}",
                ratio,
            )
        )
    columns = ("data", "base:", "method", "epochs:", "test:", "by ridge:", "CPU s:", "over closed form:")
    return [
        "## The online methods",
        "",
        "From `online_methods.jsonl`, under the *paper* recipe, on one base set; 20 trainings each. The paper",
        "runs 400 epochs. *By ridge* is its own evaluation of LD-RR. CPU seconds of the distillation, choices",
        "included.",
        "",
        *markdown_table(columns, rows),
    ]


def _spread(runs: list[float] | None) -> str:
    return "–" if runs is None else f"{np.mean(runs):.1f} ± {np.std(runs, ddof=1):.1f}"
