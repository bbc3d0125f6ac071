"""Forward selection by orthogonal least squares in the metric of the target's Gram.

The ridge head of labels Y on base examples S is W = Φ_Sᵀ(Φ_SΦ_Sᵀ + λI)⁻¹ Y. For λ > 0 the inverse exists,
so that choosing Y is choosing any A = (Φ_SΦ_Sᵀ + λI)⁻¹ Y, and the best labels over S reach::

    L(S) = min_A tr(Wᵀ G W) − 2 tr(Wᵀ R) + tr(TᵀT)/N,     W = Φ_Sᵀ A = Σ_{i∈S} φ_i a_iᵀ

whatever λ is: a least-squares problem over the span of the chosen features, in the inner product
⟨u, v⟩ = uᵀG v. With h_1 … h_t a G-orthonormal basis of that span, the best head is Σ_s h_s (h_sᵀR), and

    L = tr(TᵀT)/N − Σ_s ‖h_sᵀ R‖².

Adding example i adds its G-orthogonal part ψ_i = φ_i − Σ_s h_s (h_sᵀ G φ_i), and lowers the loss by exactly

    score_i = ‖ψ_iᵀ R‖² / (ψ_iᵀ G ψ_i)

(Chen, Billings and Luo 1989, "Orthogonal least squares methods"). Neither ψ_i nor G φ_i is kept. When j is
chosen, h = ψ_j / (ψ_jᵀGψ_j)^½, and with a_i = φ_iᵀ G h one product with the features updates every candidate::

    q_i = ψ_iᵀ G ψ_i  falls by a_i²,         c_i = ψ_iᵀ R  falls by a_i (hᵀ R).

**Several extractors** are stacked: G block-diagonal, features and R one below the other, everything divided
by their number K. That holds A the same for all extractors where the truth has (Φ_kΦ_kᵀ + λ_kI)⁻¹ Y: exact
for one, and for wide networks of one kind, whose kernels agree; else an approximation.

**A ridge** μ‖A‖² keeps the greedy choice from living on tiny ψ that only huge labels could use. It is the same
algorithm with every φ_i followed by √μ times a coordinate of its own: orthogonal to all others until it is
chosen (Chen, Chng and Alkadhimi 1996, "Regularised orthogonal least squares").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convexdistill import progress
from convexdistill.select.target_space import TargetSpace

# A candidate whose own part of its squared norm is below this share lies in the span of the chosen, to
# rounding: q_i is a difference, and its last digits are noise.
_IN_SPAN = 1e-9


@dataclass(frozen=True)
class Steps:
    """What forward selection chose.

    Attributes:
        chosen: ``(n,)`` in the order of choice.
        gains: ``(n,)``, by how much each choice lowers the penalised outer loss.
    """

    chosen: NDArray[np.int64]
    gains: NDArray[np.float64]


def forward_selection(
    spaces: Sequence[TargetSpace],
    groups: NDArray[np.int64],
    quotas: NDArray[np.int64],
    ridge: float = 0.0,
) -> Steps:
    """Choose ``quotas[g]`` candidates of each group g, always the one that lowers the loss most.

    O(n·N·d) time and, beside the features, O(N·C + n·d) memory; d is the sum over the extractors. Of equal
    scores the first wins. When what is chosen spans all that is left (as it must from d+1 choices on, without
    ridge), the rule starts again among the rest.

    Args:
        spaces: one for each extractor, of the same N candidates.
        groups: ``(N,)`` the group of each candidate; −1: not to be chosen.
        quotas: how many of each group; no more than it holds.
        ridge: μ relative to the mean of φᵀGφ.
    """
    state = _State(spaces, ridge)
    left = quotas.copy()
    may = (groups >= 0) & (left[groups] > 0)
    chosen = np.empty(int(quotas.sum()), dtype=np.int64)
    gains = np.zeros(len(chosen))
    with progress.task("choose base examples", total=len(chosen)) as advance:
        for step in range(len(chosen)):
            scores = state.scores(may)
            if scores.max() < 0:
                state.restart()
                scores = state.scores(may)
            # Features that are all zero in the metric gain nothing, and are chosen when nothing else is left.
            best = int(scores.argmax()) if scores.max() >= 0 else int(may.argmax())
            if scores[best] >= 0:
                gains[step] = scores[best]
                state.add(best)
            chosen[step] = best
            left[groups[best]] -= 1
            may[best] = False
            if left[groups[best]] == 0:
                may[groups == groups[best]] = False
            advance(1)
    return Steps(chosen, gains)


class _State:
    """q and c of every candidate, and the basis of what is chosen since the last restart."""

    def __init__(self, spaces: Sequence[TargetSpace], ridge: float) -> None:
        count = len(spaces)
        self.spaces = spaces
        self.parts = np.cumsum([len(space.scale) for space in spaces])[:-1]  # where stacked vectors are cut
        self.cross = np.concatenate([space.cross for space in spaces]) / count
        norms = np.stack([space.norms() for space in spaces]).sum(axis=0) / count
        self.ridge = ridge * float(norms.mean())
        self.first_norms, self.first_products = norms + self.ridge, self._times(self.cross)
        self.restart()

    def restart(self) -> None:
        """Forget what is chosen."""
        self.norms, self.products = self.first_norms.copy(), self.first_products.copy()
        self.heads = self.duals = np.empty((0, len(self.cross)))  # h, and G h
        self.own = np.empty((0, 0))  # their coordinates along √μ times those of the chosen

    def scores(self, may: NDArray[np.bool_]) -> NDArray[np.float64]:
        """By how much each candidate would lower the loss; −1 where it may not be chosen, or is in the span."""
        usable = may & (self.norms > _IN_SPAN * self.first_norms)
        scores = np.full(len(may), -1.0)
        scores[usable] = np.square(self.products[usable]).sum(axis=1) / self.norms[usable]
        return scores

    def add(self, candidate: int) -> None:
        """Extend the basis by a candidate, and update all others."""
        head = np.concatenate([space.rows(slice(candidate, candidate + 1))[0] for space in self.spaces])
        size = len(self.heads)
        own = np.zeros(size + 1)
        own[-1] = np.sqrt(self.ridge)
        for _ in range(2):  # Gram-Schmidt once loses orthogonality, twice does not
            along = self.duals @ head + self.own @ own[:-1]
            head = head - along @ self.heads
            own[:-1] -= along @ self.own
        dual = self._gram_times(head)
        norm = np.sqrt(head @ dual + own @ own)
        head, dual, own = head / norm, dual / norm, own / norm
        self.heads, self.duals = np.vstack([self.heads, head]), np.vstack([self.duals, dual])
        self.own = np.vstack([np.hstack([self.own, np.zeros((size, 1))]), own])
        along = self._times(dual)
        self.norms -= np.square(along)
        self.products -= along[:, None] * (head @ self.cross)

    def _gram_times(self, stacked: NDArray[np.float64]) -> NDArray[np.float64]:
        pieces = zip(self.spaces, np.split(stacked, self.parts), strict=True)
        return np.concatenate([space.gram @ piece for space, piece in pieces]) / len(self.spaces)

    def _times(self, stacked: NDArray[np.float64]) -> NDArray[np.float64]:
        """φ_iᵀ times a stacked vector or matrix, for every candidate."""
        pieces = np.split(stacked, self.parts)
        total = self.spaces[0].times(pieces[0])
        for space, piece in zip(self.spaces[1:], pieces[1:], strict=True):
            total += space.times(piece)
        return total
