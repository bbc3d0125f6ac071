"""Frozen feature extractors: modules in eval mode, without gradient to their weights, that never change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from convexdistill import threads
from convexdistill.data import Preprocessing


class FrozenExtractor(nn.Module):
    """A module whose weights and statistics stay what they are.

    Parameters do not require grad and ``train()`` has no effect, so batch normalisation keeps its running
    statistics. Gradients still flow to the *input*, so that images can be learned through it.

    Args:
        module: maps normalised images ``(N, c, h, w)`` to ``(N, ...)``; the output is flattened to
            ``(N, d)``. It is frozen in place.

    Example:
        >>> import torch
        >>> extractor = FrozenExtractor(nn.Conv2d(1, 4, 3))
        >>> extractor.train()(torch.zeros(2, 1, 8, 8)).shape, extractor.training
        (torch.Size([2, 144]), False)
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        # Weights and images both channels-last: measured 3 times as fast on CPUs as the default layout.
        self.module = module.requires_grad_(False).to(memory_format=torch.channels_last)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, whatever is asked."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Features ``(N, d)`` of normalised images ``(N, c, h, w)``."""
        features: Tensor = self.module(images.contiguous(memory_format=torch.channels_last))
        return features.flatten(1)


CPU_PIECE = 32  # images that a core works on at a time: a layer's output stays in its cache


def default_batch_size(device: torch.device) -> int:
    """Images a batch: eight pieces of :data:`CPU_PIECE` on a CPU, elsewhere as many as keep the device busy."""
    return 8 * CPU_PIECE if device.type == "cpu" else 1024


@torch.no_grad()
def extract(extractor: nn.Module, images: Tensor, preprocessing: Preprocessing | None) -> Tensor:
    """Float64 features ``(N, d)`` of images, computed in the extractor's own precision by batches.

    Args:
        extractor: maps normalised images to ``(N, d)``.
        images: ``(N, c, h, w)`` uint8; without preprocessing: as the extractor takes them.
        preprocessing: normalisation of the images; ``None``: they are normalised already.
    """
    prepare: Callable[[Tensor], Tensor] = preprocessing or (lambda batch: batch)
    size = CPU_PIECE if images.device.type == "cpu" else default_batch_size(images.device)
    parts = threads.in_threads(lambda batch: extractor(prepare(batch)).double(), images.split(size), images.device)
    return torch.cat(parts)
