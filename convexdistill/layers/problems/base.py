"""What every problem can do, and the two things that all of them need."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

TINY = torch.finfo(torch.float64).tiny


def broadcast_shapes(*shapes: tuple[int, ...]) -> torch.Size:
    """``torch.broadcast_shapes``, typed."""
    common: torch.Size = torch.broadcast_shapes(*shapes)
    return common


def size_of(values: Tensor) -> Tensor:
    """Frobenius norms (*B,) of matrices, or their largest entries where the squares leave float64; never 0."""
    norm = torch.linalg.matrix_norm(values)
    flat = values.flatten(-2)  # not the infinity norm, which torch takes much longer for
    largest = torch.maximum(flat.amax(-1), -flat.amin(-1))
    size: Tensor = torch.where((norm > TINY**0.5) & norm.isfinite(), norm, largest).clamp_min(TINY)
    return size


class Problem(Protocol):
    """What every problem can do: measure how far an answer is from optimal."""

    @property
    def batch_shape(self) -> torch.Size:
        """The common leading dimensions *B."""
        ...

    @property
    def answer_shape(self) -> torch.Size:
        """The shape (*B, ...) of an answer."""
        ...

    def residual(self, answer: Tensor, dual: Tensor | None = None) -> Tensor:
        """(*B,) relative optimality residual of ``answer``, without gradient.

        ``dual`` is the solver's certificate, for problems whose optimality cannot be seen without one.
        """
        ...
