"""A network in two parts: a body that computes features and a linear head that reads them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convexdistill.errors import ShapeError

Shape = tuple[int, int, int]


class Network(nn.Module):
    """``head(body(x))``: the body maps ``(N, c, h, w)`` to ``(N, d)``, the head is linear.

    The split is what the method is about: the ridge layer takes the place of the head in front of a frozen
    body, and training from scratch uses both.

    Attributes:
        body: any module whose output is ``(N, d)``.
        head: ``nn.Linear(d, num_classes)``.
    """

    def __init__(self, body: nn.Module, num_classes: int, shape: Shape) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(output_features(body, shape), num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, num_classes)`` of normalised images ``(N, c, h, w)``."""
        logits: Tensor = self.head(self.body(images))
        return logits


def output_features(module: nn.Module, shape: Shape) -> int:
    """The d of a module that maps ``(N, *shape)`` to ``(N, d)``, found by one pass over zeros.

    Raises:
        ShapeError: the module cannot work on images of this shape, or its output is not ``(N, d)``.
    """
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            output = module(torch.zeros(1, *shape))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ShapeError(
            f"the network does not work on images of shape {shape}; the built-in ones work from 8×8 up ({reason})"
        ) from error
    finally:
        module.train(was_training)
    if output.ndim != 2:
        raise ShapeError(f"features must be (N, d), the network gives {tuple(output.shape)}")
    return int(output.shape[1])
