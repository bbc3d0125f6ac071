"""Optimisers by name: those with a tuned default here, and every other class of ``torch.optim``."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import nn

from convexdistill.errors import InvalidInputError, UnknownNameError


class Optimizer(NamedTuple):
    """How an optimiser is built.

    Attributes:
        kind: the class of ``torch.optim``.
        learning_rate: the default here.
        options: its further arguments.
        separable: whether it updates a weight from that weight's own gradients alone, so that networks that are
            trained side by side move exactly as they would alone. Others are trained one by one.
        whole_set: whether a step needs the gradient of all examples, not of a minibatch.
    """

    kind: type[torch.optim.Optimizer]
    learning_rate: float
    options: Mapping[str, Any] = MappingProxyType({})
    separable: bool = True
    whole_set: bool = False


# One step of L-BFGS is one iteration, so that numbers of steps can be compared. Its line search takes several
# evaluations (torch leaves it none for one iteration where max_eval is not given), and its curvature means nothing
# when the loss changes from step to step: it sees all examples.
_LBFGS = MappingProxyType({"max_iter": 1, "max_eval": 26, "history_size": 20, "line_search_fn": "strong_wolfe"})

OPTIMIZERS: dict[str, Optimizer] = {
    "adam": Optimizer(torch.optim.Adam, 1e-3),
    "adamw": Optimizer(torch.optim.AdamW, 1e-3),
    "sgd": Optimizer(torch.optim.SGD, 1e-2),
    "sgd-momentum": Optimizer(torch.optim.SGD, 1e-2, MappingProxyType({"momentum": 0.9})),
    "rmsprop": Optimizer(torch.optim.RMSprop, 1e-3),
    "adagrad": Optimizer(torch.optim.Adagrad, 1e-2),
    "lbfgs": Optimizer(torch.optim.LBFGS, 1.0, _LBFGS, separable=False, whole_set=True),
}
# Of the rest of torch.optim, those that are known to treat every weight by itself. Adafactor and Muon, and what
# torch may add, look at whole matrices. SparseAdam takes sparse gradients, which networks here do not have.
_SEPARABLE = ("Adadelta", "Adamax", "ASGD", "NAdam", "RAdam", "Rprop")
_UNUSABLE = ("SparseAdam",)
# Where torch has one kernel for all that a step does to a weight.
_FUSED = {"cpu": ("Adam", "AdamW", "SGD", "Adagrad"), "cuda": ("Adam", "AdamW", "SGD")}


def optimizer_names() -> list[str]:
    """Every name that :func:`find_optimizer` takes, those of :data:`OPTIMIZERS` first."""
    return [*OPTIMIZERS, *sorted(set(_others()) - set(OPTIMIZERS))]


def find_optimizer(name: str) -> tuple[str, Optimizer]:
    """The optimiser of a name, upper or lower case, and its name as it is written here.

    Raises:
        UnknownNameError: there is none; the message lists the known ones.

    Example:
        >>> name, found = find_optimizer("NAdam")
        >>> name, found.kind.__name__, found.learning_rate
        ('nadam', 'NAdam', 0.002)
    """
    lower = name.lower()
    if lower in OPTIMIZERS:
        return lower, OPTIMIZERS[lower]
    if (kind := _others().get(lower)) is None:
        raise UnknownNameError(f"unknown optimizer {name!r}; known are {', '.join(optimizer_names())}")
    rate = float(inspect.signature(kind).parameters["lr"].default)
    return lower, Optimizer(kind, rate, separable=kind.__name__ in _SEPARABLE)


def build_optimizer(name: str, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """The optimiser for these weights.

    Raises:
        UnknownNameError: no such optimiser.
        InvalidInputError: it cannot train these weights.
    """
    _, found = find_optimizer(name)
    weights = list(parameters)
    kind, options = found.kind, dict(found.options)
    if weights and kind.__name__ in _FUSED.get(weights[0].device.type, ()):
        options["fused"] = True
    try:
        return kind(weights, lr=learning_rate, **options)  # type: ignore[call-arg]
    except ValueError as error:
        raise InvalidInputError(f"the optimizer {name!r} cannot train this network: {error}") from error


def _others() -> dict[str, type[torch.optim.Optimizer]]:
    kinds = [value for value in vars(torch.optim).values() if inspect.isclass(value)]
    return {
        kind.__name__.lower(): kind
        for kind in kinds
        if issubclass(kind, torch.optim.Optimizer)
        and kind is not torch.optim.Optimizer
        and kind.__name__ not in _UNUSABLE
    }
