"""Views: base images as an augmentation shows them in training, for what is solved and not trained."""

from __future__ import annotations

import torch
from torch import Tensor

from convexdistill.training.augmentation import AUGMENTATIONS, Augmentation, Augmenter, check_augmentation

VIEWS = 8  # of each image where there is no end of them


def views(images: Tensor, augmentation: str = "none", seed: int = 0) -> Tensor:
    """Every image as a training with this augmentation sees it: ``(n, c, h, w)`` uint8 to ``(V, n, c, h, w)``.

    Args:
        images: base images.
        augmentation: a key of :data:`convexdistill.training.AUGMENTATIONS`. ``"none"`` has one view, ``"mirror"``
            two: the image and its mirror image. The others are sampled: the image and seven draws.
        seed: of the draws.

    Raises:
        UnknownNameError: no such augmentation.

    Example:
        >>> views(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), "mirror").shape
        torch.Size([2, 3, 1, 8, 8])
    """
    check_augmentation(augmentation)
    kind = AUGMENTATIONS[augmentation]
    if kind is None:
        return images[None]
    if kind == Augmentation(flip=True):
        return torch.stack([images, images.flip(-1)])
    drawn = Augmenter(augmentation, [seed])(images.float().repeat(VIEWS - 1, 1, 1, 1)[:, None])
    drawn = drawn[:, 0].round().clamp(0, 255).to(images.dtype)
    return torch.cat([images[None], drawn.unflatten(0, (VIEWS - 1, len(images)))])


def seen_as(labels: Tensor, count: int) -> Tensor:
    """The labels of ``count`` views of each image: ``(n, C)`` to ``(V·n, C)``, view by view."""
    return labels.repeat(count, 1)


def view_mean(values: Tensor, count: int) -> Tensor:
    """The mean over the views of each image: ``(V·n, C)`` to ``(n, C)``."""
    return values.view(count, -1, *values.shape[1:]).mean(0)
