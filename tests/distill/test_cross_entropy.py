"""From pool, target and base examples to a distilled set under cross-entropy."""

import json

import pytest
import torch
from torch import nn

from convexdistill.data import load
from convexdistill.distill import METHODS, cross_entropy
from convexdistill.distill.cross_entropy import DEFAULT_GAMMA, GAMMAS
from convexdistill.distill.forms import LABEL_SCALES
from convexdistill.distill.target_features import TargetFeatures
from convexdistill.errors import InvalidInputError, ParameterRangeError, UnknownNameError
from convexdistill.evaluate import evaluate
from convexdistill.features import pool
from convexdistill.select import choose
from convexdistill.training import Recipe, training_steps

DIGITS, VALIDATION = load("digits"), load("digits", "validation")
POOL = pool("convnet", count=2, width=4)
BASE = choose(DIGITS, 20)


def small(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))


def solved(*arguments, **options):
    return cross_entropy(POOL, DIGITS, BASE, *arguments, network=small, **options)


def with_ones(features, scale):
    return torch.cat([features * scale, torch.ones(len(features), 1, dtype=torch.float64)], 1)


def loss_of_heads(logits_of_labels, preprocessing):
    """Mean over the pool of the cross-entropy of ridge heads on every target image; all by hand."""
    losses = []
    for spec in POOL:
        extractor = spec.build(DIGITS.shape)
        target, base = (extractor(preprocessing(images)).double() for images in (DIGITS.images, BASE.images))
        scale = 1 / target.square().sum(1).mean().sqrt()
        target, base = with_ones(target, scale), with_ones(base, scale)
        lam = 1e-3 * float(base.square().sum(1).mean())
        inverse = torch.linalg.solve(base @ base.T + lam * torch.eye(len(base)).double(), logits_of_labels)
        losses.append(float(nn.functional.cross_entropy(target @ (base.T @ inverse), DIGITS.labels)))
    return sum(losses) / len(losses)


def test_the_outer_loss_is_the_cross_entropy_of_ridge_heads_on_all_target_images():
    distilled = solved(gamma=0.1)
    logits = distilled.labels.double() * distilled.manifest["logits_divided_by"]
    expected = loss_of_heads(logits, distilled.preprocessing)
    assert distilled.manifest["certificate"]["outer_loss"] == pytest.approx(expected, rel=1e-5)


def test_labels_are_logits_of_the_size_of_one_hot_ones():
    distilled = solved(gamma=0.1)
    assert distilled.label_space == "logit"
    assert float(distilled.labels.square().sum(1).mean()) == pytest.approx(0.9, rel=1e-5)
    torch.testing.assert_close(distilled.labels.sum(1), torch.zeros(20), rtol=0, atol=1e-5)
    assert float(distilled.baselines["teacher"].square().sum(1).mean()) == pytest.approx(0.9, rel=1e-5)
    teacher = distilled.baselines["teacher"].argmax(1)
    assert float((teacher == BASE.labels).double().mean()) > 0.9  # heads of all images know these images


def test_the_paper_recipe_takes_their_softmax():
    logits, paper = solved(gamma=0.1), solved(gamma=0.1, recipe="paper", label_scale=4.0)
    assert (paper.label_space, paper.recipe.loss) == ("probability", "soft-cross-entropy")
    torch.testing.assert_close(paper.labels, (4 * logits.labels).softmax(1), rtol=0, atol=1e-5)


def test_the_set_says_where_everything_comes_from():
    distilled = solved(gamma=0.3, lam=1e-2, seed=4, target_images=500)
    manifest = json.loads(json.dumps(distilled.manifest))
    assert (manifest["method"], manifest["lam"], manifest["gamma"]) == ("cross-entropy", 1e-2, 0.3)
    assert manifest["target"]["parts"] == [DIGITS.fingerprint] == [manifest["source"]["fingerprint"]]
    assert manifest["target"]["images"] == 500
    assert manifest["extractors"] == [spec.to_dict() for spec in POOL]
    assert manifest["certificate"]["duality_gap"] < 1e-12
    assert manifest["certificate"]["cross_check"]["relative_difference"] < 1e-5


def test_without_a_validation_split_the_defaults_are_taken():
    distilled = solved()
    assert (distilled.manifest["gamma"], distilled.manifest["prior"]) == (DEFAULT_GAMMA, "zero")
    assert distilled.recipe == Recipe("mse", LABEL_SCALES[-1], training_steps(20)[-1])


def test_the_validation_split_chooses_gamma_prior_and_recipe():
    distilled = solved(VALIDATION)
    tried = distilled.manifest["chosen_from"]
    assert {(t["prior"], t["gamma"]) for t in tried} == {(p, g) for p, gammas in GAMMAS.items() for g in gammas}
    assert {t["loss"] for t in tried} == {"mse", "soft-cross-entropy"}
    best = max(tried, key=lambda t: t["validation_mean"])
    assert (distilled.manifest["gamma"], distilled.recipe.loss) == (best["gamma"], best["loss"])
    assert solved(VALIDATION, gamma=0.1, recipe="paper").recipe.loss == "soft-cross-entropy"


def test_evaluation_knows_logits():
    table = evaluate(solved(gamma=0.1), ["lenet"], repeats=1)
    assert [row.labels for row in table][:4] == ["distilled", "one-hot", "smoothed", "one-hot-recipe"]


def test_base_sets_share_the_features_of_the_target():
    shared = TargetFeatures.of(POOL, DIGITS)
    for base in (BASE, choose(DIGITS, 20, seed=1)):
        expected = cross_entropy(POOL, DIGITS, base, gamma=0.1)
        found = cross_entropy(shared, DIGITS, base, gamma=0.1)
        assert torch.equal(found.labels, expected.labels)
        assert found.manifest["extractors"] == expected.manifest["extractors"]
    with pytest.raises(InvalidInputError, match="not those of the target 'digits'"):
        cross_entropy(shared, VALIDATION, BASE)


def test_wrong_input():
    with pytest.raises(UnknownNameError, match="'one-hot'; known for cross-entropy are zero, teacher"):
        solved(prior="one-hot")
    with pytest.raises(ParameterRangeError, match="gamma must be a positive number"):
        solved(gamma=0.0)
    with pytest.raises(ParameterRangeError, match="at least one extractor"):
        cross_entropy([], DIGITS, BASE)
    with pytest.raises(InvalidInputError, match="it may only report"):
        cross_entropy(POOL, load("digits", "test"), BASE)


def test_the_method_is_listed():
    assert METHODS["cross-entropy"] is cross_entropy
