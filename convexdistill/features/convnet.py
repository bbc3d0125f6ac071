"""The ConvNet of the dataset-distillation field, with width and depth as parameters."""

from __future__ import annotations

import math

from torch import nn

from convexdistill.errors import ParameterRangeError
from convexdistill.features.network import Network, Shape


def default_depth(shape: Shape) -> int:
    """The number of blocks that leaves a map of about 4×4, and never fewer than 2.

    The field's own choice for its sizes: 3 at 28×28 and 32×32, 4 at 64×64.

    Example:
        >>> [default_depth((1, side, side)) for side in (8, 16, 28, 32, 64)]
        [2, 2, 3, 3, 4]
    """
    return max(2, round(math.log2(min(shape[1:]))) - 2)


def convnet(
    shape: Shape,
    num_classes: int,
    *,
    width: int = 128,
    depth: int | None = None,
    norm: str = "instance",
) -> Network:
    """Blocks of 3×3 convolution, normalisation, ReLU and 2×2 average pooling (Gidaris and Komodakis 2018).

    Args:
        shape: channels, height, width.
        num_classes: size of the output.
        width: channels of every block.
        depth: number of blocks; default :func:`default_depth`.
        norm: ``"instance"`` (the field's choice for networks that are trained) or ``"none"`` (better for
            random features that a ridge head reads: the head wants the magnitudes that normalisation drops).

    Raises:
        ParameterRangeError: width or depth below 1, depth above what the image can be halved, unknown norm.

    Example:
        >>> convnet((1, 28, 28), 10, width=32).head.in_features  # 32 channels of 3×3
        288
    """
    depth = default_depth(shape) if depth is None else depth
    if width < 1:
        raise ParameterRangeError(f"width must be at least 1, found {width}")
    deepest = int(math.log2(min(shape[1:])))
    if not 1 <= depth <= deepest:
        raise ParameterRangeError(
            f"depth must lie in 1..{deepest} for images of {shape[1]}×{shape[2]}, found {depth}: every "
            "block halves the map"
        )
    if norm not in ("instance", "none"):
        raise ParameterRangeError(f"norm must be 'instance' or 'none', found {norm!r}")
    blocks: list[nn.Module] = []
    inputs = shape[0]
    for _ in range(depth):
        blocks.append(nn.Conv2d(inputs, width, 3, padding=1))
        if norm == "instance":
            blocks.append(nn.InstanceNorm2d(width, affine=True))
        blocks += [nn.ReLU(), nn.AvgPool2d(2)]
        inputs = width
    return Network(nn.Sequential(*blocks, nn.Flatten()), num_classes, shape)
