"""Ridge regression in arithmetic of 50 digits: what `benchmarks/layers.py` measures errors against."""

from __future__ import annotations

from typing import Any, NamedTuple

import mpmath
import numpy as np
import torch
from torch import Tensor


class Exact(NamedTuple):
    """What 50 digits give for ridge regression, rounded to float64."""

    weight: Tensor  # W = S⁻¹XᵀY with S = XᵀX + λI
    to_labels: Tensor  # X U with U = S⁻¹G
    to_features: Tensor  # (Y − XW)Uᵀ − XU Wᵀ


def exact(X: Tensor, Y: Tensor, lam: float, G: Tensor | None = None) -> Exact:
    """The weight, and the gradients of ⟨G, W⟩; G is that of `layer_peers.differentiated` unless given."""
    mpmath.mp.dps = 50
    if G is None:
        shape = X.shape[1], Y.shape[1]
        G = torch.cos(torch.arange(shape[0] * shape[1], dtype=torch.float64)).reshape(shape)
    big = np.vectorize(mpmath.mpf, otypes=[object])
    x, y, g = (big(t.double().numpy()) for t in (X, Y, G))
    S = x.T @ x + np.diag(big(np.full(X.shape[1], lam)))
    for k in range(len(S)):  # LDLᵀ in place; S is positive definite, so no pivots are needed
        S[k + 1 :, k] = S[k + 1 :, k] / S[k, k]
        S[k + 1 :, k + 1 :] -= np.outer(S[k + 1 :, k], S[k + 1 :, k]) * S[k, k]

    def solve(B: Any) -> Any:
        V = B.copy()
        for k in range(len(S)):
            V[k + 1 :] -= np.outer(S[k + 1 :, k], V[k])
        V = V / S.diagonal()[:, None]
        for k in reversed(range(len(S))):
            V[:k] -= np.outer(S[k, :k], V[k])
        return V

    W, U = solve(x.T @ y), solve(g)
    results = W, x @ U, (y - x @ W) @ U.T - x @ U @ W.T
    return Exact(*(torch.from_numpy(values.astype(float)) for values in results))


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())
