import dataclasses
import json
from importlib.metadata import version

import pytest
import torch
from torch import nn

from convexdistill.data import ImageData, load
from convexdistill.distill import METHODS, choose, closed_form
from convexdistill.distill.closed_form import DEFAULT_GAMMA, GAMMAS
from convexdistill.distill.constrained import solve_constrained
from convexdistill.distill.forms import LABEL_SCALES
from convexdistill.distill.outer import outer_terms
from convexdistill.distill.preview import SHORTLIST
from convexdistill.distill.solve import label_system, solve_labels
from convexdistill.errors import InvalidInputError, ParameterRangeError, UnknownNameError, UnsupportedError
from convexdistill.features import pool
from convexdistill.moments import accumulate
from convexdistill.select import choose as choose_base
from convexdistill.training import Recipe, training_steps

DIGITS, VALIDATION = load("digits"), load("digits", "validation")
MOMENTS = accumulate(pool("convnet", count=2, width=4), DIGITS)
BASE = choose_base(DIGITS, 20)


def small(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))


def chosen(**options):
    return closed_form(MOMENTS, BASE, VALIDATION, network=small, **options)


def test_the_labels_are_those_of_the_solve():
    distilled = closed_form(MOMENTS, BASE, gamma=0.3, lam=1e-2)
    expected, certificate = solve_labels(label_system(outer_terms(MOMENTS, BASE, 1e-2)), 0.3)
    assert torch.equal(distilled.labels, expected.float())
    assert distilled.label_space == "centred"
    assert distilled.manifest["certificate"]["objective"] == certificate["objective"]


def test_the_set_says_where_everything_comes_from():
    distilled = closed_form(MOMENTS, BASE, gamma=0.3, lam=1e-2, seed=4)
    manifest = json.loads(json.dumps(distilled.manifest))  # nothing that JSON cannot hold
    assert torch.equal(distilled.images, BASE.images)
    assert torch.equal(distilled.indices, BASE.indices)
    assert torch.equal(distilled.base_labels, BASE.labels)
    assert manifest["target"]["parts"] == [DIGITS.fingerprint] == [manifest["source"]["fingerprint"]]
    assert (manifest["lam"], manifest["gamma"], manifest["prior"], manifest["seed"]) == (1e-2, 0.3, "zero", 4)
    assert manifest["extractors"] == [spec.to_dict() for spec in MOMENTS.pool]
    assert manifest["selection"] == {"method": "random", "balanced": True, "seed": 0}
    assert manifest["versions"]["torch"] == version("torch")
    assert set(distilled.baselines) == {"teacher"}


def test_without_a_validation_split_the_defaults_are_taken():
    distilled = closed_form(MOMENTS, BASE)
    assert (distilled.manifest["gamma"], distilled.manifest["prior"]) == (DEFAULT_GAMMA, "zero")
    assert distilled.recipe == Recipe("mse", LABEL_SCALES[-1], training_steps(20)[-1])
    assert distilled.manifest["chosen_from"] == []


def test_the_validation_split_chooses_the_best_that_was_tried():
    distilled = chosen()
    tried = distilled.manifest["chosen_from"]
    # Every prior and γ by a ridge head; the best two under the larger scale, then the best under the others.
    previewed = distilled.manifest["previewed"]
    assert [(t["prior"], t["gamma"]) for t in previewed] == [(p, g) for p, gs in GAMMAS.items() for g in gs]
    first, second = tried[:SHORTLIST], tried[SHORTLIST:]
    accuracy = {(t["prior"], t["gamma"]): t["accuracy"] for t in previewed}
    kept = [accuracy.pop((t["prior"], t["gamma"])) for t in first]
    assert min(kept) >= max(accuracy.values())
    assert {t["label_scale"] for t in first} == {LABEL_SCALES[-1]}
    winner = max(first, key=lambda t: t["validation_mean"])
    assert [(t["prior"], t["gamma"], t["label_scale"]) for t in second] == [
        (winner["prior"], winner["gamma"], scale) for scale in LABEL_SCALES[:-1]
    ]
    best = max(tried, key=lambda t: t["validation_mean"])
    manifest = distilled.manifest
    assert (manifest["gamma"], manifest["prior"]) == (best["gamma"], best["prior"])
    assert (distilled.recipe.label_scale, distilled.recipe.steps) == (best["label_scale"], best["steps"])
    assert best["steps"] in training_steps(20)


def test_what_is_given_is_kept():
    distilled = chosen(gamma=0.77, label_scale=3.0)
    assert (distilled.manifest["gamma"], distilled.recipe.label_scale) == (0.77, 3.0)
    assert len(distilled.manifest["chosen_from"]) == 1
    assert chosen(prior="teacher", label_scale=3.0).manifest["prior"] == "teacher"
    recipe = Recipe("mse", label_scale=5.0, steps=17)
    distilled = chosen(recipe=recipe)
    assert distilled.recipe == recipe
    assert {t["label_scale"] for t in distilled.manifest["chosen_from"]} == {5.0}
    distilled = chosen(recipe=recipe, gamma=0.77)
    assert (distilled.manifest["chosen_from"], distilled.recipe) == ([], recipe)


def test_choosing_looks_at_the_validation_split_only(monkeypatch):
    seen = []
    run_trials = choose.run_trials

    def listen(candidates, base_images, preprocessing, validation, *rest, **more):
        seen.append(validation.fingerprint)
        return run_trials(candidates, base_images, preprocessing, validation, *rest, **more)

    monkeypatch.setattr(choose, "run_trials", listen)
    chosen(gamma=0.1)
    assert seen == [VALIDATION.fingerprint]


def test_the_same_seeds_give_the_same_set():
    first, again = chosen(seed=1), chosen(seed=1)
    torch.testing.assert_close(first.labels, again.labels, rtol=0, atol=1e-10)
    assert first.recipe == again.recipe
    assert first.manifest["chosen_from"] == again.manifest["chosen_from"]
    assert chosen(seed=2).manifest["chosen_from"] != first.manifest["chosen_from"]


def test_merged_moments_give_the_labels_of_the_whole():
    shards = [accumulate(MOMENTS.pool, DIGITS, shard=(i, 2)) for i in range(2)]
    merged = closed_form(shards[0].merge(shards[1]), BASE)
    torch.testing.assert_close(merged.labels, closed_form(MOMENTS, BASE).labels, rtol=0, atol=1e-4)
    assert not merged.is_cross


def test_the_order_of_base_examples_is_the_order_of_labels():
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    shuffled = dataclasses.replace(BASE, images=BASE.images[order], labels=BASE.labels[order])
    expected = closed_form(MOMENTS, BASE).labels[order]
    torch.testing.assert_close(closed_form(MOMENTS, shuffled).labels, expected, rtol=0, atol=1e-5)


def test_base_examples_of_another_shape_and_other_classes():
    noise = torch.randint(0, 256, (30, 3, 12, 10), generator=torch.Generator().manual_seed(0))
    source = ImageData(noise.to(torch.uint8), torch.arange(30) % 3, ("a", "b", "c"), name="noise", split="train")
    distilled = closed_form(MOMENTS, choose_base(source, 12))
    assert distilled.is_cross
    assert distilled.images.shape == (12, 1, 8, 8)
    assert distilled.labels.shape == (12, 10)
    assert distilled.manifest["source"]["classes"] == ["a", "b", "c"]


def test_cvxpylayers_finds_the_same_labels():
    one = accumulate(pool("convnet", count=1, width=4), DIGITS)
    exact = closed_form(one, BASE, gamma=1e-2)
    descended = closed_form(one, BASE, gamma=1e-2, backend="cvxpylayers")
    assert float((exact.labels - descended.labels).norm() / exact.labels.norm()) < 1e-3
    assert (exact.manifest["backend"], descended.manifest["backend"]) == ("torch", "cvxpylayers")


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["lam", "gamma", "label_scale"])
def test_numbers_that_must_be_positive(name, value):
    with pytest.raises(ParameterRangeError, match=f"{name} must be a positive number, found {value}"):
        closed_form(MOMENTS, BASE, **{name: value})


def test_names_that_are_not_known():
    with pytest.raises(UnknownNameError, match="'jax'; known are auto, torch, cvxpylayers"):
        closed_form(MOMENTS, BASE, backend="jax")
    with pytest.raises(UnknownNameError, match="'ones'; known are zero, one-hot, teacher"):
        closed_form(MOMENTS, BASE, prior="ones")
    with pytest.raises(UnknownNameError, match="'vgg'; known are lenet"):
        closed_form(MOMENTS, BASE, VALIDATION, network="vgg")


def test_a_validation_split_of_another_data_set_is_refused():
    other = dataclasses.replace(VALIDATION, classes=tuple("abcdefghij"))
    with pytest.raises(InvalidInputError, match=r"validation has the classes a, b.*target set 0, 1"):
        closed_form(MOMENTS, BASE, other)
    wide = dataclasses.replace(VALIDATION, images=VALIDATION.images.repeat(1, 1, 2, 2))
    with pytest.raises(InvalidInputError, match="validation"):
        closed_form(MOMENTS, BASE, wide)


@pytest.mark.parametrize("constraint", ["simplex", "nonnegative", "row-sum", "box"])
def test_constrained_labels_are_those_of_the_constrained_solve(constraint):
    distilled = closed_form(MOMENTS, BASE, gamma=0.3, constraint=constraint, bounds=(-0.2, 0.7))
    system = label_system(outer_terms(MOMENTS, BASE, 1e-3))
    expected, _ = solve_constrained(system, 0.3, torch.zeros(20, 10).double(), constraint, (-0.2, 0.7))
    simplex = constraint == "simplex"
    assert distilled.label_space == ("probability" if simplex else "centred")
    assert distilled.recipe.loss == ("soft-cross-entropy" if simplex else "mse")
    torch.testing.assert_close(distilled.labels, (expected + simplex / 10).float(), rtol=0, atol=1e-7)
    assert distilled.manifest["constraint"] == constraint
    assert distilled.manifest["certificate"]["duality_gap"] < 1e-10


def test_the_paper_recipe_takes_free_labels_as_logits():
    free = closed_form(MOMENTS, BASE, gamma=0.3)
    distilled = closed_form(MOMENTS, BASE, gamma=0.3, recipe="paper", label_scale=5.0)
    assert (distilled.label_space, distilled.manifest["logit_scale"]) == ("probability", 5.0)
    torch.testing.assert_close(distilled.labels, (5 * free.labels).softmax(1), rtol=0, atol=1e-6)
    torch.testing.assert_close(distilled.baselines["teacher"].sum(1), torch.ones(20), rtol=0, atol=1e-6)


def test_both_recipes_are_chosen_on_validation():
    for recipe in ("paper", "centred"):
        distilled = chosen(gamma=0.1, recipe=recipe)
        tried = distilled.manifest["chosen_from"]
        assert {t["loss"] for t in tried} == {distilled.recipe.loss}
        scale = "logit_scale" if recipe == "paper" else "label_scale"
        assert {t[scale] for t in tried} == set(LABEL_SCALES)
    assert len(chosen(gamma=0.1, constraint="simplex").manifest["chosen_from"]) == 1  # nothing to scale


def test_the_one_hot_prior_pulls_to_the_base_images_own_classes():
    strong = closed_form(MOMENTS, BASE, gamma=1e6, prior="one-hot")
    expected = nn.functional.one_hot(BASE.labels, 10) - 0.1
    torch.testing.assert_close(strong.labels, expected, rtol=0, atol=1e-4)
    foreign = dataclasses.replace(BASE, classes=tuple("abcdefghij"))
    with pytest.raises(InvalidInputError, match="'one-hot' needs base examples of the target's classes"):
        closed_form(MOMENTS, foreign, prior="one-hot")


def test_constraints_and_recipes_that_do_not_go_together():
    with pytest.raises(UnknownNameError, match="'cone'; known are none, simplex"):
        closed_form(MOMENTS, BASE, constraint="cone")
    with pytest.raises(UnknownNameError, match="'mine'; known are centred, paper"):
        closed_form(MOMENTS, BASE, recipe="mine")
    with pytest.raises(InvalidInputError, match="do not sum to 1"):
        closed_form(MOMENTS, BASE, constraint="box", recipe="paper")
    with pytest.raises(ParameterRangeError, match="label_scale at 1"):
        closed_form(MOMENTS, BASE, constraint="simplex", recipe=Recipe("soft-cross-entropy", label_scale=2.0))
    with pytest.raises(UnsupportedError, match="without constraints"):
        closed_form(MOMENTS, BASE, constraint="simplex", backend="cvxpylayers")


def test_every_method_is_listed():
    assert METHODS["closed-form"] is closed_form
