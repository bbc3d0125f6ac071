"""The base examples: the few real images that are kept, and where they came from."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from convexdistill.data import match_shape


@dataclass(frozen=True)
class BaseExamples:
    """Real images chosen from a source data set.

    Attributes:
        images: ``(n, c, h, w)`` uint8.
        labels: ``(n,)`` int64, the source's own class indices.
        classes: the source's class names.
        indices: ``(n,)`` int64, positions in the source split, distinct; ordered by class, then
            position.
        source: the source's name.
        split: the source's split.
        fingerprint: the source split's fingerprint.
        method: the selection rule.
        balanced: whether the classes were given equal shares.
        seed: the seed of the choice.

    Example:
        >>> from convexdistill.data import load
        >>> from convexdistill.select import choose
        >>> base = choose(load("digits"), 20)
        >>> base.resized((3, 32, 32)).images.shape
        torch.Size([20, 3, 32, 32])
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    indices: Tensor
    source: str
    split: str
    fingerprint: str
    method: str
    balanced: bool
    seed: int

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def resized(self, shape: tuple[int, int, int]) -> BaseExamples:
        """The same examples with images of another shape; see :func:`match_shape`."""
        return replace(self, images=match_shape(self.images, shape))
