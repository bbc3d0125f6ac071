"""Ridge regression on a matrix that is known by its products, as a plain problem for backends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from convexdistill.errors import InvalidInputError
from convexdistill.layers.operators import Products
from convexdistill.layers.problems.base import TINY, broadcast_shapes

POWER_STEPS = 4
ADJOINT = 1e-8  # how far ⟨A x, y⟩ and ⟨x, Aᵀ y⟩ may lie apart, relative to ‖A‖ ‖x‖ ‖y‖


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

    @property
    def answer_shape(self) -> torch.Size:
        """(*B, d, C)."""
        return torch.Size((*self.batch_shape, self.A.shape[-1], self.labels.shape[-1]))

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
        v = _fixed_vector(A.shape, d, device)
        size = torch.zeros(A.shape[:-2], dtype=torch.float64, device=device)
        for step in range(POWER_STEPS):
            length = torch.linalg.matrix_norm(v, keepdim=True)
            image = A.matmul(v / length.clamp_min(TINY))
            size = torch.maximum(size, torch.linalg.matrix_norm(image))  # NaN stays NaN
            if step + 1 < POWER_STEPS:
                v = A.rmatmul(image)
        return size


def require_adjoint(A: Products, size: Tensor) -> None:
    """Check that the products with Aᵀ are those of the transpose of A, by one fixed pair of vectors.

    A wrong transpose makes F(W) = Aᵀ(Y − AW) − λW another function, which may well be zero somewhere: no residual
    that is formed with the same products can tell.

    Args:
        A: the products.
        size: of A, (*B,), by :func:`size_of`.

    Raises:
        InvalidInputError: ⟨A x, y⟩ and ⟨x, Aᵀ y⟩ differ by more than rounding.
    """
    with torch.no_grad():
        n, d = A.shape[-2:]
        x, y = _fixed_vector(A.shape, d, size.device), _fixed_vector(A.shape, n, size.device)
        left, right = (A.matmul(x) * y).sum((-2, -1)), (x * A.rmatmul(y)).sum((-2, -1))
        scale = size * torch.linalg.matrix_norm(x) * torch.linalg.matrix_norm(y)
        error = ((left - right).abs() / scale.clamp_min(TINY)).max() if size.numel() else size.new_zeros(())
    if bool(error > ADJOINT):
        raise InvalidInputError(
            f"matmul and rmatmul of the operator are not adjoint: ⟨A x, y⟩ and ⟨x, Aᵀ y⟩ differ by "
            f"{float(error):.0e} of their size; mend rmatmul (or mT, or T), or leave it out of the LinearOperator."
        )


def _fixed_vector(shape: torch.Size, length: int, device: torch.device) -> Tensor:
    """(*B, length, 1), the same every time, with parts along everything."""
    v = torch.cos(torch.arange(1, length + 1, dtype=torch.float64, device=device)).unsqueeze(-1)
    return v.expand(*shape[:-2], length, 1)
