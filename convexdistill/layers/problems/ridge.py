"""The plain ridge problem: every variant of ridge regression is reduced to it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from convexdistill.layers.problems.base import broadcast_shapes, size_of


@dataclass(frozen=True, eq=False)
class RidgeProblem:
    """Minimise ``Σ_i s_i ‖x_i W − y_i‖² + Σ_c λ_c ‖W_c‖²`` over W (d×C).

    Attributes:
        features: X, (*Bx, n, d) float64, finite.
        labels: Y, (*By, n, C) float64, finite.
        lam: λ ≥ 0, (*Bl, 1) for one value a batch element, (*Bl, C) for one a column.
        weights: s ≥ 0, (*Bs, n), or None for all 1.
    """

    features: Tensor
    labels: Tensor
    lam: Tensor
    weights: Tensor | None = None

    @property
    def batch_shape(self) -> torch.Size:
        """The common leading dimensions *B."""
        return broadcast_shapes(
            self.features.shape[:-2],
            self.labels.shape[:-2],
            self.lam.shape[:-1],
            () if self.weights is None else self.weights.shape[:-1],
        )

    def plain(self) -> RidgeProblem:
        """The same problem without weights: rows scaled by √s.

        Exact, but √s has no derivative at 0: a gradient to a weight of zero is NaN this way. The primal
        closed form does not go this way.
        """
        if self.weights is None:
            return self
        # Times 1, or times 0 where the weight is 0: there the derivative is 0/0 = NaN, and not ±infinity.
        root = (self.weights.sqrt() * (self.weights > 0)).unsqueeze(-1)
        return RidgeProblem(root * self.features, root * self.labels, self.lam)

    @property
    def answer_shape(self) -> torch.Size:
        """(*B, d, C)."""
        return torch.Size((*self.batch_shape, self.features.shape[-1], self.labels.shape[-1]))

    def residual(self, answer: Tensor, dual: Tensor | None = None) -> Tensor:
        """``‖Xᵀ(XW − Y) + λW‖ / (‖X‖ ‖Y‖)``, (*B,), in Frobenius norms, rows scaled by √s.

        Half the gradient of the objective over the size it has at W = 0 (by Cauchy–Schwarz), so 0 is
        optimal and 1 is no better than not having solved. Labels that are all zero have the answer 0,
        for which the residual is 0. The norms are divided out step by step: their product may leave float64.
        """
        with torch.no_grad():
            plain = self.plain()
            X, Y, W = plain.features.detach(), plain.labels.detach(), answer.detach()
            x, y = size_of(X)[..., None, None], size_of(Y)[..., None, None]
            V = W / y
            gradient = torch.matmul(X.mT, (X @ V - Y / y) / x) + self.lam.detach().unsqueeze(-2) * V / x
            relative: Tensor = torch.linalg.matrix_norm(gradient)
            return relative
