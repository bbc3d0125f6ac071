"""The state of optimisers as flat maps of tensors, the only thing that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """``{"0.exp_avg": ..., ...}``: the state of each parameter, by its position."""
    return {
        f"{position}.{name}": torch.as_tensor(value).clone()
        for position, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """The inverse of :func:`optimizer_state`; learning rates stay as they are."""
    nested: dict[int, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        position, _, name = key.partition(".")
        nested.setdefault(int(position), {})[name] = tensor
    optimizer.load_state_dict({"state": nested, "param_groups": optimizer.state_dict()["param_groups"]})


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name starts with ``prefix`` and a dot, without it.

    Example:
        >>> sorted(below("a", {"a.x": torch.zeros(1), "a.y.z": torch.zeros(1), "b.x": torch.zeros(1)}))
        ['x', 'y.z']
    """
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of :func:`below`."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}
