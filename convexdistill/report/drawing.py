"""How every figure looks, and how it becomes a part of the page or a file of its own.

Drawn with matplotlib's object-oriented interface alone, so that no global state is touched. A figure is drawn
on a :class:`Canvas`: for the page its colours stand for variables of the style sheet, which knows light from
dark; for a file they are colours.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convexdistill.errors import UnknownNameError
from convexdistill.files import write_atomically

if TYPE_CHECKING:  # matplotlib takes a second to import, and much is done without a figure
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE, NARROW = 7.6, 3.6
FORMATS = ("svg", "png")
# The browser draws the text of the page, so it does not matter which letters matplotlib's font lacks.
_MISSING_LETTER = "Glyph .* missing from font"

# Blue for positive, orange for negative labels: apart for every kind of colour vision, and strong enough on
# light and on dark; opacity tells the size, so that zero is the page itself.
POSITIVE, NEGATIVE = (0.16, 0.47, 0.84), (0.87, 0.42, 0.05)


@dataclass(frozen=True)
class Palette:
    """Colours by what they are for; ``lines`` tell kinds of labels apart, whatever the reader's colour vision."""

    ink: str
    muted: str
    accent: str
    rule: str
    paper: str
    lines: tuple[str, ...]


# No figure has these colours by chance, so each can be replaced by its variable.
PAGE = Palette(
    "#000001", "#000002", "#000003", "#000004", "#000005", tuple(f"#0000{k:02x}" for k in range(16, 24))
)
_VARIABLES = {
    PAGE.ink: "ink",
    PAGE.muted: "muted",
    PAGE.accent: "accent",
    PAGE.rule: "rule",
    PAGE.paper: "paper",
    **{colour: f"line-{k}" for k, colour in enumerate(PAGE.lines)},
}
# The light page's colours; lines after Okabe and Ito (2008), yellow darkened to be seen on white.
PRINT = Palette(
    "#1c2127",
    "#59626c",
    "#1b5aa6",
    "#dcdfe0",
    "#ffffff",
    ("#1b5aa6", "#c25700", "#007a5a", "#a8457f", "#4a4f55", "#a07c00", "#2a8fc4", "#7a4a1e"),
)


@dataclass(frozen=True)
class Canvas:
    """What a figure is drawn on.

    Attributes:
        width: in inches of 72 points; the page shows one of two by the width of the screen.
        palette: its colours.
    """

    width: float = WIDE
    palette: Palette = PAGE

    @property
    def is_narrow(self) -> bool:
        """Whether it is made for a telephone."""
        return self.width < 5

    @property
    def style(self) -> dict[Any, Any]:
        """Settings of matplotlib."""
        colours = self.palette
        return {
            "svg.fonttype": "none",
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans"],
            "font.size": 9.5,
            "text.parse_math": False,  # class names are no mathematics
            "text.color": colours.ink,
            "axes.labelcolor": colours.ink,
            "axes.edgecolor": colours.rule,
            "axes.titlesize": 9.5,
            "axes.titlelocation": "left",
            "xtick.color": colours.rule,
            "ytick.color": colours.rule,
            "xtick.labelcolor": colours.muted,
            "ytick.labelcolor": colours.ink,
        }


Draw = Callable[[Canvas], "Figure"]


@dataclass(frozen=True)
class Plot:
    """A figure that can be drawn on any canvas.

    Attributes:
        name: of its file, and of its ids on the page.
        alt: what it shows, for those who do not see it.
        caption: how to read it.
        draw: makes it.
    """

    name: str
    alt: str
    caption: str
    draw: Draw

    def svg(self, width: float = WIDE) -> str:
        """One ``<svg>`` element without fixed size, fonts, colours or metadata of its own."""
        import matplotlib

        canvas = Canvas(width, PAGE)
        prefix = f"{self.name}-{width:g}"
        with matplotlib.rc_context({**canvas.style, "svg.hashsalt": prefix}):
            return _element(self.draw(canvas), prefix, self.alt)

    def save(self, folder: Path, kind: str) -> Path:
        """Write it as ``NAME.svg`` or ``NAME.png`` in the colours of the light page; returns the path.

        Raises:
            UnknownNameError: another format.
            OutputError: the file cannot be written.
        """
        if kind not in FORMATS:
            raise UnknownNameError(f"unknown format of plots {kind!r}; known are {', '.join(FORMATS)}")
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        canvas, file = Canvas(WIDE, PRINT), io.BytesIO()
        with matplotlib.rc_context({**canvas.style, "svg.hashsalt": self.name}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=_MISSING_LETTER)
            figure = self.draw(canvas)
            if kind == "png":
                figure.set_dpi(200)
                FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})  # type: ignore[no-untyped-call]
            else:
                FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})  # type: ignore[no-untyped-call]
        path = folder / f"{self.name}.{kind}"
        write_atomically(path, file.getvalue())
        return path


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches whose parts keep clear of each other."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def bare(ax: Axes, *sides: str) -> None:
    """Take the frame off, but for the named sides."""
    ax.spines[[side for side in ("left", "right", "top", "bottom") if side not in sides]].set_visible(False)


def _element(figure: Figure, prefix: str, label: str) -> str:
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    figure.patch.set_visible(False)
    for ax in figure.axes:
        ax.patch.set_visible(False)
    file = io.StringIO()
    facts = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_MISSING_LETTER)
        FigureCanvasSVG(figure).print_svg(file, metadata=facts)  # type: ignore[no-untyped-call]
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'^<svg[^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img" LABEL>', svg)
    svg = svg.replace("LABEL", f'aria-label="{_attribute(label)}"', 1)
    # Two figures on one page may not share ids.
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg).replace("xlink:href", "href")
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
