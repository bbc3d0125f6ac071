"""One small, well-posed example of every problem that the layers solve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from convexdistill import layers
from convexdistill.layers.problems.kernel import KernelRidgeProblem
from convexdistill.layers.problems.least_squares import LeastSquaresProblem
from convexdistill.layers.problems.logistic import LogisticProblem
from convexdistill.layers.problems.quadratic import QuadraticProblem
from convexdistill.layers.problems.ridge import RidgeProblem
from convexdistill.layers.solution import LinearFit

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """A layer, and inputs on which every check can run.

    Attributes:
        name: the word for the case; ``check_backend(problems=…)`` takes it, or the name of its problem in
            ``backends()[...].problems``, which stands for all its cases.
        problem: the class of problem that a backend registers a solver for.
        layer: ``layer(**inputs, backend=..., on_failure=...)``.
        make: ``make(batch, generator)`` -> float64 inputs by argument name, all differentiable; each has
            ``batch`` as its leading dimensions.
        tolerance: relative, of answers that two backends give to the same problem.
        gradient_tolerance: relative, of gradients against differences.
        weighted: whether the layer takes ``sample_weight``.
        vectors: whether labels may be vectors.
        intercepts: the words for ``intercept=`` that the layer takes.
    """

    name: str
    problem: type
    layer: Callable[..., LinearFit]
    make: Callable[[tuple[int, ...], torch.Generator], Inputs]
    tolerance: float = 1e-7
    gradient_tolerance: float = 1e-5
    weighted: bool = True
    vectors: bool = True
    intercepts: tuple[str, ...] = ("none", "free", "penalized")


def regression(n: int, d: int, columns: int) -> Callable[[tuple[int, ...], torch.Generator], Inputs]:
    """Gaussian features and labels, and λ of the size of the smaller eigenvalues."""

    def make(batch: tuple[int, ...], generator: torch.Generator) -> Inputs:
        def normal(*shape: int) -> Tensor:
            return torch.randn(*batch, *shape, dtype=torch.float64, generator=generator)

        return {"features": normal(n, d), "labels": normal(n, columns), "lam": 0.5 + normal(columns).abs()}

    return make


def unregularised(batch: tuple[int, ...], generator: torch.Generator) -> Inputs:
    """Gaussian features and labels alone."""
    made = regression(9, 4, 3)(batch, generator)
    return {"features": made["features"], "labels": made["labels"]}


def kernel(batch: tuple[int, ...], generator: torch.Generator) -> Inputs:
    """The gram matrix of more Gaussian features than examples, labels, and λ."""
    made = regression(6, 9, 3)(batch, generator)
    X = made.pop("features")
    K = X @ X.mT
    return {"gram": 0.5 * (K + K.mT), **made}


def classification(n: int, d: int, columns: int) -> Callable[[tuple[int, ...], torch.Generator], Inputs]:
    """Gaussian features, rows of labels on the simplex, and λ."""

    def make(batch: tuple[int, ...], generator: torch.Generator) -> Inputs:
        made = regression(n, d, columns)(batch, generator)
        return {**made, "labels": (2 * made["labels"]).softmax(-1)}

    return make


def regression_with_prior(batch: tuple[int, ...], generator: torch.Generator) -> Inputs:
    """A prior and a penalty for each feature beside the inputs of regression."""
    made = regression(9, 4, 3)(batch, generator)
    prior = torch.randn(*batch, 4, 3, dtype=torch.float64, generator=generator)
    penalty = 0.5 + torch.rand(*batch, 4, dtype=torch.float64, generator=generator)
    return {**made, "prior": prior, "penalty": penalty}


def centred_ridge(**given: Any) -> LinearFit:
    """Ridge with a free intercept."""
    return layers.ridge(**{"intercept": "free", **given})


def simplex_ridge(**given: Any) -> LinearFit:
    """Ridge with rows of the weight on the simplex."""
    return layers.constrained_ridge(constraint="simplex", **given)


def one_vs_rest(**given: Any) -> LinearFit:
    """A binary support vector machine for every column."""
    return layers.linear_svm(kind="one-vs-rest", **given)


CASES: dict[str, Case] = {
    case.name: case
    for case in (
        Case("ridge", RidgeProblem, layers.ridge, regression(9, 4, 3)),
        Case("ridge, more features than examples", RidgeProblem, layers.ridge, regression(4, 7, 2)),
        Case("ridge with a prior, penalties and an intercept", RidgeProblem, centred_ridge, regression_with_prior),
        Case(
            "least squares",
            LeastSquaresProblem,
            layers.least_squares,
            unregularised,
            intercepts=("none", "free"),
        ),
        Case("kernel ridge", KernelRidgeProblem, layers.kernel_ridge, kernel),
        Case("logistic regression", LogisticProblem, layers.logistic_regression, classification(9, 4, 3)),
        Case("constrained ridge", QuadraticProblem, layers.constrained_ridge, regression(9, 4, 3)),
        Case("ridge on the simplex", QuadraticProblem, simplex_ridge, regression(9, 4, 3), vectors=False),
        Case("svm", QuadraticProblem, layers.linear_svm, classification(9, 4, 3), vectors=False),
        Case("svm, one against the rest", QuadraticProblem, one_vs_rest, classification(9, 4, 3)),
        Case(
            "svm, more features than examples",
            QuadraticProblem,
            layers.linear_svm,
            classification(5, 7, 3),
            vectors=False,
        ),
    )
}
