"""Fresh networks for the loop, by name or from the caller's function."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from convexdistill.distilled import fresh_network
from convexdistill.features import Shape

NetworkLike = str | Callable[[Shape, int], nn.Module]


def builder(network: NetworkLike, shape: Shape, num_classes: int) -> Callable[[int], nn.Module]:
    """A function that makes a fresh network for a seed."""
    return lambda seed: fresh_network(network, shape, num_classes, seed)


def name_of(network: NetworkLike) -> str:
    """What a manifest calls it: a caller's own function cannot be rebuilt from its name."""
    return network if isinstance(network, str) else f"module/{getattr(network, '__name__', 'network')}"


def dtype_of(build: Callable[[int], nn.Module]) -> torch.dtype:
    """The precision of the networks, which is that of everything around them."""
    return next(build(0).parameters()).dtype
