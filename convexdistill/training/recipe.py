"""How a network is trained on labelled base examples: the part of the method that travels in the file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from convexdistill.errors import FileFormatError, ParameterRangeError, UnknownNameError


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """``−Σ_c y_c log softmax(z)_c``, mean over examples; ``(..., n, C)`` to ``(...)``."""
    return -(targets * logits.log_softmax(-1)).sum(-1).mean(-1)


def mean_squared_error(logits: Tensor, targets: Tensor) -> Tensor:
    """``(z_c − y_c)²``, mean over examples and classes; ``(..., n, C)`` to ``(...)``."""
    return (logits - targets).square().mean((-2, -1))


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "soft-cross-entropy": soft_cross_entropy,
    "mse": mean_squared_error,
}

# Every one of these updates a weight from that weight's own gradient alone, so that networks that are
# trained side by side move exactly as they would alone. The number is the default learning rate.
OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], float]] = {
    "adam": (torch.optim.Adam, 1e-3),
    "adamw": (torch.optim.AdamW, 1e-3),
    "sgd": (torch.optim.SGD, 1e-2),
    "rmsprop": (torch.optim.RMSprop, 1e-3),
    "adagrad": (torch.optim.Adagrad, 1e-2),
}


@dataclass(frozen=True)
class Recipe:
    """Loss, label scale, number of steps, batch size and optimiser.

    The *paper* recipe is ``loss="soft-cross-entropy"`` on probability labels; the *centred* recipe is
    ``loss="mse"`` on centred labels times ``label_scale``.

    Attributes:
        loss: a key of :data:`LOSSES`.
        label_scale: what the labels are multiplied by before the loss sees them.
        steps: number of optimiser steps.
        batch_size: base examples in a minibatch; all of them where there are fewer.
        optimizer: a key of :data:`OPTIMIZERS`.
        learning_rate: its learning rate; 0 stands for the optimiser's default here.

    Raises:
        UnknownNameError: unknown loss or optimiser; the message lists the known ones.
        ParameterRangeError: a number outside its range.

    Example:
        >>> Recipe("mse", label_scale=8.0).learning_rate
        0.001
    """

    loss: str
    label_scale: float = 1.0
    steps: int = 300
    batch_size: int = 50
    optimizer: str = "adam"
    learning_rate: float = 0.0

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise UnknownNameError(f"unknown loss {self.loss!r}; known are {', '.join(LOSSES)}")
        if self.optimizer not in OPTIMIZERS:
            raise UnknownNameError(f"unknown optimizer {self.optimizer!r}; known are {', '.join(OPTIMIZERS)}")
        if any(type(number) is not int or number < 1 for number in (self.steps, self.batch_size)):
            raise ParameterRangeError(
                "steps and batch size must be whole numbers of at least 1, found "
                f"{self.steps} and {self.batch_size}"
            )
        if not (0 < self.label_scale < math.inf and 0 <= self.learning_rate < math.inf):
            raise ParameterRangeError(
                "label scale must be positive and the learning rate not negative, both finite, found "
                f"{self.label_scale} and {self.learning_rate}"
            )
        if self.learning_rate == 0:
            object.__setattr__(self, "learning_rate", OPTIMIZERS[self.optimizer][1])

    def to_dict(self) -> dict[str, Any]:
        """What a manifest keeps."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """The inverse of :meth:`to_dict`.

        Raises:
            FileFormatError: a key is missing or unknown, or a value is out of range.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(values, Mapping) or set(values) != names:
            raise FileFormatError(f"a recipe has the keys {sorted(names)}, found {values!r}")
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise FileFormatError(f"the recipe cannot be used: {error}") from error
