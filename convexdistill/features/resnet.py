"""The paper's "ResNet-18" for CIFAR: really 14 layers of 16-32-64 channels (175,258 parameters)."""

from __future__ import annotations

from torch import Tensor, nn

from convexdistill.features.network import Network, Shape


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with batch normalisation and a shortcut around them (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """``relu(residual(x) + shortcut(x))``."""
        output: Tensor = self.relu(self.residual(x) + self.shortcut(x))
        return output


def resnet(shape: Shape, num_classes: int) -> Network:
    """One convolution and three stages of two basic blocks with 16, 32 and 64 channels, then the mean map.

    Convolutions start from N(0, 2 / (k² · outputs)), as in the paper's code.

    Args:
        shape: channels, height, width.
        num_classes: size of the output.

    Example:
        >>> sum(p.numel() for p in resnet((3, 32, 32), 10).parameters())
        175258
    """
    layers: list[nn.Module] = [
        nn.Conv2d(shape[0], 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
    ]
    inputs = 16
    for outputs, stride in ((16, 1), (32, 2), (64, 2)):
        layers += [BasicBlock(inputs, outputs, stride), BasicBlock(outputs, outputs, 1)]
        inputs = outputs
    body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
    return Network(body, num_classes, shape)
