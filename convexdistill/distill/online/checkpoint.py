"""Checkpoints of the online methods: what it takes to go on after a kill, and for which settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from convexdistill.differences import differences
from convexdistill.errors import FileFormatError, InvalidInputError
from convexdistill.files import read_tensors, write_tensors

KIND, VERSION = "online-checkpoint", 1
FACTS = ("epoch", "rule", "losses", "steps", "best_epoch", "curve", "seconds", "cpu_seconds", "settings")


def write_checkpoint(
    path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], settings: Mapping[str, Any]
) -> None:
    """Write a checkpoint, atomically.

    Raises:
        OutputError: it cannot be written.
    """
    write_tensors(path, tensors, {**facts, "settings": settings, "kind": KIND, "format_version": VERSION})


def read_checkpoint(
    path: Path, settings: Mapping[str, Any], *, epochs: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint of a run with these settings; nothing in it is executed or unpickled.

    Args:
        path: the file.
        settings: of the run that goes on. The number of epochs is none of them: more may be asked for.
        epochs: how many are asked for.

    Raises:
        FileFormatError: damaged, foreign, or from a newer version.
        InvalidInputError: the file belongs to other settings, or is further than ``epochs``.
    """
    tensors, facts = read_tensors(path, kind=KIND, version=VERSION)
    if missing := [name for name in FACTS if name not in facts]:
        raise FileFormatError(f"{path} lacks {missing[0]}; remove it to start anew")
    if differ := differences(facts["settings"], settings):
        raise InvalidInputError(
            f"{path} is a checkpoint of a run with other settings ({differ}); give them as they were, or name "
            "another file"
        )
    if facts["epoch"] > epochs:
        raise InvalidInputError(
            f"{path} is a checkpoint after {facts['epoch']} epochs, more than the {epochs} asked for; ask for at "
            "least as many, or name another file"
        )
    return tensors, facts
