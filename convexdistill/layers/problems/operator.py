"""Ridge regression on a matrix that is known by its products, as a plain problem for backends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from convexdistill.layers.operators import Products
from convexdistill.layers.problems.base import TINY, broadcast_shapes

POWER_STEPS = 4


@dataclass(frozen=True, eq=False)
class OperatorProblem:
    """Minimise ``‖A W − Y‖² + Σ_c λ_c ‖W_c‖²`` over W (d×C), by products with A and Aᵀ.

    Attributes:
        A: the products, (*Ba, n, d).
        labels: Y, (*By, n, C) float64, finite.
        lam: λ ≥ 0, (*Bl, 1) or (*Bl, C).
        size: (*Ba,) a lower bound of ‖A‖, by :func:`size_of`.
        preconditioner: None, ``"jacobi"``, ``"nystrom"``, or a function r -> P⁻¹ r.
        rtol: the relative residual at which a column is done.
        max_steps: how many steps a method may take.
    """

    A: Products
    labels: Tensor
    lam: Tensor
    size: Tensor
    preconditioner: str | Callable[[Tensor], Tensor] | None
    rtol: float
    max_steps: int

    @property
    def batch_shape(self) -> torch.Size:
        """The common leading dimensions *B."""
        return broadcast_shapes(self.A.shape[:-2], self.labels.shape[:-2], self.lam.shape[:-1])

    def residual(self, answer: Tensor, dual: Tensor | None = None) -> Tensor:
        """``‖Aᵀ(AW − Y) + λW‖ / (size ‖Y‖)``, (*B,): that of a ridge problem, or larger.

        ``size`` is at most the ‖A‖ that the dense layer divides by, so nothing looks better than it is.
        """
        with torch.no_grad():
            W, Y = answer.detach(), self.labels.detach()
            gradient = self.A.rmatmul(self.A.matmul(W) - Y) + self.lam.detach().unsqueeze(-2) * W
            scale = self.size * torch.linalg.matrix_norm(Y)
            relative: Tensor = torch.linalg.matrix_norm(gradient) / scale.clamp_min(TINY)
            return relative


def size_of(A: Products, device: torch.device) -> Tensor:
    """A lower bound of ‖A‖₂, (*B,), by a few steps of the power method on AᵀA from a fixed vector."""
    with torch.no_grad():
        d = A.shape[-1]
        v = torch.cos(torch.arange(1, d + 1, dtype=torch.float64, device=device)).unsqueeze(-1)
        v = v.expand(*A.shape[:-2], d, 1)
        size = torch.zeros(A.shape[:-2], dtype=torch.float64, device=device)
        for step in range(POWER_STEPS):
            length = torch.linalg.matrix_norm(v, keepdim=True)
            image = A.matmul(v / length.clamp_min(TINY))
            size = torch.maximum(size, torch.linalg.matrix_norm(image))  # NaN stays NaN
            if step + 1 < POWER_STEPS:
                v = A.rmatmul(image)
        return size
