"""``write_report``: the page from distilled sets and their numbers."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from convexdistill.distilled import DistilledSet
from convexdistill.files import write_atomically
from convexdistill.report import facts, further_tables, gallery, result_tables, sentences, words
from convexdistill.report.drawing import NARROW, WIDE, Plot
from convexdistill.report.entries import Entry, entry
from convexdistill.report.figures import plots_of

# Base images that are shown of a single set, and of each set of a comparison.
MOST_CARDS, MOST_CARDS_EACH = 100, 24


def write_report(path: str | Path, distilled: DistilledSet, metrics: Mapping[str, Any] | None) -> None:
    """Write one HTML file that shows the set, how well it does, how to use it and where it came from.

    The file needs no other file and no network. It is written atomically.

    Args:
        path: the file to write.
        distilled: the set.
        metrics: its numbers, as :func:`convexdistill.evaluate.metrics` makes them; ``None`` where there are
            none, and the page says how to get them.

    Raises:
        OutputError: the file cannot be written.
        FileFormatError: the numbers cannot be read, or are those of another set.
    """
    write_page(path, [entry(distilled, metrics)])


def write_page(path: str | Path, entries: Sequence[Entry]) -> None:
    """Write the page of one set, or of a comparison of several, atomically.

    Args:
        path: the file to write.
        entries: see :func:`convexdistill.report.entries.read_entries`.

    Raises:
        OutputError: the file cannot be written.
    """
    write_atomically(Path(path), render_page(entries).encode())


def render_report(distilled: DistilledSet, metrics: Mapping[str, Any] | None) -> str:
    """The page as a string; arguments and errors as :func:`write_report`, without ``OutputError``."""
    return render_page([entry(distilled, metrics)])


def render_page(entries: Sequence[Entry]) -> str:
    """The page of one set, or of a comparison of several, as a string."""
    many = len(entries) > 1
    plots = plots_of(entries)
    rows = [row for one in entries for row in one.rows]
    shown = [_shown(one, plots, f"-{k}" if many else "") for k, one in enumerate(entries, 1)]
    cost = further_tables.cost(entries)
    has_groups = any(one["groups_table"] for one in shown)
    has_behaviour = any(name in plots for name in ("curves", "calibration", "confusion"))
    sections = [
        ("results", "Accuracy"),
        *([("behaviour", "Learning and calibration")] if has_behaviour else []),
        *([("groups", "Subgroups")] if has_groups else []),
        *([("cost", "Cost")] if cost else []),
        ("images", "Base images"),
        ("labels", "Labels"),
        ("recipe", "Recipe"),
        ("provenance", "Provenance"),
    ]
    script = (files("convexdistill.report") / "page" / "sort.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return _template().render(
        title=sentences.title(entries),
        headline=sentences.headline(entries),
        certainty=sentences.certainty(entries),
        sections=sections,
        many=many,
        words=words,
        svg=_svg,
        WIDE=WIDE,
        NARROW=NARROW,
        plots={
            name: plots.get(name) for name in ("accuracy", "flexibility", "curves", "calibration", "confusion")
        },
        has_rows=bool(rows),
        results_table=result_tables.results([(one.name, one.rows) for one in entries]),
        sets_table=result_tables.sets(entries) if many else None,
        differences_table=result_tables.differences(entries),
        interval_note=sentences.interval_note(rows),
        explanations=_explanations([row.labels for row in rows]),
        has_groups=has_groups,
        cost_table=cost,
        cost_sentences=[text for one in entries for text in sentences.cost(one, many)],
        shown=shown,
        snippet=facts.snippet(),
        version=entries[0].distilled.manifest["versions"].get("convexdistill", ""),
        style=Markup((files("convexdistill.report") / "page" / "style.css").read_text("utf-8")),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("convexdistill.report", package_path="page"),
        autoescape=lambda name: True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")


def _svg(plot: Plot, width: float) -> Markup:
    """The SVG is our own, and its text is escaped by matplotlib."""
    return Markup(plot.svg(width))


def _shown(one: Entry, plots: Mapping[str, Plot], suffix: str) -> dict[str, Any]:
    """What the page says of one set alone."""
    distilled = one.distilled
    return {
        "name": one.name,
        "total": len(distilled),
        "cards": gallery.cards(distilled, MOST_CARDS_EACH if suffix else MOST_CARDS),
        "zero": gallery.zero(distilled),
        "has_signs": bool((distilled.labels < 0).any()),
        "heat_map": plots[f"labels{suffix}"],
        "groups_plot": plots.get(f"groups{suffix}"),
        "groups_table": further_tables.groups(one),
        "disparities_table": further_tables.disparities(one),
        "recipe": facts.recipe_facts(distilled),
        "torch_snippet": facts.torch_snippet(distilled),
        "tried_table": further_tables.tried(one),
        "origin": facts.origin_facts(distilled, one.metrics),
        "solve": facts.solve_facts(distilled, one.metrics),
        "extractors": facts.extractors(distilled),
    }


def _explanations(labels: list[str]) -> list[tuple[str, str, str]]:
    known = [name for name in words.LABELS if name in labels]
    return [(words.LABELS[name][0], name, words.LABELS[name][2]) for name in known]
