import dataclasses
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convexdistill.data import Preprocessing, load
from convexdistill.errors import FileFormatError, ParameterRangeError, UnknownNameError
from convexdistill.features import build_network
from convexdistill.select import choose
from convexdistill.training import (
    LOSSES,
    OPTIMIZERS,
    Candidate,
    Recipe,
    accuracies,
    minibatches,
    run_trials,
    train_together,
    training_steps,
    trials,
)

DIGITS, VALIDATION = load("digits"), load("digits", "validation")
PREPARE = Preprocessing.fit(DIGITS)
BASE = choose(DIGITS, 20)
HOT = torch.nn.functional.one_hot(BASE.labels, 10).float()
CPU = torch.device("cpu")
SEEDS = [3, 4]


def build(seed):
    return build_network("lenet", DIGITS.shape, 10, seed=seed)


def candidates():
    return [
        Candidate("one-hot", HOT, Recipe("soft-cross-entropy")),
        Candidate("centred", HOT - 0.1, Recipe("mse", label_scale=4.0)),
        Candidate("noise", HOT[torch.randperm(20)], Recipe("mse", label_scale=4.0)),
    ]


def run(chosen=None, validation=VALIDATION):
    chosen = chosen or candidates()
    return run_trials(chosen, BASE.images, PREPARE, validation, build, SEEDS, device=CPU, description="test")


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 30), st.integers(0, 99))
def test_no_example_comes_twice_in_a_pass(size, batch_size, steps, seed):
    order = minibatches(size, batch_size, steps, seed)
    batch = min(size, batch_size)
    assert order.shape == (steps, batch)
    assert int(order.min()) >= 0
    assert int(order.max()) < size
    per_pass = size // batch
    for start in range(0, steps, per_pass):
        seen = order[start : start + per_pass].flatten().tolist()
        assert len(seen) == len(set(seen))


def test_minibatches_follow_from_the_seed_and_passes_differ():
    first, again, other = (minibatches(20, 10, 6, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[:2], first[2:4])
    assert torch.equal(minibatches(20, 10, 3, 0), first[:3])


def test_losses_are_their_formulas():
    logits, targets = torch.randn(2, 5, 4), torch.randn(2, 5, 4).softmax(-1)
    for k in range(2):
        expected = torch.nn.functional.cross_entropy(logits[k], targets[k])
        torch.testing.assert_close(LOSSES["soft-cross-entropy"](logits, targets)[k], expected)
        expected = torch.nn.functional.mse_loss(logits[k], targets[k])
        torch.testing.assert_close(LOSSES["mse"](logits, targets)[k], expected)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_recipes_survive_json(optimizer):
    recipe = Recipe("mse", label_scale=2.5, steps=7, batch_size=3, optimizer=optimizer)
    assert recipe.learning_rate == OPTIMIZERS[optimizer][1]
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    later = dataclasses.replace(recipe, loss="kl", temperature=4.0, augmentation="shift", order="fixed")
    assert Recipe.from_dict(json.loads(json.dumps(later.to_dict()))) == later


def test_a_manifest_holds_no_setting_that_older_programs_do_not_know_unless_it_is_used():
    assert set(Recipe("mse").to_dict()) == {
        *("loss", "label_scale", "steps", "batch_size", "optimizer", "learning_rate"),
    }


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"loss": "hinge"}, UnknownNameError, "unknown loss 'hinge'; known are soft-cross-entropy, mse, kl"),
        ({"optimizer": "lion"}, UnknownNameError, "unknown optimizer 'lion'; known are adam, adamw, sgd"),
        ({"order": "random"}, UnknownNameError, "unknown order 'random'; known are shuffled, fixed"),
        ({"augmentation": "mixup"}, UnknownNameError, "unknown augmentation 'mixup'; known are none, mirror"),
        ({"temperature": 0.0}, ParameterRangeError, "temperature must be positive"),
        ({"steps": 0}, ParameterRangeError, "found 0 and 50"),
        ({"batch_size": 0}, ParameterRangeError, "found 300 and 0"),
        ({"label_scale": 0.0}, ParameterRangeError, "label scale must be positive"),
        ({"label_scale": math.nan}, ParameterRangeError, "label scale must be positive"),
        ({"label_scale": math.inf}, ParameterRangeError, "label scale must be positive"),
        ({"learning_rate": -1.0}, ParameterRangeError, "learning rate not negative"),
        ({"learning_rate": math.nan}, ParameterRangeError, "learning rate not negative"),
        ({"learning_rate": math.inf}, ParameterRangeError, "learning rate not negative"),
    ],
)
def test_recipes_that_cannot_be(values, error, words):
    with pytest.raises(error, match=words):
        Recipe(**{"loss": "mse", **values})
    with pytest.raises(FileFormatError, match="the recipe cannot be used"):
        Recipe.from_dict({**Recipe("mse").to_dict(), **values})


@pytest.mark.parametrize("values", [{}, None, [1], {**Recipe("mse").to_dict(), "momentum": 1}, {"loss": "mse"}])
def test_damaged_recipes_are_refused(values):
    with pytest.raises(FileFormatError, match="a recipe has the keys"):
        Recipe.from_dict(values)


@pytest.mark.parametrize("values", [{"steps": "x"}, {"label_scale": None}, {"batch_size": 2.5}, {"steps": True}])
def test_recipes_with_values_of_another_kind_are_refused(values):
    with pytest.raises(FileFormatError, match="the recipe cannot be used"):
        Recipe.from_dict({**Recipe("mse").to_dict(), **values})


@given(st.integers(1, 10_000))
def test_the_steps_that_are_tried_rise(size):
    steps = training_steps(size)
    assert steps == sorted(set(steps))
    assert steps[0] >= 1


def test_the_validation_split_picks_the_steps():
    # Everything again with bare hands: the accuracy at each checkpoint, its mean over seeds, the best.
    found = run()
    steps = training_steps(20)
    for candidate, trial in zip(candidates()[:2], found[:2], strict=True):
        by_step = {}

        def look(members, joint, step, by_step=by_step):
            right = joint.predict(PREPARE(VALIDATION.images)).argmax(-1) == VALIDATION.labels
            by_step[step] = (right.double().mean(1) * 100).tolist()

        targets = (candidate.labels * candidate.recipe.label_scale).expand(2, -1, -1)
        train_together(
            [build(seed) for seed in SEEDS],
            PREPARE(BASE.images),
            targets,
            [candidate.recipe] * 2,
            SEEDS,
            steps=steps[-1],
            checkpoints=steps,
            visit=look,
        )
        best = max(sum(scores) for scores in by_step.values())
        assert sum(by_step[trial.steps]) >= best - 2.0  # half a percent a network: rounding of two programs
        assert trial.validation == pytest.approx(by_step[trial.steps], abs=2.0)


@pytest.fixture
def made_up_accuracies(monkeypatch):
    """Let the networks predict as if their accuracies were those of a table, by step and network."""
    tables = {}

    def pretend(networks, *rest, steps, checkpoints, visit, **more):
        class Joint:
            def predict(self, seen):
                right = torch.arange(len(truth)) < torch.tensor(tables[self.step])[:, None]
                return torch.nn.functional.one_hot((truth + ~right) % 10, 10)

            def member_state(self, k):
                state = {name: value.clone() for name, value in networks[k].state_dict().items()}
                return {**state, "head.bias": torch.full((10,), float(self.step))}

        joint = Joint()
        for joint.step in checkpoints:
            visit(list(range(len(networks))), joint, joint.step)

    truth = trials.validation_part(VALIDATION).labels
    monkeypatch.setattr(trials, "train_together", pretend)
    return tables


@pytest.mark.parametrize(
    ("right", "best"),
    [
        ([(10, 10), (50, 10), (40, 30), (20, 20), (60, 0)], 2),  # the best mean, not the best network
        ([(1, 1), (9, 9), (9, 9), (3, 3), (9, 9)], 1),  # the fewest steps of equals
        ([(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)], 4),
        ([(5, 5), (4, 4), (3, 3), (2, 2), (1, 1)], 0),
    ],
)
def test_the_best_mean_wins_and_the_fewest_steps_of_equals(made_up_accuracies, right, best):
    steps = training_steps(20)
    made_up_accuracies.update(zip(steps, right, strict=True))
    (trial,) = run(candidates()[:1])
    assert trial.steps == steps[best]
    assert trial.validation == pytest.approx([100 * r / len(VALIDATION) for r in right[best]], abs=1e-4)
    for network in trial.networks:
        assert network.head.bias[0].item() == steps[best]


def test_the_networks_returned_are_those_of_the_reported_accuracy():
    for trial in run():
        again = accuracies(trial.networks, VALIDATION, PREPARE, CPU)
        assert again == pytest.approx(trial.validation, abs=0.6)  # one image of 179


def test_candidates_are_paired_and_do_not_disturb_each_other():
    same = Candidate("again", HOT - 0.1, Recipe("mse", label_scale=4.0))
    together = run([*candidates()[:2], same])
    assert together[1].validation == together[2].validation  # one label set twice: same weights, same order
    alone = run([same])
    assert alone[0].validation == pytest.approx(together[1].validation, abs=1.2)


def test_avalidation_part_of_a_large_validation_split_is_looked_at(monkeypatch):
    monkeypatch.setattr(trials, "VALIDATION_IMAGES", 50)
    part = trials.validation_part(VALIDATION)
    assert len(part) == 50
    assert torch.equal(part.images, trials.validation_part(VALIDATION).images)
    assert len(part.labels.unique()) > 5  # not the first 50 of a sorted split


def test_accuracies_are_shares_of_right_answers():
    nets = [build(seed) for seed in (0, 1)]
    for net, label in zip(nets, (3, 7), strict=True):
        net.head.weight.data.zero_()
        net.head.bias.data = torch.eye(10)[label]
    expected = [100 * VALIDATION.counts[label] / len(VALIDATION) for label in (3, 7)]
    assert accuracies(nets, VALIDATION, PREPARE, CPU) == pytest.approx(expected)


def test_accuracies_of_networks_that_cannot_be_joined():
    class Own(torch.nn.Module):
        def __init__(self, label):
            super().__init__()
            self.label = label

        def forward(self, images):
            return torch.nn.functional.one_hot(torch.full((len(images),), self.label), 10).float()

    expected = [100 * VALIDATION.counts[label] / len(VALIDATION) for label in (2, 5)]
    assert accuracies([Own(2), Own(5)], VALIDATION, PREPARE, CPU) == pytest.approx(expected)


def test_the_base_examples_and_labels_are_left_alone():
    chosen = candidates()
    before = [BASE.images.clone(), *(c.labels.clone() for c in chosen)]
    run(chosen, dataclasses.replace(VALIDATION))
    assert all(map(torch.equal, before, [BASE.images, *(c.labels for c in chosen)]))
