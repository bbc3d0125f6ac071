"""Multinomial logistic regression as a plain convex problem, and the test that an answer solves it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from convexdistill.layers.problems.base import TINY, broadcast_shapes


@dataclass(frozen=True, eq=False)
class LogisticProblem:
    """Minimise ``Σ_i s_i (m_i logsumexp(x_i W) − y_i · x_i W) + ½ Σ_c λ_c ‖W_c‖²`` over W (D×C), m_i = Σ_c y_ic.

    Adding the same number to every entry of a row of W leaves the loss as it is. Where the penalty does not
    decide, the answer is the one whose row sums to 0: rows of a free intercept, and all rows where λ = 0.

    Attributes:
        features: X, (*Bx, n, D) float64, finite; with a last column of ones where ``free``.
        labels: Y, (*By, n, C) float64, finite, rows with a sum ≥ 0.
        lam: λ ≥ 0, (*Bl, 1) for one value a batch element, (*Bl, C) for one a column.
        weights: s ≥ 0, (*Bs, n), or None for all 1.
        free: whether the last row of W is an intercept without penalty.
    """

    features: Tensor
    labels: Tensor
    lam: Tensor
    weights: Tensor | None = None
    free: bool = False

    @property
    def batch_shape(self) -> torch.Size:
        """The common leading dimensions *B."""
        return broadcast_shapes(
            self.features.shape[:-2],
            self.labels.shape[:-2],
            self.lam.shape[:-1],
            () if self.weights is None else self.weights.shape[:-1],
        )

    def masses(self) -> Tensor:
        """s_i m_i, (*B', n): how much the log-partition function of each example counts."""
        mass = self.labels.sum(-1)
        return mass if self.weights is None else self.weights * mass

    def targets(self) -> Tensor:
        """s_i y_i, (*B', n, C)."""
        return self.labels if self.weights is None else self.weights.unsqueeze(-1) * self.labels

    def penalty(self) -> Tensor:
        """λ for every entry of W, (*Bl, D, 1 or C): 0 in the row of a free intercept."""
        D = self.features.shape[-1]
        penalised = torch.ones(D, 1, dtype=self.lam.dtype, device=self.lam.device)
        if self.free:
            penalised[-1] = 0.0
        return penalised * self.lam.unsqueeze(-2)

    @property
    def answer_shape(self) -> torch.Size:
        """(*B, D, C)."""
        return torch.Size((*self.batch_shape, self.features.shape[-1], self.labels.shape[-1]))

    def residual(self, answer: Tensor, dual: Tensor | None = None) -> Tensor:
        """``‖Xᵀ(s(mP − Y)) + λW‖ / (‖√s X‖ ‖√s Y‖)``, (*B,), in Frobenius norms, P = softmax(XW).

        The gradient of the objective over the size it has at W = 0 (by Cauchy–Schwarz). Labels that are all
        zero have the answer 0, for which the residual is 0.
        """
        with torch.no_grad():
            X, W = self.features.detach(), answer.detach()
            P = torch.softmax(X @ W, -1)
            misfit = self.masses().detach().unsqueeze(-1) * P - self.targets().detach()
            gradient = X.mT @ misfit + self.penalty().detach() * W
            root = 1.0 if self.weights is None else self.weights.detach().sqrt().unsqueeze(-1)
            scale = torch.linalg.matrix_norm(root * X) * torch.linalg.matrix_norm(root * self.labels.detach())
            relative: Tensor = torch.linalg.matrix_norm(gradient) / scale.clamp_min(TINY)
            return relative.expand(self.batch_shape)
