import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convexdistill.data import load
from convexdistill.data.splits import SPLITS, hold_out, stratify
from convexdistill.errors import DataError, UnknownNameError


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=300))
def test_stratified_splits_are_disjoint_and_cover_everything(labels):
    parts = stratify(np.array(labels))
    together = np.concatenate([parts[name] for name in SPLITS])
    assert sorted(together.tolist()) == list(range(len(labels)))
    assert all(np.all(np.diff(part) > 0) for part in parts.values())


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 120), min_size=1, max_size=12))
def test_every_class_is_parted_in_the_right_shares(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    parts = stratify(labels)
    for label, count in enumerate(counts):
        held = {name: int((labels[parts[name]] == label).sum()) for name in SPLITS}
        assert held["train"] >= 1
        if count <= 2:
            assert held["train"] == count
        else:
            assert abs(held["test"] - 0.2 * count) <= 1.001
            assert abs(held["validation"] - 0.1 * count) <= 1.001


def test_tiny_classes_keep_the_shares_of_the_whole():
    parts = stratify(np.repeat(np.arange(26), 5))
    assert [len(parts[name]) for name in SPLITS] == [91, 13, 26]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 500), st.one_of(st.none(), st.integers(0, 200)))
def test_held_out_split_is_disjoint_and_covers_everything(count, size):
    train, validation = hold_out(count, size)
    assert sorted([*train, *validation]) == list(range(count))
    assert len(validation) == (round(0.1 * count) if size is None else min(size, count // 5))


def test_the_splits_never_change():
    # Distilled files refer to positions in these splits: another stream would orphan them all.
    train, validation = hold_out(60_000, 10_000)
    assert len(train) == 50_000
    assert validation[:5].tolist() == [7, 8, 10, 14, 19]
    assert stratify(np.repeat(np.arange(2), 20))["test"].tolist() == [3, 8, 13, 16, 24, 31, 33, 34]


def test_splits_of_digits_are_disjoint_and_cover_everything():
    parts = [load("digits", split) for split in SPLITS]
    assert [len(part) for part in parts] == [1258, 180, 359]
    assert sum(len(part) for part in parts) == 1797
    pixels = [{image.numpy().tobytes() for image in part.images} for part in parts]
    assert not pixels[0] & pixels[1]
    assert not pixels[0] & pixels[2]
    assert not pixels[1] & pixels[2]


def test_loading_twice_gives_the_same_fingerprint():
    assert load("digits", "test").fingerprint == load("digits", "test").fingerprint


def test_unknown_split_lists_the_known_ones():
    with pytest.raises(UnknownNameError, match="train, validation, test"):
        load("digits", "dev")


def test_too_few_images_for_a_split_says_so():
    pair = (np.zeros((4, 8, 8), dtype=np.uint8), [0, 0, 1, 1])
    assert len(load(pair, "train")) == 4
    with pytest.raises(DataError, match="too few for a validation split"):
        load(pair, "validation")
