"""What is distilled: labels, pixels, or both, with the optimiser that moves them and the set they stay in."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from convexdistill.data import Preprocessing
from convexdistill.distill.online.state import below, load_optimizer, optimizer_state, under


class Learned:
    """Base images and labels, of which Adam moves those that are learned.

    Labels stay on the simplex as in the paper's code: every entry is clamped to [0, 1], then each row is
    divided by its sum. Pixels are clamped to [0, 1].

    Args:
        pixels: ``(n, c, h, w)`` in [0, 1].
        labels: ``(n, C)`` probabilities.
        preprocessing: normalisation, applied to the pixels on their way to the network.
        rate: Adam's learning rate.
        learn_labels: whether labels move.
        learn_images: whether pixels move.

    Example:
        >>> as_they_are = Preprocessing((0.0,), (1.0,))
        >>> flat = Learned(torch.zeros(4, 1, 8, 8), torch.full((4, 2), 0.5), as_they_are, rate=0.1)
        >>> flat.step([torch.tensor([[1.0, 0.0]] * 4)])
        >>> [round(value, 4) for value in flat.labels[0].tolist()]
        [0.4444, 0.5556]
    """

    def __init__(
        self,
        pixels: Tensor,
        labels: Tensor,
        preprocessing: Preprocessing,
        *,
        rate: float,
        learn_labels: bool = True,
        learn_images: bool = False,
    ) -> None:
        self.pixels = pixels.clone().requires_grad_(learn_images)
        self.labels = labels.clone().requires_grad_(learn_labels)
        self._preprocessing = preprocessing
        self.moving = [tensor for tensor in (self.labels, self.pixels) if tensor.requires_grad]
        self._optimizer = torch.optim.Adam(self.moving, lr=rate)

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, rows: Tensor) -> Tensor:
        """Normalised images of these rows; differentiable where pixels are learned."""
        return self.normalised(self.pixels[rows])

    def step(self, gradients: list[Tensor]) -> None:
        """One step of Adam, one gradient for each of :attr:`moving`, and back into the sets.

        Rows outside the minibatch have a gradient of zero and go on by momentum, as in the paper's code.
        """
        for tensor, gradient in zip(self.moving, gradients, strict=True):
            tensor.grad = gradient
        self._optimizer.step()
        self._optimizer.zero_grad()
        with torch.no_grad():
            if self.labels.requires_grad:
                self.labels.clamp_(0, 1)
                sums = self.labels.sum(1, keepdim=True)
                # A large rate may clamp a whole row to zero: that row says nothing, so it starts again.
                uniform = torch.full_like(self.labels, 1 / self.labels.shape[1])
                self.labels.copy_(torch.where(sums > 0, self.labels / sums, uniform))
            if self.pixels.requires_grad:
                self.pixels.clamp_(0, 1)

    def values(self) -> dict[str, Tensor]:
        """Copies as a set would keep them: pixels rounded to the nearest of the 256 levels of a byte."""
        pixels = self.pixels.detach().mul(255).round().div(255)
        return {"pixels": pixels, "labels": self.labels.detach().clone()}

    def normalised(self, pixels: Tensor) -> Tensor:
        """Pixels as a network sees them, channels last."""
        return self._preprocessing.of_pixels(pixels).contiguous(memory_format=torch.channels_last)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        now = {"pixels": self.pixels.detach(), "labels": self.labels.detach()}
        return {**now, **under("adam", optimizer_state(self._optimizer))}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state`."""
        self.pixels.copy_(state["pixels"])
        self.labels.copy_(state["labels"])
        load_optimizer(self._optimizer, below("adam", state))
