"""LeNet, as the paper uses it for MNIST-like images (Bohdal et al. 2020; 61,706 parameters at 28×28×1)."""

from __future__ import annotations

from torch import nn

from convexdistill.features.network import Network, Shape, output_features


def lenet(shape: Shape, num_classes: int) -> Network:
    """Two 5×5 convolutions with 6 and 16 channels, then 120 and 84 units.

    Exactly the paper's at 28×28 (first convolution padded by 2) and 32×32 (not padded). Below, the second
    convolution is padded as well where its map would not hold a 5×5 window.

    Args:
        shape: channels, height, width.
        num_classes: size of the output.

    Example:
        >>> sum(p.numel() for p in lenet((1, 28, 28), 10).parameters())
        61706
    """
    channels, height, width = shape
    side = min(height, width)
    first_padding = 0 if side >= 32 else 2
    second_side = (side + 2 * first_padding - 4) // 2
    second_padding = 0 if second_side >= 6 else 2
    maps = nn.Sequential(
        # The ReLU of a maximum is the maximum of the ReLUs, gradient and all; pooled first, a quarter remains.
        nn.Conv2d(channels, 6, 5, padding=first_padding),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(6, 16, 5, padding=second_padding),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
    )
    dense = nn.Sequential(nn.Linear(output_features(maps, shape), 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU())
    return Network(nn.Sequential(maps, dense), num_classes, shape)
