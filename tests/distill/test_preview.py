"""The look ahead by a ridge head: what it keeps, and that it agrees with scikit-learn's ridge."""

import pytest
import torch
from sklearn.linear_model import Ridge
from torch import nn

import convexdistill as cd
from convexdistill.distill.preview import SHORTLIST, shortlist
from convexdistill.distill.views import views
from convexdistill.features import ExtractorSpec, ModuleSpec, extract
from convexdistill.seeds import child_seed

DIGITS = cd.data.load("digits")
VALIDATION = cd.data.load("digits", split="validation")
BASE = cd.select.choose(DIGITS, 20, seed=0)
POOL = cd.features.pool("convnet", 2, width=8)
FIT = cd.data.Preprocessing.fit(DIGITS)
HOT = torch.nn.functional.one_hot(BASE.labels, 10).double() - 0.1
NOISE = torch.randn(20, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
SOLVES = {
    ("zero", 0.1): NOISE,
    ("zero", 1.0): HOT,
    ("teacher", 0.1): -HOT,
    ("teacher", 1.0): 0.5 * HOT + 0.1 * NOISE,
}


def look(solves=SOLVES, pool=POOL, augmentation="none"):
    return shortlist(solves, pool, views(FIT(BASE.images), augmentation), FIT, VALIDATION, lam=1e-3, seed=3)


def test_the_best_are_kept_in_their_order():
    kept, previewed = look()
    assert list(kept) == [("zero", 1.0), ("teacher", 1.0)]
    assert len(kept) == SHORTLIST
    assert all(kept[key] is SOLVES[key] for key in kept)
    assert [(one["prior"], one["gamma"]) for one in previewed] == list(SOLVES)


@pytest.mark.parametrize("augmentation", ["none", "mirror"])
def test_the_accuracies_are_those_of_ridge_heads_on_an_extractor_that_is_not_in_the_pool(augmentation):
    _, previewed = look(augmentation=augmentation)
    shown = torch.cat([BASE.images, BASE.images.flip(-1)] if augmentation == "mirror" else [BASE.images])
    fresh = ExtractorSpec("convnet", child_seed(3, "not in the pool"), POOL[0].options)
    assert fresh not in POOL
    base, seen = (extract(fresh.build(DIGITS.shape), images, FIT).numpy() for images in (shown, VALIDATION.images))
    scale = 1 / (seen**2).sum(1).mean() ** 0.5
    # A penalised intercept is a column of ones.
    wide = [torch.cat([torch.from_numpy(f * scale), torch.ones(len(f), 1)], 1).numpy() for f in (base, seen)]
    for (_, labels), one in zip(SOLVES.items(), previewed, strict=True):
        said = labels.repeat(len(shown) // len(labels), 1).numpy()
        lam = 1e-3 * (wide[0] ** 2).sum() / len(labels)
        model = Ridge(lam, fit_intercept=False).fit(wide[0], said)
        right = (model.predict(wide[1]).argmax(1) == VALIDATION.labels.numpy()).mean()
        assert one["accuracy"] == pytest.approx(100 * right)


def test_nothing_is_left_out_where_there_is_no_choice_or_no_fresh_extractor():
    two = dict(list(SOLVES.items())[:2])
    assert look(two) == (two, [])
    own = [ModuleSpec(nn.Sequential(nn.Flatten(), nn.Linear(64, 5)))]
    kept, previewed = look(pool=own)
    assert (list(kept), previewed) == (list(SOLVES), [])
