"""``write_report``: the page from a distilled set and its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from convexdistill.distilled import DistilledSet
from convexdistill.files import write_atomically
from convexdistill.report import facts, images, plots, words
from convexdistill.report.compare import DISTILLED, rows_of, standing

MOST_CARDS = 100
STRONGEST = 3


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
    write_atomically(Path(path), render_report(distilled, metrics).encode())


def render_report(distilled: DistilledSet, metrics: Mapping[str, Any] | None) -> str:
    """The page as a string; arguments and errors as :func:`write_report`, without ``OutputError``."""
    rows = rows_of(metrics, distilled)
    found = standing(rows)
    numbers = metrics or {}
    manifest = distilled.manifest
    return _template().render(
        title=words.title(distilled),
        headline=words.headline(distilled, found),
        certainty=words.certainty(found),
        rows=rows,
        DISTILLED=DISTILLED,
        words=words,
        interval_note=words.interval_note(rows),
        explanations=_explanations([row.labels for row in rows]),
        accuracy_plots=_both(plots.accuracy_svg, rows) if rows else (),
        cards=_cards(distilled),
        total=len(distilled),
        zero=_zero(distilled),
        heat_maps=_both(plots.heat_map_svg, distilled),
        signed_labels=bool((distilled.labels < 0).any()),
        recipe=facts.recipe_facts(distilled),
        snippet=facts.snippet(),
        torch_snippet=facts.torch_snippet(distilled),
        chosen_from=_chosen_from(distilled),
        origin=facts.origin_facts(distilled, numbers),
        solve=facts.solve_facts(distilled, numbers),
        extractors=facts.extractors(distilled),
        version=manifest["versions"].get("convexdistill", ""),
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("convexdistill.report", package_path=""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html.j2")


def _both(draw: Any, what: Any) -> tuple[Markup, Markup]:
    """A figure for wide and one for narrow screens; the SVG is our own and its text escaped by matplotlib."""
    return Markup(draw(what, plots.WIDE)), Markup(draw(what, plots.NARROW))


def _explanations(labels: list[str]) -> list[tuple[str, str, str]]:
    known = [name for name in words.LABELS if name in labels]
    return [(words.LABELS[name][0], name, words.LABELS[name][2]) for name in known]


@dataclass(frozen=True)
class Bar:
    """A soft label: class, value, and where its bar starts and how long it is, in percent of the track."""

    name: str
    value: str
    left: float
    width: float
    negative: bool


@dataclass(frozen=True)
class Card:
    """A base image of the gallery."""

    uri: str
    name: str
    alt: str
    height: int
    width: int
    bars: tuple[Bar, ...]


def _cards(distilled: DistilledSet) -> list[Card]:
    """The base images, evenly thinned out where there are more than fit."""
    n = len(distilled)
    names, source = plots.source_classes(distilled), words.last_part(distilled.manifest["source"]["name"])
    low, span = _track(distilled)
    has_signs = bool((distilled.labels < 0).any())
    height, width = images.shown_size(*distilled.shape[1:])
    cards = []
    for i in np.linspace(0, n - 1, min(n, MOST_CARDS)).round().astype(int).tolist():
        name, labels = names[int(distilled.base_labels[i])], distilled.labels[i].tolist()
        strongest = sorted(range(len(labels)), key=lambda c: -abs(labels[c]))[:STRONGEST]
        bars = tuple(
            Bar(
                distilled.classes[c],
                words.signed(labels[c]) if has_signs else f"{labels[c]:.2f}",
                round(100 * (min(labels[c], 0.0) - low) / span, 2),
                round(100 * abs(labels[c]) / span, 2),
                labels[c] < 0,
            )
            for c in strongest
        )
        uri = images.png_uri(distilled.images[i])
        cards.append(Card(uri, name, f"image of class {name}, from {source}", height, width, bars))
    return cards


def _track(distilled: DistilledSet) -> tuple[float, float]:
    """Lowest value of the bars' common track, and its length; zero always lies within."""
    low, high = min(0.0, float(distilled.labels.min())), max(0.0, float(distilled.labels.max()))
    return low, (high - low) or 1.0


def _zero(distilled: DistilledSet) -> float:
    """Where the zero line stands, in percent of the track."""
    low, span = _track(distilled)
    return round(-100 * low / span, 2)


def _chosen_from(distilled: DistilledSet) -> list[dict[str, Any]]:
    """The settings that were tried, with a mark at the one that was taken."""
    tried = [dict(one) for one in distilled.manifest.get("chosen_from", ())]
    recipe = distilled.recipe
    taken = {**distilled.manifest, "label_scale": recipe.label_scale, "steps": recipe.steps}
    for one in tried:
        keys = ("prior", "gamma", "label_scale", "logit_scale", "steps")
        one["taken"] = all(one.get(key) == taken.get(key) for key in keys if key in one)
    return tried
