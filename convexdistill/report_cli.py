"""``convexdistill report``, ``info``, ``compare`` and ``backends``: what shows, and trains nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from convexdistill import layers, terminal
from convexdistill.distilled import DistilledSet
from convexdistill.errors import InvalidInputError
from convexdistill.job import REPORT
from convexdistill.options import Json, guarded
from convexdistill.report import Entry, facts, read_entries, record, sentences, write_page
from convexdistill.report import further_tables as further
from convexdistill.report import result_tables as tables
from convexdistill.report.drawing import FORMATS
from convexdistill.report.figures import plots_of

NUMBERS = "Numbers are read from STEM.json or metrics.json beside each file, where there is one."
Metrics = Annotated[
    list[Path] | None,
    typer.Option(help="Numbers of FILE, if they do not lie beside it; once for each file, in the same order."),
]


@guarded
def report(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Distilled sets. " + NUMBERS)],
    out: Annotated[
        Path | None, typer.Option(help="The page. Default: report.html beside FILE, comparison.html of several.")
    ] = None,
    metrics: Metrics = None,
    plots: Annotated[Path | None, typer.Option(help="Write every figure into this folder as well.")] = None,
    plot_format: Annotated[str, typer.Option(help=f"Of the figures: {' or '.join(FORMATS)}.")] = "svg",
    json: Json = None,
) -> None:
    """Write the HTML page of a distilled set, or one page that compares several of the same target.

    The page is one file, needs no network, and is whole without scripts; with them its tables can be sorted.
    """
    if plot_format not in FORMATS:
        raise InvalidInputError(f"unknown --plot-format {plot_format!r}; known are {' or '.join(FORMATS)}")
    entries = read_entries(files, metrics or [])
    page = out or files[0].parent / (REPORT if len(files) == 1 else "comparison.html")
    write_page(page, entries)
    if json is not None:
        terminal.write_record(json, record(entries))
    say = terminal.speaker(json)
    say(f"wrote {page}")
    if plots is not None:
        for plot in plots_of(entries).values():
            say(f"wrote {plot.save(plots, plot_format)}")


@guarded
def info(
    file: Annotated[Path, typer.Argument(help="A distilled set. " + NUMBERS)],
    metrics: Annotated[Path | None, typer.Option(help="Its numbers, if they do not lie beside it.")] = None,
    json: Json = None,
) -> None:
    """Say what is in a distilled set, where it came from, and how well it does."""
    entries = read_entries([file], [] if metrics is None else [metrics])
    if json is not None:
        terminal.write_record(json, record(entries))
        return
    console = terminal.console()
    console.print(terminal.facts_table(_facts(entries[0].distilled)))
    _show(entries)


@guarded
def compare(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE FILE...", help="Distilled sets of one target. " + NUMBERS)
    ],
    metrics: Metrics = None,
    html: Annotated[Path | None, typer.Option(help="Write the page of the comparison as well.")] = None,
    json: Json = None,
) -> None:
    """Compare distilled sets of the same target: what they reach, what that is worth, and every row."""
    if len(files) < 2:
        raise InvalidInputError("a comparison needs at least two distilled sets; `info` shows a single one")
    entries = read_entries(files, metrics or [])
    if html is not None:
        write_page(html, entries)
        terminal.speaker(json)(f"wrote {html}")
    if json is not None:
        terminal.write_record(json, record(entries))
        return
    terminal.console().print(terminal.rich_table(tables.sets(entries)))
    _show(entries)


@guarded
def backends(json: Json = None) -> None:
    """List the solvers of the convex layers: what is available, and why the rest is not."""
    reports = layers.backends().values()
    if json is not None:
        found = [
            {"name": r.name, "available": r.available, "summary": r.summary, "reason": r.reason} for r in reports
        ]
        terminal.write_record(json, {"backends": found})
        return
    shown = {r.name: r.summary if r.available else f"not available: {r.reason}" for r in reports}
    terminal.console().print(terminal.facts_table(shown))


def _show(entries: list[Entry]) -> None:
    """Headline, rows, subgroups and cost, as the page has them."""
    console = terminal.console()
    found: list[Any] = [
        tables.results([(one.name, one.rows) for one in entries], brief=True),
        *map(further.groups, entries),
        further.cost(entries),
    ]
    for table in found:
        if table is not None and table.lines:
            console.print(terminal.rich_table(table))
    said = [sentences.headline(entries), sentences.certainty(entries)]
    said += [text for one in entries for text in sentences.cost(one, len(entries) > 1)]
    for text in filter(None, said):
        console.print(text)


def _facts(distilled: DistilledSet) -> dict[str, object]:
    manifest, recipe = distilled.manifest, distilled.recipe
    source, target = manifest["source"]["name"], manifest["target"]["name"]
    certificate = manifest["certificate"]
    return {
        "images": f"{len(distilled)} of {'×'.join(map(str, distilled.shape))}, from {source}",
        "labels": f"over {len(distilled.classes)} classes of {target}, {distilled.label_space}",
        "classes": ", ".join(distilled.classes),
        "recipe": f"{recipe.loss}, labels × {recipe.label_scale:g}, {recipe.steps} steps of "
        f"{recipe.optimizer} ({recipe.learning_rate:g}), batches of {recipe.batch_size}"
        + (f", {recipe.augmentation} augmentation" if recipe.augmentation != "none" else ""),
        "preprocessing": facts.preprocessing(distilled),
        "selection": ", ".join(f"{key} {value}" for key, value in manifest["selection"].items()),
        "method": f"{manifest['method']} ({manifest['backend']}), "
        + ", ".join(terminal.settings(manifest, "lam", "gamma", "prior", "seed")),
        "extractors": ", ".join(kind for kind, _ in facts.extractors(distilled)),
        "certificate": f"outer loss {certificate['outer_loss']:.4f}, {terminal.exactness(certificate)}",
        "bytes": ", ".join(f"{key} {value:,}" for key, value in distilled.bytes.items()),
        "label code": _label_code(distilled),
        "versions": ", ".join(f"{key} {value}" for key, value in manifest["versions"].items()),
    }


def _label_code(distilled: DistilledSet) -> str:
    code, classes = distilled.manifest.get("label_code"), len(distilled.classes)
    if code is None:
        return f"float32, {4 * classes} bytes a label"
    bits = "float32" if code["bits"] is None else f"{code['bits']} bits"
    return (
        f"{code['top_k'] or classes} of {classes} values in {bits} each, "
        f"{distilled.bytes['labels'] // len(distilled)} bytes a label; largest error {code['largest_error']:.2g}, "
        f"rms {code['rms_error']:.2g}"
    )
