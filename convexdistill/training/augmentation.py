"""Base images changed a little at every step: each by a turn, zoom, shift and flip of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from convexdistill.errors import UnknownNameError
from convexdistill.seeds import generator


@dataclass(frozen=True)
class Augmentation:
    """How far an image may be changed; uniform in both directions.

    Attributes:
        turn: degrees.
        zoom: relative.
        shift: part of the side.
        flip: whether left and right may be exchanged.
    """

    turn: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0
    flip: bool = False


AUGMENTATIONS: dict[str, Augmentation | None] = {
    "none": None,
    "mirror": Augmentation(flip=True),
    "shift": Augmentation(shift=0.1),
    "affine": Augmentation(turn=10, zoom=0.1, shift=0.1),  # for digits and letters, which may not be flipped
    "flip": Augmentation(shift=0.125, flip=True),  # as is usual for photographs of 32×32
}


def check_augmentation(name: str) -> None:
    """Raise unless the augmentation is known.

    Raises:
        UnknownNameError: it is not; the message lists the known ones.
    """
    if name not in AUGMENTATIONS:
        raise UnknownNameError(f"unknown augmentation {name!r}; known are {', '.join(AUGMENTATIONS)}")


class Augmenter:
    """Changes the minibatches of K trainings; a training's draws follow from its own seed alone.

    Args:
        name: a key of :data:`AUGMENTATIONS`.
        seeds: one a training.
    """

    def __init__(self, name: str, seeds: Sequence[int]) -> None:
        check_augmentation(name)
        self.kind = AUGMENTATIONS[name]
        self.draws = [generator(seed, "augmentation") for seed in seeds]

    def __call__(self, images: Tensor) -> Tensor:
        """``(B, K, c, h, w)`` to the same, each image changed; what is shifted in repeats the border."""
        if self.kind is None:
            return images
        batch, count = images.shape[:2]
        draws = torch.stack([torch.rand(batch, 5, generator=draw) for draw in self.draws], 1)
        theta = _transforms(draws.flatten(0, 1), self.kind).to(images.device)
        flat = images.flatten(0, 1)
        grid = affine_grid(theta, list(flat.shape), align_corners=False)
        changed = grid_sample(flat, grid, padding_mode="border", align_corners=False)
        return changed.view(batch, count, *images.shape[2:])


def _transforms(draws: Tensor, kind: Augmentation) -> Tensor:
    """``(M, 5)`` uniform draws to ``(M, 2, 3)`` maps from the new image to the old one."""
    angle, zoom, right, down, flip = (2 * draws - 1).unbind(1)
    angle, zoom = angle * kind.turn * math.pi / 180, 1 + zoom * kind.zoom
    mirror = torch.where(flip < 0, -1.0, 1.0) if kind.flip else torch.ones_like(flip)
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    # Coordinates run from −1 to 1: a shift by a part s of the side is 2 s.
    rows = [mirror * cos, -mirror * sin, 2 * kind.shift * right, sin, cos, 2 * kind.shift * down]
    return torch.stack(rows, 1).view(-1, 2, 3)
