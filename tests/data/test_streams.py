"""Streams: the same images in the same order, whatever they come from."""

from __future__ import annotations

import io
import json
import sys
import tarfile
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from convexdistill.data import ImageData, Preprocessing, stream
from convexdistill.data.stream import read_ahead
from convexdistill.errors import (
    BackendUnavailableError,
    DataError,
    InvalidInputError,
    MissingDataError,
    NonFiniteInputError,
    UnknownNameError,
)

COUNT, CLASSES = 23, ("ant", "bee", "cat")
IMAGES = torch.randint(0, 256, (COUNT, 1, 6, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
LABELS = torch.arange(COUNT) % 3
DATA = ImageData(IMAGES, LABELS, CLASSES, name="toy", split="train")


def read(source, size=4, shard=(0, 1), skip=0):
    batches = list(source.batches(size, shard, skip))
    assert all(len(images) == len(labels) == size for images, labels in batches[:-1])
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def png(image):
    file = io.BytesIO()
    Image.fromarray(image[0].numpy()).save(file, "png")
    return file.getvalue()


def write_tar(path, indices, label=lambda i: {"cls": str(int(LABELS[i])).encode()}):
    with tarfile.open(path, "w") as archive:
        for i in indices:
            for extension, content in {"png": png(IMAGES[i]), **label(i)}.items():
                member = tarfile.TarInfo(f"some/{i:04d}.{extension}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


class Items(IterableDataset):
    classes = CLASSES

    def __iter__(self):
        return ((image, label) for image, label in zip(IMAGES.float() / 255, LABELS.tolist(), strict=True))


def loaders(folder):
    """Every kind of source, with the same images in the same order."""
    write_tar(folder / "a-0.tar", range(9))
    write_tar(folder / "a-1.tar", range(9, COUNT))
    arrays = [(IMAGES[i : i + 5, 0, :, :, None].numpy(), LABELS[i : i + 5].numpy()) for i in range(0, COUNT, 5)]
    names = [
        (Image.fromarray(image[0].numpy()), CLASSES[label]) for image, label in zip(IMAGES, LABELS, strict=True)
    ]
    return {
        "memory": stream(DATA),
        "DataLoader": stream(DataLoader(TensorDataset(IMAGES, LABELS), batch_size=7), classes=CLASSES),
        "IterableDataset": stream(Items()),
        "DataLoader of IterableDataset": stream(DataLoader(Items(), batch_size=6)),
        "batches of arrays": stream(arrays, classes=CLASSES),
        "pictures and names": stream(names, classes=CLASSES),
        "function": stream(lambda: iter(names), classes=CLASSES),
        "tar files": stream(str(folder / "a-*.tar"), classes=CLASSES),
        "list of tar files": stream([folder / "a-0.tar", folder / "a-1.tar"], classes=CLASSES),
    }


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return loaders(tmp_path_factory.mktemp("streams"))


SOURCES = (
    "memory",
    "DataLoader",
    "IterableDataset",
    "DataLoader of IterableDataset",
    "batches of arrays",
    "pictures and names",
    "function",
    "tar files",
    "list of tar files",
)


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_gives_the_same_images(sources, kind):
    source = sources[kind]
    assert (source.shape, source.classes) == ((1, 6, 5), CLASSES)
    for _ in range(2):  # and can be read again
        images, labels = read(source)
        assert torch.equal(images, IMAGES)
        assert torch.equal(labels, LABELS)


@pytest.mark.parametrize("kind", SOURCES)
@settings(deadline=None, max_examples=12)
@given(count=st.integers(1, 5), skip=st.integers(0, 9), size=st.integers(1, 30))
def test_shards_are_a_division_and_skipping_leaves_out_the_first(sources, kind, count, skip, size):
    shards = [read(sources[kind], size, (i, count)) for i in range(count)]
    found = torch.cat([images for images, _ in shards])
    assert sorted(map(bytes, found.numpy())) == sorted(map(bytes, IMAGES.numpy()))
    for i, (images, labels) in enumerate(shards):
        if skip < len(labels):
            rest = read(sources[kind], size, (i, count), skip)
            assert torch.equal(rest[0], images[skip:])
            assert torch.equal(rest[1], labels[skip:])


def test_a_folder_of_class_folders(tmp_path):
    for i in range(COUNT):
        folder = tmp_path / CLASSES[LABELS[i]]
        folder.mkdir(exist_ok=True)
        (folder / f"{i:03d}.png").write_bytes(png(IMAGES[i]))
    source = stream(tmp_path)
    images, labels = read(source)
    order = torch.argsort(LABELS, stable=True)
    assert (source.count, source.classes, source.shape) == (COUNT, CLASSES, (1, 6, 5))
    assert torch.equal(images, IMAGES[order])
    assert torch.equal(labels, LABELS[order])
    assert torch.equal(read(source, 3, (1, 4), 2)[1], LABELS[order][1::4][2:])
    assert stream(tmp_path, shape=(3, 12, 10)).shape == read(stream(tmp_path, shape=(3, 12, 10)))[0].shape[1:]
    with pytest.raises(DataError, match="leave classes out"):
        stream(tmp_path, classes=3)


def test_tar_samples_with_json_and_with_names(tmp_path):
    labels = (
        lambda i: {"json": json.dumps({"label": int(LABELS[i])}).encode()},
        lambda i: {"cls": f"{CLASSES[LABELS[i]]}\n".encode()},
        lambda i: {"txt": b"a caption", "json": json.dumps({"label": CLASSES[LABELS[i]]}).encode()},
    )
    for label in labels:
        write_tar(tmp_path / "a.tar", range(COUNT), label)
        assert torch.equal(read(stream(tmp_path / "a.tar", classes=CLASSES))[1], LABELS)


def test_broken_tar_files_say_which_and_where(tmp_path):
    write_tar(tmp_path / "a.tar", range(5))
    content = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(content[:3000])
    with pytest.raises(DataError, match=r"cut\.tar is not a whole tar file"):
        read(stream(tmp_path / "cut.tar", classes=3))
    (tmp_path / "text.tar").write_text("no tar file")
    with pytest.raises(DataError, match=r"text\.tar is not a whole tar file"):
        stream(tmp_path / "text.tar", classes=3)
    write_tar(tmp_path / "none.tar", range(3), lambda i: {})
    with pytest.raises(DataError, match="sample 'some/0000' has no usable label"):
        stream(tmp_path / "none.tar", classes=3)
    write_tar(tmp_path / "image.tar", range(3), lambda i: {"png": b"no picture", "cls": b"1"})
    with pytest.raises(DataError, match="the image of sample 'some/0000' cannot be decoded"):
        stream(tmp_path / "image.tar", classes=3)
    with pytest.raises(MissingDataError, match="there is no file"):
        stream(tmp_path / "nowhere-*.tar", classes=3)


def test_what_cannot_be_a_stream():
    batches = [(IMAGES, LABELS)]
    with pytest.raises(DataError, match="give classes="):
        stream(batches)
    with pytest.raises(DataError, match="can be read once only"):
        stream(iter(batches), classes=3)
    with pytest.raises(DataError, match="shuffles"):
        stream(DataLoader(TensorDataset(IMAGES, LABELS), shuffle=True), classes=3)
    with pytest.raises(UnknownNameError, match="unknown split"):
        stream(batches, "all", classes=3)
    with pytest.raises(DataError, match="gives no images"):
        stream(7, classes=3)
    with pytest.raises(DataError, match="holds no images"):
        stream([], classes=3)


@pytest.mark.parametrize(
    ("item", "error", "says"),
    [
        ((torch.zeros(2, 1, 6, 5), torch.tensor([0, 3])), DataError, "image 24 is of class 3"),
        ((torch.zeros(2, 1, 6, 5), torch.tensor([0, -1])), DataError, "image 24 is of class -1"),
        ((torch.zeros(2, 1, 6, 6), torch.tensor([0, 1])), DataError, "image 23 is torch.uint8 of"),
        ((torch.zeros(2, 1, 6, 5) - 1, torch.tensor([0, 1])), DataError, "before any normalisation"),
        ((torch.full((2, 1, 6, 5), torch.nan), torch.tensor([0, 1])), NonFiniteInputError, "NaN"),
        ((torch.zeros(2, 2, 6, 5), torch.tensor([0, 1])), DataError, "images must be"),
        ((torch.zeros(2, 1, 6, 5), torch.tensor([0.5, 1])), DataError, "whole numbers"),
        ((torch.zeros(2, 1, 6, 5), torch.tensor([1])), DataError, "2 images came with 1 labels"),
        ((torch.zeros(2, 1, 6, 5), ["ant", "dog"]), DataError, "'dog' is not among the classes"),
        (torch.zeros(2, 1, 6, 5), DataError, "must be a pair"),
    ],
)
def test_wrong_items_are_refused_where_they_stand(item, error, says):
    source = stream([(IMAGES, LABELS), item], classes=CLASSES, name="toy")
    with pytest.raises(error, match=says):
        read(source)


def test_streams_know_each_other_by_files_or_name(tmp_path):
    write_tar(tmp_path / "a.tar", range(5))
    write_tar(tmp_path / "b.tar", range(6))
    first, second = (stream(tmp_path / name, classes=3) for name in ("a.tar", "b.tar"))
    assert first.fingerprint != second.fingerprint
    assert first.fingerprint == stream(str(tmp_path / "[a].tar"), classes=3).fingerprint
    assert stream([(IMAGES, LABELS)], classes=3, name="x").fingerprint != (
        stream([(IMAGES, LABELS)], classes=3, name="y").fingerprint
    )
    assert stream(DATA).fingerprint == DATA.fingerprint


def test_a_test_split_may_not_be_a_target():
    with pytest.raises(InvalidInputError, match="may only report"):
        stream([(IMAGES, LABELS)], "test", classes=3).refuse_test("as target set")


def test_preprocessing_of_a_stream_is_that_of_its_images(sources):
    assert Preprocessing.fit(sources["tar files"]) == Preprocessing.fit(DATA)


def test_reading_ahead_keeps_order_hands_over_errors_and_stops():
    def items():
        yield from range(5)
        raise DataError("the sixth is damaged")

    taken = read_ahead(items())
    assert [next(taken) for _ in range(5)] == list(range(5))
    with pytest.raises(DataError, match="the sixth"):
        next(taken)
    endless = read_ahead(iter(int, 1), depth=2)
    next(endless)
    endless.close()
    assert not [t for t in threading.enumerate() if t.name == "convexdistill-read-ahead"]


def test_the_hub_needs_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)  # as if it were not installed
    with pytest.raises(BackendUnavailableError, match=r"convexdistill\[hf\]"):
        stream("hf:mnist")


def test_a_data_set_of_the_hub_may_lie_in_a_folder(tmp_path, monkeypatch):
    pytest.importorskip("datasets", reason="the extra hf is not installed")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    for i in range(COUNT):
        file = tmp_path / "pets" / "train" / CLASSES[int(LABELS[i])] / f"{i:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(IMAGES[i]))
    source = stream(f"hf:{tmp_path / 'pets'}")
    assert (source.classes, source.shape) == (CLASSES, (1, 6, 5))
    images, labels = read(source)
    order = LABELS.argsort(stable=True)  # folder by folder
    assert torch.equal(images, IMAGES[order])
    assert torch.equal(labels, LABELS[order])
    with pytest.raises(MissingDataError, match=r"hf:.*nowhere.*cannot be opened"):
        stream(f"hf:{tmp_path / 'nowhere'}")


def test_hugging_face_data_sets_stream():
    datasets = pytest.importorskip("datasets", reason="the extra hf is not installed")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    rows = {"image": [Image.fromarray(i[0].numpy()) for i in IMAGES], "label": LABELS.tolist()}
    whole = datasets.Dataset.from_dict(rows, features=features)
    for source in (stream(whole), stream(whole.to_iterable_dataset(num_shards=4), name="toy")):
        images, labels = read(source)
        assert torch.equal(images, IMAGES)
        assert torch.equal(labels, LABELS)
        shards = [read(source, shard=(i, 3)) for i in range(3)]
        assert sorted(torch.cat([truth for _, truth in shards]).tolist()) == sorted(LABELS.tolist())
        assert torch.equal(read(source, shard=(1, 2), skip=3)[0], read(source, shard=(1, 2))[0][3:])


def test_arrays_are_not_written_to():
    frozen = IMAGES.numpy().copy()
    frozen.flags.writeable = False
    assert torch.equal(read(stream([(frozen, np.asarray(LABELS))], classes=3))[0], IMAGES)
