"""A trained network together with the preprocessing it needs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convexdistill.data import Preprocessing
from convexdistill.data.zca import whiten


class ReadyNetwork(nn.Module):
    """A network that takes images as they are: uint8, or float in [0, 1] as torchvision's ``ToTensor``.

    Most "10 % accuracy" reports of the field come from a normalisation that was left behind; here it is
    part of the module, in buffers that ``state_dict`` keeps.

    Args:
        preprocessing: the normalisation that the network was trained with.
        network: maps normalised images to logits.
    """

    mean: Tensor
    std: Tensor
    zca_mean: Tensor
    zca_gains: Tensor

    def __init__(self, preprocessing: Preprocessing, network: nn.Module) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, -1, 1, 1))
        self.whitens = preprocessing.zca is not None
        if preprocessing.zca is not None:
            mean, gains = preprocessing.zca.transform
            self.register_buffer("zca_mean", mean.clone())
            self.register_buffer("zca_gains", gains.clone())
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, C)`` of images ``(N, c, h, w)``."""
        pixels = images.to(self.mean) / (255 if images.dtype == torch.uint8 else 1)
        x = (pixels - self.mean) / self.std
        logits: Tensor = self.network(whiten(x, self.zca_mean, self.zca_gains) if self.whitens else x)
        return logits
