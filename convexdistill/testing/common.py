"""The list of checks, and what they share: inputs from a seed, comparison, and the words for what fails."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from convexdistill.layers.solution import LinearFit
from convexdistill.testing.cases import Case, Inputs

CHECKS: dict[str, Callable[[Case, str, int], None]] = {}


class NotApplicable(Exception):  # noqa: N818
    """A check has nothing to say of a case or a backend, and is not counted."""


def check(function: Callable[[Case, str, int], None]) -> Callable[[Case, str, int], None]:
    """Put a check on the list."""
    CHECKS[function.__name__] = function
    return function


def inputs(case: Case, batch: tuple[int, ...], seed: int, *, grad: bool = False) -> Inputs:
    """The case's inputs for a batch shape, from a seed."""
    made = case.make(batch, torch.Generator().manual_seed(seed))
    return {k: v.requires_grad_(grad) for k, v in made.items()}


def fitted(fit: LinearFit) -> Tensor:
    """Everything that was fitted, in one tensor: (*B, d, C), with a row more for an intercept."""
    return fit.weight if fit.intercept is None else torch.cat([fit.weight, fit.intercept.unsqueeze(-2)], -2)


def broadcastable(name: str, shared: Tensor, others: Inputs) -> Tensor:
    """A shared input beside batched ones; labels need the batch dimension, or they would read as vectors."""
    return shared.unsqueeze(0) if name in ("labels", "lam") or "gram" in others else shared


def random_like(tensor: Tensor, seed: int) -> Tensor:
    """Gaussian values of a shape, from a seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tensor.shape, dtype=tensor.dtype, generator=generator)


def close(found: Tensor, expected: Tensor, tolerance: float, what: str = "answer") -> None:
    """Assert that the largest difference is small beside the largest value."""
    error = float((found - expected).detach().abs().max()) if found.numel() else 0.0
    size = max(float(expected.detach().abs().max()) if expected.numel() else 0.0, 1e-30)
    expect(error <= tolerance * size, f"{what}: relative difference {error / size:.1e}, allowed {tolerance:.0e}")


def expect(condition: bool, message: str) -> None:
    """Assert, also where Python runs without assertions."""
    if not condition:
        raise AssertionError(message)
