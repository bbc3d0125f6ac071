"""What the loop asks of a method, and what the methods share: batches in pieces, plain networks, labels' loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from convexdistill.seeds import generator

# Target images that go through a network at once on a CPU: few enough that a layer's output stays in the cache.
PIECE = 128


class Learner(Protocol):
    """A network that is trained beside what is distilled, and says how to better it."""

    def restart(self, seed: int) -> None:
        """Fresh weights, optimisers and statistics."""
        ...

    def outer(self, images: Tensor, labels: Tensor, target_images: Tensor) -> Tensor:
        """Logits ``(m, C)`` of the target images, differentiable in the base images and labels."""
        ...

    def update(self, labels: Tensor) -> None:
        """Train the network by one step on the base minibatch that ``outer`` saw last.

        Args:
            labels: of that minibatch, as they are after their own step.
        """
        ...

    def train(self, images: Tensor, labels: Tensor, *, steps: int, batch_size: int, seed: int) -> nn.Module:
        """A fresh network, trained on fixed labels as the method evaluates them."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        ...

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state`."""
        ...


def inner_rows(size: int, batch_size: int, steps: int, seed: int, *path: str | int) -> Iterator[Tensor]:
    """Rows of ``steps`` inner minibatches: the first of a fresh permutation each, as the paper draws them.

    Example:
        >>> [len(set(rows.tolist())) for rows in inner_rows(5, 3, 2, 0)]
        [3, 3]
    """
    draw = generator(seed, "base examples", *path)
    for _ in range(steps):
        yield torch.randperm(size, generator=draw)[:batch_size]


def in_pieces(network: Callable[[Tensor], Tensor], images: Tensor, *, whole: bool) -> Tensor:
    """The network's outputs, piece by piece unless the batch must stay whole."""
    if whole or len(images) <= PIECE:
        return network(images)
    return torch.cat([network(piece) for piece in images.split(PIECE)])


def stays_whole(network: nn.Module, device: torch.device) -> bool:
    """Whether a batch may not be cut: batch statistics would change, or a GPU would have less to do."""
    return device.type != "cpu" or any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())
