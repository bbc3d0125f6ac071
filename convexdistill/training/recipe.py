"""How a network is trained on labelled base examples: the part of the method that travels in the file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from convexdistill.errors import FileFormatError, ParameterRangeError, UnknownNameError
from convexdistill.training.augmentation import check_augmentation
from convexdistill.training.optimizers import find_optimizer
from convexdistill.training.orders import check_order


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """``−Σ_c y_c log softmax(z)_c``, mean over examples; ``(..., n, C)`` to ``(...)``."""
    return -(targets * logits.log_softmax(-1)).sum(-1).mean(-1)


def mean_squared_error(logits: Tensor, targets: Tensor) -> Tensor:
    """``(z_c − y_c)²``, mean over examples and classes; ``(..., n, C)`` to ``(...)``."""
    return (logits - targets).square().mean((-2, -1))


def divergence(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """``T² KL(q ‖ softmax(z / T))`` with ``q ∝ y^(1/T)``, mean over examples; ``(..., n, C)`` to ``(...)``.

    ``softmax(a)^(1/T)`` is proportional to ``softmax(a / T)``, so this is distillation at temperature T (Hinton,
    Vinyals, Dean 2015, section 2) from probabilities y; T² keeps gradients of one size whatever T is.
    """
    softened = targets.pow(1 / temperature)
    softened = softened / softened.sum(-1, keepdim=True)
    entropy = -torch.special.xlogy(softened, softened).sum(-1)
    crossed = -(softened * (logits / temperature).log_softmax(-1)).sum(-1)
    mean: Tensor = (crossed - entropy).mean(-1)
    return temperature**2 * mean


LOSSES: dict[str, Callable[..., Tensor]] = {
    "soft-cross-entropy": soft_cross_entropy,
    "mse": mean_squared_error,
    "kl": divergence,
}
# Settings that came later: a manifest holds them only where they are used, so that older programs read the rest.
_LATER = {"temperature": 1.0, "augmentation": "none", "order": "shuffled"}


@dataclass(frozen=True)
class Recipe:
    """Loss, label scale, number of steps, batch size and optimiser; and how the examples come.

    The *paper* recipe is ``loss="soft-cross-entropy"`` on probability labels; the *centred* recipe is
    ``loss="mse"`` on centred labels times ``label_scale``.

    Attributes:
        loss: a key of :data:`LOSSES`.
        label_scale: what the labels are multiplied by before the loss sees them.
        steps: number of optimiser steps.
        batch_size: base examples in a minibatch; all of them where there are fewer.
        optimizer: a key of :data:`convexdistill.training.OPTIMIZERS`, or the name of any class of ``torch.optim``.
        learning_rate: its learning rate; 0 stands for the optimiser's default here.
        temperature: T of the loss ``"kl"``, which takes probability labels.
        augmentation: a key of :data:`convexdistill.training.AUGMENTATIONS`.
        order: of minibatches; a key of :data:`convexdistill.training.ORDERS`.

    Raises:
        UnknownNameError: unknown loss, optimiser, augmentation or order; the message lists the known ones.
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
    temperature: float = 1.0
    augmentation: str = "none"
    order: str = "shuffled"

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise UnknownNameError(f"unknown loss {self.loss!r}; known are {', '.join(LOSSES)}")
        name, optimizer = find_optimizer(self.optimizer)
        check_augmentation(self.augmentation)
        check_order(self.order)
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
        if not 0 < self.temperature < math.inf:
            raise ParameterRangeError(f"the temperature must be positive and finite, found {self.temperature}")
        object.__setattr__(self, "optimizer", name)
        if self.learning_rate == 0:
            object.__setattr__(self, "learning_rate", optimizer.learning_rate)

    def to_dict(self) -> dict[str, Any]:
        """What a manifest keeps."""
        values = asdict(self)
        return {name: value for name, value in values.items() if value != _LATER.get(name, ...)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """The inverse of :meth:`to_dict`.

        Raises:
            FileFormatError: a key is missing or unknown, or a value is out of range.
        """
        names = {field.name for field in fields(cls)}
        needed = names - set(_LATER)
        if not isinstance(values, Mapping) or not needed <= set(values) <= names:
            raise FileFormatError(f"a recipe has the keys {sorted(needed)}, found {values!r}")
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise FileFormatError(f"the recipe cannot be used: {error}") from error
