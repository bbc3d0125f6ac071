"""Newton systems of the softmax loss: factored whole, or one block a class for conjugate gradients.

H is CD×CD. Small ones are formed and factored by Cholesky; for large ones only the D×D diagonal blocks are, and
precondition conjugate gradients, which see H through products with X (Komarek & Moore 2005 fit logistic regression
that way). A factor is a tuple

    L, scale, None, None      of G blocks of order CD/G: G = 1 for the whole, C for the blocks
    L, scale, Q, outside      of the reduced system, for n < D

where scale makes the diagonal 1 before Cholesky, so that neither badly scaled features nor nearly certain
predictions (whose curvature is tiny) cost digits. In the *dual* form X = X̃Qᵀ with orthonormal columns Q (D×n): the
answer is W = QW̃, and H⁻¹ is the reduced inverse on the span of Q and 1/λ on the rest (``outside``). A free
intercept is a row of its own, outside of the rotation.

A factor need not be exact, nor of the very point: :func:`solve` repairs what is missing by preconditioned
conjugate gradients (Hestenes & Stiefel 1952) and so serves for directions, refinement and adjoints alike.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from convexdistill.layers.backends.torch_backend.logistic.softmax import TINY, complement, without_shift

Factor = tuple[Tensor, Tensor, Tensor | None, Tensor | None]

EPS = torch.finfo(torch.float64).eps
SHIFT = 16 * EPS  # added to the unit diagonal: what rounding may have taken from the smallest eigenvalue
REPAIR = 1e-6  # the same, where Cholesky still fails
SINGULAR_ABOVE = 1 / (8 * SHIFT)  # condition at which a shifted matrix looks the same as a singular one
CHUNK = 4096  # rows of X at a time when H is formed: bounds the memory at CHUNK × CD numbers


def hessian(X: Tensor, w: Tensor, P: Tensor, penalty: Tensor, gauged: Tensor) -> Tensor:
    """H as a matrix (*B, CD, CD), classes outermost, made regular by a term for the sum of each gauged row.

    Any number > 0 would do, as it acts on shifts only; the row's own mean curvature does not spoil the condition.

    Args:
        X: (*B, n, D).
        w: masses, (*B, n).
        P: probabilities, (*B, n, C).
        penalty: Λ, (*B, D, C).
        gauged: (*B, D, 1), 1 where a row has to sum to zero.
    """
    D, C = penalty.shape[-2:]
    H = X.new_zeros(())
    for x, p, v in zip(X.split(CHUNK, -2), P.split(CHUNK, -2), w.split(CHUNK, -1), strict=True):
        rows = ((v.sqrt().unsqueeze(-1) * p).unsqueeze(-1) * x.unsqueeze(-2)).flatten(-2)
        H = H - rows.mT @ rows
    # −p p' off the diagonal loses nothing, but p − p² on it would: those blocks are formed from p(1 − p).
    blocks = class_blocks(X, w, P, penalty)
    H = H.unflatten(-1, (C, D)).unflatten(-3, (C, D))
    H = torch.diagonal_scatter(H, blocks.movedim(-3, -1), dim1=-4, dim2=-2)
    curvature = blocks.diagonal(dim1=-2, dim2=-1).mean(-2) * gauged.squeeze(-1)
    return (H + (torch.diag_embed(curvature) / C)[..., None, :, None, :]).flatten(-4, -3).flatten(-2)


def class_blocks(X: Tensor, w: Tensor, P: Tensor, penalty: Tensor) -> Tensor:
    """The diagonal blocks of H, (*B, C, D, D)."""
    spread = (w.unsqueeze(-1) * P * complement(P)).mT.unsqueeze(-2)
    return (X.mT.unsqueeze(-3) * spread) @ X.unsqueeze(-3) + torch.diag_embed(penalty.mT)


def factorise(X: Tensor, w: Tensor, P: Tensor, penalty: Tensor, gauged: Tensor, method: str) -> Factor:
    """Cholesky factor of H for ``"newton"``, or of its diagonal blocks for ``"newton-cg"``.

    Arguments as in :func:`hessian`; looks at values, to repair what Cholesky could not factor.
    """
    if method == "newton":
        H = hessian(X, w, P, penalty, gauged).unsqueeze(-3)
    else:
        H = class_blocks(X, w, P, penalty)
    diagonal = H.diagonal(dim1=-2, dim2=-1)
    scale = torch.where(diagonal > 0, diagonal.clamp_min(TINY).rsqrt(), 1.0)
    eye = torch.eye(H.shape[-1], dtype=H.dtype, device=H.device)
    H = scale.unsqueeze(-1) * H * scale.unsqueeze(-2) + SHIFT * eye
    L, failed = torch.linalg.cholesky_ex(H)
    if bool(failed.any()):
        repaired, _ = torch.linalg.cholesky_ex(H + REPAIR * eye)
        L = torch.where((failed != 0)[..., None, None], repaired, L)
    return L, scale, None, None


def condition(factor: Factor) -> Tensor:
    """(*B,) estimate of ‖S⁻¹‖ for the scaled S of a factor: the condition of S within its order, as ‖S‖ is."""
    L = factor[0]
    v = torch.cos(torch.arange(1, L.shape[-1] + 1, dtype=L.dtype, device=L.device)).unsqueeze(-1)
    v = v.expand(*L.shape[:-1], 1)
    for _ in range(3):
        v = torch.cholesky_solve(v / torch.linalg.matrix_norm(v, keepdim=True), L)
    worst: Tensor = torch.linalg.matrix_norm(v).amax(-1)
    return worst


def apply(factor: Factor, B: Tensor) -> Tensor:
    """The factor's approximation of H⁻¹B, (*B, D, C)."""
    L, scale, Q, outside = factor
    if Q is None or outside is None:
        return _apply_reduced(L, scale, B)
    d, k = Q.shape[-2:]
    free = B.shape[-2] - d
    top, bottom = B.split([d, free], -2)
    inside = Q.mT @ top
    V, bias = _apply_reduced(L, scale, torch.cat([inside, bottom], -2)).split([k, free], -2)
    return torch.cat([Q @ V + (top - Q @ inside) * outside, bias], -2)


def _apply_reduced(L: Tensor, scale: Tensor, B: Tensor) -> Tensor:
    D, C = B.shape[-2:]
    blocks = B.mT.reshape(*B.shape[:-2], *scale.shape[-2:])
    found = scale * torch.cholesky_solve((scale * blocks).unsqueeze(-1), L).squeeze(-1)
    return found.reshape(*found.shape[:-2], C, D).mT


def solve(
    product: Callable[[Tensor], Tensor],
    factor: Factor,
    gauged: Tensor,
    B: Tensor,
    tolerance: Tensor | float,
    limit: int,
    look: bool,
) -> tuple[Tensor, Tensor]:
    """V with HV = B but for shifts of gauged rows, and what is left of B; by conjugate gradients.

    Args:
        product: V ↦ HV.
        factor: the preconditioner.
        gauged: (*B, D, 1), 1 where a row has to sum to zero.
        B: (*B, D, C).
        tolerance: relative size of the remainder at which an element is done, () or (*B,).
        limit: how many products with H at most.
        look: whether to look at values, and stop when every element is done.
    """
    B = without_shift(B, gauged)
    R = B
    V = direction = torch.zeros_like(B)
    target = tolerance * torch.linalg.matrix_norm(B)
    before = torch.zeros_like(target)
    for _ in range(limit):
        active = torch.linalg.matrix_norm(R) > target
        if look and not bool(active.any()):
            break
        Z = without_shift(apply(factor, R), gauged)
        now = (R * Z).sum((-2, -1))
        direction = Z + _ratio(now, before)[..., None, None] * direction
        HD = product(direction)
        step = (_ratio(now, (direction * HD).sum((-2, -1))) * active)[..., None, None]
        V, R, before = V + step * direction, R - step * HD, now
    return V, B - product(V)


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """above / below, and 0 where below is not positive: there nothing is left to gain."""
    return torch.where(below > 0, above / below.clamp_min(TINY), 0.0)
