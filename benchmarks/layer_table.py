"""The records of `benchmarks/layers.py` as a Markdown page."""

from __future__ import annotations

from typing import Any


def table(records: list[dict[str, Any]], cases: dict[str, Any]) -> str:
    lines = [
        "# The layers beside their peers",
        "",
        "Written by `python benchmarks/layers.py` from `benchmarks/results/layers.jsonl`; its `--help` says how",
        "the figures are measured. Times are medians of one fit with its gradient, λ = 1, float64; “times ours”",
        "is how many times longer a candidate takes than our layer, with a 95 % interval. Errors are relative,",
        "against arithmetic of 50 digits for ridge, and against our answer for the other layers.",
        "",
    ]
    for record in records:
        if record["case"] == "machine":
            versions = ", ".join(f"{k} {v}" for k, v in record["versions"].items() if v)
            lines += [
                f"Machine: {record['cpu']}, {record['cores']} cores, {record['threads']} thread(s), "
                f"load {record['load_before']:.1f} from other work when it began; {versions}.",
                "",
            ]
    for key, case in cases.items():
        rows = [r for r in records if r["case"] == key]
        if rows:
            lines += [f"## {case.title}", "", *peers(rows), "", *goals(rows, case), ""]
    rows = [r for r in records if r["case"] == "precision"]
    if rows:
        lines += ["## Error over the condition of the features", "", *precision(rows), ""]
    return "\n".join(lines).rstrip() + "\n"


def peers(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| candidate | ms | times ours | error of W | error of gradient | memory, MB |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        name = f"{r['candidate']} ({r['note']})" if r["note"] else r["candidate"]
        if "reason" in r:
            lines.append(f"| {name} | {r['reason']} | | | | |")
            continue
        low, high = r["times_ours_interval"]
        errors = [f"{r[k]:.0e}" if r.get(k) is not None else "" for k in ("error_weight", "error_gradient")]
        memory = "" if r["peak_mb"] is None else f"{r['peak_mb']:.1f}"
        lines.append(
            f"| {name} | {1e3 * r['seconds_median']:.3g} | {r['times_ours']:.3g} ({low:.3g} to {high:.3g}) | "
            f"{errors[0]} | {errors[1]} | {memory} |"
        )
    return lines


def goals(rows: list[dict[str, Any]], case: Any) -> list[str]:
    lines = []
    for name, factor in case.goals:
        found = next((r for r in rows if r["candidate"] == name and "reason" not in r), None)
        if found is None:
            continue
        ratio, (low, high) = found["times_ours"], found["times_ours_interval"]
        if factor >= 1:
            goal, figure = f"at least {factor:g}× faster than {name}", f"{ratio:.3g}× ({low:.3g} to {high:.3g})"
        else:
            goal = f"at most {1 / factor:g}× the time of {name}"
            figure = f"{1 / ratio:.2f}× ({1 / high:.2f} to {1 / low:.2f})"
        verdict = "met" if low >= factor else "missed" if high < factor else "not decided by this run"
        lines.append(f"- Goal: {goal}. Measured: {figure}, {verdict}.")
    return lines


def precision(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "Against 50 digits, (40, 10, 3), singular values from 1 to 1/κ, λ = 1/κ², labels that features explain.",
        "The budget of W is 10·eps·κ; the error of gradients to features goes with κ².",
        "",
        "| κ of [X; √λ I] | backend | dtype | method | error of W | budget | | to labels | to features |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        where = f"| {r['condition']:.0e} | {r['backend']} | {r['dtype']} "
        if r["error"] is None:
            lines.append(f"{where}| raised {r['raised']} | | {r['budget']:.0e} | | | |")
            continue
        verdict = "within" if r["error"] <= r["budget"] else "above"
        gradients = f"{r['error_to_labels']:.0e} | {r['error_to_features']:.0e}"
        lines.append(f"{where}| {r['method']} | {r['error']:.0e} | {r['budget']:.0e} | {verdict} | {gradients} |")
    for backend, goal in (("torch", 1e-12), ("cvxpylayers", 1e-7)):
        chosen = [
            r for r in rows if (r["backend"], r["dtype"]) == (backend, "float64") and r["condition"] <= 1.1e4
        ]
        if chosen and all(r["error"] is not None for r in chosen):
            worst = max(r["error"] for r in chosen)
            verdict = "met" if worst <= goal else "missed"
            goal_text = f"Goal: relative error of {backend} at most {goal:g} for κ ≤ 1e4 in float64"
            lines += ["", f"- {goal_text}. Measured: {worst:.0e}, {verdict}."]
    return lines
