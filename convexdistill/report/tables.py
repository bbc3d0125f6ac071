"""The shape of every table: the page and the terminal show the same cells, and each cell knows its number."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """What is shown, and the number that stands in the JSON record, by which the page sorts."""

    text: str
    value: float | None = None


@dataclass(frozen=True)
class Heading:
    """The name of a column, whether it holds numbers, and what it means."""

    name: str
    is_number: bool = True
    meaning: str = ""


@dataclass(frozen=True)
class Line:
    """One line; ``chosen`` marks what the page is about."""

    cells: tuple[Cell, ...]
    chosen: bool = False


@dataclass(frozen=True)
class Table:
    """A table whose first column names its lines.

    Attributes:
        name: its id on the page.
        caption: what it shows.
        headings: of its columns.
        lines: its lines.
    """

    name: str
    caption: str
    headings: tuple[Heading, ...]
    lines: tuple[Line, ...]
