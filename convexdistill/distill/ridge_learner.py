"""The network of the paper's first-order method: a body in front of ridge weights that follow the minibatches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from convexdistill.device import resolve_device
from convexdistill.distill.online.learner import in_pieces, inner_rows, stays_whole
from convexdistill.distill.online.state import below, load_optimizer, optimizer_state, under
from convexdistill.errors import InvalidInputError, ParameterRangeError
from convexdistill.features import Network
from convexdistill.layers import Ridge
from convexdistill.training.recipe import soft_cross_entropy


@dataclass(frozen=True)
class RidgeSettings:
    """Constants of the method; see :func:`convexdistill.distill.online_ridge`."""

    lam: float = 1.0
    average_rate: float = 0.01
    network_rate: float = 1e-3
    calibration_rate: float = 1e-2
    freeze_extractor: bool = False
    backend: str = "auto"


def check_average_rate(rate: float) -> None:
    """Raise unless α is a share of the newest weights.

    Raises:
        ParameterRangeError: it is not in (0, 1].
    """
    if not 0 < rate <= 1:
        raise ParameterRangeError(f"average_rate is the share of the newest weights, in (0, 1], found {rate}")


class RidgeLearner:
    """A body φ, a head w that is a moving average of ridge solutions, and a calibration s (Bohdal et al. 2020).

    With Φ = [φ(x̃), 1] of a base minibatch and its labels Ỹ::

        w_l = Φᵀ(ΦΦᵀ + λI)⁻¹Ỹ        the bias is regularised like the rest
        w   ← (1 − α)·w + α·w_l        only w_l carries a gradient

    Target logits are s·[φ(x), 1]w. The body and s then learn from the same minibatch: soft cross-entropy of
    s·Φw with its labels, through the features and, by α, through the ridge solution.

    Args:
        build: a fresh network with ``body`` and ``head`` for a seed.
        settings: the constants.
        device: where to compute.
    """

    def __init__(
        self, build: Callable[[int], nn.Module], settings: RidgeSettings, device: str | torch.device = "auto"
    ) -> None:
        self.build, self.settings, self.device = build, settings, resolve_device(device)
        self.layer = Ridge(settings.lam, intercept="penalized", backend=settings.backend)

    def restart(self, seed: int) -> None:
        """A fresh body, w = 0, s = 1."""
        network = self.build(seed)
        if not isinstance(network, Network):
            raise InvalidInputError(
                "online_ridge puts ridge weights in the place of the head, so it needs a network with a body and "
                f"a head (convexdistill.features.Network), found {type(network).__name__}"
            )
        self.network: Network = network.to(self.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.network.body.requires_grad_(not self.settings.freeze_extractor)
        self.whole = stays_whole(self.network, self.device)
        head = self.network.head
        # One layout, also after a checkpoint: products round by layout.
        self.weight = torch.zeros_like(head.weight.detach()).T.contiguous()
        self.bias = torch.zeros_like(head.bias.detach())
        self.scale = torch.ones_like(self.bias[0]).requires_grad_()
        rates = self.settings.network_rate, self.settings.calibration_rate
        self.body_optimizer = torch.optim.Adam(self.network.body.parameters(), lr=rates[0])
        self.scale_optimizer = torch.optim.Adam([self.scale], lr=rates[1])

    def fit(self, images: Tensor, labels: Tensor) -> None:
        """Local ridge weights of a minibatch, and the moving average."""
        self.features = self.network.body(images)
        local = self.layer(self.features, labels)
        rate = self.settings.average_rate
        self.weight = (1 - rate) * self.weight.detach() + rate * local.weight
        self.bias = (1 - rate) * self.bias.detach() + rate * local.intercept

    def outer(self, images: Tensor, labels: Tensor, target_images: Tensor) -> Tensor:
        """Calibrated logits of the target images; nothing is differentiated through their features."""
        self.fit(images, labels)
        with torch.no_grad():
            features = in_pieces(self.network.body, target_images, whole=self.whole)
        return self.scale.detach() * torch.addmm(self.bias, features, self.weight)

    def update(self, labels: Tensor) -> None:
        """One step of body and s on the minibatch that was fitted last."""
        logits = self.scale * torch.addmm(self.bias, self.features, self.weight)
        loss = soft_cross_entropy(logits, labels)
        moving = [self.scale, *(p for p in self.network.body.parameters() if p.requires_grad)]
        for parameter, gradient in zip(moving, torch.autograd.grad(loss, moving), strict=True):
            parameter.grad = gradient
        self.body_optimizer.step()
        self.scale_optimizer.step()
        self.weight, self.bias = self.weight.detach(), self.bias.detach()
        del self.features

    def train(self, images: Tensor, labels: Tensor, *, steps: int, batch_size: int, seed: int) -> Network:
        """The same steps from scratch on fixed labels; w becomes the head of the network, without s."""
        fresh = RidgeLearner(self.build, self.settings, self.device)
        fresh.restart(seed)
        for rows in inner_rows(len(images), batch_size, steps, seed):
            fresh.fit(images[rows], labels[rows])
            fresh.update(labels[rows])
        with torch.no_grad():
            fresh.network.head.weight.copy_(fresh.weight.T)
            fresh.network.head.bias.copy_(fresh.bias)
        return fresh.network

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {
            **under("network", self.network.state_dict()),
            **under("body", optimizer_state(self.body_optimizer)),
            **under("calibration", optimizer_state(self.scale_optimizer)),
            "weight": self.weight,
            "bias": self.bias,
            "scale": self.scale,
        }

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state`."""
        self.network.load_state_dict(below("network", state))
        load_optimizer(self.body_optimizer, below("body", state))
        load_optimizer(self.scale_optimizer, below("calibration", state))
        self.weight, self.bias = state["weight"].to(self.device), state["bias"].to(self.device)
        self.scale.copy_(state["scale"])
