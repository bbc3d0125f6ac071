"""Ridge regression in arithmetic of 50 digits: what `benchmarks/layers.py` measures errors against."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import torch
from torch import Tensor


def exact(X: Tensor, Y: Tensor, lam: float) -> tuple[Tensor, Any]:
    """(XᵀX + λI)⁻¹XᵀY in 50 digits, and a function that solves for other right-hand sides."""
    mpmath.mp.dps = 50
    big = np.vectorize(mpmath.mpf, otypes=[object])
    x = big(X.double().numpy())
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

    def back(B: Tensor) -> Tensor:  # X S⁻¹ B, the gradient to the labels
        return torch.from_numpy((x @ solve(big(B.numpy()))).astype(float))

    return torch.from_numpy(solve(x.T @ big(Y.double().numpy())).astype(float)), back


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())
