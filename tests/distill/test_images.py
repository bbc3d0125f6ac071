"""Images learned through the ridge layer: gradients, fixed labels, bytes, and that they are worth their while."""

import pytest
import torch
from torch import nn

from convexdistill.data import ImageData, load
from convexdistill.distill import images
from convexdistill.distill.ridge_learner import RidgeLearner, RidgeSettings
from convexdistill.errors import InvalidInputError, UnknownNameError
from convexdistill.features import Network, build_network
from convexdistill.select import choose
from convexdistill.training import accuracies

DIGITS, VALIDATION, TEST = (load("digits", split) for split in ("train", "validation", "test"))
BASE = choose(DIGITS, 10)


def tiny(shape, classes):
    body = nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], 32), nn.ReLU())
    return Network(body, classes, shape)


def test_the_gradient_reaches_the_pixels_through_ridge_and_features():
    learner = RidgeLearner(
        lambda seed: build_network("lenet", (1, 8, 8), 4, seed=seed).double(),
        RidgeSettings(average_rate=1.0),
        "cpu",
    )
    draw = torch.Generator().manual_seed(0)
    base = torch.rand(5, 1, 8, 8, generator=draw, dtype=torch.float64, requires_grad=True)
    labels = torch.rand(5, 4, generator=draw, dtype=torch.float64, requires_grad=True)
    target = torch.rand(6, 1, 8, 8, generator=draw, dtype=torch.float64)
    learner.restart(0)

    def logits(pixels, soft):
        return learner.outer(pixels, soft, target)

    assert torch.autograd.gradcheck(logits, (base, labels))


@pytest.fixture(scope="module")
def learned():
    # Fresh frozen extractors in quick succession: pixels that follow one network teach no other.
    options = {"freeze_extractor": True, "average_rate": 1.0, "window": 10, "rate": 0.01, "network_rate": 5e-3}
    return images(DIGITS, BASE, VALIDATION, network=tiny, epochs=25, batch_size=200, **options)


def test_learned_images_teach_more_than_the_ones_they_started_from(learned):
    def mean_accuracy(one):
        networks = [one.train(tiny, seed, device="cpu").network for seed in range(5)]
        return sum(accuracies(networks, TEST, one.preprocessing, torch.device("cpu"))) / 5

    real = type(learned)(
        BASE.images, learned.labels, "probability", learned.indices, learned.base_labels, learned.manifest
    )
    assert mean_accuracy(learned) > mean_accuracy(real) + 5


def test_labels_stay_one_hot_and_the_set_says_where_its_images_started(learned):
    assert torch.equal(learned.labels, nn.functional.one_hot(BASE.labels, 10).float())
    assert torch.equal(learned.indices, BASE.indices)
    assert torch.equal(learned.base_labels, BASE.labels)
    assert learned.images.dtype == torch.uint8
    assert (learned.images != BASE.images).any()
    settings = learned.manifest["settings"]
    assert (learned.manifest["method"], settings["start"], settings["learn_labels"]) == ("images", "base", False)


def test_labels_move_along_where_they_may_and_a_killed_run_goes_on(tmp_path):
    options = {"network": tiny, "batch_size": 300, "start": "noise", "learn_labels": True, "rate": 0.01}
    whole = images(DIGITS, BASE, VALIDATION, epochs=6, validate_every=2, **options)
    path = tmp_path / "checkpoint"
    images(DIGITS, BASE, VALIDATION, epochs=4, validate_every=2, checkpoint=path, **options)
    resumed = images(DIGITS, BASE, VALIDATION, epochs=6, validate_every=2, checkpoint=path, **options)
    assert torch.equal(whole.images, resumed.images)
    assert torch.equal(whole.labels, resumed.labels)
    assert (whole.labels - nn.functional.one_hot(BASE.labels, 10)).abs().max() > 0.01
    with pytest.raises(InvalidInputError, match='start: "noise" there, "base" now'):
        images(DIGITS, BASE, VALIDATION, checkpoint=path, **{**options, "start": "base"})


def test_images_of_other_classes_need_learned_labels():
    other = ImageData(DIGITS.images, DIGITS.labels, tuple("abcdefghij"), name="letters", split="train")
    base = choose(other, 10)
    with pytest.raises(InvalidInputError, match="learn_labels=True"):
        images(DIGITS, base, network=tiny)
    learned = images(DIGITS, base, network=tiny, learn_labels=True, epochs=1, batch_size=300)
    assert learned.is_cross
    with pytest.raises(UnknownNameError, match="unknown start"):
        images(DIGITS, BASE, network=tiny, start="zeros")
