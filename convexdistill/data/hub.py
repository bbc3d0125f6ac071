"""Hugging Face ``datasets`` as streams: the extra ``hf``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from convexdistill.data.readers import Shape, pixels_of
from convexdistill.data.stream import Chunk, Shard
from convexdistill.errors import BackendUnavailableError, DataError, MissingDataError

IMAGES = ("image", "img")
LABELS = ("label", "labels", "fine_label", "cls")


@dataclass(frozen=True)
class HubReader:
    """Reads a ``datasets.IterableDataset``.

    Attributes:
        dataset: the data set, streaming.
        image: the column of images.
        label: the column of labels.
        shape: what images are brought to; ``None``: as they come.
    """

    dataset: Any
    image: str
    label: str
    shape: Shape | None

    def chunks(self, shard: Shard, skip: int) -> Iterator[Chunk]:
        """Whole files where they can be divided by m, else every m-th image: the library's own division."""
        from datasets.distributed import split_dataset_by_node

        index, count = shard
        part = self.dataset if count == 1 else split_dataset_by_node(self.dataset, rank=index, world_size=count)
        # A divided stream shares its own skip() out among its files: images are skipped here, one by one.
        rows = part.skip(skip) if skip and count == 1 else islice(part, skip, None)
        for row in rows:
            if row[self.label] is None:
                raise DataError(f"a row has no {self.label!r}; drop rows without a label")
            pixels = pixels_of(row[self.image], f"column {self.image!r}", self.shape)
            yield pixels, torch.tensor([int(row[self.label])])


def is_hub_dataset(source: Any) -> bool:
    """Whether a source comes from Hugging Face's library, streaming or not."""
    return type(source).__module__.partition(".")[0] == "datasets" and hasattr(source, "features")


def open_hub(name: str, split: str) -> Any:
    """The streaming data set of ``NAME``, a repository of the hub or a local folder.

    Raises:
        BackendUnavailableError: the library is not installed.
        MissingDataError: it cannot be opened.
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise BackendUnavailableError(
            "hf:NAME needs Hugging Face's datasets; install it with pip install 'convexdistill[hf]'"
        ) from error
    try:
        return load_dataset(name, split=split, streaming=True)
    except Exception as error:  # the library raises whatever its file systems raise
        raise MissingDataError(f"hf:{name} ({split}) cannot be opened: {' '.join(str(error).split())}") from error


def columns(dataset: Any) -> tuple[str, str, tuple[str, ...] | None]:
    """The columns of images and of labels, and the names of the classes where the data set knows them.

    Raises:
        DataError: there is no such column.
    """
    features = dict(dataset.features or {})
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    images = [n for n, kind in kinds.items() if kind == "Image"] or [n for n in IMAGES if n in kinds]
    labels = [n for n, kind in kinds.items() if kind == "ClassLabel"] or [n for n in LABELS if n in kinds]
    if not images or not labels:
        raise DataError(f"one column of images and one of labels are needed, found {kinds or 'no named columns'}")
    names = getattr(features[labels[0]], "names", None)
    return images[0], labels[0], tuple(names) if names else None
