"""What it takes to read a data set that has official train and test parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from convexdistill.data.raw import RawImages

Part = Literal["train", "test"]


@dataclass(frozen=True)
class OfficialSet:
    """A data set with an official train and test part, in files under a root folder.

    Attributes:
        read: ``read(root, part)``: the images, class indices and class names of one part. Called
            only when all of ``files(part)`` are there; may raise anything when they are damaged.
        files: ``files(part)``: what ``read`` needs, relative to the root, with forward slashes.
        damaged: ``damaged(root, part)``: which of those files are not what they should be, as far
            as can be told; asked only after ``read`` has failed.
        validation: how many training images are held out for validation; None is 10 %.
        download: ``download(root, part)`` brings at least ``files(part)``; None where torchvision
            has no class for the data set.
        where: where a person finds the files, for the message that they are missing.
    """

    read: Callable[[Path, Part], RawImages]
    files: Callable[[Part], tuple[str, ...]]
    damaged: Callable[[Path, Part], list[str]]
    validation: int | None = None
    download: Callable[[Path, Part], None] | None = None
    where: str = ""
