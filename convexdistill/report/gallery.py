"""The gallery: base images with bars for their strongest soft labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from convexdistill.distilled import DistilledSet
from convexdistill.report import images, words
from convexdistill.report.figures.labels import source_classes

STRONGEST = 3


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


def cards(distilled: DistilledSet, most: int) -> list[Card]:
    """The base images, evenly thinned out where there are more than ``most``."""
    n = len(distilled)
    names, source = source_classes(distilled), words.last_part(distilled.manifest["source"]["name"])
    low, span = _track(distilled)
    has_signs = bool((distilled.labels < 0).any())
    height, width = images.shown_size(*distilled.shape[1:])
    found = []
    for i in np.linspace(0, n - 1, min(n, most)).round().astype(int).tolist():
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
        found.append(Card(uri, name, f"image of class {name}, from {source}", height, width, bars))
    return found


def zero(distilled: DistilledSet) -> float:
    """Where the zero line stands, in percent of the track."""
    low, span = _track(distilled)
    return round(-100 * low / span, 2)


def _track(distilled: DistilledSet) -> tuple[float, float]:
    """Lowest value of the bars' common track, and its length; zero always lies within."""
    low, high = min(0.0, float(distilled.labels.min())), max(0.0, float(distilled.labels.max()))
    return low, (high - low) or 1.0
