"""Views: base images as an augmentation shows them in training, for heads that are solved for at once.

All views of an image share its label: a solve over V views of n images has V·n rows and labels Y of n. Its heads
are W(Y) = (ΦᵀΦ + V λ I)⁻¹ Φᵀ E Y, with Φ view by view and E the n×n identity V times below itself. λ grows with V
because the loss is a sum: views that are all the same image give the heads of that image alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from convexdistill.seeds import child_seed
from convexdistill.training import AUGMENTATIONS, Augmenter
from convexdistill.training.augmentation import Augmentation, check_augmentation

VIEWS = 8  # of each image, drawn at random, where there is no end of them


def views(images: Tensor, augmentation: str = "none", seed: int = 0) -> Tensor:
    """Every image as trainings with this augmentation see it: ``(n, c, h, w)`` to ``(V, n, c, h, w)``.

    Args:
        images: base images, preprocessed as for a training.
        augmentation: a key of :data:`convexdistill.training.AUGMENTATIONS`. ``"none"`` has one view, ``"mirror"``
            two: the image and its mirror image. Of the others eight are drawn.
        seed: of the draws.

    Raises:
        UnknownNameError: no such augmentation.

    Example:
        >>> views(torch.zeros(3, 1, 8, 8), "mirror").shape
        torch.Size([2, 3, 1, 8, 8])
    """
    check_augmentation(augmentation)
    kind = AUGMENTATIONS[augmentation]
    if kind is None:
        return images[None]
    if kind == Augmentation(flip=True):
        return torch.stack([images, images.flip(-1)])
    augment = Augmenter(augmentation, [child_seed(seed, "view", k) for k in range(VIEWS)])
    return augment(images.unsqueeze(1).expand(-1, VIEWS, -1, -1, -1)).transpose(0, 1)


def each_view(labels: Tensor, count: int) -> Tensor:
    """The labels of ``count`` views of each image: E Y, ``(n, C)`` to ``(V·n, C)``."""
    return labels.repeat(count, 1)


def mean_over_views(values: Tensor, count: int) -> Tensor:
    """EᵀZ / V, ``(V·n, C)`` to ``(n, C)``."""
    return values.view(count, -1, *values.shape[1:]).mean(0)


def absolute(lam: float, features: Tensor, count: int) -> float:
    """V λ for λ relative to the mean diagonal of ΦΦᵀ, with Φ the ``(V·n, d)`` features of all views."""
    return count * lam * float(features.square().sum(1).mean())
