r"""Preconditioners for S = AᵀA + λI: symmetric P with P⁻¹S better conditioned than S, and cheap P⁻¹.

- ``jacobi``: P = diag(S). Undoes badly scaled features; needs the norms of the columns of A.
- ``nystrom`` (Frangella, Tropp & Udell 2021, "Randomized Nyström preconditioning"): from k random vectors Ω, the
  approximation AᵀA ≈ UΛUᵀ = (AᵀAΩ)(ΩᵀAᵀAΩ)⁺(AᵀAΩ)ᵀ, and with its smallest eigenvalue Λ_k

      P⁻¹ = (Λ_k + λ) U(Λ + λ)⁻¹Uᵀ + I − UUᵀ.

  With k about twice the effective dimension Σ σ²/(σ² + λ) the condition of P⁻¹S is a small constant with high
  probability, however badly conditioned S is. k doubles until Λ_k ≤ 10 λ, as the paper advises.
"""

from __future__ import annotations

import torch
from torch import Tensor

from convexdistill.errors import UnsupportedError
from convexdistill.layers.backends.torch_backend.operator.krylov import Apply
from convexdistill.layers.operators import Products

WORDS = ("jacobi", "nystrom")
FIRST_RANK = 16
LARGEST_RANK = 512
SEED = 20210
EPSILON = torch.finfo(torch.float64).eps


def build(word: str, A: Products, lam: Tensor) -> Apply:
    """The function r -> P⁻¹ r.

    Args:
        word: one of ``WORDS``.
        A: the products with A.
        lam: (*B, 1, 1) or (*B, 1, C).

    Raises:
        UnsupportedError: ``"jacobi"``, and the norms of the columns of A are not known.
    """
    return jacobi(A, lam) if word == "jacobi" else nystrom(A, lam)


def jacobi(A: Products, lam: Tensor) -> Apply:
    """Division by the diagonal of S."""
    if A.column_squares is None:
        raise UnsupportedError(
            "preconditioner='jacobi' needs the norms of the operator's columns, which only tensors give; "
            "use preconditioner='nystrom', or a function r -> r / diagonal of your own."
        )
    diagonal = A.column_squares().unsqueeze(-1) + lam
    diagonal = diagonal.masked_fill(diagonal == 0, 1.0)  # such a feature is zero, and so is its residual
    return lambda r: r / diagonal


def nystrom(A: Products, lam: Tensor) -> Apply:
    """A randomised low-rank approximation of AᵀA, inverted; the same random numbers every time."""
    d = A.shape[-1]
    rank = min(FIRST_RANK, d)
    while True:
        U, eigenvalues = sketch(A, rank, lam.device)
        smallest = eigenvalues[..., -1, :].unsqueeze(-2)
        if rank >= min(d, LARGEST_RANK) or bool((smallest <= 10 * lam).all()):
            break
        rank = min(2 * rank, d, LARGEST_RANK)
    floor = EPSILON * eigenvalues[..., :1, :]  # λ = 0 and rank deficiency together leave nothing else
    scale = (smallest + lam + floor) / (eigenvalues + lam + floor)
    scale = torch.where(eigenvalues[..., :1, :] == 0, 1.0, scale)

    def apply(r: Tensor) -> Tensor:
        inside = U.mT @ r
        return r + U @ ((scale - 1) * inside)

    return apply


def sketch(A: Products, rank: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Orthonormal U (*B, d, k) and eigenvalues (*B, k, 1), falling, with AᵀA ≈ U diag(eigenvalues) Uᵀ."""
    d = A.shape[-1]
    generator = torch.Generator().manual_seed(SEED)
    Omega = torch.randn(d, rank, generator=generator, dtype=torch.float64)
    Omega = torch.linalg.qr(Omega).Q.to(device).expand(*A.shape[:-2], d, rank)
    image = A.rmatmul(A.matmul(Omega))
    # Y(ΩᵀY)⁺Yᵀ = BBᵀ with B = Y Q D^(-1/2); directions of D that are rounding errors are left out.
    D, Q = torch.linalg.eigh(_symmetric(Omega.mT @ image))
    keep = d * EPSILON * D[..., -1:] < D
    root = torch.where(keep, D, 1.0).rsqrt() * keep
    U, sigma, _ = torch.linalg.svd(image @ (Q * root.unsqueeze(-2)), full_matrices=False)
    return U, sigma.square().unsqueeze(-1)


def _symmetric(M: Tensor) -> Tensor:
    return 0.5 * (M + M.mT)
