r"""Why a quadratic program could not be solved: two programs that always can be.

- *Infeasible*: the least violation ``min ½‖v‖² + ½ε‖x‖²`` over x, v with Rx − v = b or Rx − v ≤ b. Its multipliers
  are v itself, so at its answer Rᵀv ≈ 0 and bᵀv = −‖v‖²; v ≠ 0 is a certificate of Farkas' lemma that no x meets
  all rows.
- *Unbounded*: the least error of stationarity ``min ½‖w‖² + ½ε‖u‖² + ½ε‖y‖²`` with w = Pu + Rᵀy + q, over u and y
  with y ≥ 0 for inequalities. Its own conditions say Pw ≈ 0, Rw ≥ 0 (= 0 for equalities) and qᵀw = ‖w‖²: unless
  w = 0, the objective falls for ever along −w, which breaks no row.

Either certificate is verified, not believed. A program that is neither ran out of steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from convexdistill.layers.backends.torch_backend.quadratic.interior_point import interior_point
from convexdistill.layers.problems.quadratic import times
from convexdistill.layers.status import Status

SMALL = 1e-9  # ε
CLEARLY = 1e-5
CERTAIN = 1e-5  # how exactly a certificate must hold: relative, for a vector of length 1


def diagnose(P: Tensor, q: Tensor, R: Tensor, b: Tensor, equalities: int) -> Tensor:
    """(N,) int8: INFEASIBLE, UNBOUNDED or MAX_STEPS.

    Args:
        P: (N, k, k).
        q: (N, k).
        R: (N, r, k).
        b: (N, r), may hold +inf.
        equalities: how many rows are equalities.
    """
    codes = torch.full((len(q),), int(Status.MAX_STEPS), dtype=torch.int8, device=q.device)
    codes = codes.masked_fill(_unbounded(P, q, R, b, equalities), int(Status.UNBOUNDED))
    return codes.masked_fill(_infeasible(R, b, equalities), int(Status.INFEASIBLE))


def _infeasible(R: Tensor, b: Tensor, e: int) -> Tensor:
    """(N,) bool, whether the least violation of the rows, each scaled to length 1, is not zero."""
    N, r, k = R.shape
    if r == 0:
        return torch.zeros(N, dtype=torch.bool, device=R.device)
    length = torch.linalg.vector_norm(R, dim=-1)
    length = torch.where(length > 0, length, 1.0)
    R, b = R / length.unsqueeze(-1), b / length
    size = b.masked_fill(~b.isfinite(), 0.0).abs().amax(-1, keepdim=True)
    b = b / torch.where(size > 0, size, 1.0)
    eye = torch.eye(r, dtype=R.dtype, device=R.device).expand(N, r, r)
    P = torch.diag_embed(torch.cat([R.new_full((N, k), SMALL), R.new_ones(N, r)], -1))
    found = interior_point(P, R.new_zeros(N, k + r), torch.cat([R, -eye], -1), b, e)
    v = torch.where(b.isfinite(), found.x[..., k:], 0.0)
    v = v / _size(v)
    gain = -(torch.where(b.isfinite(), b, 0.0) * v).sum(-1)
    pull: Tensor = torch.linalg.vector_norm(times(R.mT, v), dim=-1)
    return (gain > CLEARLY) & (pull <= CERTAIN * gain)


def _unbounded(P: Tensor, q: Tensor, R: Tensor, b: Tensor, e: int) -> Tensor:
    """(N,) bool, whether no multipliers make any point stationary."""
    N, r, k = R.shape
    R = torch.where(b.isfinite().unsqueeze(-1), R, 0.0)
    length = torch.linalg.vector_norm(R, dim=-1)
    R = R / torch.where(length > 0, length, 1.0).unsqueeze(-1)
    P = P / _size(P.flatten(-2)).unsqueeze(-1)
    q = q / _size(q)
    # w = M [u; y] + q
    M = torch.cat([P, R.mT], -1)
    cost = M.mT @ M + SMALL * torch.eye(k + r, dtype=P.dtype, device=P.device)
    signs = torch.cat([R.new_zeros(r - e, k + e), -torch.eye(r - e, dtype=P.dtype, device=P.device)], -1)
    found = interior_point(cost, times(M.mT, q), signs.expand(N, r - e, k + r), R.new_zeros(N, r - e), 0)
    w = times(M, found.x) + q
    w = w / _size(w)
    slope = (q * w).sum(-1)
    bend: Tensor = torch.linalg.vector_norm(times(P, w), dim=-1)
    blocked = torch.cat([times(R[..., :e, :], w).abs(), -times(R[..., e:, :], w)], -1)
    if r:
        bend = torch.maximum(bend, blocked.amax(-1))
    return (slope > CLEARLY) & (bend <= CERTAIN * slope)


def _size(v: Tensor) -> Tensor:
    """The length of v, (N, 1); 1 where it is 0."""
    length = torch.linalg.vector_norm(v, dim=-1, keepdim=True)
    return torch.where(length > 0, length, 1.0)
