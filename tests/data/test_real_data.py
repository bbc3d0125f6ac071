"""The real data sets of $CONVEXDISTILL_DATA."""

import pytest

from convexdistill.data import Preprocessing, load
from convexdistill.errors import MissingDataError

pytestmark = pytest.mark.real_data


@pytest.mark.parametrize(
    ("name", "sizes", "shape"),
    [
        ("mnist", (50_000, 10_000, 10_000), (1, 28, 28)),
        ("fashion-mnist", (50_000, 10_000, 10_000), (1, 28, 28)),
        ("usps", (6_562, 729, 2_007), (1, 16, 16)),
        ("cifar10", (45_000, 5_000, 10_000), (3, 32, 32)),
    ],
)
def test_sizes_and_shapes(load_real, name, sizes, shape):
    parts = [load_real(name, split) for split in ("train", "validation", "test")]
    assert tuple(map(len, parts)) == sizes
    assert {part.shape for part in parts} == {shape}
    assert {part.num_classes for part in parts} == {10}
    assert len({part.fingerprint for part in parts}) == 3


def test_mnist_has_the_known_mean_and_deviation(load_real):
    fitted = Preprocessing.fit(load_real("mnist"))
    assert fitted.mean == pytest.approx((0.1307,), abs=3e-4)
    assert fitted.std == pytest.approx((0.3081,), abs=3e-4)


def test_mnist_test_images_are_the_official_ones(load_real):
    test = load_real("mnist", "test")
    assert test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert test.fingerprint.startswith("sha256:cdc21148af41d32c")


def test_kmnist_without_its_training_images_names_them(data_root):
    if (data_root / "KMNIST" / "raw" / "train-images-idx3-ubyte").exists():
        pytest.skip("KMNIST is complete here")
    with pytest.raises(MissingDataError, match="KMNIST/raw/train-images-idx3-ubyte"):
        load("kmnist", root=data_root, download=False)


@pytest.mark.parametrize(
    ("source", "count", "shape", "classes"),
    [
        ("extras/az_letters.npz", 5_934, (1, 28, 28), 26),
        ("extras/cub10.npz", 543, (3, 64, 64), 10),
        ("extras/kkanji49.npz", 24_490, (1, 28, 28), 49),
        ("extras/kmnist10k.npz", 10_000, (1, 28, 28), 10),
        ("omniglot-py/images_background_small2/Sanskrit", 840, (1, 105, 105), 42),
    ],
)
def test_files_and_folders(load_real, source, count, shape, classes):
    parts = [load_real(source, split) for split in ("train", "validation", "test")]
    assert sum(map(len, parts)) == count
    assert {part.shape for part in parts} == {shape}
    assert {part.num_classes for part in parts} == {classes}
