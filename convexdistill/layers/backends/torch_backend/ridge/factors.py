"""Three factorisations of a regularised Gram matrix, one interface: factor once, apply often.

For a matrix M (r×k) and λ ≥ 0 let S = MᵀM + λI (k×k). The primal form of ridge takes M = X, the dual
M = Xᵀ. Each entry of ``FACTORS`` makes tensors from (M, λ), and ``apply`` turns those into S⁻¹B. All of it
runs without gradient: the derivative rules in ``implicit.py`` need nothing but S⁻¹.

- ``cholesky``: S = LLᵀ. The fastest; squares the condition number of M.
- ``qr``: [M; √λ I] = QR, so S = RᵀR without ever forming S.
- ``svd``: M = UΣVᵀ, S = V(Σ² + λ)Vᵀ + λ(I − VVᵀ). The slowest; knows the condition exactly.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Factor = tuple[Tensor, ...]

# The Cholesky factor again, with corrections by remainders that are formed from M: see implicit.py.
REFINED = "cholesky-refined"


def cholesky(M: Tensor, lam: Tensor) -> tuple[Factor, Tensor, Tensor]:
    """Factor S = LLᵀ; also the condition of S estimated from L, and where L does not exist."""
    S = M.mT @ M
    S = S + lam[..., None, None] * torch.eye(S.shape[-1], dtype=S.dtype, device=S.device)
    L, info = torch.linalg.cholesky_ex(S)
    condition = torch.linalg.matrix_norm(S) * inverse_norm("cholesky", (L,))
    # info == 0 proves nothing: rounding lets Cholesky "succeed" on singular matrices.
    return (L,), condition, (info != 0) | ~(condition * _epsilon(M) < 1)


def quick_cholesky(M: Tensor, lam: Tensor, below: float) -> tuple[Factor, Tensor, Tensor | None]:
    """Like ``cholesky``, without an estimate where λ proves that S is well conditioned; waits for the device.

    Every eigenvalue of S lies between λ and ‖S‖ ≤ ‖M‖² + λ, so ‖S‖/λ bounds the condition: no estimate is
    needed, and for problems of a hundred rows the estimate would cost more than the factorisation.

    Returns:
        The factor, the bound where it is at most ``below`` (else the estimate), and where L does not exist (None:
        nowhere).
    """
    S = M.mT @ M
    diagonal = S.diagonal(dim1=-2, dim2=-1)
    bound = diagonal.sum(-1) / lam + 1
    diagonal.add_(lam.unsqueeze(-1))
    L, info = torch.linalg.cholesky_ex(S)
    # With such a condition Cholesky cannot fail; NaN and λ = 0 fail the comparison.
    if bool((bound <= below).all()):
        return (L,), bound, None
    size = torch.linalg.matrix_norm(S)  # up to √k times below the trace
    if bool((size < below * lam).all()):
        return (L,), size / lam, None
    condition = size * inverse_norm("cholesky", (L,))
    return (L,), condition, (info != 0) | ~(condition * _epsilon(M) < 1)


def qr(M: Tensor, lam: Tensor) -> tuple[Factor, Tensor, Tensor]:
    """Factor S = RᵀR from the QR factorisation of [M; √λ I]."""
    k = M.shape[-1]
    eye = torch.eye(k, dtype=M.dtype, device=M.device)
    root = (lam.sqrt()[..., None, None] * eye).expand(*M.shape[:-2], k, k)
    R = torch.linalg.qr(torch.cat([M, root], dim=-2), mode="r").R
    diagonal = R.diagonal(dim1=-2, dim2=-1).abs()
    singular = diagonal.amin(-1) <= _epsilon(M) * diagonal.amax(-1)
    condition = torch.linalg.matrix_norm(R) ** 2 * inverse_norm("qr", (R,))
    return (R,), condition, singular


def svd(M: Tensor, lam: Tensor) -> tuple[Factor, Tensor, Tensor]:
    """Factor S from the singular values of M."""
    _, sigma, Vh = torch.linalg.svd(M, full_matrices=False)
    largest = (sigma[..., 0] ** 2 + lam).sqrt()
    wide = M.shape[-2] < M.shape[-1]  # then S has λ itself among its eigenvalues
    smallest = lam.sqrt() if wide else (sigma[..., -1] ** 2 + lam).sqrt()
    singular = smallest <= _epsilon(M) * largest
    return (Vh, sigma, lam), (largest / smallest) ** 2, singular


def apply(method: str, factor: Factor, B: Tensor) -> Tensor:
    """S⁻¹B, (*B, k, c), for the factor that ``method`` made."""
    if method in ("cholesky", REFINED):
        return torch.cholesky_solve(B, factor[0])
    if method == "qr":
        (R,) = factor
        half = torch.linalg.solve_triangular(R.mT, B, upper=False)
        full: Tensor = torch.linalg.solve_triangular(R, half, upper=True)
        return full
    Vh, sigma, lam = factor
    lam = lam[..., None, None]
    inside = Vh @ B
    answer = Vh.mT @ (inside / (sigma.unsqueeze(-1) ** 2 + lam))
    if Vh.shape[-2] < Vh.shape[-1]:
        answer = answer + (B - Vh.mT @ inside) / lam
    return answer


def harmless(method: str, factor: Factor, failed: Tensor) -> Factor:
    """The factor with that of the identity where it failed, (*B,) bool.

    What comes out of it there is no answer, but finite, so that a cotangent of zero leaves gradients of zero in
    what the element shares with others.
    """
    if method == "svd":
        Vh, sigma, lam = factor
        one = failed.unsqueeze(-1)
        return Vh.masked_fill(one.unsqueeze(-1), 0.0), sigma.masked_fill(one, 1.0), lam.masked_fill(failed, 1.0)
    eye = torch.eye(factor[0].shape[-1], dtype=factor[0].dtype, device=factor[0].device)
    return (torch.where(failed[..., None, None], eye, factor[0]),)


def inverse_norm(method: str, factor: Factor, steps: int = 3) -> Tensor:
    """Estimate of ‖S⁻¹‖₂ by inverse iteration from a fixed vector, at the price of a few columns."""
    k = factor[0].shape[-1]
    v = torch.cos(torch.arange(1, k + 1, dtype=factor[0].dtype, device=factor[0].device))
    v = v.unsqueeze(-1).expand(*factor[0].shape[:-2], k, 1)
    for _ in range(steps):
        v = apply(method, factor, v / torch.linalg.matrix_norm(v, keepdim=True))
    norm: Tensor = torch.linalg.matrix_norm(v)
    return norm


def _epsilon(M: Tensor) -> float:
    """Relative size below which a singular value of M cannot be told from zero."""
    return torch.finfo(M.dtype).eps * max(M.shape[-2:])


FACTORS: dict[str, Callable[[Tensor, Tensor], tuple[Factor, Tensor, Tensor]]] = {
    "cholesky": cholesky,
    "qr": qr,
    "svd": svd,
}
