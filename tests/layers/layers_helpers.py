from __future__ import annotations

import torch
from torch import Tensor


def data(*shape: int, columns: int = 2, grad: bool = False) -> tuple[Tensor, Tensor]:
    """Random features of a shape (*B, n, d), and labels (*B, n, columns), float64."""
    features = torch.randn(*shape, dtype=torch.float64)
    labels = torch.randn(*shape[:-1], columns, dtype=torch.float64)
    return features.requires_grad_(grad), labels.requires_grad_(grad)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())
