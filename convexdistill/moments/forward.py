"""All extractors of a pool on one batch."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from convexdistill import progress, threads
from convexdistill.data import Preprocessing
from convexdistill.errors import DeviceError, PerformanceWarning
from convexdistill.features import CPU_PIECE, FrozenExtractor, Shape
from convexdistill.features.fused import fused


class PoolForward:
    """Features of every extractor for a batch of bytes.

    A batch is worked on in pieces, several at once on CPUs, and a piece is always full: the last is filled up with
    black images, whose features are dropped. So every image goes through the same kernels whatever batch it is in,
    nothing is compiled or tuned twice, and the shards of a data set give the sums of the whole to float64.

    Where the device runs out of memory the batch is cut in half, for the rest of the pass, with a warning.

    Args:
        extractors: the pool, built.
        preprocessing: normalisation.
        shape: channels, height, width.
        batch_size: images a batch.
        device: where to compute.
        autocast: compute in the device's half precision (bfloat16 on CPUs, float16 elsewhere).
        compiled: compile the extractors by ``torch.compile``.
    """

    def __init__(
        self,
        extractors: Sequence[FrozenExtractor],
        preprocessing: Preprocessing,
        shape: Shape,
        batch_size: int,
        device: torch.device,
        *,
        autocast: bool = False,
        compiled: bool = False,
    ) -> None:
        self.preprocessing, self.device, self.autocast = preprocessing, device, autocast
        # A core's piece has the same size whatever their number, and so its features are the same.
        self.piece = min(batch_size, CPU_PIECE) if device.type == "cpu" else batch_size
        self.modules: list[Callable[[Tensor], Tensor]] = [
            # The fused kernel is not among those that autocast knows.
            extractor.to(device) if autocast else fused(extractor.to(device), shape, batch_size=min(batch_size, 8))
            for extractor in extractors
        ]
        if compiled:
            self.modules = [torch.compile(module, dynamic=False) for module in self.modules]
            self._compile(shape)

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Features ``(b, d_k)`` on the device, of ``(b, c, h, w)`` bytes, b ≤ ``batch_size``."""
        wanted = len(images)
        if lacking := -wanted % self.piece:
            images = torch.cat([images, images.new_zeros(lacking, *images.shape[1:])])
        while (features := self._attempt(images)) is None:
            self._halve()
        return [values[:wanted] for values in features]

    def _attempt(self, images: Tensor) -> list[Tensor] | None:
        """The features, or None where the device has too little memory; nothing of the attempt is kept then."""
        try:
            pieces = threads.in_threads(self._features, images.split(self.piece), self.device)
        except torch.OutOfMemoryError:
            return None
        return [values[0] if len(values) == 1 else torch.cat(values) for values in zip(*pieces, strict=True)]

    def _compile(self, shape: Shape) -> None:
        """Compile before there are several threads, for as many cores as one of them has."""
        cores = torch.get_num_threads()
        with progress.task("compile extractors", total=1) as advance:
            torch.set_num_threads(max(1, cores // threads.workers(self.device)))
            try:
                self._features(torch.zeros(self.piece, *shape, dtype=torch.uint8))
            finally:
                torch.set_num_threads(cores)
            advance(1)

    def _features(self, images: Tensor) -> list[Tensor]:
        ready = self.preprocessing(images.to(self.device, non_blocking=True))
        ready = ready.contiguous(memory_format=torch.channels_last)
        cast = torch.autocast(self.device.type) if self.autocast else contextlib.nullcontext()
        with cast:
            return [module(ready) for module in self.modules]

    def _halve(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.piece == 1:
            raise DeviceError(
                f"device {str(self.device)!r} has too little memory for a single image; use another --device, or "
                "smaller extractors"
            )
        smaller = (self.piece + 1) // 2
        warnings.warn(
            f"out of memory on {self.device}: going on with {smaller} images at a time instead of {self.piece}; "
            "a smaller batch_size avoids the attempt",
            PerformanceWarning,
            stacklevel=4,
        )
        self.piece = smaller
