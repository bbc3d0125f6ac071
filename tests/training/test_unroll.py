"""A training as a differentiable function of its labels: the same training, and its true derivative."""

import pytest
import torch
from torch import nn

from convexdistill.distilled import fresh_network
from convexdistill.training import LOSSES, Augmenter, Recipe, minibatches, train_together
from convexdistill.training.side_by_side import SideBySide
from convexdistill.training.unroll import logits, unroll

SHAPE, CLASSES, SEEDS = (1, 8, 8), 3, (4, 5)
DRAW = torch.Generator().manual_seed(0)
IMAGES = torch.randn(6, *SHAPE, generator=DRAW)
TARGETS = torch.rand(6, CLASSES, generator=DRAW).softmax(1)
SCALE = 8.0  # of squared loss targets, as in practice


class Smooth(nn.Module):
    """A network whose loss has derivatives of every order."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.first, self.second = nn.Flatten(), nn.Linear(64, 4), nn.Linear(4, CLASSES)
        self.bend = nn.Tanh()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.bend(self.first(self.flat(x))))


def orders(steps: int, batch: int) -> torch.Tensor:
    return torch.stack([minibatches(len(IMAGES), batch, steps, seed) for seed in SEEDS], 1)


@pytest.mark.parametrize(
    ("network", "loss", "augmentation"),
    [
        ("lenet", "mse", "shift"),
        ("convnet", "mse", "none"),
        ("lenet", "soft-cross-entropy", "none"),
        ("convnet", "soft-cross-entropy", "mirror"),
    ],
)
def test_the_same_weights_as_an_ordinary_training(network, loss, augmentation):
    networks = [fresh_network(network, SHAPE, CLASSES, seed) for seed in SEEDS]
    joint = SideBySide(networks, SHAPE)
    joint.train()
    recipe = Recipe(loss, steps=7, batch_size=4, augmentation=augmentation)
    targets = TARGETS * SCALE if loss == "mse" else TARGETS
    augment = Augmenter(augmentation, SEEDS)
    weights = unroll(joint, IMAGES, targets, orders(7, 4), LOSSES[loss], recipe.learning_rate, augment)
    untrained = logits(joint, dict(joint.named_parameters()), IMAGES)
    train_together(networks, IMAGES, targets.expand(2, -1, -1), [recipe] * 2, SEEDS, steps=7)
    found = logits(joint, weights, IMAGES)
    for k, trained in enumerate(networks):
        # ε stands elsewhere than torch.optim.Adam's, which weights with hardly a gradient feel.
        apart = (found[k] - trained(IMAGES)).abs().max()
        assert apart < 0.02 * (trained(IMAGES) - untrained[k]).abs().max()


def test_its_derivative_is_that_of_finite_differences():
    torch.manual_seed(0)
    joint = SideBySide([Smooth().double()], SHAPE)
    images, shown = IMAGES.double(), torch.randn(3, *SHAPE, dtype=torch.float64)

    def outer(targets: torch.Tensor) -> torch.Tensor:
        weights = unroll(joint, images, targets, orders(4, 6)[:, :1], LOSSES["mse"], 0.05)
        return logits(joint, weights, shown).square().mean()

    torch.autograd.gradcheck(outer, TARGETS.double().requires_grad_(True), rtol=1e-4)


def test_weights_without_a_gradient_stay_and_have_a_derivative():
    joint = SideBySide([fresh_network("lenet", SHAPE, CLASSES, 0)], SHAPE)
    targets = TARGETS.clone().requires_grad_(True)
    still = torch.zeros_like(IMAGES)  # the first convolution's weights see nothing
    weights = unroll(joint, still, targets, orders(3, 6)[:, :1], LOSSES["mse"], 1e-2)
    logits(joint, weights, IMAGES).sum().backward()
    first = next(iter(weights))
    torch.testing.assert_close(weights[first], dict(joint.named_parameters())[first])
    assert targets.grad is not None
    assert bool(targets.grad.isfinite().all())
    assert bool((targets.grad != 0).any())
