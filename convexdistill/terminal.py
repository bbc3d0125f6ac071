"""What a command prints: tables for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from convexdistill.files import write_json
from convexdistill.progress import PlainReporter, Reporter, RichReporter
from convexdistill.report import Entry, further_tables, result_tables, sentences, tables
from convexdistill.report.entries import row_of

STANDARD_OUTPUT = "-"
# A pipe has no width of its own; this one holds every table without wrapping.
PIPE_WIDTH = 200


def console() -> Console:
    """Standard output, as wide as the terminal, or wide enough for a table where there is none."""
    # Names of classes and paths are printed as they are: brackets in them are not markup.
    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False, markup=False)


def reporter() -> Reporter:
    """Bars on a terminal, plain lines elsewhere."""
    return RichReporter() if sys.stderr.isatty() else PlainReporter()


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write numbers as JSON to a file, or to standard output where it is ``-``.

    Raises:
        OutputError: the file cannot be written.
    """
    if str(path) == STANDARD_OUTPUT:
        print(json.dumps(record, indent=2, allow_nan=False))
    else:
        write_json(path, record)


def speaker(json_file: Path | None) -> Callable[[str], None]:
    """What prints a remark: to standard error where standard output carries the numbers."""
    stream = sys.stderr if str(json_file) == STANDARD_OUTPUT else sys.stdout
    return lambda text: print(text, file=stream)


def rich_table(table: tables.Table) -> Table:
    """A table of the report, cell by cell as the page has it."""
    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in table.headings:
        # On a narrow terminal cells go on in the next line: nothing is cut off.
        shown.add_column(heading.name, justify="right" if heading.is_number else "left", overflow="fold")
    for line in table.lines:
        shown.add_row(*(cell.text for cell in line.cells), style="bold" if line.chosen else None)
    return shown


def results_table(records: Iterable[Mapping[str, Any]]) -> Table:
    """The table of an evaluation, from the records of ``metrics.json``."""
    return rich_table(result_tables.results([("", [row_of(record) for record in records])], brief=True))


def print_cost(entries: Sequence[Entry]) -> None:
    """What the sets cost, and after how many trainings that has paid off, as the page says it."""
    out = console()
    table = further_tables.cost(entries)
    if table is not None:
        out.print(rich_table(table))
    for one in entries:
        for text in sentences.cost(one, len(entries) > 1):
            out.print(text)


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
    augmented = f", {recipe['augmentation']} augmentation" if "augmentation" in recipe else ""
    first = " (first base set)" if len(metrics["seeds"]) > 1 else ""
    return [
        f"settings{first}: {chosen}label scale {recipe['label_scale']:g}, {recipe['steps']} steps{augmented}",
        *_preferred_lines(metrics["chosen_from"], first),
        f"label solve: {certificate['solver']}, {exactness(certificate)}",
        *_cross_check_lines(certificate),
        f"seconds: {seconds}",
    ]


def _preferred_lines(tried: Sequence[Mapping[str, Any]], first: str) -> list[str]:
    """Which labels the validation split preferred, where there were several kinds."""
    means = {record["labels"]: record["validation_mean"] for record in tried if "labels" in record}
    best, *others = sorted(means, key=lambda name: -means[name]) or [""]
    compared = "".join(f", {name} {means[name]:.1f}" for name in others)
    return [f"labels{first}: {best}, validation {means[best]:.1f} %{compared}"] if means else []


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
        return [
            "final ridge head: too large to solve through cvxpylayers as well (Φ has more than 20,000 entries)"
        ]
    if "error" in check:
        return [f"final ridge head: cvxpylayers did not solve it ({check['error']})"]
    return [
        f"final ridge head: Φ of {check['n']} × {check['d']}, torch and cvxpylayers differ by "
        f"{check['relative_difference']:.1e}; {1000 * check['torch_seconds']:.1f} ms and "
        f"{1000 * check['cvxpylayers_seconds']:.1f} ms"
    ]
