"""Confusion matrices: which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from convexdistill.evaluate import Row
from convexdistill.report.drawing import POSITIVE, Canvas, Plot, new_figure
from convexdistill.report.words import shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_PANELS = 6
# With more classes than this, cells are too small for figures, and only some classes can be named.
_MOST_FIGURES, _MOST_NAMES = 12, 30


def confusion(named: Sequence[tuple[str, Row]], classes: Sequence[str]) -> Plot | None:
    """The matrix of each row that has one, in percent of the true class; ``None`` where none has.

    Args:
        named: rows with the names of their panels; at most six are drawn.
        classes: names of the target's classes.
    """
    shown = [(name, shares(row)) for name, row in named if row.confusion][:_MOST_PANELS]
    if not shown:
        return None

    def draw(canvas: Canvas) -> Figure:
        palette = canvas.palette
        columns = 1 if canvas.is_narrow else min(len(shown), 2)
        lines = -(-len(shown) // columns)
        side = canvas.width / (1 if canvas.is_narrow else 2)
        figure = new_figure(canvas.width, lines * (side + 0.45))
        axes = figure.subplots(lines, columns, squeeze=False)
        for ax in axes.flat[len(shown) :]:
            ax.set_axis_off()
        for ax, (name, share) in zip(axes.flat, shown, strict=False):
            cells = np.zeros((*share.shape, 4))
            cells[..., :3] = POSITIVE
            cells[..., 3] = 0.7 * np.nan_to_num(share) / 100  # figures stay legible on top
            ax.imshow(cells, interpolation="none")
            if len(classes) <= _MOST_FIGURES:
                for i, j in np.argwhere(share >= 0.5):
                    ax.text(j, i, f"{share[i, j]:.0f}", ha="center", va="center", fontsize=7.5, color=palette.ink)
            every = -(-len(classes) // _MOST_NAMES)
            names = [shortened(name, 10) for name in classes[::every]]
            upright = max(map(len, names)) > 2
            ax.set_xticks(range(0, len(classes), every), names, rotation=90 if upright else 0, fontsize=8)
            ax.set_yticks(range(0, len(classes), every), names, fontsize=8)
            ax.tick_params(length=0)
            ax.spines[:].set_color(palette.rule)
            ax.set_title(shortened(name, 30))
            ax.set_xlabel("predicted")
            ax.set_ylabel("true class")
        return figure

    said = " ".join(f"{name}: {_worst(share, classes)}" for name, share in shown)
    return Plot(
        "confusion",
        f"Confusion matrices, in percent of the images of each true class. {said}",
        f"Rows: true class; columns: predicted class; percent of the row, over all trainings. {said}",
        draw,
    )


def shares(row: Row) -> NDArray[np.float64]:
    """The confusion matrix in percent of each true class; NaN where the test split has no image of it."""
    counts = np.asarray(row.confusion, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray(100 * counts / counts.sum(1, keepdims=True))


def _worst(share: NDArray[np.float64], classes: Sequence[str]) -> str:
    """The most frequent mistake in words."""
    wrong = np.nan_to_num(share) * (1 - np.eye(len(share)))
    true, taken = divmod(int(wrong.argmax()), len(wrong))
    return f"most often “{classes[true]}” is taken for “{classes[taken]}” ({wrong[true, taken]:.1f} %)."
