"""Optimisers, orders, augmentations and losses of a training, one by one and side by side."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import kl_div

from convexdistill.errors import InvalidInputError, UnknownNameError
from convexdistill.features import build_network
from convexdistill.training import AUGMENTATIONS, LOSSES, ORDERS, Recipe, minibatches, train_together
from convexdistill.training.augmentation import Augmenter
from convexdistill.training.optimizers import OPTIMIZERS, build_optimizer, find_optimizer, optimizer_names

SHAPE = (1, 8, 8)
IMAGES = torch.randn(12, *SHAPE, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randn(3, 12, 4, generator=torch.Generator().manual_seed(1)).softmax(-1)


def made(count=3):
    return [build_network("lenet", SHAPE, 4, seed=k) for k in range(count)]


def trained(recipe, together, steps=8, targets=TARGETS):
    networks = made()
    if together:
        train_together(networks, IMAGES, targets, [recipe] * 3, [7, 8, 9], steps=steps)
    else:
        for k, net in enumerate(networks):
            train_together([net], IMAGES, targets[k : k + 1], [recipe], [7 + k], steps=steps)
    return networks


def weights(network):
    return nn.utils.parameters_to_vector(network.parameters()).detach()


@pytest.mark.parametrize(
    "settings",
    [
        *({"order": order} for order in ORDERS),
        *({"augmentation": name} for name in AUGMENTATIONS),
        {"loss": "kl", "temperature": 4.0},
        {"optimizer": "lbfgs"},
        {"optimizer": "radam"},
        {"optimizer": "adafactor"},
    ],
    ids=str,
)
def test_side_by_side_is_one_by_one_whatever_the_setting(settings):
    recipe = Recipe(**{"loss": "soft-cross-entropy", "batch_size": 5, **settings})
    for ours, alone, start in zip(trained(recipe, True), trained(recipe, False), made(), strict=True):
        moved = (weights(alone) - weights(start)).norm()
        assert moved > 0.001
        assert (weights(ours) - weights(alone)).norm() < 0.01 * moved


@pytest.mark.parametrize("name", [n for n in optimizer_names() if n not in ("muon", "lbfgs")])
def test_every_optimiser_that_is_called_separable_is(name):
    # A weight's step must not depend on its neighbours' gradients.
    draw = torch.Generator().manual_seed(0)
    one, two, three = torch.rand(3, 2, 3, generator=draw)
    results = []
    for other in (two, three):
        parameters = [nn.Parameter(torch.arange(12.0).view(4, 3) / 10)]
        optimizer = build_optimizer(name, parameters, find_optimizer(name)[1].learning_rate)
        for _ in range(3):
            parameters[0].grad = torch.cat([one, other])
            optimizer.step()
        results.append(parameters[0][:2].detach())
    assert torch.allclose(*results, atol=1e-6) == find_optimizer(name)[1].separable


def test_lbfgs_sees_all_examples_and_goes_far():
    def loss_after(name):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
        train_together([net], IMAGES, TARGETS[:1], [Recipe("mse", batch_size=2, optimizer=name)], [0], steps=25)
        return nn.functional.mse_loss(net(IMAGES), TARGETS[0]).item()

    assert loss_after("lbfgs") < 1e-9 < 1e-3 < loss_after("sgd")


def test_lbfgs_searches_along_its_line():
    def loss_after(name):
        (network, *_), targets = made(), 8 * TARGETS[:1]
        train_together([network], IMAGES, targets, [Recipe("mse", optimizer=name)], [0], steps=40)
        return nn.functional.mse_loss(network(IMAGES), targets[0]).item()

    # With steps of length one, whatever the loss does, it is far behind on a network.
    assert loss_after("lbfgs") < loss_after("adam")


def test_optimisers_are_found_in_either_case_and_unknown_ones_list_the_known():
    assert Recipe("mse", optimizer="NAdam").optimizer == "nadam"
    assert Recipe("mse", optimizer="Adadelta").learning_rate == 1.0
    assert find_optimizer("SGD")[1] is OPTIMIZERS["sgd"]
    with pytest.raises(UnknownNameError, match=r"known are adam, .*, lbfgs, adadelta, .*rprop"):
        find_optimizer("optimizer")
    with pytest.raises(UnknownNameError):
        find_optimizer("sparseadam")


def test_an_optimiser_that_cannot_train_a_network_says_so():
    with pytest.raises(InvalidInputError, match="'muon' cannot train this network"):
        trained(Recipe("mse", optimizer="muon"), True)


def test_one_diverging_network_leaves_the_others_alone():
    networks, healthy = made(), made()
    with torch.no_grad():
        networks[1].head.weight.fill_(torch.nan)
    recipe = Recipe("mse", batch_size=5)
    train_together(networks, IMAGES, TARGETS, [recipe] * 3, [0, 1, 2], steps=8)
    train_together(healthy, IMAGES, TARGETS, [recipe] * 3, [0, 1, 2], steps=8)
    assert not networks[1](IMAGES).isfinite().any()
    for k in (0, 2):
        torch.testing.assert_close(networks[k](IMAGES), healthy[k](IMAGES), rtol=1e-3, atol=1e-4)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 30), st.sampled_from(sorted(ORDERS)))
def test_orders_are_what_they_say(size, batch_size, steps, order):
    classes = torch.arange(size) % 3
    found = minibatches(size, batch_size, steps, 0, order, classes)
    batch = min(size, batch_size)
    assert found.shape == (steps, batch)
    assert all(len(set(row.tolist())) == batch for row in found)
    line = found.flatten()
    if order in ("fixed", "by-class"):
        assert torch.equal(line[size:], line[: max(0, len(line) - size)])  # over and over
        assert len(set(line[:size].tolist())) == min(size, len(line))
    if order == "by-class":
        assert classes[line[:size]].diff().ge(0).all()


def test_the_divergence_is_torchs():
    logits, targets = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    for t in (1.0, 4.0):
        found = LOSSES["kl"](logits, targets.softmax(-1), temperature=t)
        for k in range(2):
            goal = (targets[k] / t).log_softmax(-1)
            expected = (
                t * t * kl_div((logits[k] / t).log_softmax(-1), goal, reduction="batchmean", log_target=True)
            )
            torch.testing.assert_close(found[k], expected)


def test_the_divergence_from_one_hot_labels_is_finite_and_its_gradient_too():
    logits = torch.randn(1, 4, 4, requires_grad=True)
    LOSSES["kl"](logits, torch.eye(4)[None], temperature=4.0).sum().backward()
    assert logits.grad.isfinite().all()


def test_no_augmentation_changes_nothing_and_a_shift_is_a_shift():
    images = torch.rand(6, 2, 1, 16, 16)
    assert Augmenter("none", [0, 1])(images) is images
    ramp = torch.arange(16.0).expand(6, 2, 1, 16, 16)
    moved = Augmenter("shift", [0, 1])(ramp)
    steps = (moved - ramp)[..., 4:-4]  # away from the border a ramp that is shifted is a ramp with an offset
    assert steps.std((-1, -2)).max() < 1e-4
    assert 0.3 < steps.abs().max() < 1.7
    assert len(steps[..., 0, 0].flatten().unique()) == 12  # every image has its own


def test_a_flip_exchanges_left_and_right_of_about_half_of_the_images():
    ramp = torch.arange(16.0).expand(200, 1, 1, 16, 16)
    slopes = Augmenter("flip", [0])(ramp)[..., 7:9].diff(dim=-1).mean((-1, -2)).flatten()
    assert 0.4 < (slopes < 0).float().mean() < 0.6
    turned = Augmenter("affine", [0])(ramp)[..., 7:9].diff(dim=-1).mean((-1, -2)).flatten()
    assert (turned > 0).all()


def test_draws_of_a_training_are_its_own():
    images = torch.rand(4, 1, 1, 8, 8)
    both = Augmenter("affine", [3, 4])(images.expand(-1, 2, -1, -1, -1))
    for k, seed in enumerate((3, 4)):
        assert torch.equal(both[:, k : k + 1], Augmenter("affine", [seed])(copy.copy(images)))
