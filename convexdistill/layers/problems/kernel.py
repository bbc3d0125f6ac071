"""Kernel ridge regression as a plain problem, with the test that an answer is one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from convexdistill.layers.problems.base import TINY, broadcast_shapes


@dataclass(frozen=True, eq=False)
class KernelRidgeProblem:
    """Find the coefficients A (n×C) with ``(SK + λ_c I) A_c = S Y_c``, where S = diag(s).

    They are the f = Σ_i a_i k(x_i, ·) that minimises ``Σ_i s_i ‖f(x_i) − y_i‖² + λ‖f‖²`` over the function space
    that belongs to the kernel (the representer theorem; Schölkopf & Smola 2002, Learning with Kernels, 4.2).

    Attributes:
        gram: K, (*Bk, n, n) float64, finite and exactly symmetric.
        labels: Y, (*By, n, C) float64, finite.
        lam: λ ≥ 0, (*Bl, 1) for one value a batch element, (*Bl, C) for one a column.
        weights: s ≥ 0, (*Bs, n), or None for all 1.
    """

    gram: Tensor
    labels: Tensor
    lam: Tensor
    weights: Tensor | None = None

    @property
    def batch_shape(self) -> torch.Size:
        """The common leading dimensions *B."""
        return broadcast_shapes(
            self.gram.shape[:-2],
            self.labels.shape[:-2],
            self.lam.shape[:-1],
            () if self.weights is None else self.weights.shape[:-1],
        )

    @property
    def answer_shape(self) -> torch.Size:
        """(*B, n, C)."""
        return torch.Size((*self.batch_shape, *self.labels.shape[-2:]))

    def residual(self, answer: Tensor, dual: Tensor | None = None) -> Tensor:
        """The largest normwise backward error of a column, (*B,).

        ``‖S(Ka − y) + λa‖ / (‖SK‖‖a‖ + λ‖a‖ + ‖Sy‖)`` for each column a (Rigal & Gaches 1967), ‖SK‖ in the
        Frobenius norm. 0 is exact, and 1 no better than not having solved.
        """
        with torch.no_grad():
            K, Y, A, lam = (t.detach() for t in (self.gram, self.labels, answer, self.lam))
            norm = torch.linalg.vector_norm
            error, SK, SY = K @ A - Y, K, Y
            if self.weights is not None:
                s = self.weights.detach().unsqueeze(-1)
                error, SK, SY = s * error, s * K, s * Y
            error = error + lam.unsqueeze(-2) * A
            size = torch.linalg.matrix_norm(SK).unsqueeze(-1) + lam
            scale = size * norm(A, dim=-2) + norm(SY, dim=-2)
            worst: Tensor = (norm(error, dim=-2) / scale.clamp_min(TINY)).amax(-1)
            return worst
