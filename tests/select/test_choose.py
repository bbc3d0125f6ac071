import dataclasses
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convexdistill.data import ImageData, load
from convexdistill.errors import (
    DataError,
    DtypeError,
    InvalidInputError,
    NonFiniteInputError,
    ParameterRangeError,
    ShapeError,
    UnknownNameError,
)
from convexdistill.features import pool
from convexdistill.moments import accumulate
from convexdistill.select import BaseExamples, choose
from convexdistill.select.choosing import RULES

METHODS = tuple(RULES)
# They look at nothing but the images: the seed decides which classes get one more, and no more than that.
WITHOUT_CHANCE = {"herding", "kcenter", "facility-location", "solve-aware"}


def made(counts, seed=0, shape=(1, 8, 8)):
    """Noise images with the given number of examples of each class."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    images = rng.integers(0, 256, (len(labels), *shape), dtype=np.uint8)
    names = tuple(f"class {k}" for k in range(len(counts)))
    return ImageData(torch.from_numpy(images), torch.from_numpy(labels), names, name="made", split="train")


SOURCE = made([30, 25, 20])
MOMENTS = accumulate(pool("convnet", count=2, width=4), SOURCE)


def chosen(source, size, method, balanced=True, **options):
    """``choose`` with all that any rule may need."""
    moments = accumulate(MOMENTS.pool, source) if method == "solve-aware" else None
    return choose(source, size, method, balanced, moments=moments, **options)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("size", [1, 7, 30, 60])
class TestEveryRule:
    """The contract; a new rule is tested by being listed."""

    def test_the_examples_are_distinct_images_of_the_source(self, method, balanced, size):
        base = chosen(SOURCE, size, method, balanced)
        assert isinstance(base, BaseExamples)
        assert len(base) == len(set(base.indices.tolist())) == size
        assert base.indices.dtype == base.labels.dtype == torch.int64
        assert torch.equal(base.images, SOURCE.images[base.indices])
        assert torch.equal(base.labels, SOURCE.labels[base.indices])

    def test_they_are_ordered_by_class_then_position(self, method, balanced, size):
        base = chosen(SOURCE, size, method, balanced)
        pairs = list(zip(base.labels.tolist(), base.indices.tolist(), strict=True))
        assert pairs == sorted(pairs)

    def test_balanced_classes_differ_by_one_at_most(self, method, balanced, size):
        counts = torch.bincount(chosen(SOURCE, size, method, balanced).labels, minlength=3)
        if balanced:
            assert counts.max() - counts.min() <= 1

    def test_the_same_seed_gives_the_same_choice(self, method, balanced, size):
        first, again = (chosen(SOURCE, size, method, balanced, seed=3) for _ in range(2))
        assert torch.equal(first.indices, again.indices)

    def test_torch_and_numpy_seeds_have_no_part_in_it(self, method, balanced, size):
        torch.manual_seed(1)
        np.random.seed(1)
        first = chosen(SOURCE, size, method, balanced)
        torch.manual_seed(2)
        np.random.seed(2)
        assert torch.equal(first.indices, chosen(SOURCE, size, method, balanced).indices)

    def test_it_says_where_it_comes_from(self, method, balanced, size):
        base = chosen(SOURCE, size, method, balanced, seed=5)
        assert (base.source, base.split, base.classes) == ("made", "train", SOURCE.classes)
        assert base.fingerprint == SOURCE.fingerprint
        assert (base.method, base.balanced, base.seed) == (method, balanced, 5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("balanced", [True, False])
def test_everything_can_be_chosen(method, balanced):
    even = made([10, 10])
    assert chosen(even, 20, method, balanced).indices.sort().values.tolist() == list(range(20))


@pytest.mark.parametrize("method", METHODS)
def test_other_seeds_choose_otherwise(method):
    choices = {tuple(chosen(SOURCE, 9, method, seed=seed).indices.tolist()) for seed in range(5)}
    assert (len(choices) > 1) == (method not in WITHOUT_CHANCE)


@pytest.mark.parametrize("method", sorted(WITHOUT_CHANCE))
@pytest.mark.parametrize("balanced", [True, False])
def test_a_rule_without_chance_does_not_mind_the_order_of_the_images(method, balanced):
    order = torch.randperm(len(SOURCE), generator=torch.Generator().manual_seed(0))
    there = chosen(SOURCE, 9, method, balanced).indices
    here = chosen(SOURCE.subset(order), 9, method, balanced).indices
    assert order[here].sort().values.tolist() == there.sort().values.tolist()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("balanced", [True, False])
def test_images_that_are_all_the_same_can_be_chosen_from(method, balanced):
    for value in (0, 7):
        same = dataclasses.replace(SOURCE, images=torch.full_like(SOURCE.images, value))
        assert len(set(chosen(same, 12, method, balanced).indices.tolist())) == 12


@pytest.mark.parametrize("method", METHODS)
def test_images_of_another_shape_and_of_other_classes_can_be_chosen_from(method):
    other = made([50, 40], shape=(3, 10, 12))
    base = choose(other, 9, method, balanced=False, moments=MOMENTS)
    assert base.shape == (3, 10, 12)
    assert len(set(base.indices.tolist())) == 9


@pytest.mark.parametrize("method", METHODS)
def test_no_rule_holds_a_matrix_of_all_pairs(method):
    count = 6000  # all pairs: 144 MB in float32
    source = made([count // 2] * 2)
    features = np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32)
    tracemalloc.start()
    choose(source, 6, method, balanced=False, features=features, moments=MOMENTS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 75e6


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 12), min_size=2, max_size=6), st.integers(1, 60), st.integers(0, 9))
def test_balanced_choices_are_balanced_or_refused(counts, size, seed):
    source = made(counts)
    share, extra = divmod(size, len(counts))
    possible = min(counts) >= share and sum(count > share for count in counts) >= extra
    if size <= len(source) and possible:
        chosen = torch.bincount(choose(source, size, seed=seed).labels, minlength=len(counts))
        assert set(chosen.tolist()) <= {share, share + 1}
        assert chosen.sum() == size
    else:
        with pytest.raises((DataError, ParameterRangeError)):
            choose(source, size, seed=seed)


def test_the_remainder_goes_to_classes_drawn_by_the_seed():
    given_more = {int(torch.bincount(choose(SOURCE, 10, seed=seed).labels).argmax()) for seed in range(20)}
    assert given_more == {0, 1, 2}


def test_the_choice_never_changes():
    # Published distilled sets name their seed: another stream would make them irreproducible.
    assert choose(load("digits"), 5).indices.tolist() == [1019, 805, 1153, 683, 697]


def clusters():
    """Three far-apart clusters of features, whatever the classes are."""
    rng = np.random.default_rng(1)
    centres = np.repeat(np.array([[0, 0], [100, 0], [0, 100]]), 25, axis=0)
    return centres + rng.normal(size=(75, 2))


@pytest.mark.parametrize("as_tensor", [True, False])
def test_kmeans_takes_one_of_each_cluster_of_features(as_tensor):
    features = torch.from_numpy(clusters()) if as_tensor else clusters()
    base = choose(SOURCE, 3, "kmeans", balanced=False, features=features)
    assert sorted((base.indices // 25).tolist()) == [0, 1, 2]


def test_kmeans_takes_the_image_nearest_to_the_centre():
    base = choose(SOURCE, 3, "kmeans", balanced=False, features=clusters())
    for index in base.indices.tolist():
        cluster = clusters()[index // 25 * 25 : index // 25 * 25 + 25]
        nearest = np.linalg.norm(cluster - cluster.mean(0), axis=1).argmin()
        assert index % 25 == nearest


def test_kmeans_among_pixels_prefers_typical_images():
    digits = load("digits")
    flat = digits.images.flatten(1).double()

    def spread(base):
        return float(torch.cdist(flat, flat[base.indices]).min(dim=1).values.square().mean())

    assert spread(choose(digits, 50, "kmeans")) < 0.9 * spread(choose(digits, 50, "random"))


def test_kmeans_on_many_points_works_in_mini_batches():
    source = made([6_000, 6_000])
    features = np.random.default_rng(0).normal(size=(12_000, 3))
    first = choose(source, 10, "kmeans", balanced=False, features=features)
    again = choose(source, 10, "kmeans", balanced=False, features=features)
    assert len(set(first.indices.tolist())) == 10
    assert torch.equal(first.indices, again.indices)


def test_resized_changes_the_images_and_nothing_else():
    base = choose(SOURCE, 6)
    resized = base.resized((3, 16, 12))
    assert resized.shape == (3, 16, 12)
    assert base.shape == (1, 8, 8)
    assert torch.equal(resized.indices, base.indices)
    assert resized.fingerprint == base.fingerprint


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "10", None])
def test_size_must_be_a_positive_whole_number(size):
    with pytest.raises(ParameterRangeError, match="size must be a whole number of at least 1"):
        choose(SOURCE, size)


def test_seed_must_not_be_negative():
    with pytest.raises(ParameterRangeError, match="seed must be a whole number of at least 0"):
        choose(SOURCE, 3, seed=-1)


def test_size_above_the_source():
    with pytest.raises(ParameterRangeError, match=r"size is 76.*holds only 75 images"):
        choose(SOURCE, 76, balanced=False)


@pytest.mark.parametrize(("size", "needed"), [(63, 21), (62, 21), (75, 25)])
def test_a_class_with_too_few_examples_is_named(size, needed):
    short = made([30, 30, 20]) if size == 75 else made([25, 20, 20]) if size == 62 else SOURCE
    with pytest.raises(DataError, match=rf"'class [12]'.*has 20 examples.*{size} needs {needed}.*--unbalanced"):
        choose(short, size)
    assert len(choose(short, size, balanced=False)) == size


def test_unknown_method_lists_the_known_ones():
    with pytest.raises(UnknownNameError, match="'forgetting'; known are random, kmeans"):
        choose(SOURCE, 3, "forgetting")


def test_looking_ahead_needs_moments():
    with pytest.raises(InvalidInputError, match=r"needs moments=.*convexdistill\.accumulate"):
        choose(SOURCE, 3, "solve-aware")


@pytest.mark.parametrize("method", METHODS)
def test_features_must_fit_the_source(method):
    with pytest.raises(ShapeError, match=r"\(75, d\).*found \(74, 2\)"):
        choose(SOURCE, 3, method, features=clusters()[:-1])
    with pytest.raises(ShapeError, match=r"found \(75,\)"):
        choose(SOURCE, 3, method, features=np.zeros(75))
    with pytest.raises(DtypeError, match="complex"):
        choose(SOURCE, 3, method, features=np.zeros((75, 2), dtype=complex))
    broken = clusters()
    broken[[4, 9], 0] = np.nan
    with pytest.raises(NonFiniteInputError, match="2 rows, the first is row 4"):
        choose(SOURCE, 3, method, features=broken)
