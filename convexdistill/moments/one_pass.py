"""``accumulate``: one pass over a target set of any size, from anywhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convexdistill import progress
from convexdistill.data import ImageData, ImageStream, Preprocessing, stream
from convexdistill.data.stream import read_ahead
from convexdistill.device import resolve_device
from convexdistill.errors import DataError, NonFiniteInputError, ParameterRangeError
from convexdistill.features import default_batch_size
from convexdistill.features.network import output_features
from convexdistill.moments import parts
from convexdistill.moments.checkpoint import Checkpoint
from convexdistill.moments.forward import PoolForward
from convexdistill.moments.record import Moments, Spec
from convexdistill.moments.sums import Sums


@torch.no_grad()
def accumulate(
    pool: Sequence[Spec],
    target: ImageData | ImageStream | Any,
    *,
    preprocessing: Preprocessing | None = None,
    shard: tuple[int, int] = (0, 1),
    batch_size: int | None = None,
    device: str | torch.device = "auto",
    autocast: bool = False,
    compiled: bool = False,
    checkpoint: str | Path | None = None,
    every: float = 5.0,
) -> Moments:
    """One pass over the target set for all extractors together; sums in float64.

    Images are read, decoded and copied ahead in a thread of their own while the networks work on the last
    batch. Memory does not depend on the number of images; beside the extractors and what they need for one batch
    of b images it is::

        6 · b · c·h·w    bytes read ahead, and    8 · Σ_k (d_k+1)(d_k+1 + C + b)    bytes of sums

    (see :class:`convexdistill.moments.sums.Sums`), and what the source itself holds.

    Args:
        pool: specifications of the extractors; see :func:`convexdistill.features.pool`.
        target: the labelled target set, or a stream, or what :func:`convexdistill.data.stream` makes one of.
        preprocessing: normalisation; default: fitted to ``target``, all of it even for a shard; of a stream
            to its first 10,000 images. Different data sets that will be merged must be given a common one.
        shard: ``(i, m)`` sums over one of m disjoint parts: one machine's share of the work. Of most sources that
            is every m-th image, from the i-th on; of tar files it is every m-th file, where there are m.
        batch_size: images a batch; default: 256 on a CPU, 1024 elsewhere. Halved where memory runs out.
        device: where the features are computed. Sums are made there on CUDA, else on the CPU.
        autocast: compute features in half precision. Base features are not, so that the two differ by about
            0.1 %; the sums stay float64.
        compiled: compile the extractors with ``torch.compile`` first, which takes up to a minute and a C++
            compiler; `docs/performance.md` has what it gains.
        checkpoint: file to which the sums are written every few seconds. The same call goes on from there, and
            ends with the same moments, bit by bit, however often it was killed; delete the file when the moments
            are saved.
        every: seconds between checkpoints.

    Raises:
        InvalidInputError: ``target`` is a test split, or the checkpoint is of a pass with other settings.
        ParameterRangeError: the pool is empty, no such shard, or fewer images than shards.
        NonFiniteInputError: an extractor gives NaN or infinite features.
        DataError: the target holds no images, or what a stream gives is not what it announced.
        DeviceError: not even one image fits into the device's memory.

    Example:
        >>> import convexdistill as cd
        >>> target = cd.data.load("digits")
        >>> moments = cd.accumulate(cd.features.pool("convnet", count=1), target)
        >>> moments.images == len(target), moments.gram[0].shape
        (True, torch.Size([129, 129]))
    """
    source = target if isinstance(target, ImageStream) else stream(target)
    source.refuse_test("as target set")
    if not pool:
        raise ParameterRangeError("a pool needs at least one extractor, found none")
    index, count = shard
    if not 0 <= index < count or (source.count is not None and count > source.count):
        of = "" if source.count is None else f" of the {source.count}"
        raise ParameterRangeError(f"shard {index}/{count}: shards count from 0, and each needs an image{of}")
    where = resolve_device(device)
    batch_size = default_batch_size(where) if batch_size is None else batch_size
    if batch_size < 1:
        raise ParameterRangeError(f"batch_size must be at least 1, found {batch_size}")
    preprocessing = preprocessing or Preprocessing.fit(target if isinstance(target, ImageData) else source)
    extractors = tuple(spec.build(source.shape) for spec in pool)
    sizes = [output_features(extractor, source.shape) for extractor in extractors]
    sums = Sums(sizes, source.num_classes, where if where.type == "cuda" else torch.device("cpu"))
    description = {
        "name": source.name,
        "split": source.split,
        "classes": list(source.classes),
        "shape": list(source.shape),
        "parts": [parts.named(source.fingerprint, shard)],
    }
    file, done = None, 0
    if checkpoint is not None:
        settings = {
            **description,
            "pool": [spec.to_dict() for spec in pool],
            "preprocessing": preprocessing.to_dict(),
            "batch_size": batch_size,
            "device": where.type,
            "autocast": autocast,
            "compiled": compiled,
        }
        file = Checkpoint(checkpoint, settings, every)
        if (found := file.read()) is not None:
            done, state = found
            sums.restore(state)
    forward = PoolForward(
        extractors, preprocessing, source.shape, batch_size, where, autocast=autocast, compiled=compiled
    )
    total = None if source.count is None else -(-len(range(index, source.count, count)) // batch_size)
    batches = read_ahead(_pinned(source.batches(batch_size, shard, skip=done), where))
    with contextlib.closing(batches), progress.task("accumulate moments", total=total) as advance:
        advance(-(-done // batch_size))
        for images, labels in batches:
            sums.add(forward(images), labels)
            done += len(labels)
            due = file is not None and file.is_due()
            if where.type == "cpu" or due:  # elsewhere looking at numbers would wait for the device
                _check(sums, pool)
            if file is not None and due:
                file.write(done, sums.state())
            advance(1)
    _check(sums, pool)
    if done == 0:
        raise DataError(f"{source.name!r}, shard {index}/{count}, holds no images")
    if file is not None:
        file.write(done, sums.state())
    for extractor in extractors:
        extractor.cpu()
    return Moments(sums.gram(), sums.cross(), sums.counts, tuple(pool), extractors, preprocessing, description)


def _pinned(batches: Iterator[tuple[Tensor, Tensor]], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches in memory from which CUDA copies without waiting."""
    if device.type != "cuda":
        return batches
    return ((images.pin_memory(), labels.pin_memory()) for images, labels in batches)


def _check(sums: Sums, pool: Sequence[Spec]) -> None:
    if (k := sums.not_finite()) is not None:
        raise NonFiniteInputError(f"extractor {pool[k].to_dict()['network']!r} gives NaN or infinite features")
