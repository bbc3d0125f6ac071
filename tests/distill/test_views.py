"""Augmented base images: the solves see the views that a training sees, and the recipe says so."""

import importlib
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

import convexdistill as cd
from convexdistill.distill.closed_form import GAMMAS
from convexdistill.distill.outer import outer_terms
from convexdistill.distill.preview import shortlist
from convexdistill.distill.solve import descend_labels, label_system, solve_labels
from convexdistill.distill.views import VIEWS, views
from convexdistill.errors import InvalidInputError, UnknownNameError
from convexdistill.training import Augmenter, Recipe

DIGITS, VALIDATION = cd.data.load("digits"), cd.data.load("digits", split="validation")
POOL = cd.features.pool(count=2, width=4)
BASE = cd.select.choose(DIGITS, size=20)
MOMENTS = cd.accumulate(POOL, DIGITS)
SEEN = MOMENTS.preprocessing(BASE.images)
EVERY = pytest.mark.parametrize("augmentation", ["none", "mirror", "shift"])


def flat(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))


def test_an_image_has_itself_its_mirror_image_or_a_sample():
    images = BASE.images.float()
    assert torch.equal(views(images), images[None])
    assert torch.equal(views(images, "mirror"), torch.stack([images, images.flip(-1)]))
    drawn = views(images, "shift", seed=3)
    assert drawn.shape == (VIEWS, *images.shape)
    assert torch.equal(drawn, views(images, "shift", seed=3))
    assert not torch.equal(drawn, views(images, "shift", seed=4))
    # A draw of its own for each view: all of them changed, and more like their own image than like others.
    assert len({view.numpy().tobytes() for view in [*drawn, images]}) == VIEWS + 1
    assert (drawn - images).abs().mean() < 0.7 * (drawn - images.roll(1, 0)).abs().mean()
    with pytest.raises(UnknownNameError, match="unknown augmentation 'mirrored'; known are none, mirror"):
        views(images, "mirrored")


def test_a_training_shows_the_views_of_mirror_and_nothing_else():
    images = BASE.images.float()[:, None].repeat(1, 3, 1, 1, 1)
    shown = Augmenter("mirror", [0, 1, 2])(images)
    turned = torch.zeros(20, 3)
    for i in range(20):
        for k in range(3):
            plain, mirrored = (
                torch.allclose(shown[i, k], view.float(), atol=1e-3)
                for view in (BASE.images[i], BASE.images[i].flip(-1))
            )
            assert plain or mirrored
            turned[i, k] = float(mirrored)
    assert 0.2 < turned.mean() < 0.8
    assert not torch.equal(turned[:, 0], turned[:, 1])


def heads(labels, preprocessing, augmentation):
    """Ridge heads on the views of the base images, all by hand: scores of the target, for each extractor."""
    shown = views(preprocessing(BASE.images), augmentation)  # as trainings: of preprocessed images
    scores = []
    for spec in POOL:
        extractor = spec.build(DIGITS.shape)
        target, base = (extractor(x).double() for x in (preprocessing(DIGITS.images), shown.flatten(0, 1)))
        scale = 1 / target.square().sum(1).mean().sqrt()
        target, base = (torch.cat([f * scale, torch.ones(len(f), 1).double()], 1) for f in (target, base))
        kernel = base @ base.T
        lam = len(shown) * 1e-3 * float(kernel.diagonal().mean()) * torch.eye(len(base)).double()
        said = torch.cat([labels.double()] * len(shown))
        scores.append(target @ (base.T @ torch.linalg.solve(kernel + lam, said)))
    return scores


@EVERY
def test_the_outer_loss_is_that_of_heads_on_all_views(augmentation):
    white = cd.data.Preprocessing.fit(DIGITS, zca=0.1)
    crossed = cd.distill.cross_entropy(
        POOL, DIGITS, BASE, gamma=0.1, preprocessing=white, augmentation=augmentation
    )
    logits = crossed.labels * crossed.manifest["logits_divided_by"]
    losses = [float(cross_entropy(z, DIGITS.labels)) for z in heads(logits, crossed.preprocessing, augmentation)]
    assert crossed.manifest["certificate"]["outer_loss"] == pytest.approx(sum(losses) / 2, rel=1e-5)
    moments = cd.accumulate(POOL, DIGITS, preprocessing=white)
    squared = cd.distill.closed_form(moments, BASE, gamma=0.1, augmentation=augmentation)
    hot = one_hot(DIGITS.labels, 10) - 0.1
    losses = [
        float((z - hot).square().sum(1).mean()) for z in heads(squared.labels, squared.preprocessing, augmentation)
    ]
    assert squared.manifest["certificate"]["outer_loss"] == pytest.approx(sum(losses) / 2, rel=1e-5)


@EVERY
def test_descent_through_the_layer_ends_at_the_solve(augmentation):
    terms = outer_terms(MOMENTS, BASE, 1e-2, views(SEEN, augmentation))
    exact, _ = solve_labels(label_system(terms), 0.1)
    descended, _ = descend_labels(terms, 0.1, backend="torch")
    torch.testing.assert_close(descended, exact, rtol=0, atol=1e-4 * float(exact.abs().max()))


def test_more_views_than_features_give_the_same_system():
    """Q M has two roads, by the smaller of views and features; 160 views of 20 images take the other one."""
    terms = outer_terms(MOMENTS, BASE, 1e-2, views(SEEN, "shift"))
    assert all(len(term.features) > len(term.root) for term in terms)
    system = label_system(terms)
    for k, term in enumerate(terms):
        gram = term.features.T @ term.features + term.lam * torch.eye(term.features.shape[1]).double()
        head = torch.linalg.solve(gram, term.features.T)
        expected = (term.root @ head).view(len(term.root), VIEWS, 20).sum(1) / 2**0.5
        rows = slice(k * len(expected), (k + 1) * len(expected))
        torch.testing.assert_close(system.design[rows], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", ["cross-entropy", "closed-form"])
def test_teacher_labels_are_means_over_the_views(method):
    def teacher(base, augmentation):
        options = {"gamma": 0.1, "augmentation": augmentation}
        if method == "closed-form":
            return cd.distill.closed_form(MOMENTS, base, **options).baselines["teacher"]
        found = cd.distill.cross_entropy(POOL, DIGITS, base, **options).baselines["teacher"]
        return found / found.norm()

    mirrored = replace(BASE, images=BASE.images.flip(-1))
    mean = teacher(BASE, "none") + teacher(mirrored, "none")
    if method == "closed-form":
        torch.testing.assert_close(teacher(BASE, "mirror"), mean / 2, rtol=0, atol=1e-6)
    else:  # its scores have a size of their own, here and there
        one, both = (float((teacher(BASE, a) * mean).sum() / mean.norm()) for a in ("none", "mirror"))
        assert one < 0.95
        assert both > 0.99


@pytest.mark.parametrize("method", ["cross-entropy", "closed-form"])
def test_views_that_are_all_the_same_change_nothing(method):
    """λ is that of one image, however many views it has."""
    halves = BASE.images[..., :4]
    symmetric = replace(BASE, images=torch.cat([halves, halves.flip(-1)], -1))

    def labels(augmentation):
        options = {"gamma": 0.1, "lam": 0.1, "augmentation": augmentation}
        if method == "closed-form":
            return cd.distill.closed_form(MOMENTS, symmetric, **options).labels
        return cd.distill.cross_entropy(POOL, DIGITS, symmetric, **options).labels

    torch.testing.assert_close(labels("mirror"), labels("none"), rtol=0, atol=1e-5)


def test_the_look_ahead_sees_the_views():
    """A choice of γ by mirrored images is not that by plain ones."""
    found = cd.distill.closed_form(MOMENTS, BASE, VALIDATION, label_scale=4.0, network=flat, augmentation="mirror")
    system = label_system(outer_terms(MOMENTS, BASE, 1e-3, views(SEEN, "mirror")))
    solves = {("zero", gamma): solve_labels(system, gamma)[0] for gamma in GAMMAS["zero"]}
    _, expected = shortlist(
        solves, POOL, views(SEEN, "mirror"), MOMENTS.preprocessing, VALIDATION, lam=1e-3, seed=0
    )
    zeros = [one for one in found.manifest["previewed"] if one["prior"] == "zero"]
    assert zeros == expected
    _, plain = shortlist(solves, POOL, views(SEEN), MOMENTS.preprocessing, VALIDATION, lam=1e-3, seed=0)
    assert zeros != plain


@pytest.mark.parametrize(
    ("method", "recipe"),
    [("closed-form", "centred"), ("cross-entropy", "paper"), ("alternate", "centred"), ("unrolled", "paper")],
)
def test_the_recipe_of_the_set_says_what_is_done(method, recipe, monkeypatch):
    options: dict[str, object] = {
        "gamma": 0.1,
        "prior": "zero",
        "label_scale": 4.0,
        "recipe": recipe,
        "augmentation": "mirror",
    }
    if method == "closed-form":
        found = cd.distill.closed_form(MOMENTS, BASE, VALIDATION, **options)
    elif method == "cross-entropy":
        found = cd.distill.cross_entropy(POOL, DIGITS, BASE, VALIDATION, **options)
    elif method == "unrolled":
        options |= {"iterations": 1, "steps": 2, "count": 1}
        found = cd.distill.unrolled(POOL, DIGITS, BASE, **options)
        # With the very same solve: its trainings have the augmentation, too.
        module = importlib.import_module("convexdistill.distill.unrolled")
        monkeypatch.setattr(module, "Augmenter", lambda name, seeds: Augmenter("none", seeds))
        plain = cd.distill.unrolled(POOL, DIGITS, BASE, **options)
        assert found.manifest["outer_losses"] != plain.manifest["outer_losses"]
    else:
        found = cd.distill.alternate(POOL, DIGITS, BASE, VALIDATION, rounds=1, count=1, **options)
        trained = found.manifest["extractors"][len(POOL) :]
        assert trained
        assert all(one["options"]["trained"]["recipe"]["augmentation"] == "mirror" for one in trained)
    assert found.recipe.augmentation == "mirror"
    assert found.manifest["recipe"]["augmentation"] == "mirror"


def test_a_recipe_that_fixes_everything_has_its_own():
    recipe = Recipe("mse", 4.0, steps=10, augmentation="mirror")
    for solve in (
        lambda **more: cd.distill.closed_form(MOMENTS, BASE, gamma=0.1, recipe=recipe, **more),
        lambda **more: cd.distill.cross_entropy(POOL, DIGITS, BASE, gamma=0.1, recipe=recipe, **more),
    ):
        found, same = solve(), solve(augmentation="mirror")
        assert found.recipe == recipe
        assert torch.equal(found.labels, same.labels)
        with pytest.raises(
            InvalidInputError, match=r"'mirror', not 'shift'; give Recipe\(\.\.\., augmentation='shift'\)"
        ):
            solve(augmentation="shift")
    plain = cd.distill.closed_form(MOMENTS, BASE, gamma=0.1)
    assert not torch.allclose(plain.labels, found.labels, atol=1e-3)


def test_evaluation_trains_as_the_set_says_unless_told_otherwise():
    found = cd.distill.closed_form(MOMENTS, BASE, gamma=0.1, label_scale=4.0, augmentation="mirror")
    options = {"steps": (10,), "repeats": 2, "baselines": ("one-hot",)}
    own = list(cd.evaluate.matrix(found, **options))
    assert {row.augmentation for row in own} == {"mirror"}
    named = list(cd.evaluate.matrix(found, augmentations=("none", "own", "mirror"), **options))
    assert [row.augmentation for row in named] == ["none"] * 2 + ["mirror"] * 2
    assert named[2].accuracy_mean == own[0].accuracy_mean != named[0].accuracy_mean
    plain = cd.distill.closed_form(MOMENTS, cd.select.choose(DIGITS, size=20, seed=1), gamma=0.1)
    with pytest.raises(InvalidInputError, match="different augmentations, mirror and none; evaluate them apart"):
        cd.evaluate.matrix([found, plain], **options)
