"""A ridge problem whose system was factored before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from convexdistill.layers.problems.ridge import RidgeProblem


class Factored(NamedTuple):
    """The factors of S = NᵀM + λI, with leading dimensions *S: those of features, weights and λ.

    Attributes:
        form: ``"primal"`` or ``"dual"``.
        method: which factorisation it is.
        factor: its tensors, without gradient.
        condition: (*S,).
        singular: (*S,) bool, or None where no system is.
    """

    form: str
    method: str
    factor: tuple[Tensor, ...]
    condition: Tensor
    singular: Tensor | None


@dataclass(frozen=True, eq=False)
class FactorizedProblem(RidgeProblem):
    """A ridge problem, and the factors that belong to its features, weights and λ.

    Attributes:
        factored: the factors.
    """

    factored: Factored | None = None
