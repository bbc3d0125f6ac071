"""Newton systems of the softmax loss: factored whole, or one block a class for conjugate gradients.

H is CD×CD. Small ones are formed and factored by Cholesky; for large ones only the D×D diagonal blocks are, and
precondition conjugate gradients, which see H through products with X (Komarek & Moore 2005 fit logistic regression
that way). A factor is a tuple of tensors

    L, scale                     of G blocks of order CD/G: G = 1 for the whole, C for the blocks
    L, scale, Q, spread, mean    of the reduced system, for n < D

where scale makes the diagonal 1 before Cholesky, so that neither badly scaled features nor nearly certain
predictions (whose curvature is tiny) cost digits. In the *dual* form X = X̃Qᵀ with orthonormal columns Q (D×n): the
answer is W = QṼ, and H⁻¹ is the reduced inverse on the span of Q and 1/λ on the rest (``spread``; ``mean`` for the
class means, where a gauge term adds to λ). A free intercept is a row of its own, outside of the rotation.

A factor need not be exact, nor of the very point: :func:`solve` repairs what is missing by preconditioned conjugate
gradients (Hestenes & Stiefel 1952) and so serves for the direction, for refinement and for the adjoint alike.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from convexdistill.layers.backends.softmax import TINY, complement

Factor = tuple[Tensor, ...]

EPS = torch.finfo(torch.float64).eps
SHIFT = 16 * EPS  # added to the unit diagonal: what rounding may have taken from the smallest eigenvalue
REPAIR = 1e-6  # the same, where Cholesky still fails
SINGULAR_ABOVE = 1 / (8 * SHIFT)  # condition at which a shifted matrix looks the same as a singular one
CHUNK = 4096  # rows of X at a time when H is formed: bounds the memory at CHUNK × CD numbers


def hessian(X: Tensor, w: Tensor, P: Tensor, penalty: Tensor, gauge: Tensor) -> Tensor:
    """H as a matrix (*B, CD, CD), classes outermost; arguments as in ``hessian_apply``."""
    D, C = penalty.shape[-2:]
    H = X.new_zeros(())
    for x, p, v in zip(X.split(CHUNK, -2), P.split(CHUNK, -2), w.split(CHUNK, -1), strict=True):
        rows = ((v.sqrt().unsqueeze(-1) * p).unsqueeze(-1) * x.unsqueeze(-2)).flatten(-2)
        H = H - rows.mT @ rows
    H = H.unflatten(-1, (C, D)).unflatten(-3, (C, D))
    H = H + (torch.diag_embed(gauge.squeeze(-1)) / C)[..., None, :, None, :]
    # −p p' off the diagonal loses nothing, but p − p² on it would: those blocks are formed from p(1 − p).
    blocks = _class_blocks(X, w, P, penalty, gauge).movedim(-3, -1)
    return torch.diagonal_scatter(H, blocks, dim1=-4, dim2=-2).flatten(-4, -3).flatten(-2)


def _class_blocks(X: Tensor, w: Tensor, P: Tensor, penalty: Tensor, gauge: Tensor) -> Tensor:
    """The diagonal blocks of H, (*B, C, D, D)."""
    C = penalty.shape[-1]
    spread = (w.unsqueeze(-1) * P * complement(P)).mT.unsqueeze(-2)
    blocks = (X.mT.unsqueeze(-3) * spread) @ X.unsqueeze(-3)
    return blocks + torch.diag_embed((penalty + gauge / C).mT)


def factorise(X: Tensor, w: Tensor, P: Tensor, penalty: Tensor, gauge: Tensor, whole: bool, look: bool) -> Factor:
    """Cholesky factor of H, or of its blocks.

    Args:
        X: as in ``hessian_apply``, like the next four.
        w: likewise.
        P: likewise.
        penalty: likewise.
        gauge: likewise.
        whole: whether H is formed, or only its diagonal blocks.
        look: whether values may be looked at.
    """
    form = hessian if whole else _class_blocks
    H = form(X, w, P, penalty, gauge)
    H = H.unsqueeze(-3) if whole else H
    diagonal = H.diagonal(dim1=-2, dim2=-1)
    scale = torch.where(diagonal > 0, diagonal.clamp_min(TINY).rsqrt(), 1.0)
    eye = torch.eye(H.shape[-1], dtype=H.dtype, device=H.device)
    H = scale.unsqueeze(-1) * H * scale.unsqueeze(-2) + SHIFT * eye
    L, failed = torch.linalg.cholesky_ex(H)
    if look and bool(failed.any()):
        repaired, _ = torch.linalg.cholesky_ex(H + REPAIR * eye)
        L = torch.where((failed != 0)[..., None, None], repaired, L)
    return L, scale


def condition(factor: Factor) -> Tensor:
    """(*B,) estimate of ‖S⁻¹‖ for the scaled S of a factor: its condition, within its order, as ‖S‖ is in [1, CD]."""
    L = factor[0]
    v = torch.cos(torch.arange(1, L.shape[-1] + 1, dtype=L.dtype, device=L.device)).unsqueeze(-1)
    v = v.expand(*L.shape[:-1], 1)
    for _ in range(3):
        v = torch.cholesky_solve(v / torch.linalg.matrix_norm(v, keepdim=True), L)
    worst: Tensor = torch.linalg.matrix_norm(v).amax(-1)
    return worst


def apply(factor: Factor, B: Tensor) -> Tensor:
    """The factor's approximation of H⁻¹B, (*B, D, C)."""
    if len(factor) == 2:
        return _apply_reduced(factor, B)
    L, scale, Q, spread, mean = factor
    d = Q.shape[-2]
    top, bottom = B[..., :d, :], B[..., d:, :]
    inside = Q.mT @ top
    V = _apply_reduced((L, scale), torch.cat([inside, bottom], -2))
    n = Q.shape[-1]
    rest = top - Q @ inside
    centre = rest.mean(-1, keepdim=True)
    outside = (rest - centre) * spread + centre * mean
    return torch.cat([Q @ V[..., :n, :] + outside, V[..., n:, :]], -2)


def _apply_reduced(factor: Factor, B: Tensor) -> Tensor:
    L, scale = factor
    D, C = B.shape[-2:]
    blocks = B.mT.reshape(*B.shape[:-2], *scale.shape[-2:])
    found = scale * torch.cholesky_solve((scale * blocks).unsqueeze(-1), L).squeeze(-1)
    return found.reshape(*found.shape[:-2], C, D).mT


def solve(
    H: Callable[[Tensor], Tensor], factor: Factor, B: Tensor, tolerance: Tensor | float, limit: int, look: bool
) -> tuple[Tensor, Tensor]:
    """V with HV = B by conjugate gradients, and what is left of B.

    Args:
        H: V ↦ HV.
        factor: the preconditioner.
        B: (*B, D, C).
        tolerance: relative size of the remainder at which an element is done, () or (*B,).
        limit: how many products with H at most.
        look: whether to look at values, and stop when every element is done.
    """
    R = B
    V = direction = torch.zeros_like(B)
    target = tolerance * torch.linalg.matrix_norm(B)
    before = torch.zeros_like(target)
    for _ in range(limit):
        active = torch.linalg.matrix_norm(R) > target
        if look and not bool(active.any()):
            break
        Z = apply(factor, R)
        now = (R * Z).sum((-2, -1))
        direction = Z + _ratio(now, before)[..., None, None] * direction
        HD = H(direction)
        step = (_ratio(now, (direction * HD).sum((-2, -1))) * active)[..., None, None]
        V, R, before = V + step * direction, R - step * HD, now
    return V, B - H(V)


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """above / below, and 0 where below is not positive: there nothing is left to gain."""
    return torch.where(below > 0, above / below.clamp_min(TINY), 0.0)
