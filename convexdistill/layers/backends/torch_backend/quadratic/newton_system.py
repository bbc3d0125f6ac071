r"""The linear system of an interior-point step, smaller where there are slack variables.

For row weights w > 0 the step (v, y) solves

    [ P + Gᵀdiag(w)G + ρI   Aᵀ  ] [v]   [f]
    [ A                     −ρI ] [y] = [g]

with a small ρ that keeps it regular where P and G leave a direction open. Slacks t that P does not couple, and of
which every row holds at most one, make the block of t diagonal: what remains after t is eliminated,

    S = M_uu − M_ut M_tt⁻¹ M_tu        with M = P + Gᵀdiag(w)G + ρI

has the size of the other variables u alone. A support vector machine with n examples and d features has two slacks
an example, so that d + 2n become d.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from convexdistill.layers.problems.quadratic import times

REGULARISATION = 1e-10


class Slacks(NamedTuple):
    """How rows hold slacks.

    Attributes:
        others: indices of the variables u.
        slacks: indices of the variables t.
        which: (N, r), position in ``slacks`` of the one in a row (any where there is none).
        entry: (N, r), its coefficient, 0 where there is none.
    """

    others: Tensor
    slacks: Tensor
    which: Tensor
    entry: Tensor


class NewtonSystem:
    """The parts that do not change from step to step.

    Args:
        P: (N, k, k).
        R: (N, r, k), the rows of A first.
        e: number of rows of A.
        slack: (k,) bool, or None; left alone where P or the rows do not have the form above.
    """

    def __init__(self, P: Tensor, R: Tensor, e: int, slack: Tensor | None) -> None:
        self.P, self.A, self.G = P, R[..., :e, :], R[..., e:, :]
        self.slacks = None if slack is None else _find(P, self.A, self.G, slack)
        if self.slacks is not None:
            u, t = self.slacks.others, self.slacks.slacks
            self.P_u, self.P_t = P[:, u][:, :, u], P.diagonal(dim1=-2, dim2=-1)[:, t]
            self.G_u, self.A_u = self.G[..., u], self.A[..., u]

    def factor(self, w: Tensor) -> None:
        """Factor the system for row weights (N, r − e)."""
        self.w = w
        if self.slacks is None:
            M = self.P + self.G.mT @ (w.unsqueeze(-1) * self.G)
            self.LU, self.pivots, _ = torch.linalg.lu_factor_ex(_bordered(M, self.A))
            return
        _, t, which, entry = self.slacks
        N, count = len(w), len(t)
        self.M_t = self.P_t.scatter_add(-1, which, w * entry**2) + REGULARISATION
        self.M_tu = self.G_u.new_zeros(N, count, self.G_u.shape[-1]).scatter_add(
            -2, which.unsqueeze(-1).expand_as(self.G_u), (w * entry).unsqueeze(-1) * self.G_u
        )
        S = self.P_u + self.G_u.mT @ (w.unsqueeze(-1) * self.G_u)
        S = S - self.M_tu.mT @ (self.M_tu / self.M_t.unsqueeze(-1))
        self.LU, self.pivots, _ = torch.linalg.lu_factor_ex(_bordered(S, self.A_u))

    def solve(self, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """(v, y) for f (N, k) and g (N, e), refined once."""
        v, y = self._apply(f, g)
        w = self.w * times(self.G, v)
        left_f = f - times(self.P, v) - times(self.G.mT, w) - REGULARISATION * v - times(self.A.mT, y)
        left_g = g - times(self.A, v) + REGULARISATION * y
        more_v, more_y = self._apply(left_f, left_g)
        return v + more_v, y + more_y

    def _apply(self, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """The factors applied to a right-hand side."""
        if self.slacks is None:
            return self._lu_solve(f, g)
        u, t = self.slacks.others, self.slacks.slacks
        v_u, y = self._lu_solve(f[:, u] - times(self.M_tu.mT, f[:, t] / self.M_t), g)
        v = torch.empty_like(f)
        v[:, u] = v_u
        v[:, t] = (f[:, t] - times(self.M_tu, v_u)) / self.M_t
        return v, y

    def _lu_solve(self, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        k = f.shape[-1]
        v = torch.linalg.lu_solve(self.LU, self.pivots, torch.cat([f, g], -1).unsqueeze(-1)).squeeze(-1)
        return v[..., :k], v[..., k:]


def _find(P: Tensor, A: Tensor, G: Tensor, slack: Tensor) -> Slacks | None:
    """Where the slacks are, or None where the system has another form than they promise."""
    u, t = torch.nonzero(~slack).squeeze(-1), torch.nonzero(slack).squeeze(-1)
    if not len(t) or not len(u):
        return None
    G_t, P_t = G[..., t], P[:, t]
    alone = torch.ne(G_t, 0).sum(-1) <= 1
    off_diagonal = (
        P_t[..., u].abs().sum()
        + (P_t[..., t] - torch.diag_embed(P_t[..., t].diagonal(dim1=-2, dim2=-1))).abs().sum()
    )
    if not bool(alone.all()) or bool(off_diagonal) or bool(A[..., t].any()):
        return None
    which = G_t.abs().argmax(-1)
    return Slacks(u, t, which, G_t.gather(-1, which.unsqueeze(-1)).squeeze(-1))


def _bordered(M: Tensor, A: Tensor) -> Tensor:
    """[M + ρI, Aᵀ; A, −ρI]."""
    M = M + REGULARISATION * torch.eye(M.shape[-1], dtype=M.dtype, device=M.device)
    e = A.shape[-2]
    if e == 0:
        return M
    corner = -REGULARISATION * torch.eye(e, dtype=M.dtype, device=M.device).expand(len(M), e, e)
    return torch.cat([torch.cat([M, A.mT], -1), torch.cat([A, corner], -1)], -2)
