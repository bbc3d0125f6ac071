"""What the commands share: options with their help, and how errors reach the user."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ParamSpec

import typer

from convexdistill import terminal
from convexdistill.data import names as data_names
from convexdistill.errors import (
    BackendUnavailableError,
    ConvexDistillError,
    InvalidInputError,
    UnsupportedError,
)
from convexdistill.features import NETWORKS
from convexdistill.progress import reporting

P = ParamSpec("P")


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """One line instead of a traceback: exit code 2 for what the user can mend, 1 for a failure inside."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with reporting(terminal.reporter()):
                command(*args, **kwargs)
        except ConvexDistillError as error:
            mendable = isinstance(error, InvalidInputError | BackendUnavailableError | UnsupportedError)
            print(f"convexdistill: {' '.join(str(error).split())}", file=sys.stderr)
            raise typer.Exit(2 if mendable else 1) from None

    return run


def names(value: str) -> tuple[str, ...]:
    """The names of a list by commas.

    Example:
        >>> names("adam, sgd")
        ('adam', 'sgd')
    """
    return tuple(part.strip() for part in value.split(",") if part.strip())


TARGET_HELP = (
    f"What the labels teach: {', '.join(data_names())}; or an .npz file with 'images' and 'labels'; "
    "or a folder of class folders."
)
DataRoot = Annotated[
    str | None,
    typer.Option(
        help="Where data sets lie, as torchvision lays them out. Default: $CONVEXDISTILL_DATA or ./data."
    ),
]
Json = Annotated[
    Path | None,
    typer.Option(help="Write the numbers to this file; - writes them to the output instead of the tables."),
]
Device = Annotated[
    str,
    typer.Option(help="Where networks run: auto, cpu, cuda, mps. Solves are float64, on the CPU or on CUDA."),
]
Networks = Annotated[
    str,
    typer.Option(
        help=f"Networks to train from scratch, by commas: {', '.join(NETWORKS)} (without normalisation)."
    ),
]
Extractor = Annotated[
    str,
    typer.Option(help=f"Frozen random feature extractor: {', '.join(NETWORKS)}, or torchvision/NAME."),
]
Width = Annotated[int | None, typer.Option(help="Channels of the convnet extractor. Default: 32.")]
Zca = Annotated[
    float | None,
    typer.Option(
        help="ZCA whitening of all images, with this regularisation, usually 0.1: for photographs, and networks "
        "without normalisation. Default: none, channels are normalised only."
    ),
]
PoolSize = Annotated[int, typer.Option(help="Number of extractors; a single one over-fits the labels to itself.")]
