"""The online methods do what the paper says, step for step, and end the same however often they are killed."""

import online_restated as restated
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convexdistill.data import Preprocessing, load
from convexdistill.distill import online_ridge, second_order
from convexdistill.distill.online import RestartRule
from convexdistill.distilled import fresh_network
from convexdistill.features import build_network
from convexdistill.files import read_tensors
from convexdistill.select import choose

TARGET = load("digits").subset(range(330))
BASE = choose(TARGET, 20, seed=3)
# 50 steps: 10 epochs of 5 minibatches, the last of them short; a window so narrow that networks restart.
SHORT = {"epochs": 10, "batch_size": 70, "inner_batch_size": 12, "window": 4, "seed": 5, "label_rate": 1e-3}


def double_lenet(shape, classes):
    return build_network("lenet", shape, classes, seed=int(torch.randint(2**31, ()))).double()


def fresh(seed):
    return fresh_network(double_lenet, TARGET.shape, 10, seed)


def normalised(images):
    prepare = Preprocessing.fit(TARGET)
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (prepare.mean, prepare.std))
    return (images.double() / 255 - mean) / std


# All labels alike make all logits alike, and their arg-max a matter of rounding: these differ a little.
START = torch.rand(20, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).add(5)
START /= START.sum(1, keepdim=True)


def restate(algorithm, **options):
    sizes = {"batch": 70, "inner": 12, "epochs": 10, "window": 4, "seed": 5, "start_at": START}
    images, target_images = normalised(BASE.images), normalised(TARGET.images)
    return algorithm(fresh, images, target_images, TARGET.labels, **sizes, **options)


def state_of(path):
    tensors, facts = read_tensors(path, kind="online-checkpoint", version=1)
    return tensors, facts["rule"]["lengths"]


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "options",
    [{}, {"backend": "torch"}, {"freeze_extractor": True}],
    ids=["default", "torch", "frozen"],
)
def test_fifty_steps_of_online_ridge_are_those_of_the_paper(tmp_path, options):
    path = tmp_path / "checkpoint"
    distilled = online_ridge(
        TARGET, BASE, network=double_lenet, initial_labels=START, checkpoint=path, **SHORT, **options
    )
    labels, w, scale, body, lengths = restate(restated.ridge, frozen=options.get("freeze_extractor", False))
    tensors, found_lengths = state_of(path)
    assert found_lengths == lengths
    assert lengths, "no restart was seen"
    close(tensors["learned.labels"], labels)
    close(tensors["learner.weight"], w[:-1])
    close(tensors["learner.bias"], w[-1])
    close(tensors["learner.scale"], scale)
    for name, value in body.items():
        close(tensors[f"learner.network.body.{name}"], value)
    close(distilled.labels, labels.float())
    assert (labels - START).abs().max() > 1e-2  # they did move


@pytest.mark.parametrize("inner_steps", [1, 3])
def test_fifty_steps_of_second_order_are_those_of_the_paper(tmp_path, inner_steps):
    path = tmp_path / "checkpoint"
    options = {"inner_steps": inner_steps}
    distilled = second_order(
        TARGET, BASE, network=double_lenet, initial_labels=START, checkpoint=path, **SHORT, **options
    )
    labels, network, lengths = restate(restated.second_order, **options)
    tensors, found_lengths = state_of(path)
    assert found_lengths == lengths
    assert lengths, "no restart was seen"
    close(tensors["learned.labels"], labels)
    for name, value in network.items():
        close(tensors[f"learner.network.{name}"], value)
    close(distilled.labels, labels.float())
    assert (labels - START).abs().max() > 1e-2


@settings(deadline=None)
@given(
    st.integers(1, 6),
    st.lists(st.integers(0, 8).map(lambda k: 12.5 * k), max_size=60),  # whose sums are exact
)
def test_the_restart_rule_is_that_of_the_paper(window, errors):
    rule = RestartRule(window)
    restarts = [step for step, error in enumerate(errors) if rule.record(error)]
    lengths, expected = restated.naive_restarts(errors, window)
    assert (rule.lengths, restarts) == (lengths, expected)
    steps = len(errors) - (restarts[-1] + 1 if restarts else 0)
    assert rule.steps == steps
    recent = lengths[-3:]
    assert rule.training_length == (int(sum(recent) / len(recent)) if recent else steps)


@settings(deadline=None)
@given(st.integers(1, 5), st.lists(st.floats(0, 100), max_size=30), st.lists(st.floats(0, 100), max_size=30))
def test_the_restart_rule_goes_on_from_its_state(window, before, after):
    one = RestartRule(window)
    for error in before:
        one.record(error)
    other = RestartRule(window)
    other.load(one.state())
    assert [one.record(error) for error in after] == [other.record(error) for error in after]
    assert one.state() == other.state()
