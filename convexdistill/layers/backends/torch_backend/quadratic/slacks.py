"""Slack variables that cost nothing: left out of a program, and found from the other variables afterwards.

A slack t ≥ R_i x − b_i, for some rows i, with the price q_t = 0 can be anything that is large enough, so no method
that needs a unique answer may see it. Its rows bind nothing else; they are dropped, and t gets the curvature 1,
which makes it 0. Then t is the largest R_i x − b_i, and row i the active one, with the multiplier 0: as it is for
a price just above 0, so that the derivative to the price is right on that side.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from convexdistill.layers.problems.quadratic import times


class Priceless(NamedTuple):
    """Which slacks cost nothing, and the program without them.

    Attributes:
        P: (N, k, k).
        b: (N, r), +inf in rows that were dropped.
        free: (N, k) bool, the slacks that cost nothing.
        touching: (N, r, k), whose size they have in the rows, zero elsewhere.
    """

    P: Tensor
    b: Tensor
    free: Tensor
    touching: Tensor

    def settle(self, R: Tensor, b: Tensor, x: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        """x and the active rows, with the slacks that were left out.

        Args:
            R: (N, r, k).
            b: (N, r), of the whole program.
            x: (N, k).
            active: (N, r) bool.
        """
        x = x.masked_fill(self.free, 0.0)
        size = self.touching.sum(-1)
        least = ((times(R, x) - b) / size).unsqueeze(-1)
        least, row = torch.where(self.touching > 0, least, -torch.inf).max(-2)  # (N, k)
        held = torch.zeros_like(b).scatter_add(-1, row, self.free.to(b)) > 0
        return torch.where(self.free, least, x), (active & self.b.isfinite()) | held

    def push(self, R: Tensor, u: Tensor, active: Tensor) -> Tensor:
        """u, (N, k), with the entries of the slacks such that their active rows keep R_i u = 0."""
        u = u.masked_fill(self.free, 0.0)
        moved = times(R, u).unsqueeze(-1) * (self.touching * active.unsqueeze(-1)).sign()
        size = (self.touching * active.unsqueeze(-1)).sum(-2)
        return u + torch.where(self.free, moved.sum(-2) / torch.where(size > 0, size, 1.0), 0.0)


def priceless(P: Tensor, q: Tensor, R: Tensor, b: Tensor, slack: Tensor | None) -> Priceless | None:
    """The slacks that cost nothing in any of N programs, or None where there are none.

    Args:
        P: (N, k, k).
        q: (N, k).
        R: (N, r, k).
        b: (N, r).
        slack: (k,) bool, or None.
    """
    free = None if slack is None else slack & torch.eq(q, 0)
    if free is None or not bool(free.any()):
        return None
    touching = R.abs() * free.unsqueeze(-2)
    dropped = b.masked_fill((touching > 0).any(-1), torch.inf)
    return Priceless(P + torch.diag_embed(free.to(P)), dropped, free, touching)
