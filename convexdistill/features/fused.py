"""Frozen extractors as quick as the framework lets them be on this device."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from convexdistill.features.network import Shape


class ConvReLU(nn.Module):
    """A convolution and the ReLU behind it in one kernel of oneDNN, so that the map is written once.

    The operator is the one that ``torch.compile`` puts in their place on CPUs; called directly it costs no
    compilation. `benchmarks/moments.py` measures it. One grouped convolution for the whole pool was slower in a
    probe: 32 channels a group fill oneDNN's kernels, and 160 channels of a map do not fit the cache.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """``relu(conv(x))``."""
        conv = self.conv
        output: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups, "relu", [], ""
        )
        return output


def fused(module: nn.Module, shape: Shape, *, batch_size: int) -> nn.Module:
    """A copy of a frozen module with convolutions and ReLUs in one kernel, where that gives the same features.

    Whether it does is tried out on a batch of random images, in ``batch_size``; the module comes back as it is
    where it does not, and where this torch, this device or this module has nothing to fuse.

    Args:
        module: maps ``(N, c, h, w)`` to ``(N, d)``, on its device.
        shape: channels, height, width of the images.
        batch_size: images a batch.
    """
    device = next((p.device for p in module.parameters()), None)
    if device is None or device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return module
    quick = copy.deepcopy(module)
    if not _fuse(quick):
        return module
    probe = torch.randn(batch_size, *shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            torch.testing.assert_close(quick(probe), module(probe), rtol=1e-4, atol=1e-5)
    except (RuntimeError, AttributeError, AssertionError):
        return module
    return quick


def _fuse(module: nn.Module) -> int:
    """Fuse neighbours in every ``nn.Sequential``, where one follows the other by construction; how many."""
    count = 0
    for name, child in module.named_children():
        count += _fuse(child)
        if type(child) is nn.Sequential:
            layers = list(child)
            for i in range(len(layers) - 1):
                conv, relu = layers[i : i + 2]
                if isinstance(conv, nn.Conv2d) and _is_plain(conv) and type(relu) is nn.ReLU:
                    layers[i : i + 2] = ConvReLU(conv), nn.Identity()
                    count += 1
            setattr(module, name, nn.Sequential(*layers))
    return count


def _is_plain(conv: nn.Conv2d) -> bool:
    """Nothing but its weights and numbers."""
    return type(conv) is nn.Conv2d and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
