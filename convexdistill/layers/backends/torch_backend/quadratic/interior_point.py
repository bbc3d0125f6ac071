r"""Mehrotra's predictor-corrector interior-point method for a batch of quadratic programs, without gradient.

For ``min ½xᵀPx + qᵀx`` with Ax = b_e and Gx + s = h, s ≥ 0, multipliers y and z ≥ 0, Newton's method on the KKT
conditions with s∘z = σμ in place of s∘z = 0 asks for

    [ P + Gᵀ(z/s)G   Aᵀ ] [Δx]   [ −r_d − Gᵀ((z∘r_i − r_c)/s) ]
    [ A              0  ] [Δy] = [ −r_p                        ]

    Δs = −r_i − GΔx        Δz = −(r_c + z∘Δs)/s

with the residuals r_d of stationarity, r_p and r_i of the two kinds of rows, and r_c = s∘z first (the predictor),
then r_c = s∘z + Δs∘Δz − σμ (the corrector) with σ = (μ_predicted/μ)³ (Mehrotra 1992; Nocedal & Wright 2006,
"Numerical Optimization", section 16.6).

Which rows are active is read from the predictor: Δs/s + Δz/z = −1, and near the end Δs/s goes to −1 in active rows
and to 0 in the others, whatever the units and however small the multiplier (El-Bakry, Tapia & Zhang 1994, "A study
of indicators for identifying zero variables in interior-point methods").
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from convexdistill.layers.backends.torch_backend.quadratic.newton_system import NewtonSystem
from convexdistill.layers.problems.quadratic import times

MAX_STEPS = 80
TOLERANCE = 1e-11
STALL = 5  # steps without progress
TO_THE_WALL = 0.995
RUIZ_STEPS = 4


class Iterate(NamedTuple):
    """Where the method ended.

    Attributes:
        x: (N, k).
        y: (N, r), multipliers of all rows.
        active: (N, r) bool, which rows hold with equality.
        steps: (N,) int64, number of steps.
    """

    x: Tensor
    y: Tensor
    active: Tensor
    steps: Tensor


def interior_point(
    P: Tensor, q: Tensor, R: Tensor, b: Tensor, equalities: int, slack: Tensor | None = None
) -> Iterate:
    """Solve N programs.

    Args:
        P: (N, k, k).
        q: (N, k).
        R: (N, r, k).
        b: (N, r), may hold +inf.
        equalities: how many rows, from the first, are equalities.
        slack: (k,) bool, variables that ``newton_system.py`` can eliminate, or None.
    """
    bounded = b.isfinite()
    R = torch.where(bounded.unsqueeze(-1), R, 0.0)  # a row 0 ≤ 1 bounds nothing
    b = torch.where(bounded, b, 1.0)
    column, row, cost = equilibrate(P, q, R)
    P = column.unsqueeze(-1) * P * column.unsqueeze(-2) / cost.unsqueeze(-1)
    R = row.unsqueeze(-1) * R * column.unsqueeze(-2)
    found = _iterate(P, column * q / cost, R, row * b, equalities, slack)
    return Iterate(column * found.x, cost * row * found.y, found.active & bounded, found.steps)


def equilibrate(P: Tensor, q: Tensor, R: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scales of the variables (N, k), the rows (N, r) and the objective (N, 1) that bring all entries near 1.

    Ruiz 2001, "A scaling algorithm to equilibrate both rows and columns norms in matrices".
    """
    column, row = torch.ones_like(P[..., 0]), torch.ones_like(R[..., 0])
    P, R = P.abs(), R.abs()
    for _ in range(RUIZ_STEPS):
        by_column = column * (P * column.unsqueeze(-2)).amax(-1)
        if R.shape[-2]:
            by_row = row * (R * column.unsqueeze(-2)).amax(-1)
            by_column = torch.maximum(by_column, column * (R * row.unsqueeze(-1)).amax(-2))
            row = row * torch.where(by_row > 0, by_row, 1.0).rsqrt()
        column = column * torch.where(by_column > 0, by_column, 1.0).rsqrt()
    curvature = column * (P * column.unsqueeze(-2)).amax(-1)
    cost = torch.maximum(_largest(curvature), _largest(column * q)).unsqueeze(-1)
    return column, row, torch.where(cost > 0, cost, 1.0)


def _iterate(P: Tensor, q: Tensor, R: Tensor, b: Tensor, e: int, slack: Tensor | None) -> Iterate:
    """The method itself, on scaled data."""
    G, h = R[..., e:, :], b[..., e:]
    system = NewtonSystem(P, R, e, slack)
    x, y, s, z = _start(system, q, b, e)
    active = torch.zeros_like(s, dtype=torch.bool)
    steps = torch.zeros(len(q), dtype=torch.int64, device=q.device)
    best = torch.full_like(q[..., 0], float("inf"))
    kept, idle = (x, y, z), torch.zeros_like(steps)
    for _ in range(MAX_STEPS):
        Px, Ry = times(P, x), times(R.mT, torch.cat([y, z], -1))
        r_d, r_p, r_i = Px + q + Ry, times(R[..., :e, :], x) - b[..., :e], times(G, x) + s - h
        mu = (s * z).mean(-1, keepdim=True)
        scale = 1.0 + torch.maximum(_largest(Px), _largest(Ry))
        reach = 1.0 + torch.maximum(_largest(b), _largest(x))
        error = torch.maximum(_largest(r_d) / scale, mu.squeeze(-1) / (scale * reach))
        error = torch.maximum(error, torch.maximum(_largest(r_p), _largest(r_i)) / reach)
        better = error < best
        kept = _where(better, x, kept[0]), _where(better, y, kept[1]), _where(better, z, kept[2])
        idle = torch.where(error < 0.9 * best, 0, idle + 1)
        best = torch.where(better, error, best)
        running = (best > TOLERANCE) & (idle < STALL) & error.isfinite()
        if not bool(running.any()):
            break
        newton = _Newton(system, s, z, (r_d, r_p, r_i))
        dx, dy, ds, dz = newton.direction(s * z)
        tapia = ds / s < dz / z
        active = _where(running & better, tapia, active)
        alpha = _step(s, ds, z, dz, 1.0)
        sigma = (((s + alpha * ds) * (z + alpha * dz)).mean(-1, keepdim=True) / mu).clamp(0.0, 1.0) ** 3
        dx, dy, ds, dz = newton.direction(s * z + ds * dz - sigma * mu)
        alpha = _step(s, ds, z, dz, TO_THE_WALL)
        move = [_where(running, v + alpha * dv, v) for v, dv in ((x, dx), (y, dy), (s, ds), (z, dz))]
        x, y, s, z = move
        steps = steps + running
    x, y, z = kept
    holds = torch.ones_like(y, dtype=torch.bool)
    return Iterate(x, torch.cat([y, z], -1), torch.cat([holds, active], -1), steps)


class _Newton:
    """The directions of one step: one factorisation for the predictor and the corrector."""

    def __init__(
        self, system: NewtonSystem, s: Tensor, z: Tensor, residuals: tuple[Tensor, Tensor, Tensor]
    ) -> None:
        self.system, self.s, self.z = system, s, z
        self.r_d, self.r_p, self.r_i = residuals
        system.factor(z / s)

    def direction(self, r_c: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Δx, Δy, Δs, Δz for a complementarity residual r_c."""
        G = self.system.G
        top = -self.r_d - times(G.mT, (self.z * self.r_i - r_c) / self.s)
        dx, dy = self.system.solve(top, -self.r_p)
        ds = -self.r_i - times(G, dx)
        return dx, dy, ds, -(r_c + self.z * ds) / self.s


def _start(system: NewtonSystem, q: Tensor, b: Tensor, e: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The point with the least ‖Gx − h‖² in the bargain, pushed inside (Vandenberghe 2010, section 5.3)."""
    G, h = system.G, b[..., e:]
    system.factor(torch.ones_like(h))
    x, y = system.solve(times(G.mT, h) - q, b[..., :e])
    s = h - times(G, x)
    return x, y, _inside(s), _inside(-s)


def _inside(v: Tensor) -> Tensor:
    """v made positive by a shift of all its entries, where it is not already."""
    if not v.shape[-1]:
        return v
    lowest = v.amin(-1, keepdim=True)
    return torch.where(lowest > 0, v, v - lowest + 1.0)


def _step(s: Tensor, ds: Tensor, z: Tensor, dz: Tensor, share: float) -> Tensor:
    """The longest step in (0, 1] that keeps s and z positive, shortened by a share, (N, 1)."""
    ratios = torch.cat([s / -ds, z / -dz], -1)
    ratios = torch.where(torch.cat([ds, dz], -1) < 0, ratios, float("inf"))
    return (share * ratios.amin(-1, keepdim=True)).clamp_max(1.0)


def _largest(v: Tensor) -> Tensor:
    """max |v_i|, 0 where there is none."""
    return v.abs().amax(-1) if v.shape[-1] else v.new_zeros(v.shape[:-1])


def _where(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(mask.unsqueeze(-1), new, old)
