import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convexdistill.data import ImageData, Preprocessing, load, match_shape
from convexdistill.errors import (
    DtypeError,
    FileFormatError,
    ParameterRangeError,
    ShapeError,
)


def colour_noise(count=12, size=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator).to(torch.uint8)


def as_data(images):
    return ImageData(images, torch.arange(len(images)) % 2, ("a", "b"), name="made", split="train")


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_fitted_images_have_mean_zero_and_deviation_one(seed, count):
    images = colour_noise(count, 6, seed)
    prepared = Preprocessing.fit(as_data(images))(images)
    assert prepared.dtype == torch.float32
    torch.testing.assert_close(prepared.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(prepared.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)


def test_fit_is_the_mean_and_deviation_of_pixels_scaled_to_one():
    images = colour_noise()
    fitted = Preprocessing.fit(as_data(images))
    scaled = images.double() / 255
    assert fitted.mean == pytest.approx(scaled.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert fitted.std == pytest.approx(scaled.std((0, 2, 3), correction=0).tolist(), abs=1e-12)


def test_a_constant_channel_never_divides_by_zero():
    images = colour_noise()
    images[:, 1] = 77
    fitted = Preprocessing.fit(as_data(images))
    assert fitted.std[1] == 1.0
    assert fitted(images)[:, 1].abs().max() < 1e-6


def test_the_images_are_left_alone():
    images = colour_noise()
    before = images.clone()
    Preprocessing.fit(as_data(images))(images)
    assert torch.equal(images, before)


def test_it_survives_json():
    fitted = Preprocessing.fit(load("digits"))
    assert Preprocessing.from_dict(json.loads(json.dumps(fitted.to_dict()))) == fitted


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"mean": [0.1]},
        {"mean": 3, "std": [1]},
        {"mean": ["x"], "std": [1]},
        {"mean": [0.1, 0.2], "std": [1]},
        {"mean": [0.1], "std": [0]},
    ],
)
def test_damaged_dictionaries_are_refused(values):
    with pytest.raises(FileFormatError, match="preprocessing needs 'mean' and 'std'"):
        Preprocessing.from_dict(values)


@pytest.mark.parametrize(
    ("mean", "std"),
    [((), ()), ((0.1,), (1.0, 1.0)), ((0.1,), (0.0,)), ((0.1,), (-1.0,)), ((float("nan"),), (1.0,))],
)
def test_unusable_values_are_refused(mean, std):
    with pytest.raises(ParameterRangeError):
        Preprocessing(mean, std)


def test_other_images_than_bytes_of_those_channels_are_refused():
    fitted = Preprocessing.fit(as_data(colour_noise()))
    with pytest.raises(DtypeError, match="float32"):
        fitted(colour_noise().float())
    with pytest.raises(ShapeError, match="match_shape"):
        fitted(colour_noise()[:, :1])


def test_match_shape_is_the_identity_on_the_same_shape():
    images = colour_noise()
    assert match_shape(images, (3, 9, 9)) is images


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from([1, 3]),
    st.sampled_from([1, 3]),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 255),
)
def test_a_uniform_grey_stays_uniform_in_any_shape(before, after, height, width, value):
    images = torch.full((2, before, 11, 7), value, dtype=torch.uint8)
    matched = match_shape(images, (after, height, width))
    assert matched.shape == (2, after, height, width)
    assert matched.dtype == torch.uint8
    # Luma's weights add up to 0.9999, so one level may be lost.
    assert (matched.int() - value).abs().max() <= 1


def test_the_size_of_the_batch_does_not_matter():
    images = colour_noise(1030)
    matched = match_shape(images, (3, 5, 7))
    for index in (0, 1029):
        assert torch.equal(match_shape(images[index, None], (3, 5, 7))[0], matched[index])


def test_grey_is_repeated_and_colour_becomes_luma():
    grey = colour_noise()[:, :1]
    assert torch.equal(match_shape(grey, (3, 9, 9)), grey.repeat(1, 3, 1, 1))
    red = torch.zeros(1, 3, 9, 9, dtype=torch.uint8)
    red[:, 0] = 200
    assert match_shape(red, (1, 9, 9)).unique().tolist() == [59]


def test_shrinking_is_antialiased():
    lines = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    lines[..., ::2] = 255
    assert (match_shape(lines, (1, 8, 8)).float() - 127.5).abs().max() < 40


def test_match_shape_refuses_what_it_cannot_bring_over():
    with pytest.raises(DtypeError, match="float32"):
        match_shape(colour_noise().float(), (1, 8, 8))
    with pytest.raises(DtypeError, match="list"):
        match_shape([[1]], (1, 8, 8))
    with pytest.raises(ShapeError, match="images must be"):
        match_shape(colour_noise()[0], (1, 8, 8))
    for shape in [(2, 8, 8), (1, 0, 8), (8, 8)]:
        with pytest.raises(ShapeError, match="shape must be"):
            match_shape(colour_noise(), shape)
