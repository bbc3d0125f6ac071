"""Least squares of minimum norm as a plain problem, with the test that an answer is one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from convexdistill.layers.problems.base import TINY, broadcast_shapes


@dataclass(frozen=True, eq=False)
class LeastSquaresProblem:
    """Among the W (d×C) that minimise ``‖XW − Y‖²``, the one of smallest ``‖W‖``: W = X⁺Y.

    W is that one exactly if (1) ``Xᵀ(XW − Y) = 0``, and (2) its columns lie in the row space of X: there is a Z
    (n×C) with ``W = XᵀZ``. (1) alone holds for every least-squares solution of dependent features.

    Attributes:
        features: X, (*Bx, n, d) float64, finite.
        labels: Y, (*By, n, C) float64, finite.
        rcond: singular values of X up to ``rcond`` times the largest count as zero.
        noise: (*Bx,) absolute size of the rounding that X holds already, below which singular values count as zero
            as well; None for an X as the user gave it.
        precision: the relative size of the rounding that X was given with; values of a few times that are what
            rounding leaves of a zero.
    """

    features: Tensor
    labels: Tensor
    rcond: float
    noise: Tensor | None = None
    precision: float = torch.finfo(torch.float64).eps

    @property
    def batch_shape(self) -> torch.Size:
        """The common leading dimensions *B."""
        return broadcast_shapes(self.features.shape[:-2], self.labels.shape[:-2])

    @property
    def answer_shape(self) -> torch.Size:
        """(*B, d, C)."""
        return torch.Size((*self.batch_shape, self.features.shape[-1], self.labels.shape[-1]))

    def residual(self, answer: Tensor, dual: Tensor | None = None, dropped: Tensor | None = None) -> Tensor:
        """The larger of two normwise backward errors, (*B,), in Frobenius norms.

        ``(‖Xᵀ(XW − Y)‖ − δ‖Y‖)₊ / (‖X‖ (‖X‖‖W‖ + ‖Y‖))`` for condition (1), and ``‖W − XᵀZ‖ / (‖X‖‖Z‖ + ‖W‖)`` for
        (2). They are 0 at the answer, and the first is about 1 where nothing was solved. Singular values that
        count as zero are left out of W, and so out of (1): they move it by at most δ‖Y‖ with δ the largest.

        Args:
            answer: W, (*B, d, C).
            dual: Z, (*B, n, C); worked out from a pseudo-inverse of X where the solver gives none.
            dropped: δ, (*B,). Default: what ``rcond`` and ``noise`` allow.
        """
        with torch.no_grad():
            X, Y, W = self.features.detach(), self.labels.detach(), answer.detach()
            norm = torch.linalg.matrix_norm
            if dual is None:
                dual = torch.linalg.pinv(X.mT, rtol=self.rcond) @ W
            Z = dual.detach()
            x, y, w = norm(X), norm(Y), norm(W)
            if dropped is None:
                dropped = self.rcond * x if self.noise is None else (self.rcond * x).maximum(self.noise.detach())
            slope = (norm(X.mT @ (X @ W - Y)) - dropped * y).clamp_min(0.0) / (x * (x * w + y)).clamp_min(TINY)
            outside = norm(W - X.mT @ Z) / (x * norm(Z) + w).clamp_min(TINY)
            worst: Tensor = torch.maximum(slope, outside)
            return worst
