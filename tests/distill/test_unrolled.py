"""Labels through whole trainings: better than where they start, repeatable, and clear about what cannot be."""

import importlib
from dataclasses import replace

import pytest
import torch
from torch import nn

from convexdistill.data import load
from convexdistill.distill.cross_entropy import cross_entropy
from convexdistill.distill.target_features import TargetFeatures
from convexdistill.distill.unrolled import descend, free_of, targets_of, unrolled
from convexdistill.distilled import fresh_network
from convexdistill.errors import InvalidInputError, NotConvergedError, ParameterRangeError
from convexdistill.features import pool
from convexdistill.select import choose
from convexdistill.training import Candidate, Recipe, run_trials

module = importlib.import_module("convexdistill.distill.unrolled")  # the name in the package is the function's
DIGITS, VALIDATION = load("digits"), load("digits", "validation")
BASE = choose(DIGITS, 10)
FEATURES = TargetFeatures.of(pool("convnet", count=1, width=8), DIGITS)
QUICK = {"gamma": 0.1, "label_scale": 8.0, "count": 1, "network": "lenet"}


@pytest.mark.parametrize("recipe", ["centred", "paper"])
def test_trainings_end_better_than_on_the_labels_of_the_convex_solve(recipe):
    learned = unrolled(FEATURES, DIGITS, BASE, iterations=20, steps=30, recipe=recipe, **QUICK)
    start = unrolled(FEATURES, DIGITS, BASE, iterations=1, steps=1, label_rate=1e-9, recipe=recipe, **QUICK)
    losses = learned.manifest["outer_losses"]
    assert sum(losses[-10:]) < sum(losses[:10])
    trials = run_trials(
        [Candidate(name, one.labels, one.recipe) for name, one in (("learned", learned), ("start", start))],
        learned.images,
        learned.preprocessing,
        VALIDATION,
        lambda seed: fresh_network("lenet", DIGITS.shape, 10, seed),
        [11, 12, 13],
        device=torch.device("cpu"),
        description="",
    )
    better, worse = (sum(trial.validation) / 3 for trial in trials)
    assert better > worse + 2


def test_the_validation_split_chooses_between_the_two():
    learned = unrolled(FEATURES, DIGITS, BASE, VALIDATION, iterations=2, steps=3, recipe="centred", **QUICK)
    tried = learned.manifest["chosen_from"]
    assert [one["labels"] for one in tried] == ["cross-entropy", "unrolled"]
    better = max(tried, key=lambda one: one["validation_mean"])
    assert learned.recipe.steps == better["steps"]
    assert learned.manifest["labels_taken"] == better["labels"]
    solved = cross_entropy(FEATURES, DIGITS, BASE, VALIDATION, recipe="centred", gamma=0.1, label_scale=8.0)
    assert torch.equal(learned.labels, solved.labels) == (better["labels"] == "cross-entropy")
    assert ("duality_gap" in learned.manifest["certificate"]) == (better["labels"] == "cross-entropy")
    again = unrolled(FEATURES, DIGITS, BASE, VALIDATION, iterations=2, steps=3, recipe="centred", **QUICK)
    assert torch.equal(learned.labels, again.labels)
    assert learned.manifest["outer_losses"] == again.manifest["outer_losses"]


@pytest.mark.parametrize("loss", ["mse", "soft-cross-entropy"])
def test_a_given_recipe_stays(loss):
    recipe = Recipe(loss, label_scale=4.0, steps=17, batch_size=5)
    options = {**QUICK, "label_scale": None}
    learned = unrolled(FEATURES, DIGITS, BASE, VALIDATION, iterations=1, steps=2, recipe=recipe, **options)
    # Under cross-entropy the scale is in the probabilities already.
    assert learned.recipe == (recipe if loss == "mse" else replace(recipe, label_scale=1.0))
    assert learned.label_space == ("logit" if loss == "mse" else "probability")
    assert "duality_gap" not in learned.manifest["certificate"]


@pytest.mark.parametrize("loss", ["mse", "soft-cross-entropy"])
def test_what_moves_stands_for_the_targets(loss):
    targets = torch.rand(4, 3).softmax(1)
    targets = targets - 1 / 3 if loss == "mse" else targets
    torch.testing.assert_close(targets_of(free_of(targets, loss), loss), targets)


def test_the_descent_ends_with_the_mean_of_its_last_quarter():
    visited = []

    def outer(free: torch.Tensor, iteration: int) -> float:
        visited.append(free.detach().clone())
        free.grad = torch.ones_like(free)  # always the same way: every step of Adam is one label rate
        return float(iteration)

    found, losses = descend(outer, torch.zeros(2), 8, 0.1)
    after = -0.1 * torch.tensor([1 - i / 8 for i in range(8)]).cumsum(0)  # where each step ends
    torch.testing.assert_close(torch.stack(visited)[1:, 0], after[:-1])
    torch.testing.assert_close(found, after[-2:].mean().expand(2))
    assert losses == [float(i) for i in range(8)]


def test_a_descent_reaches_a_minimum():
    def outer(free: torch.Tensor, iteration: int) -> float:
        loss = (free - 3).square().sum()
        loss.backward()
        return float(loss.detach())

    found, _ = descend(outer, torch.zeros(2), 200, 0.3)
    torch.testing.assert_close(found, torch.full((2,), 3.0), atol=1e-2, rtol=0)


class Alone(nn.Module):
    """A network that cannot be joined with others."""

    def __init__(self, shape, num_classes):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_classes, shape[1] * shape[2]) / 8)

    def forward(self, x):
        return x.flatten(1) @ self.weight.T


@pytest.mark.parametrize("network", ["lenet", Alone])
def test_the_loss_of_two_networks_is_the_mean_of_their_losses(network, monkeypatch):
    seen = []
    monkeypatch.setattr(module, "descend", lambda outer, start, *_: seen.append((outer, start)) or (start, [0.0]))
    monkeypatch.setattr(module, "child_seed", lambda seed, *path: 100 + path[-1])
    for count in (2, 1):
        unrolled(FEATURES, DIGITS, BASE, steps=3, **{**QUICK, "count": count, "network": network})
    (both, start), (first, _) = seen
    values, gradients = [], []
    for outer, shift in ((both, 0), (first, 0), (first, 1)):
        monkeypatch.setattr(module, "child_seed", lambda seed, *path, shift=shift: 100 + path[-1] + shift)
        free = start.clone().requires_grad_(True)
        values.append(outer(free, 0))
        gradients.append(free.grad)
    assert values[0] == pytest.approx((values[1] + values[2]) / 2, rel=1e-4)
    torch.testing.assert_close(gradients[0], (gradients[1] + gradients[2]) / 2, rtol=1e-2, atol=1e-6)
    assert values[1] != values[2]


def test_a_derivative_that_is_not_finite_stops():
    def outer(free: torch.Tensor, iteration: int) -> float:
        free.grad = torch.full_like(free, float("nan"))
        return 1.0

    with pytest.raises(NotConvergedError, match="iteration 1 of 5"):
        descend(outer, torch.zeros(2), 5, 0.1)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"iterations": 0}, ParameterRangeError, "iterations must be a whole number"),
        ({"steps": 2.0}, ParameterRangeError, "steps must be a whole number"),
        ({"label_rate": 0.0}, ParameterRangeError, "label_rate must be a positive"),
        ({"recipe": Recipe("mse", optimizer="sgd")}, InvalidInputError, "not 'sgd'"),
        ({"recipe": Recipe("mse", order="fixed")}, InvalidInputError, "order 'shuffled'"),
    ],
)
def test_what_cannot_be(options, error, says):
    with pytest.raises(error, match=says):
        unrolled(FEATURES, DIGITS, BASE, **options)
