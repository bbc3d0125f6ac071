"""A whole training as a differentiable function of its labels.

Weights θ_0 are random; with g_t = ∇_θ L(f_θ(x̃), Ỹ) at θ_{t−1}, Adam (Kingma and Ba 2015, algorithm 1) goes::

    m_t = β₁ m_{t−1} + (1 − β₁) g_t            v_t = β₂ v_{t−1} + (1 − β₂) g_t²
    θ_t = θ_{t−1} − η m̂_t / √(v̂_t + ε²)        m̂_t = m_t / (1 − β₁ᵗ),  v̂_t = v_t / (1 − β₂ᵗ)

and autograd keeps every step, so that θ_T can be differentiated with respect to Ỹ. ε stands under the root, where
torch.optim.Adam adds it to the root: at v = 0 (a dead ReLU's weights) the root has no derivative. It is 1e-6
instead of 1e-8, since a step changes by as much as η/ε with the gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import functional_call

from convexdistill.training.side_by_side import SideBySide

BETAS, EPSILON = (0.9, 0.999), 1e-6
Weights = dict[str, Tensor]


def unroll(
    joint: SideBySide,
    images: Tensor,
    targets: Tensor,
    orders: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    learning_rate: float,
    augment: Callable[[Tensor], Tensor] = lambda images: images,
) -> Weights:
    """The weights of K networks after a training by Adam, as a function of the targets.

    Args:
        joint: the networks, at θ_0; not changed, but for running statistics.
        images: ``(n, c, h, w)`` normalised.
        targets: ``(n, C)``, what the loss compares the logits with.
        orders: ``(T, K, batch)`` int64: which images each network sees in each step.
        loss: of logits and targets, both ``(K, batch, C)``, to ``(K,)``.
        learning_rate: η.
        augment: what is done to the minibatches, ``(batch, K, c, h, w)``, of each step; an
            :class:`convexdistill.training.Augmenter`.

    Returns:
        The weights of the joint network, by name; :func:`logits` runs it with them.

    Example:
        >>> from convexdistill.features import build_network
        >>> from convexdistill.training.orders import minibatches
        >>> from convexdistill.training.recipe import mean_squared_error
        >>> joint = SideBySide([build_network("lenet", (1, 8, 8), 3, seed=0)], (1, 8, 8))
        >>> targets = torch.eye(3, requires_grad=True)
        >>> order = minibatches(3, 3, steps=2, seed=0)[:, None]
        >>> weights = unroll(joint, torch.rand(3, 1, 8, 8), targets, order, mean_squared_error, 1e-3)
        >>> logits(joint, weights, torch.rand(5, 1, 8, 8)).sum().backward()
        >>> targets.grad.shape
        torch.Size([3, 3])
    """
    first, second = BETAS
    weights = {name: value.detach().clone().requires_grad_(True) for name, value in joint.named_parameters()}
    means = {name: torch.zeros_like(value) for name, value in weights.items()}
    squares = dict(means)
    for step, order in enumerate(orders, 1):
        found = functional_call(joint, weights, (augment(images[order.T]),))
        # Summed over members: a member's gradient is that of its own loss alone.
        gradients = torch.autograd.grad(
            loss(found, targets[order]).sum(), tuple(weights.values()), create_graph=True
        )
        for (name, value), g in zip(list(weights.items()), gradients, strict=True):
            means[name] = first * means[name] + (1 - first) * g
            squares[name] = second * squares[name] + (1 - second) * g.square()
            root = (squares[name] / (1 - second**step) + EPSILON**2).sqrt()
            weights[name] = value - learning_rate / (1 - first**step) * means[name] / root
    return weights


def logits(joint: SideBySide, weights: Weights, images: Tensor) -> Tensor:
    """Logits ``(K, N, C)`` of every network with these weights on the same images ``(N, c, h, w)``."""
    found: Tensor = functional_call(joint, weights, (images.unsqueeze(1).expand(-1, joint.count, -1, -1, -1),))
    return found
