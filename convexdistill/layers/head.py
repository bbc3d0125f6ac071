"""A frozen or trainable feature extractor in front of a convex layer: one few-shot classifier."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class ConvexHead(nn.Module):
    """Fit a convex layer on base examples, and score queries with it.

    The heart of the first-order method of label distillation (Bohdal et al. 2020, arXiv 2006.08572, the
    ridge-regression variant), and of few-shot heads (Bertinetto et al. 2019, arXiv 1805.08136): the logits
    are differentiable in the soft labels, in both sets of images, and in the extractor.

    Args:
        extractor: maps images (n, ...) to features (n, d).
        layer: maps (features, labels) to a fit with ``predict``, such as :class:`Ridge`.

    Example:
        >>> import torch
        >>> from convexdistill.layers import ConvexHead, Ridge
        >>> head = ConvexHead(torch.nn.Flatten(), Ridge(lam=0.1))
        >>> labels = torch.zeros(6, 10, requires_grad=True)
        >>> head(torch.randn(6, 1, 8, 8), labels, torch.randn(4, 1, 8, 8)).shape
        torch.Size([4, 10])
    """

    def __init__(self, extractor: nn.Module, layer: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor
        self.layer = layer

    def forward(self, base_images: Tensor, soft_labels: Tensor, query_images: Tensor, **options: Any) -> Tensor:
        """Return logits (m, C) of the queries.

        Args:
            base_images: (n, ...) images the layer is fitted on.
            soft_labels: (n, C) their labels.
            query_images: (m, ...) images to score.
            options: passed to the layer, such as ``lam`` or ``sample_weight``.
        """
        fit = self.layer(self.extractor(base_images), soft_labels, **options)
        logits: Tensor = fit.predict(self.extractor(query_images))
        return logits
