"""What a command prints: tables for people."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from convexdistill.progress import PlainReporter, Reporter, RichReporter

# A pipe has no width of its own; this one holds every table without wrapping.
PIPE_WIDTH = 120


def console() -> Console:
    """Standard output, as wide as the terminal, or wide enough for a table where there is none."""
    # Names of classes and paths are printed as they are: brackets in them are not markup.
    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False, markup=False)


def reporter() -> Reporter:
    """Bars on a terminal, plain lines elsewhere."""
    return RichReporter() if sys.stderr.isatty() else PlainReporter()


def percent(value: float | None) -> str:
    """An accuracy with one decimal, or a dash where there is none.

    Example:
        >>> percent(91.27), percent(None)
        ('91.3', '–')
    """
    return "–" if value is None else f"{value:.1f}"


def results_table(results: Iterable[Mapping[str, Any]]) -> Table:
    """The table of an evaluation, from the records of ``metrics.json``."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("labels", "network", "loss"):
        table.add_column(name, no_wrap=True)
    for name in ("steps", "valid. %", "test %", "95 % interval", "runs"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in results:
        low, high = row["accuracy_ci95"]
        steps = sorted(set(row["steps"]))
        loss = row["loss"] or "–"
        if row["loss"] == "mse":
            loss = "mse" if row["label_scale"] is None else f"mse ×{row['label_scale']:g}"
        elif row["loss"] is not None:
            loss = "soft CE"
        table.add_row(
            row["labels"],
            _trained(row),
            loss,
            "–" if not steps else f"{steps[0]}" if len(steps) == 1 else f"{steps[0]}–{steps[-1]}",
            percent(row["validation_mean"]),
            _with_spread(row["accuracy_mean"], row["accuracy_std"]),
            "–" if low is None else f"{low:.1f} – {high:.1f}",
            str(len(row["runs"])),
            style="bold" if row["labels"] == "distilled" else None,
        )
    return table


def _with_spread(mean: float, std: float | None) -> str:
    return percent(mean) if std is None else f"{percent(mean)} ± {percent(std)}"


def _trained(row: Mapping[str, Any]) -> str:
    if row["network"] is None:
        return "–"
    network, optimizer = row["network"], row["optimizer"]
    return f"{network}" if optimizer == "adam" else f"{network}, {optimizer}"


def facts_table(facts: Mapping[str, object]) -> Table:
    """Names and values in two columns."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, str(value))
    return table


def job_lines(metrics: Mapping[str, Any]) -> list[str]:
    """What is worth a line below the table: what was chosen, how exact it is, and how long it took."""
    certificate, recipe = metrics["certificate"], metrics["recipe"]
    seconds = ", ".join(f"{name} {value:.1f}" for name, value in metrics["seconds"].items())
    chosen = "".join(f"{word}, " for word in settings(metrics, "gamma", "prior"))
    first = " (first base set)" if len(metrics["seeds"]) > 1 else ""
    return [
        f"settings{first}: {chosen}label scale {recipe['label_scale']:g}, {recipe['steps']} steps",
        f"label solve: {certificate['solver']}, {exactness(certificate)}",
        *_cross_check_lines(certificate),
        f"seconds: {seconds}",
    ]


def settings(values: Mapping[str, Any], *names: str) -> list[str]:
    """Those of the named settings that the method has.

    Example:
        >>> settings({"gamma": 0.1, "prior": "zero"}, "lam", "gamma", "prior")
        ['γ 0.1', 'prior zero']
    """
    words = {"lam": "λ", "gamma": "γ"}
    found = [(words.get(name, name), values[name]) for name in names if values.get(name) is not None]
    return [f"{word} {value:g}" if isinstance(value, float) else f"{word} {value}" for word, value in found]


def exactness(certificate: Mapping[str, Any]) -> str:
    """How nearly optimal the labels are, where that is known: a descent by minibatches has no certificate."""
    if "residual" not in certificate:
        return "no certificate of optimality"
    return f"relative residual {certificate['residual']:.1e}"


def _cross_check_lines(certificate: Mapping[str, Any]) -> list[str]:
    if "cross_check" not in certificate:
        return []  # not every method ends with one ridge head
    check = certificate["cross_check"]
    if check is None:
        return ["final ridge head: too large to solve through cvxpylayers as well (n·d above 20,000)"]
    if "error" in check:
        return [f"final ridge head: cvxpylayers did not solve it ({check['error']})"]
    return [
        f"final ridge head: n={check['n']}, d={check['d']}, torch and cvxpylayers differ by "
        f"{check['relative_difference']:.1e}; {1000 * check['torch_seconds']:.1f} ms and "
        f"{1000 * check['cvxpylayers_seconds']:.1f} ms"
    ]
