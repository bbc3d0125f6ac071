"""Labels through whole trainings: better than where they start, repeatable, and clear about what cannot be."""

import pytest
import torch

from convexdistill.data import load
from convexdistill.distill.target_features import TargetFeatures
from convexdistill.distill.unrolled import descend, free_of, targets_of, unrolled
from convexdistill.distilled import fresh_network
from convexdistill.errors import InvalidInputError, NotConvergedError, ParameterRangeError
from convexdistill.features import pool
from convexdistill.select import choose
from convexdistill.training import Candidate, Recipe, run_trials

DIGITS, VALIDATION = load("digits"), load("digits", "validation")
BASE = choose(DIGITS, 10)
FEATURES = TargetFeatures.of(pool("convnet", count=1, width=8), DIGITS)
QUICK = {"gamma": 0.1, "label_scale": 8.0, "count": 1, "network": "lenet"}


@pytest.mark.parametrize("recipe", ["centred", "paper"])
def test_trainings_end_better_than_on_the_labels_of_the_convex_solve(recipe):
    learned = unrolled(FEATURES, DIGITS, BASE, iterations=30, steps=40, recipe=recipe, **QUICK)
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
    assert learned.recipe.steps in [one["steps"] for one in tried]
    again = unrolled(FEATURES, DIGITS, BASE, VALIDATION, iterations=2, steps=3, recipe="centred", **QUICK)
    assert torch.equal(learned.labels, again.labels)
    assert learned.manifest["outer_losses"] == again.manifest["outer_losses"]


def test_a_given_recipe_stays():
    recipe = Recipe("mse", label_scale=4.0, steps=17, batch_size=5)
    options = {**QUICK, "label_scale": None}
    learned = unrolled(FEATURES, DIGITS, BASE, VALIDATION, iterations=1, steps=2, recipe=recipe, **options)
    assert learned.recipe == recipe


@pytest.mark.parametrize("loss", ["mse", "soft-cross-entropy"])
def test_what_moves_stands_for_the_targets(loss):
    targets = torch.rand(4, 3).softmax(1)
    targets = targets - 1 / 3 if loss == "mse" else targets
    torch.testing.assert_close(targets_of(free_of(targets, loss), loss), targets)


def test_the_descent_ends_with_the_mean_of_its_last_quarter():
    def outer(free: torch.Tensor, iteration: int) -> float:
        loss = (free - 3).square().sum()
        loss.backward()
        return float(loss.detach())

    found, losses = descend(outer, torch.zeros(2), 200, 0.3)
    torch.testing.assert_close(found, torch.full((2,), 3.0), atol=1e-2, rtol=0)
    assert len(losses) == 200
    assert losses[0] == 18


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
