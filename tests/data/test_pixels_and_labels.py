import numpy as np
import pytest
import torch

from convexdistill.data import load
from convexdistill.data.labels import index_labels
from convexdistill.data.pixels import to_images
from convexdistill.errors import DataError, NonFiniteInputError, ShapeError


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((4, 9, 8), (4, 1, 9, 8)),
        ((4, 9, 8, 1), (4, 1, 9, 8)),
        ((4, 9, 8, 3), (4, 3, 9, 8)),
        ((4, 1, 9, 8), (4, 1, 9, 8)),
        ((4, 3, 9, 8), (4, 3, 9, 8)),
    ],
)
def test_layouts(shape, expected):
    assert to_images(np.zeros(shape, dtype=np.uint8), "made").shape == expected


def test_channels_last_keeps_each_pixel_in_place():
    image = np.arange(2 * 5 * 4 * 3, dtype=np.uint8).reshape(2, 5, 4, 3)
    assert to_images(image, "made")[1, 2, 3, 0] == image[1, 3, 0, 2]


@pytest.mark.parametrize("shape", [(4, 3, 9, 3), (4, 1, 9, 1), (4, 9, 8, 4), (4, 64), (4, 2, 9, 8)])
def test_other_layouts_are_refused(shape):
    with pytest.raises(ShapeError, match="N, height, width"):
        to_images(np.zeros(shape, dtype=np.uint8), "made")


def test_floats_up_to_one_are_scaled_and_rounded():
    pixels = torch.tensor([0.0, 0.001, 0.5, 1.0]).view(1, 2, 2)
    assert to_images(pixels, "made").flatten().tolist() == [0, 0, 128, 255]


def test_floats_above_one_are_bytes_already():
    pixels = np.array([0.0, 1.4, 1.6, 255.0]).reshape(1, 2, 2)
    assert to_images(pixels, "made").flatten().tolist() == [0, 1, 2, 255]


@pytest.mark.parametrize("dtype", [np.int16, np.int64, np.uint16, np.float32, np.float16])
def test_every_number_type_gives_the_same_bytes(dtype):
    pixels = np.array([0, 7, 128, 255], dtype=dtype).reshape(1, 2, 2)
    assert to_images(pixels, "made").flatten().tolist() == [0, 7, 128, 255]


def test_booleans_are_black_and_white_and_bfloat16_is_read():
    assert to_images(np.array([[[True, False]]]), "made").flatten().tolist() == [255, 0]
    assert to_images(torch.ones(1, 2, 2, dtype=torch.bfloat16), "made").max() == 255


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_not_finite_are_counted_and_located(bad):
    pixels = np.zeros((5, 8, 8, 3))
    pixels[3, 2, 1, 0] = pixels[4, 0, 0, 0] = bad
    with pytest.raises(NonFiniteInputError, match=r"2 pixels.*image 3 .channel 0, row 2, column 1"):
        to_images(pixels, "made")


@pytest.mark.parametrize("bad", [-0.1, 256.0, -1, 300])
def test_pixels_out_of_range_are_counted_and_located(bad):
    pixels = np.zeros((2, 8, 8), dtype=type(bad))
    pixels[1, 7, 6] = bad
    with pytest.raises(DataError, match=r"1 pixel is below 0 or above 255.*image 1 .*row 7, col"):
        to_images(pixels, "made")


def test_pixels_that_are_no_numbers_are_refused():
    with pytest.raises(DataError, match="complex128"):
        to_images(np.zeros((2, 8, 8), dtype=complex), "made")
    with pytest.raises(ShapeError, match="different lengths"):
        to_images([np.zeros((8, 8)), np.zeros((8, 9))], "made")


def test_the_given_array_is_copied():
    pixels = np.zeros((2, 8, 8), dtype=np.uint8)
    images = to_images(pixels, "made")
    images += 1
    assert pixels.max() == 0


@pytest.mark.parametrize("labels", [[5, 9, 5], np.array([5, 9, 5], dtype=np.uint8), ["b", "c", "b"]])
def test_labels_are_numbered_in_order_and_name_themselves(labels):
    index, names = index_labels(labels, None, 3, "made")
    assert index.tolist() == [0, 1, 0]
    assert names == tuple(str(value) for value in np.unique(labels))


def test_labels_of_other_forms():
    assert index_labels(torch.tensor([[1], [0]]), None, 2, "made")[0].tolist() == [1, 0]
    assert index_labels(np.array([True, False]), None, 2, "made")[1] == ("0", "1")
    assert index_labels(np.array([b"cat", b"ant"]), None, 2, "made")[1] == ("ant", "cat")


def test_given_class_names_fix_the_order():
    assert index_labels([1, 0], ["zero", "one"], 2, "made")[1] == ("zero", "one")
    index, names = index_labels(["a", "b"], ["b", "a"], 2, "made")
    assert (index.tolist(), names) == ([1, 0], ("b", "a"))


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        ([0, -1, -1], None, "2 labels are negative, the first is -1 at image 1"),
        ([0.0, 1.0, 1.0], None, "whole numbers or strings, found float64"),
        ([0.0, np.nan, 1.0], None, "label 1 is nan; leave that image out"),
        ([0, 1, None], None, "found object"),
        ([4, 4, 4], None, "at least 2 classes"),
        ([0, 1, 2], ["a", "b"], "names 2 classes.*3 different values"),
        ([0, 1, 1], ["a", "b", "c"], "names 3 classes.*2 different values"),
        ([1, 2, 2], ["a", "b"], r"0\.\.1; found 2"),
        ([0, 1, 1], ["a", "a"], "a name twice"),
        (["x", "y", "y"], ["x", "z"], "'y' is not among classes"),
    ],
)
def test_unusable_labels_say_why(labels, classes, message):
    with pytest.raises(DataError, match=message):
        index_labels(labels, classes, 3, "made")


@pytest.mark.parametrize("labels", [[0, 1], [[0, 1], [1, 0], [0, 1]], 1])
def test_labels_must_be_one_for_each_image(labels):
    with pytest.raises(ShapeError, match="one value for each of the 3 images"):
        index_labels(labels, None, 3, "made")


def test_no_images_at_all():
    with pytest.raises(DataError, match="no images"):
        load((np.zeros((0, 8, 8)), np.zeros(0, dtype=int)))
