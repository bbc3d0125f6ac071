"""The online methods as their users meet them: kills, resumes, wrong input, what the set says of itself."""

import json

import pytest
import torch
from torch import nn

from convexdistill.data import Preprocessing, load
from convexdistill.distill import online_ridge, second_order, train_ridge
from convexdistill.distill.online import Learned, Schedule, builder
from convexdistill.distill.online import loop as online_loop
from convexdistill.distill.ridge_learner import RidgeLearner, RidgeSettings
from convexdistill.distill.second_order import SecondOrderLearner
from convexdistill.distilled import load as load_set
from convexdistill.errors import (
    FileFormatError,
    InvalidInputError,
    NotConvergedError,
    ParameterRangeError,
    ShapeError,
    UnknownNameError,
)
from convexdistill.features import Network, build_network
from convexdistill.select import choose

DIGITS, VALIDATION = load("digits"), load("digits", "validation")
TARGET, PART = DIGITS.subset(range(300)), VALIDATION.subset(range(100))
BASE = choose(TARGET, 20)
TARGET_PREPROCESSING = Preprocessing.fit(TARGET)
METHODS = pytest.mark.parametrize("method", [online_ridge, second_order])
SHORT = {"epochs": 4, "batch_size": 100, "window": 3, "validate_every": 2, "seed": 1}


def tiny(shape, classes):
    body = nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], 6), nn.Tanh())
    return Network(body, classes, shape)


def run(method, **options):
    return method(TARGET, BASE, PART, **{"network": tiny, **SHORT, **options})


class KilledError(Exception):
    """Stands for kill -9: nothing after it is written."""


@METHODS
@pytest.mark.parametrize("network", [tiny, "resnet"], ids=["tiny", "resnet"])
def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path, monkeypatch, method, network):
    options = {"network": network, "epochs": 3, "validate_every": 1} if network == "resnet" else {}
    whole = run(method, **options)
    path = tmp_path / "deep" / "checkpoint"
    step, left = online_loop.Run._step, iter(range(7))

    def until_killed(self, batch, rows):
        if next(left, None) is None:
            raise KilledError
        step(self, batch, rows)

    monkeypatch.setattr(online_loop.Run, "_step", until_killed)
    with pytest.raises(KilledError):
        run(method, checkpoint=path, **options)
    monkeypatch.setattr(online_loop.Run, "_step", step)
    seen = []
    epoch = online_loop.Run.do_epoch
    monkeypatch.setattr(
        online_loop.Run, "do_epoch", lambda self, advance: (seen.append(self.epoch), epoch(self, advance))
    )
    resumed = run(method, checkpoint=path, **options)
    assert seen[0] == 2  # seven steps are two epochs of three, and one step that is done again
    assert torch.equal(resumed.labels, whole.labels)
    for fact in ("curve", "restarts", "best_epoch", "recipe", "settings", "certificate"):
        assert resumed.manifest[fact] == whole.manifest[fact]
    seen.clear()
    assert torch.equal(run(method, checkpoint=path, **options).labels, whole.labels)
    assert not seen  # a finished run has nothing left to do


@METHODS
def test_a_finished_run_can_be_made_longer(tmp_path, method):
    path = tmp_path / "checkpoint"
    run(method, checkpoint=path)
    longer = run(method, checkpoint=path, epochs=6)
    assert torch.equal(longer.labels, run(method, epochs=6).labels)
    with pytest.raises(InvalidInputError, match="after 6 epochs, more than the 4"):
        run(method, checkpoint=path)


@METHODS
def test_a_checkpoint_of_other_settings_is_refused_with_the_difference(tmp_path, method):
    path = tmp_path / "checkpoint"
    run(method, checkpoint=path)
    with pytest.raises(InvalidInputError, match=r"label_rate: 0\.001 there, 0\.01 now; .*seed: 1 there, 2 now"):
        run(method, checkpoint=path, seed=2, label_rate=0.01)
    with pytest.raises(InvalidInputError, match="base: "):
        method(TARGET, choose(TARGET, 20, seed=9), PART, network=tiny, checkpoint=path, **SHORT)


def test_a_checkpoint_of_the_other_method_or_a_damaged_one_is_refused(tmp_path):
    path = tmp_path / "checkpoint"
    run(online_ridge, checkpoint=path)
    with pytest.raises(InvalidInputError, match='method: "online-ridge" there, "second-order" now'):
        run(second_order, checkpoint=path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(FileFormatError, match="not a whole safetensors file"):
        run(online_ridge, checkpoint=path)


@METHODS
def test_the_set_keeps_the_labels_of_the_best_validation(tmp_path, method):
    distilled = run(method, epochs=10, label_rate=0.05)
    curve = distilled.manifest["curve"]
    assert [point["epoch"] for point in curve] == [2, 4, 6, 8, 10]
    best = max(range(5), key=lambda k: (curve[k]["validation_mean"], k))  # the later of equals
    assert distilled.manifest["best_epoch"] == curve[best]["epoch"]
    assert distilled.recipe.steps == curve[best]["steps"]
    shorter = run(method, epochs=curve[best]["epoch"], label_rate=0.05)
    assert torch.equal(distilled.labels, shorter.labels)


@METHODS
def test_the_set_can_be_saved_and_says_how_it_was_made(tmp_path, method):
    distilled = run(method)
    distilled.save(tmp_path / "set.safetensors")
    again = load_set(tmp_path / "set.safetensors")
    manifest = json.loads(json.dumps(again.manifest))
    assert again.label_space == "probability"
    assert (again.labels >= 0).all()
    torch.testing.assert_close(again.labels.sum(1), torch.ones(20))
    assert torch.equal(again.images, BASE.images)
    assert torch.equal(again.indices, BASE.indices)
    recipe = {"loss": "soft-cross-entropy", "optimizer": "adam", "learning_rate": 1e-3, "batch_size": 10}
    assert recipe.items() <= manifest["recipe"].items()
    assert manifest["settings"]["epochs"] == 4
    assert manifest["target"]["parts"] == [TARGET.fingerprint]
    assert manifest["restarts"] == distilled.manifest["restarts"]
    assert manifest["seconds"] > 0


def test_without_a_validation_split_the_last_labels_are_kept():
    distilled = online_ridge(TARGET, BASE, network=tiny, **SHORT)
    assert distilled.manifest["best_epoch"] == 4
    assert distilled.manifest["curve"][-1]["validation_mean"] is None


def test_the_cvxpylayers_backend_walks_the_same_way():
    options = {"epochs": 1, "batch_size": 100, "validate_every": 1}
    ours, theirs = (
        online_ridge(TARGET, BASE, network=tiny, backend=b, **options) for b in ("torch", "cvxpylayers")
    )
    assert (ours.labels - 0.1).abs().max() > 1e-3
    torch.testing.assert_close(ours.labels, theirs.labels, rtol=0, atol=1e-4)
    assert theirs.manifest["settings"]["backend"] == "cvxpylayers"


def test_a_frozen_extractor_stays_as_it_was_drawn():
    frozen, free = (
        RidgeLearner(builder(tiny, TARGET.shape, 10), RidgeSettings(freeze_extractor=freeze), "cpu")
        for freeze in (True, False)
    )
    images, labels = torch.rand(8, 1, 8, 8), torch.full((8, 10), 0.1)
    for learner in (frozen, free):
        learner.restart(0)
        before = learner.network.body[1].weight.detach().clone()
        for _ in range(3):
            learner.outer(images, labels, images)
            learner.update(labels)
        assert torch.equal(before, learner.network.body[1].weight) == (learner is frozen)
        assert learner.weight.abs().max() > 0


def test_target_features_carry_no_gradient_and_pieces_change_nothing():
    learner = RidgeLearner(builder("lenet", TARGET.shape, 10), RidgeSettings(), "cpu")
    learner.restart(0)
    images, labels = torch.rand(8, 1, 8, 8), torch.full((8, 10), 0.1, requires_grad=True)
    target = torch.rand(300, 1, 8, 8, requires_grad=True)
    logits = learner.outer(images, labels, target)
    assert torch.autograd.grad(logits.sum(), target, allow_unused=True, retain_graph=True) == (None,)
    features = learner.network.body(target)
    torch.testing.assert_close(logits, features @ learner.weight + learner.bias)


@pytest.mark.parametrize("inner_steps", [1, 2])
def test_second_derivatives_agree_with_finite_differences(inner_steps):
    learner = SecondOrderLearner(
        lambda seed: build_network("lenet", (1, 8, 8), 4, seed=seed).double(), 0.5, inner_steps, device="cpu"
    )
    learner.restart(0)
    draw = torch.Generator().manual_seed(1)
    images = torch.rand(5, 1, 8, 8, generator=draw, dtype=torch.float64)
    targets = torch.rand(7, 1, 8, 8, generator=draw, dtype=torch.float64)
    labels = torch.rand(5, 4, generator=draw, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: learner.outer(images, y, targets), labels)


def test_batch_normalisation_sees_whole_batches():
    learner = SecondOrderLearner(builder("resnet", (1, 8, 8), 3), device="cpu")
    learner.restart(0)
    target = torch.rand(300, 1, 8, 8)
    whole = learner.outer(torch.rand(6, 1, 8, 8), torch.full((6, 3), 1 / 3), target)
    assert learner.whole
    assert not torch.allclose(whole[:128], learner.network(target[:128]), atol=1e-3)


def test_networks_are_trained_by_ridge_on_the_labels():
    distilled = online_ridge(DIGITS, choose(DIGITS, 50), network=tiny, epochs=8, batch_size=100, label_rate=0.05)
    network = train_ridge(distilled, tiny, seed=3, steps=60)
    test = load("digits", "test")
    accuracy = float((network(test.images).argmax(1) == test.labels).float().mean())
    assert accuracy > 0.5
    again = train_ridge(distilled, tiny, seed=3, steps=60)
    assert torch.equal(again(test.images), network(test.images))


def test_pixels_and_labels_stay_in_their_sets_and_an_emptied_row_starts_again():
    learned = Learned(
        torch.full((2, 1, 8, 8), 0.99),
        torch.tensor([[0.5, 0.5], [0.9, 0.1]]),
        TARGET_PREPROCESSING,
        rate=0.6,
        learn_images=True,
    )
    learned.step([torch.tensor([[1.0, 1.0], [1.0, -1.0]]), -torch.ones(2, 1, 8, 8)])
    torch.testing.assert_close(learned.labels.detach(), torch.tensor([[0.5, 0.5], [0.3, 0.7]]))
    assert learned.pixels.max() == 1


@pytest.mark.parametrize(
    ("size", "classes", "expected"),
    [
        # the paper's table: base examples, classes, (epochs, inner minibatch, window)
        *((n, 10, (400, inner, 50)) for n, inner in ((10, 10), (20, 10), (50, 25), (100, 50))),
        *((n, 10, (800, 50, 200)) for n in (200, 500)),
        (100, 100, (400, 100, 100)),
        *((n, 49, (400, inner, 100)) for n, inner in ((10, 10), (20, 10), (50, 25), (100, 50))),
        (3, 2, (400, 3, 50)),
    ],
)
def test_what_is_left_open_is_the_papers_choice(size, classes, expected):
    schedule = Schedule().filled(size, classes)
    assert (schedule.epochs, schedule.inner_batch_size, schedule.window) == expected


@METHODS
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"epochs": 0}, ParameterRangeError, "epochs must be a whole number"),
        ({"batch_size": 1.5}, ParameterRangeError, "batch_size"),
        ({"inner_batch_size": -1}, ParameterRangeError, "inner_batch_size"),
        ({"window": 0}, ParameterRangeError, "window"),
        ({"label_rate": 0.0}, ParameterRangeError, "label_rate must be a positive number"),
        ({"network_rate": float("nan")}, ParameterRangeError, "network_rate"),
        ({"network": "perceptron"}, UnknownNameError, "unknown network 'perceptron'"),
        ({"device": "abacus"}, UnknownNameError, "unknown device"),
        ({"initial_labels": torch.full((20, 9), 1 / 9)}, ShapeError, r"must be \(20, 10\)"),
        ({"initial_labels": torch.ones(20, 10)}, ParameterRangeError, "probabilities"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, method, options, error, words):
    path = tmp_path / "checkpoint"
    with pytest.raises(error, match=words):
        run(method, checkpoint=path, **options)
    assert not path.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lam": 0.0}, "lam"),
        ({"average_rate": 2.0}, "average_rate is the share"),
        ({"calibration_rate": -1.0}, "calibration_rate"),
    ],
)
def test_wrong_settings_of_online_ridge_are_refused(options, words):
    with pytest.raises(ParameterRangeError, match=words):
        run(online_ridge, **options)


@pytest.mark.parametrize(
    ("options", "words"), [({"inner_rate": 0.0}, "inner_rate"), ({"inner_steps": 0}, "inner_steps")]
)
def test_wrong_settings_of_second_order_are_refused(options, words):
    with pytest.raises(ParameterRangeError, match=words):
        run(second_order, **options)


def test_a_network_without_body_and_head_is_refused():
    with pytest.raises(InvalidInputError, match="a body and a head"):
        run(online_ridge, network=lambda shape, classes: nn.Sequential(nn.Flatten(), nn.Linear(64, classes)))


@METHODS
def test_data_that_may_not_choose_or_does_not_fit_is_refused(method):
    test = load("digits", "test")
    with pytest.raises(InvalidInputError, match="test split"):
        method(TARGET, BASE, test, **SHORT)
    with pytest.raises(InvalidInputError, match="test split"):
        method(test, BASE, **SHORT)
    other = type(PART)(PART.images, PART.labels, tuple("abcdefghij"), name="other", split="validation")
    with pytest.raises(InvalidInputError, match="validation has the classes"):
        method(TARGET, BASE, other, **SHORT)
    wide = type(PART)(PART.images[..., :7], PART.labels, PART.classes, name="wide", split="validation")
    with pytest.raises(InvalidInputError, match="validation has images of"):
        method(TARGET, BASE, wide, **SHORT)


@METHODS
def test_a_loss_that_is_no_number_stops_the_run(method):
    def broken(shape, classes):
        network = tiny(shape, classes)
        network.body[1].weight.data.fill_(float("inf"))
        return network

    with pytest.raises((NotConvergedError, InvalidInputError)):
        run(method, network=broken)
