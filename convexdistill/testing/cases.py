"""One small, well-posed example of every problem that the layers solve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from convexdistill import layers
from convexdistill.layers.problem import RidgeProblem
from convexdistill.layers.solution import LinearFit

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """A layer, and inputs on which every check can run.

    Attributes:
        name: the word for the problem, as in ``backends()[...].problems``.
        problem: the class of problem that a backend registers a solver for.
        layer: ``layer(**inputs, backend=..., on_failure=...)``.
        make: ``make(batch, generator)`` -> float64 inputs by argument name, all differentiable; each has
            ``batch`` as its leading dimensions.
        tolerance: relative, of answers that two backends give to the same problem.
        gradient_tolerance: relative, of gradients against differences.
        weighted: whether the layer takes ``sample_weight``.
    """

    name: str
    problem: type
    layer: Callable[..., LinearFit]
    make: Callable[[tuple[int, ...], torch.Generator], Inputs]
    tolerance: float = 1e-7
    gradient_tolerance: float = 1e-5
    weighted: bool = True


def regression(n: int, d: int, columns: int) -> Callable[[tuple[int, ...], torch.Generator], Inputs]:
    """Gaussian features and labels, and λ of the size of the smaller eigenvalues."""

    def make(batch: tuple[int, ...], generator: torch.Generator) -> Inputs:
        def normal(*shape: int) -> Tensor:
            return torch.randn(*batch, *shape, dtype=torch.float64, generator=generator)

        return {"features": normal(n, d), "labels": normal(n, columns), "lam": 0.5 + normal(columns).abs()}

    return make


CASES: dict[str, Case] = {
    case.name: case
    for case in (
        Case("ridge", RidgeProblem, layers.ridge, regression(9, 4, 3)),
        Case("ridge, more features than examples", RidgeProblem, layers.ridge, regression(4, 7, 2)),
    )
}
