"""Forward selection by orthogonal least squares in the metric of the target's Gram.

The ridge head of labels Y on base examples S is W = Φ_Sᵀ(Φ_SΦ_Sᵀ + λI)⁻¹ Y. For λ > 0 the inverse exists,
so that choosing Y is choosing any A = (Φ_SΦ_Sᵀ + λI)⁻¹ Y, and the best labels over S reach::

    L(S) = min_A tr(Wᵀ G W) − 2 tr(Wᵀ R) + tr(TᵀT)/N,     W = Φ_Sᵀ A = Σ_{i∈S} φ_i a_iᵀ

whatever λ is: a least-squares problem over the span of the chosen features, in the inner product
⟨u, v⟩ = uᵀG v. With h_1 … h_t a G-orthonormal basis of that span, the best head is Σ_s h_s (h_sᵀR), and

    L = tr(TᵀT)/N − Σ_s ‖h_sᵀ R‖².

Adding example i adds its G-orthogonal part ψ_i = φ_i − Σ_s h_s (h_sᵀ G φ_i), and lowers the loss by exactly

    score_i = ‖ψ_iᵀ R‖² / (ψ_iᵀ G ψ_i) = ‖ψ_iᵀ R_res‖² / (ψ_iᵀ G ψ_i),     R_res = R − Σ_s G h_s (h_sᵀR)

(Chen, Billings and Luo 1989, "Orthogonal least squares methods"). Neither ψ_i nor G φ_i is kept. When j is
chosen, h = ψ_j / (ψ_jᵀGψ_j)^½, and with a_i = φ_iᵀ G h one product with the features updates every candidate::

    q_i = ψ_iᵀ G ψ_i  falls by a_i²,         c_i = ψ_iᵀ R  falls by a_i (hᵀ R).

**A pool.** Its heads share Y, so that A_k = (Φ_kΦ_kᵀ + λ_kI)⁻¹ Y. Here every extractor k has an A_k of its own:
the score is the mean over the extractors of the scores above. That is exact for one extractor; for several it
bounds the loss of the label solve from below. The other way to make it tractable, one A for all (one least
squares on stacked features), bounds it from above, and chooses worse: docs/results/selection.md has both.
"""

from __future__ import annotations

from collections.abc import Iterable
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
        gains: ``(n,)``, by how much each choice lowers the outer loss.
    """

    chosen: NDArray[np.int64]
    gains: NDArray[np.float64]


def forward_selection(
    spaces: Iterable[TargetSpace], groups: NDArray[np.int64], quotas: NDArray[np.int64]
) -> Steps:
    """Choose ``quotas[g]`` candidates of each group g, always the one that lowers the loss most.

    O(n·N·d) time and, beside the features, O(N·C + n·d) memory; d is the sum over the extractors. Of equal
    scores the first wins. An extractor whose features of the chosen span all that is left (as they must from
    d+1 choices on) starts again among the rest.

    Args:
        spaces: one for each extractor, of the same N candidates.
        groups: ``(N,)`` the group of each candidate; −1: not to be chosen.
        quotas: how many of each group; no more than it holds.
    """
    extractors = [_Extractor(space) for space in spaces]
    left = quotas.copy()
    may = (groups >= 0) & (left[groups] > 0)
    chosen = np.empty(int(quotas.sum()), dtype=np.int64)
    gains = np.empty(len(chosen))
    with progress.task("choose base examples", total=len(chosen)) as advance:
        for step in range(len(chosen)):
            scores = np.stack([extractor.scores(may) for extractor in extractors]).mean(axis=0)
            best = int(np.where(may, scores, -1.0).argmax())
            chosen[step], gains[step] = best, scores[best]
            for extractor in extractors:
                extractor.add(best)
            left[groups[best]] -= 1
            may[best] = False
            if left[groups[best]] == 0:
                may[groups == groups[best]] = False
            advance(1)
    return Steps(chosen, gains)


class _Extractor:
    """q and c of every candidate in one extractor, and the basis of what is chosen since its last restart."""

    def __init__(self, space: TargetSpace) -> None:
        self.space = space
        self.first_norms, self.first_products = space.norms(), space.times(space.cross)
        self._start()

    def _start(self) -> None:
        self.norms, self.products = self.first_norms.copy(), self.first_products.copy()
        self.heads = self.duals = np.empty((0, len(self.space.scale)))  # h, and G h

    @property
    def outside(self) -> NDArray[np.bool_]:
        """Which candidates have a part outside the span of the chosen."""
        return self.norms > _IN_SPAN * self.first_norms

    def scores(self, may: NDArray[np.bool_]) -> NDArray[np.float64]:
        """By how much each candidate that may be chosen would lower the loss; 0 for the others."""
        if not (may & self.outside).any():
            self._start()
        usable = may & self.outside
        scores = np.zeros(len(may))
        scores[usable] = np.square(self.products[usable]).sum(axis=1) / self.norms[usable]
        return scores

    def add(self, candidate: int) -> None:
        """Extend the basis by a candidate, and update all others."""
        if not self.outside[candidate]:
            return
        head = self.space.rows(slice(candidate, candidate + 1))[0]
        for _ in range(2):  # Gram-Schmidt once loses orthogonality, twice does not
            head = head - (self.duals @ head) @ self.heads
        dual = self.space.gram @ head
        norm = np.sqrt(head @ dual)
        head, dual = head / norm, dual / norm
        self.heads, self.duals = np.vstack([self.heads, head]), np.vstack([self.duals, dual])
        along = self.space.times(dual)
        self.norms -= np.square(along)
        self.products -= along[:, None] * (head @ self.space.cross)
