r"""Residuals of ridge regression when each example is left out, from one solve, or from one SVD for many λ.

Rows are scaled by √s (X̃, Ỹ), S = X̃ᵀX̃ + λI, G = X̃X̃ᵀ + λI. With R = Y − XW and h_ii = s_i x_iᵀS⁻¹x_i the model that
is fitted without example i misses it by ``e_i = R_i / (1 − h_ii)`` (Allen 1974, PRESS; one rank-one update of S).

- primal (d < n): R and h_ii as they stand, from S⁻¹[X̃ᵀỸ, Xᵀ];
- dual (n ≤ d): there R and 1 − h_ii both vanish with λ, so both are taken without it: with α = G⁻¹Ỹ they are
  ``R_i / λ = α_i / √s_i`` and ``(1 − h_ii) / λ = [G⁻¹]_ii``, from G⁻¹[Ỹ, I]. Only their ratio is ever used.

A *free* intercept leaves the centred problem (see ``reduction.py``), and every example leans on the mean as well:
1 − h_ii loses p_i = s_i / Σs. In the dual [G⁻¹]_ii − p_i / λ would cancel, since √s is a null vector of X̃X̃ᵀ. So a
column of a constant c is put beside the centred features. It is orthogonal to them and to Ỹ, so it changes nothing
but the eigenvalue of √s, which becomes τ + λ with τ = c²Σs, and the loss is p_i / (τ + λ): for a c of the size of
the features there is nothing left to cancel. The value does not depend on c, which therefore carries no gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from convexdistill.layers.backends.base import Plan
from convexdistill.layers.backends.torch_backend.ridge.factors import FACTORS, REFINED
from convexdistill.layers.backends.torch_backend.ridge.implicit import solve
from convexdistill.layers.backends.torch_backend.ridge.solver import (
    CHOLESKY_CONDITION,
    ESCALATE_ABOVE,
    REFINE_ABOVE,
)
from convexdistill.layers.problems.base import TINY, broadcast_shapes

# 1 − h_ii below this times √n has lost more than six digits to rounding.
LOST = 1e6 * torch.finfo(torch.float64).eps


class Design(NamedTuple):
    """A ridge problem without its intercept.

    Attributes:
        X: (*B, n, k) rows, with the column that stands for the intercept.
        Y: (*B, n, C).
        s: (*B, n) or None for all 1.
        share: p, (*B, n), what each example leans on a free intercept; None without one.
        tau: τ, (*B,), the eigenvalue of the intercept's column; None without one.
    """

    X: Tensor
    Y: Tensor
    s: Tensor | None
    share: Tensor | None = None
    tau: Tensor | None = None

    @property
    def rows(self) -> tuple[Tensor, Tensor]:
        """X̃ and Ỹ."""
        if self.s is None:
            return self.X, self.Y
        root = self.s.sqrt().unsqueeze(-1)
        return root * self.X, root * self.Y

    def intercept(self, lam: Tensor) -> Tensor | float:
        """``p_i / (τ + λ)``, (*B, n), for λ (*B,)."""
        if self.share is None or self.tau is None:
            return 0.0
        return self.share / (self.tau + lam).unsqueeze(-1)


def design(X: Tensor, Y: Tensor, s: Tensor | None, intercept: str) -> Design:
    """Put the intercept into the rows; all float64, ``intercept`` a known word."""
    if intercept == "none":
        return Design(X, Y, s)
    ones = X.new_ones(*X.shape[:-1], 1)
    if intercept == "penalized":
        return Design(torch.cat([X, ones], -1), Y, s)
    n = X.shape[-2]
    weights = X.new_ones(n) if s is None else s
    total = weights.sum(-1)
    share = weights / total.unsqueeze(-1)
    X, Y = (t - share.unsqueeze(-2) @ t for t in (X, Y))
    with torch.no_grad():
        square = (weights.unsqueeze(-1) * X.square()).sum((-2, -1)) / (total * min(n, X.shape[-1]))
        square = torch.where(square > 0, square, 1.0)
    column = square.sqrt()[..., None, None].expand(*square.shape, n, 1)
    X = X.expand(*column.shape[:-2], *X.shape[-2:])
    return Design(torch.cat([X, column], -1), Y, s, share, square * total)


class HeldOut(NamedTuple):
    """What is left of every example, both up to one common factor.

    Attributes:
        R: residuals, (*B, n, C).
        left: 1 − h_ii, (*B, n, C or 1); > 0 where leaving the example out leaves a single answer.
        lost: (*B, n, C or 1) bool, where that cannot be told from 0.
        form: ``"primal"`` or ``"dual"``.
        method: the factorisation that ran last.
        condition: (*B,) of the system.
        singular: (*B,) bool.
        residual: (*B,) normwise backward error of the solve.
    """

    R: Tensor
    left: Tensor
    lost: Tensor
    form: str
    method: str
    condition: Tensor
    singular: Tensor
    residual: Tensor


def hold_out(
    X: Tensor, Y: Tensor, s: Tensor | None, intercept: str, lam: Tensor, data_dependent: bool = True
) -> HeldOut:
    """Leave out each example in turn, differentiable in everything to any order.

    Args:
        X: (*B, n, d) float64.
        Y: (*B, n, C).
        s: (*B, n) or None.
        intercept: ``"none"``, ``"free"`` or ``"penalized"``.
        lam: (*B, 1) or (*B, C).
        data_dependent: whether values may be looked at.
    """
    if lam.shape[-1] > 1:  # a system for every column: columns become batch elements
        s = None if s is None else s.unsqueeze(-2)
        single = hold_out(X.unsqueeze(-3), Y.mT.unsqueeze(-1), s, intercept, lam.unsqueeze(-1), data_dependent)
        R, left, lost = (t.squeeze(-1).mT for t in single[:3])
        condition, residual = single.condition.amax(-1), single.residual.amax(-1)
        return single._replace(
            R=R, left=left, lost=lost, condition=condition, singular=single.singular.any(-1), residual=residual
        )
    lam = lam.squeeze(-1)
    systems = broadcast_shapes(X.shape[:-2], lam.shape, () if s is None else s.shape[:-1])
    batch = broadcast_shapes(systems, Y.shape[:-2])
    n, C = Y.shape[-2:]
    if systems.numel() == 1 and len(batch):  # one system: the batch becomes columns
        s = None if s is None else s.reshape(n)
        Y = Y.expand(*batch, n, C).movedim(-2, 0).reshape(n, batch.numel() * C)
        held = _hold_out(design(X.reshape(X.shape[-2:]), Y, s, intercept), lam.reshape(()), data_dependent)
        R = held.R.reshape(n, *batch, C).movedim(0, -2)
        left, lost = (t.expand(*batch, n, 1) for t in held[1:3])
        condition, singular, residual = (t.expand(batch) for t in held[5:])
        return HeldOut(R, left, lost, held.form, held.method, condition, singular, residual)
    X, Y = (t.expand(*batch, *t.shape[-2:]) for t in (X, Y))
    s = None if s is None else s.expand(*batch, n)
    return _hold_out(design(X, Y, s, intercept), lam.expand(batch), data_dependent)


def _hold_out(parts: Design, lam: Tensor, data_dependent: bool) -> HeldOut:
    """The same for parts (*B, …) and λ (*B,) of the full batch shape."""
    X, Y, s = parts.X, parts.Y, parts.s
    n, k = X.shape[-2:]
    rows, labels = parts.rows
    C = Y.shape[-1]
    wide = n <= k and not (data_dependent and _zero_needs_gradient(s))
    if wide:
        eye = torch.eye(n, dtype=X.dtype, device=X.device).expand(*Y.shape[:-2], n, n)
        solved = _solve(rows.mT, None, rows.mT, torch.cat([labels, eye], -1), lam, data_dependent)
        alpha, diagonal = solved.V[..., :C], solved.V[..., C:].diagonal(dim1=-2, dim2=-1)
        R, left = alpha, diagonal - parts.intercept(lam)
        if s is not None:  # where a weight is 0, G⁻¹ knows nothing of the residual
            positive = (s > 0).unsqueeze(-1)
            direct = (Y - X @ (rows.mT @ alpha)) / torch.where(lam > 0, lam, 1.0)[..., None, None]
            R = torch.where(positive, alpha / torch.where(positive, s.unsqueeze(-1), 1.0).sqrt(), direct)
        scale = diagonal.detach()
    else:
        N = None if s is None else s.unsqueeze(-1) * X
        right = torch.cat([(X if N is None else N).mT @ Y, X.mT], -1)
        solved = _solve(X, N, rows, right, lam, data_dependent)
        hat = (X * solved.V[..., C:].mT).sum(-1)
        R = Y - X @ solved.V[..., :C]
        left = 1 - (hat if s is None else s * hat) - parts.intercept(lam) * lam.unsqueeze(-1)
        scale = torch.ones_like(left)
    lost = ~(left.detach() > LOST * n**0.5 * scale)  # true for NaN
    form = "dual" if wide else "primal"
    return HeldOut(R, left.unsqueeze(-1), lost.unsqueeze(-1), form, *solved[1:])


def plan(X: Tensor, s: Tensor | None, intercept: str, data_dependent: bool) -> Plan:
    """What :func:`hold_out` would run, and why."""
    n, k = X.shape[-2], X.shape[-1] + (intercept != "none")
    wide = n <= k and not (data_dependent and _zero_needs_gradient(s))
    why = f"n={n} {'<=' if n <= k else '>'} {k} columns, and every example is left out in closed form"
    return Plan("dual" if wide else "primal", tuple(FACTORS) if data_dependent else ("cholesky",), why)


def _zero_needs_gradient(s: Tensor | None) -> bool:
    """Whether a weight of 0 needs a gradient, which only the primal form has: it takes no √s."""
    return s is not None and s.requires_grad and bool((s == 0).any())


class _Solved(NamedTuple):
    """(NᵀM + λI)⁻¹B, (*B, k, c), and the facts of :class:`HeldOut`."""

    V: Tensor
    method: str
    condition: Tensor
    singular: Tensor
    residual: Tensor


def _solve(M: Tensor, N: Tensor | None, root: Tensor, B: Tensor, lam: Tensor, data_dependent: bool) -> _Solved:
    """Solve with the first factorisation that is accurate; values that may not be looked at get Cholesky.

    ``root`` is the matrix with rootᵀ root = NᵀM.
    """
    with torch.no_grad():
        left = M if N is None else N
        norm = torch.linalg.matrix_norm
        size = norm(M) * norm(left) + lam
    policy = "raise" if data_dependent else "nan"
    solved = None
    for name in FACTORS if data_dependent else ("cholesky",):
        with torch.no_grad():
            factor, condition, singular = FACTORS[name](root.detach(), lam.detach())
        refine = name == "cholesky" and not (data_dependent and bool((condition <= REFINE_ABOVE).all()))
        V = solve(M, N, None, B, lam, REFINED if refine else name, factor, policy)
        with torch.no_grad():
            error = left.mT @ (M @ V) + lam[..., None, None] * V - B
            residual = norm(error) / (size * norm(V) + norm(B)).clamp_min(TINY)
        solved = _Solved(V, name, condition, singular, residual)
        if not data_dependent or _accurate(solved):
            break
    assert solved is not None
    return solved


def _accurate(solved: _Solved) -> bool:
    trusted = ~solved.singular & (solved.residual <= ESCALATE_ABOVE)
    if solved.method == "cholesky":
        trusted = trusted & (solved.condition <= CHOLESKY_CONDITION)
    return bool(trusted.all())


def grid(parts: Design, lams: Tensor) -> list[tuple[Tensor, Tensor]]:
    """R and 1 − h_ii for each λ > 0 of a grid (L,), up to a common factor, from the SVD X̃ = UΣVᵀ; no gradient.

    ``R̃ = U diag(λ/(σ²+λ)) UᵀỸ + (Ỹ − UUᵀỸ)`` and ``1 − h_ii = Σ_j U_ij² λ/(σ_j²+λ) + (1 − Σ_j U_ij²)``. Where U is
    square (n ≤ k) the second terms are 0, and λ is taken out of the first as in the dual. R of a weight of 0 is 0.

    Returns:
        (*B, n, C) and (*B, n, 1) for each λ; the second is 0 where it cannot be told from 0.
    """
    with torch.no_grad():
        rows, labels = (t.detach() for t in parts.rows)
        U, sigma, _ = torch.linalg.svd(rows, full_matrices=False)
        n, square = rows.shape[-2], rows.shape[-2] <= rows.shape[-1]
        inside, squares = U.mT @ labels, U.square()
        outside = 0.0 if square else labels - U @ inside
        rest = 0.0 if square else (1 - squares.sum(-1)).clamp_min(0.0)
        found = []
        for lam in lams:
            share = (1.0 if square else lam) / (sigma.square() + lam)
            R = U @ (share.unsqueeze(-1) * inside) + outside
            whole = (squares @ share.unsqueeze(-1)).squeeze(-1) + rest
            left = whole - parts.intercept(lam) * (1.0 if square else lam)
            left = torch.where(left > LOST * n**0.5 * (whole if square else 1.0), left, 0.0)
            if parts.s is not None:
                positive = (parts.s > 0).unsqueeze(-1)
                R = torch.where(positive, R / torch.where(positive, parts.s.unsqueeze(-1), 1.0).sqrt(), 0.0)
            found.append((R, left.unsqueeze(-1)))
        return found
