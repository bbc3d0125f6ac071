"""Images that are read once through and never held together: the target set at any size.

An :class:`ImageStream` knows what a pass needs before it starts (shape, classes, what to call the data) and
gives its images in chunks of any length. Where they come from is a :class:`Reader`: one small class a kind of
source, in :mod:`convexdistill.data.readers`, :mod:`convexdistill.data.tars` and :mod:`convexdistill.data.hub`.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from convexdistill.data.images import ImageData
from convexdistill.errors import DataError, InvalidInputError

Chunk = tuple[Tensor, Tensor]
Shard = tuple[int, int]
T = TypeVar("T")


class Reader(Protocol):
    """Reads a source from its start, as often as it is asked."""

    def chunks(self, shard: Shard, skip: int) -> Iterator[Chunk]:
        """Images ``(b, c, h, w)`` uint8 and labels ``(b,)`` int64, in a fixed order, b ≥ 1 as it comes.

        Args:
            shard: ``(i, m)``: one of m disjoint parts that together are the whole.
            skip: so many images of that part are left out at its start.
        """
        ...


STREAMED = "stream:"  # how the fingerprint of images begins that nobody has seen as a whole


@dataclass(frozen=True)
class ImageStream:
    """Labelled images that are read in order, in memory that does not depend on their number.

    Made by :func:`convexdistill.data.stream`; :func:`convexdistill.accumulate` takes it as target set.

    Attributes:
        reader: where the images come from.
        shape: channels, height, width of every image.
        classes: the names of the classes, in label order.
        name: what to call the data set.
        split: ``"train"`` or ``"validation"``: a stream is not parted, it is one split as a whole.
        fingerprint: tells this source from others: of its files where it has files, else of its name.
        count: the number of images, where it is known beforehand.
    """

    reader: Reader
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    name: str
    split: str
    fingerprint: str
    count: int | None = None

    @property
    def num_classes(self) -> int:
        """The number of classes, present among the labels or not."""
        return len(self.classes)

    def refuse_test(self, purpose: str) -> None:
        """Raise if this is a test split; see :meth:`convexdistill.data.ImageData.refuse_test`."""
        if self.split == "test":
            raise InvalidInputError(
                f"the test split of {self.name!r} cannot be used {purpose}: it may only report; take the "
                "train or the validation split"
            )

    def batches(self, size: int, shard: Shard = (0, 1), skip: int = 0) -> Iterator[Chunk]:
        """Batches of exactly ``size`` images, the last one what is left.

        Args:
            size: images a batch.
            shard: ``(i, m)`` reads one of m disjoint parts.
            skip: so many images of that part are left out at its start.

        Raises:
            DataError: an image has another shape than the stream, or a label is not a class.
        """
        images: list[Tensor] = []
        labels: list[Tensor] = []
        held, seen = 0, skip
        for chunk in self.reader.chunks(shard, skip):
            self._check(*chunk, seen)
            seen += len(chunk[1])
            images.append(chunk[0])
            labels.append(chunk[1])
            held += len(chunk[1])
            if held >= size:
                joint, truth = torch.cat(images), torch.cat(labels)
                whole = held - held % size
                yield from zip(joint[:whole].split(size), truth[:whole].split(size), strict=True)
                images, labels, held = [joint[whole:]], [truth[whole:]], held - whole
        if held:
            yield torch.cat(images), torch.cat(labels)

    def _check(self, images: Tensor, labels: Tensor, position: int) -> None:
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != self.shape:
            raise DataError(
                f"stream {self.name!r}: image {position} is {images.dtype} of {tuple(images.shape[1:])}, the "
                f"first one was uint8 of {self.shape}; bring all images to one shape"
            )
        wrong = (labels < 0) | (labels >= self.num_classes)
        if wrong.any():
            first = int(wrong.int().argmax())
            raise DataError(
                f"stream {self.name!r}: image {position + first} is of class {int(labels[first])}, but there are "
                f"{self.num_classes} classes, so labels must lie in 0..{self.num_classes - 1}; give classes="
            )


@dataclass(frozen=True)
class MemoryReader:
    """Reads images that are in memory already."""

    data: ImageData

    def chunks(self, shard: Shard, skip: int) -> Iterator[Chunk]:
        """Every m-th image from the i-th on."""
        index, count = shard
        start = index + skip * count
        for images, labels in zip(
            self.data.images[start::count].split(1024), self.data.labels[start::count].split(1024), strict=True
        ):
            if len(labels):
                yield images, labels


def from_memory(data: ImageData) -> ImageStream:
    """The stream of a data set in memory; its fingerprint is that of the data."""
    facts = (data.shape, data.classes, data.name, data.split, data.fingerprint, len(data))
    return ImageStream(MemoryReader(data), *facts)


def fingerprint_of(*facts: object) -> str:
    """SHA-256 over the text of some facts."""
    return f"{STREAMED}sha256:{hashlib.sha256(repr(facts).encode()).hexdigest()}"


def read_ahead(items: Iterator[T], depth: int = 4) -> Generator[T, None, None]:
    """The same items, made in another thread, up to ``depth`` of them ahead of whoever takes them.

    Reading and decoding so overlap with the networks: decoders, copies and the networks' own kernels let
    go of the interpreter. An error of the maker is raised where its item would have come.

    Example:
        >>> list(read_ahead(iter(range(3))))
        [0, 1, 2]
    """
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
    stop = threading.Event()

    def put(entry: tuple[T | None, BaseException | None]) -> bool:
        while not stop.is_set():
            try:
                ready.put(entry, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
        except BaseException as error:  # handed over, whatever it is
            put((None, error))
        else:
            put((None, StopIteration()))

    thread = threading.Thread(target=work, name="convexdistill-read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        stop.set()
        thread.join()
