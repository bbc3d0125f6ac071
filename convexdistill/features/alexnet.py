"""The small AlexNet that the paper uses for CIFAR (1,756,426 parameters at 32×32×3)."""

from __future__ import annotations

from torch import nn

from convexdistill.features.network import Network, Shape, output_features


def _block(channels: int, *, pool_first: bool) -> list[nn.Module]:
    # The paper's two blocks differ in order: pooling before the first normalisation, after the second.
    pool = nn.MaxPool2d(3, stride=2, padding=1)
    normalise = nn.LocalResponseNorm(4, alpha=0.001 / 9, beta=0.75, k=1.0)
    # ReLU and maximum may change places (see lenet): the cheaper order is the pool's first.
    tail = [pool, nn.ReLU(), normalise] if pool_first else [nn.ReLU(), normalise, pool]
    return [nn.Conv2d(channels, 64, 5, padding=2), *tail]


def alexnet(shape: Shape, num_classes: int) -> Network:
    """Two 5×5 convolutions with 64 channels and local response normalisation, then 384 and 192 units.

    Args:
        shape: channels, height, width.
        num_classes: size of the output.

    Example:
        >>> sum(p.numel() for p in alexnet((3, 32, 32), 10).parameters())
        1756426
    """
    channels = shape[0]
    maps = nn.Sequential(*_block(channels, pool_first=True), *_block(64, pool_first=False), nn.Flatten())
    dense = nn.Sequential(nn.Linear(output_features(maps, shape), 384), nn.ReLU(), nn.Linear(384, 192), nn.ReLU())
    return Network(nn.Sequential(maps, dense), num_classes, shape)
