"""Responses: how the logits of target images answer to the labels of base examples.

For one extractor with target features Φ_T (N×(d+1)) and the map M = (ΦᵀΦ + λI)⁻¹Φᵀ from labels to ridge head,
the logits of the target images are linear in the soft labels::

    Z(Y) = Φ_T W(Y) = Φ_T M Y = A Y

Moments forget the single image, so an outer loss that is not a sum of squares needs A itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Response:
    """A = left · right for one extractor, kept in whichever form is smaller.

    Attributes:
        left: ``(N, r)`` float64; Φ_T, or A itself.
        right: ``(r, n)``: M; ``None`` where ``left`` is A.
    """

    left: Tensor
    right: Tensor | None = None

    @classmethod
    def of(cls, features: Tensor, head: Tensor) -> Response:
        """The response for target features ``(N, d+1)`` and map ``(d+1, n)`` from labels to head.

        Multiplied out where that leaves fewer columns: memory is 8·N·min(n, d+1) bytes.
        """
        return cls(features @ head) if head.shape[1] <= head.shape[0] else cls(features, head)

    @property
    def images(self) -> int:
        """N."""
        return len(self.left)

    @property
    def inputs(self) -> int:
        """n, the number of rows of Y."""
        return (self.left if self.right is None else self.right).shape[1]

    def logits(self, labels: Tensor) -> Tensor:
        """A Y, ``(N, C)``."""
        return self.left @ (labels if self.right is None else self.right @ labels)

    def pull(self, errors: Tensor) -> Tensor:
        """Aᵀ E, ``(n, C)``: what errors at the logits ask of the labels."""
        pulled = self.left.T @ errors
        return pulled if self.right is None else self.right.T @ pulled

    def gram(self) -> Tensor:
        """AᵀA, ``(n, n)``."""
        inner = self.left.T @ self.left
        return inner if self.right is None else self.right.T @ inner @ self.right


def mean_gram(responses: list[Response]) -> Tensor:
    """1/K Σ_k A_kᵀA_k / N, ``(n, n)``."""
    return torch.stack([r.gram() / r.images for r in responses]).mean(0)
