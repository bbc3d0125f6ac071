"""Named data sets, from small made files in their layouts."""

import os
import socket
import urllib.error

import numpy as np
import pytest
import scipy.io
import torch
from torchvision import datasets

from convexdistill.data import known as known_module
from convexdistill.data import load, names
from convexdistill.errors import DataError, MissingDataError, UnknownNameError


def test_digits_needs_no_files():
    digits = load("digits", root="/nowhere")
    assert (digits.shape, digits.num_classes, digits.name) == ((1, 8, 8), 10, "digits")
    assert (digits.images.min(), digits.images.max()) == (0, 255)
    assert set(digits.images.unique().tolist()) == {round(255 * k / 16) for k in range(17)}


def test_mnist_from_idx_files(made_mnist):
    train, validation, test = (
        load("mnist", split, made_mnist, download=False) for split in ("train", "validation", "test")
    )
    assert [len(train), len(validation), len(test)] == [40, 10, 20]
    marks = torch.cat([train.images[:, 0, 0, 0], validation.images[:, 0, 0, 0]])
    assert sorted(marks.tolist()) == list(range(50))
    assert torch.equal(train.labels, train.images[:, 0, 0, 0].long() % 10)
    assert test.images[:, 0, 0, 0].tolist() == list(range(20))
    assert train.classes == tuple("0123456789")


def test_names_are_read_generously(made_mnist):
    assert load("MNIST", root=made_mnist, download=False).name == "mnist"
    assert set(names()) >= {"digits", "kuzushiji-49", "cifar100", "emnist-letters", "usps"}


def test_root_is_the_argument_then_the_environment_then_data(made_mnist, monkeypatch, tmp_path):
    monkeypatch.setenv("CONVEXDISTILL_DATA", str(made_mnist))
    assert len(load("mnist", download=False)) == 40
    with pytest.raises(MissingDataError, match="elsewhere"):
        load("mnist", root=tmp_path / "elsewhere", download=False)
    monkeypatch.setenv("CONVEXDISTILL_DATA", "")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingDataError, match=str(tmp_path / "data")):
        load("mnist", download=False)


@pytest.mark.parametrize("name", [name for name in names() if name != "digits"])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_missing_files_are_named_in_one_line(name, split, tmp_path):
    with pytest.raises(MissingDataError) as caught:
        load(name, split, tmp_path / "empty", download=False)
    message = str(caught.value)
    part = "test" if split == "test" else "train"
    assert all(file in message for file in known_module.KNOWN[name]().files(part))
    assert str(tmp_path / "empty") in message
    assert "CONVEXDISTILL_DATA" in message
    assert "\n" not in message
    assert not (tmp_path / "empty").exists()


def test_only_the_files_that_are_missing_are_named(made_mnist):
    os.rename(made_mnist / "MNIST", made_mnist / "KMNIST")
    for file in (made_mnist / "KMNIST" / "raw").glob("train-*"):
        file.unlink()
    with pytest.raises(MissingDataError) as caught:
        load("kmnist", root=made_mnist, download=False)
    assert "KMNIST/raw/train-images-idx3-ubyte" in str(caught.value)
    assert "t10k" not in str(caught.value)


@pytest.mark.parametrize("kind", ["images-idx3", "labels-idx1"])
@pytest.mark.parametrize("keep", [0, 3, 10, 50])
def test_truncated_idx_file_is_named(made_mnist, kind, keep):
    file = made_mnist / "MNIST" / "raw" / f"train-{kind}-ubyte"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DataError, match="download again") as caught:
        load("mnist", root=made_mnist, download=False)
    assert str(file) in str(caught.value)
    assert "t10k" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_do_not_belong_together(made_mnist, write_idx):
    write_idx(made_mnist / "MNIST" / "raw" / "train-labels-idx1-ubyte", np.arange(30) % 10)
    with pytest.raises(DataError, match=r"labels must be int64 of shape \(50,\)"):
        load("mnist", root=made_mnist, download=False)


def test_old_torchvision_pickles_are_not_opened(made_mnist, tmp_path):
    processed = made_mnist / "MNIST" / "processed"
    processed.mkdir()
    for file in ("training.pt", "test.pt"):
        (processed / file).write_bytes(b"not for reading")
    assert len(load("mnist", root=made_mnist, download=False)) == 40


def test_emnist_letters_stand_upright_and_count_from_zero(tmp_path, write_idx):
    upright = np.zeros((26, 28, 28), dtype=np.uint8)
    upright[:, 4, :20] = 200  # the bar of a T, off centre: wide, high up
    upright[:, 4:20, 10] = 100
    raw = tmp_path / "EMNIST" / "raw"
    for part in ("train", "test"):
        prefix = f"emnist-letters-{part}"
        write_idx(raw / f"{prefix}-images-idx3-ubyte", upright.transpose(0, 2, 1))
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", np.arange(1, 27))
    test = load("emnist-letters", "test", tmp_path, download=False)
    assert torch.equal(test.images[:, 0], torch.from_numpy(upright))
    assert test.labels.tolist() == list(range(26))
    assert (test.classes[0], test.classes[-1]) == ("A", "Z")
    assert len(load("emnist-letters", "validation", tmp_path, download=False)) == 3


def test_kuzushiji_49(tmp_path):
    folder = tmp_path / "K49"
    folder.mkdir()
    for part, count in (("train", 98), ("test", 49)):
        np.savez_compressed(folder / f"k49-{part}-imgs.npz", np.full((count, 28, 28), 9, dtype=np.uint8))
        np.savez_compressed(folder / f"k49-{part}-labels.npz", (np.arange(count) % 49).astype(np.uint8))
    test = load("kuzushiji-49", "test", tmp_path, download=False)
    assert (len(test), test.num_classes) == (49, 49)
    assert (test.classes[0], test.classes[24], test.classes[-1]) == ("あ", "の", "ゝ")
    train = load("kuzushiji-49", "train", tmp_path, download=False)
    assert len(train) == 98 - 98 // 5
    labels = folder / "k49-test-labels.npz"
    labels.write_bytes(labels.read_bytes()[:100])
    with pytest.raises(DataError, match=r"k49-test-labels\.npz cannot be read"):
        load("kuzushiji-49", "test", tmp_path, download=False)


def test_kuzushiji_49_says_where_to_get_it(tmp_path):
    with pytest.raises(MissingDataError, match=r"no automatic download.*codh\.rois\.ac\.jp"):
        load("kuzushiji-49", root=tmp_path)


@pytest.fixture
def made_svhn(tmp_path, monkeypatch):
    pixels = np.zeros((32, 32, 3, 30), dtype=np.uint8)
    pixels[5, 7, 1] = np.arange(30)
    labels = (np.arange(30) % 10 + 1).reshape(-1, 1).astype(np.uint8)
    scipy.io.savemat(tmp_path / "train_32x32.mat", {"X": pixels, "y": labels})
    return tmp_path


def test_svhn(made_svhn, monkeypatch):
    monkeypatch.setattr(datasets.SVHN, "_check_integrity", lambda self: True)
    train = load("svhn", "train", made_svhn, download=False)
    assert (len(train), train.shape) == (27, (3, 32, 32))
    assert torch.equal(train.labels, (train.images[:, 1, 5, 7].long() + 1) % 10)


def test_a_file_with_another_checksum_is_refused(made_svhn):
    with pytest.raises(DataError, match=r"train_32x32\.mat cannot be read, damaged or not the off"):
        load("svhn", "train", made_svhn, download=False)


def test_cifar_pickles_with_another_checksum_are_never_opened(tmp_path):
    for file in known_module.KNOWN["cifar100"]().files("train"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(DataError, match="cifar-100-python/train"):
        load("cifar100", root=tmp_path, download=False)


def test_usps_and_its_damage(tmp_path):
    import bz2

    lines = [f"{k % 10 + 1} " + " ".join(f"{i + 1}:{1 if i == k else -1}" for i in range(256)) for k in range(40)]
    file = tmp_path / "usps.bz2"
    file.write_bytes(bz2.compress("\n".join(lines).encode()))
    train = load("usps", root=tmp_path, download=False)
    assert (len(train), train.shape) == (36, (1, 16, 16))
    assert torch.equal(train.labels, train.images.flatten(1).argmax(1) % 10)
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"usps\.bz2 cannot be read"):
        load("usps", root=tmp_path, download=False)


def test_a_download_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    def half_a_file(url, root, *args, **kwargs):
        (root / "usps.bz2").write_bytes(b"half")
        raise urllib.error.URLError("the line\nwent dead")

    monkeypatch.setattr(
        "torchvision.datasets.usps.download_url",
        lambda url, root, *args, **kwargs: half_a_file(url, type(tmp_path)(root)),
    )
    root = tmp_path / "fresh"
    with pytest.raises(MissingDataError, match=r"download failed.*the line went dead") as caught:
        load("usps", root=root)
    assert "\n" not in str(caught.value)
    assert not root.exists()


def test_a_dead_network_is_one_clear_line(tmp_path):
    before = socket.getdefaulttimeout()
    with pytest.raises(MissingDataError, match="download failed"):
        load("mnist", root=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert socket.getdefaulttimeout() == before


def test_a_download_that_works_is_kept(tmp_path, made_mnist, monkeypatch):
    source = made_mnist / "MNIST" / "raw"

    def copy(url, download_root, filename, md5):
        name = filename.removesuffix(".gz")
        (type(tmp_path)(download_root) / name).write_bytes((source / name).read_bytes())

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", copy)
    fresh = tmp_path / "fresh"
    assert len(load("mnist", root=fresh)) == 40
    assert sorted(path.name for path in fresh.iterdir()) == ["MNIST"]
    assert len(load("mnist", "test", root=fresh, download=False)) == 20


@pytest.mark.parametrize(("name", "meant"), [("mnits", "mnist"), ("cifar-10", "cifar10")])
def test_unknown_name_suggests_and_lists(name, meant):
    with pytest.raises(UnknownNameError, match=f"did you mean '{meant}'.*kuzushiji-49"):
        load(name)
