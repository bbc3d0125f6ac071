"""Trained extractors, alternation, and the choice between pools."""

import importlib
import json

import pytest
import torch

from convexdistill.data import Preprocessing, load
from convexdistill.distill.alternate import alternate, best_pool, validation_accuracy
from convexdistill.distill.closed_form import closed_form
from convexdistill.distill.target_features import TargetFeatures
from convexdistill.distill.trained import trained_pool
from convexdistill.distilled import fresh_network
from convexdistill.errors import InvalidInputError, ParameterRangeError, UnknownNameError
from convexdistill.features import pool
from convexdistill.moments import Moments, accumulate
from convexdistill.seeds import child_seed
from convexdistill.select import choose
from convexdistill.training import Recipe, train_together

module = importlib.import_module("convexdistill.distill.alternate")  # the name in the package is the function's
DIGITS, VALIDATION = load("digits"), load("digits", "validation")
BASE = choose(DIGITS, 20)
PREPARE = Preprocessing.fit(DIGITS)
LABELS = torch.nn.functional.one_hot(BASE.labels, 10).float() - 0.1
RECIPE = Recipe("mse", label_scale=4.0, steps=6)
POOL = pool("convnet", count=1, width=4)
QUICK = {"recipe": "centred", "label_scale": 8.0, "count": 1}


def test_bodies_are_those_of_a_training_at_its_moments():
    specs = trained_pool(BASE.images, LABELS, PREPARE, RECIPE, count=2, steps=(3, 6), seed=5)
    assert len(specs) == 4
    images = PREPARE(BASE.images)
    for position, spec in enumerate(specs):
        step, k = (3, 6)[position // 2], position % 2
        seed = child_seed(5, "trained", k)
        network = fresh_network("lenet", DIGITS.shape, 10, seed)
        train_together([network], images, 4 * LABELS[None], [RECIPE], [seed], steps=step)
        torch.testing.assert_close(spec.build(DIGITS.shape)(images), network.body(images), rtol=1e-3, atol=1e-4)


def test_a_trained_extractor_says_how_it_came_about():
    first, last = trained_pool(BASE.images, LABELS, PREPARE, RECIPE, count=1)
    record = json.loads(json.dumps(first.to_dict()))
    trained = record["options"]["trained"]
    assert (record["network"], trained["steps"], trained["recipe"]) == ("module/lenet", 3, RECIPE.to_dict())
    assert record["options"]["weights"] != last.to_dict()["options"]["weights"]
    again = trained_pool(BASE.images, LABELS, PREPARE, RECIPE, count=1)[0]
    assert again.to_dict() == record
    other = trained_pool(BASE.images, LABELS + 0.1, PREPARE, RECIPE, count=1)[0]
    assert other.to_dict()["options"]["trained"]["data"] != trained["data"]


def test_moments_of_a_mixed_pool_are_saved_and_come_back(tmp_path):
    specs = [*POOL, *trained_pool(BASE.images, LABELS, PREPARE, RECIPE, count=1)]
    moments = accumulate(specs, DIGITS)
    moments.save(tmp_path / "mixed.safetensors")
    again = Moments.load(tmp_path / "mixed.safetensors", pool=specs)
    expected, found = (closed_form(m, BASE, gamma=0.1).labels for m in (moments, again))
    assert torch.equal(expected, found)


def test_rounds_go_on_while_the_validation_accuracy_rises(monkeypatch):
    pools, accuracies = [], iter([50.0, 60.0, 55.0, 99.0])
    real = module.cross_entropy

    def listen(seen, *arguments, **options):
        pools.append(list(seen.pool))
        return real(seen, *arguments, **options)

    monkeypatch.setattr(module, "cross_entropy", listen)
    monkeypatch.setattr(module, "validation_accuracy", lambda _: next(accuracies))
    distilled = alternate(POOL, DIGITS, BASE, VALIDATION, rounds=3, **QUICK)
    assert distilled.manifest["rounds"] == [50.0, 60.0, 55.0]  # and not a fourth
    assert [len(specs) for specs in pools] == [1, 3, 3]
    assert distilled.manifest["extractors"] == [spec.to_dict() for spec in pools[1]]  # of the best round
    # What was trained in a round was trained on the labels of the round before.
    first, second = (specs[1].to_dict()["options"]["trained"]["data"] for specs in pools[1:])
    assert first != second


def test_the_squared_loss_alternates_as_well():
    distilled = alternate(POOL, DIGITS, BASE, VALIDATION, outer="squared", rounds=1, **QUICK)
    assert (distilled.label_space, distilled.manifest["outer"]) == ("centred", "squared")
    assert len(distilled.manifest["rounds"]) == 2
    assert validation_accuracy(distilled) == max(distilled.manifest["rounds"])


def test_the_best_pool_is_that_of_the_validation_split():
    def solve(specs):
        return closed_form(accumulate(specs, DIGITS), BASE, VALIDATION, gamma=0.1, label_scale=8.0)

    pools = [pool("convnet", count=1, width=width, depth=1) for width in (1, 16)]
    best = best_pool(pools, solve)
    tried = best.manifest["pools"]
    assert [one["extractor"]["options"]["width"] for one in tried] == [1, 16]
    winner = max(tried, key=lambda one: one["validation_mean"])
    assert best.manifest["extractors"][0] == winner["extractor"]


def test_features_of_random_extractors_are_shared_by_rounds_and_base_sets(monkeypatch):
    seen = TargetFeatures.of(POOL, DIGITS)
    alone = alternate(POOL, DIGITS, BASE, VALIDATION, rounds=1, **QUICK)
    monkeypatch.setattr(TargetFeatures, "of", None)  # nothing is computed again
    shared = alternate(seen, DIGITS, BASE, VALIDATION, rounds=1, **QUICK)
    torch.testing.assert_close(shared.labels, alone.labels, rtol=0, atol=1e-5)
    assert shared.manifest["rounds"] == alone.manifest["rounds"]


def test_wrong_input():
    with pytest.raises(InvalidInputError, match="sees the target through moments"):
        alternate(TargetFeatures.of(POOL, DIGITS), DIGITS, BASE, VALIDATION, outer="squared")
    with pytest.raises(ParameterRangeError, match="at least 1 round"):
        alternate(POOL, DIGITS, BASE, VALIDATION, rounds=0)
    with pytest.raises(UnknownNameError, match="'hinge'; known are cross-entropy, squared"):
        alternate(POOL, DIGITS, BASE, VALIDATION, outer="hinge")
    with pytest.raises(InvalidInputError, match="give a validation split"):
        alternate(POOL, DIGITS, BASE, None)
    with pytest.raises(ParameterRangeError, match="no pool"):
        best_pool([], lambda specs: None)
    with pytest.raises(InvalidInputError, match="no validation accuracy"):
        best_pool([POOL], lambda specs: closed_form(accumulate(specs, DIGITS), BASE))
    with pytest.raises(ParameterRangeError, match="moments must be at least 1"):
        trained_pool(BASE.images, LABELS, PREPARE, RECIPE, steps=(0,))
    with pytest.raises(InvalidInputError, match="bodies of networks"):
        trained_pool(BASE.images, LABELS, PREPARE, RECIPE, network=lambda s, c: torch.nn.Flatten())
