"""The attributes of cvxpy parameters (nonneg, PSD, …): a compiled problem trusts them, so values are checked.

A negative value of a parameter that was declared ``nonneg`` turns a convex program into one that is not, which
solvers answer with a number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

SYMMETRY = 1e-6

WORDS = {
    "nonneg": "must be >= 0",
    "pos": "must be > 0",
    "nonpos": "must be <= 0",
    "neg": "must be < 0",
    "symmetric": "must be a symmetric matrix",
    "PSD": "must be a symmetric, positive semidefinite matrix",
    "NSD": "must be a symmetric, negative semidefinite matrix",
}


def broken(parameter: Any, values: Tensor) -> Tensor:
    """(batch,) or (): where values (batch, *shape) or (*shape) break an attribute of the parameter."""
    core = len(parameter.shape)
    wrong = torch.zeros(values.shape[: values.ndim - core], dtype=torch.bool, device=values.device)
    for name in _held(parameter):
        if name in SIGNS:
            bad = SIGNS[name](values)
            wrong = wrong | (bad.flatten(-core).any(-1) if core else bad)
            continue
        size = values.abs().amax((-2, -1))
        wrong = wrong | ((values - values.mT).abs().amax((-2, -1)) > SYMMETRY * size)
        if name != "symmetric":
            sign = 1.0 if name == "PSD" else -1.0
            lowest = torch.linalg.eigvalsh(sign * 0.5 * (values + values.mT)).amin(-1)
            wrong = wrong | (lowest < -SYMMETRY * size)
    return wrong


def describe(name: str, parameter: Any, wrong: Tensor, batch: torch.Size) -> str:
    """The sentence of the error."""
    rules = " and ".join(WORDS[attribute] for attribute in _held(parameter))
    where = ""
    if wrong.ndim and len(batch):
        first = int(torch.nonzero(wrong)[0])
        index = [int(i) for i in torch.unravel_index(torch.tensor(first), batch)]
        where = f" (batch element {index}; {int(wrong.sum())} of {wrong.numel()})"
    return f"{name} {rules}, as its cvxpy.Parameter says, and is not{where}."


def _held(parameter: Any) -> list[str]:
    """The attributes that the parameter has, of those that are checked."""
    return [name for name in WORDS if parameter.attributes.get(name)]


SIGNS: dict[str, Callable[[Tensor], Tensor]] = {
    "nonneg": lambda values: values < 0,
    "pos": lambda values: values <= 0,
    "nonpos": lambda values: values > 0,
    "neg": lambda values: values >= 0,
}
