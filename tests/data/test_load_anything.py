"""Sources without a name: files, folders, data sets, pairs."""

import pickle
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from convexdistill.data import load
from convexdistill.errors import DataError, InvalidInputError, MissingDataError, ShapeError

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
LABELS = np.arange(20) % 2


def whole(source):
    """Every image of a source, whatever split it is in, as a set of bytes."""
    return {
        image.numpy().tobytes()
        for split in ("train", "validation", "test")
        for image in load(source, split).images
    }


EVERY_IMAGE = {image.tobytes() for image in IMAGES}


def test_pairs_of_arrays_tensors_and_lists():
    for pair in [(IMAGES, LABELS), (torch.from_numpy(IMAGES), torch.from_numpy(LABELS))]:
        assert whole(pair) == EVERY_IMAGE
        assert whole(list(pair)) == EVERY_IMAGE
    assert whole((IMAGES.tolist(), LABELS.tolist())) == EVERY_IMAGE
    assert load((IMAGES, LABELS)).name == "arrays"
    assert load((IMAGES, LABELS), name="mine").name == "mine"


def test_npz(write_npz):
    path = write_npz(images=IMAGES, labels=LABELS, classes=["no", "yes"])
    data = load(path)
    assert (len(data), data.shape, data.classes) == (14, (1, 8, 8), ("no", "yes"))
    assert (data.name, data.split) == (str(path), "train")
    assert whole(str(path)) == EVERY_IMAGE


@pytest.mark.parametrize("shape", [(20, 8, 8, 3), (20, 8, 8, 1), (20, 3, 8, 8)])
def test_npz_of_other_layouts_with_string_labels(write_npz, shape):
    data = load(write_npz(images=np.zeros(shape), labels=np.where(LABELS, "b", "a")))
    assert data.shape == (max(1, 3 * (3 in shape)), 8, 8)
    assert data.classes == ("a", "b")


def test_npz_without_the_arrays_says_what_it_found(write_npz):
    with pytest.raises(DataError, match=r"no array 'images' nor 'labels'.*found 'x', 'y'"):
        load(write_npz(x=IMAGES, y=LABELS))


def test_npz_of_python_objects_is_never_unpickled(write_npz, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    labels = np.array(["a", Evil()] * 10, dtype=object)
    with pytest.raises(DataError, match="never unpickled; save plain arrays"):
        load(write_npz(images=IMAGES, labels=labels))
    bare = tmp_path / "bare.npz"
    bare.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(DataError):
        load(bare)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("keep", [0, 1, 50, 700, -1])
def test_truncated_npz_is_one_clear_line(write_npz, keep):
    path = write_npz(images=IMAGES, labels=LABELS)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"made\.npz") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_npz_with_flipped_bytes_is_one_clear_line(tmp_path):
    path = tmp_path / "flipped.npz"
    np.savez_compressed(path, images=IMAGES, labels=LABELS)
    damaged = bytearray(path.read_bytes())
    damaged[300:320] = b"\xff" * 20
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"flipped\.npz"):
        load(path)


def test_zip_with_another_name_in_it(tmp_path):
    path = tmp_path / "other.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "hello")
    with pytest.raises(DataError, match=r"readme\.txt"):
        load(path)


def make_folder(root, sizes, mode="L", names=("ant", "bee")):
    for number, size in enumerate(sizes):
        folder = root / names[number % len(names)]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size, color=number + 1).save(folder / f"{number:02}.png")
    return root


def test_folder_of_class_folders(tmp_path):
    data = load(make_folder(tmp_path, [(9, 8)] * 20))
    assert (len(data), data.shape, data.classes) == (14, (1, 8, 9), ("ant", "bee"))
    # The first pixel is the file's number plus one, and even numbers are ants.
    assert torch.equal(data.labels, (data.images[:, 0, 0, 0].long() - 1) % 2)


def test_folder_resizes_to_the_most_common_size(tmp_path):
    data = load(make_folder(tmp_path, [(9, 8)] * 12 + [(20, 30)] * 8))
    assert data.shape == (1, 8, 9)


def test_folder_with_one_coloured_image_becomes_rgb(tmp_path):
    make_folder(tmp_path, [(8, 8)] * 20)
    Image.new("RGB", (8, 8), (200, 0, 0)).save(tmp_path / "bee" / "red.png")
    assert load(tmp_path).shape == (3, 8, 8)


def test_folder_turns_photos_upright(tmp_path):
    make_folder(tmp_path, [(8, 12)] * 20, names=("a", "b"))
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(20):
        file = tmp_path / "ab"[number % 2] / f"{number:02}.png"
        Image.open(file).save(file, exif=exif)
    assert load(tmp_path).shape == (1, 8, 12)


def test_folder_with_sixteen_bit_images_is_refused(tmp_path):
    make_folder(tmp_path, [(8, 8)] * 4)
    Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16)).save(tmp_path / "bee" / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png.*8 bits"):
        load(tmp_path)


@pytest.mark.parametrize("keep", [0, 20, 60])
def test_folder_with_a_damaged_image_names_it(tmp_path, keep):
    make_folder(tmp_path, [(60, 60)] * 4)
    broken = tmp_path / "ant" / "00.png"
    broken.write_bytes(broken.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"00\.png cannot be read as an image"):
        load(tmp_path)


def test_folder_without_classes_or_images(tmp_path):
    with pytest.raises(DataError, match="one folder for each class"):
        load(tmp_path)
    make_folder(tmp_path, [(8, 8)] * 4)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        load(tmp_path)


class Items(Dataset):
    def __init__(self, make, classes=None):
        self.make = make
        if classes is not None:
            self.classes = classes

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return self.make(index)


@pytest.mark.parametrize(
    "make",
    [
        lambda i: (Image.fromarray(IMAGES[i]), int(LABELS[i])),
        lambda i: (torch.from_numpy(IMAGES[i])[None], torch.tensor(LABELS[i])),
        lambda i: (torch.from_numpy(IMAGES[i])[None] / 255, int(LABELS[i])),
        lambda i: [IMAGES[i], "ab"[LABELS[i]]],
    ],
    ids=["PIL", "bytes", "floats", "array and name"],
)
def test_map_style_datasets(make):
    assert whole(Items(make)) == EVERY_IMAGE


def test_dataset_of_coloured_images():
    rgb = Items(lambda i: (Image.new("RGB", (8, 6), (10, 20, 30)), i % 2), classes=["x", "y"])
    data = load(rgb)
    assert data.shape == (3, 6, 8)
    assert data.images[0, :, 0, 0].tolist() == [10, 20, 30]
    assert (data.classes, data.name) == (("x", "y"), "Items")


def test_dataset_with_names_that_never_occur_is_named_by_its_labels():
    data = load(Items(lambda i: (IMAGES[i], i % 2 + 1), classes=["N/A", "a", "b"]))
    assert data.classes == ("1", "2")


def test_torch_dataset():
    assert whole(TensorDataset(torch.from_numpy(IMAGES), torch.from_numpy(LABELS))) == EVERY_IMAGE


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(IMAGES[0], 0)])

    def __len__(self):
        return 1


def test_datasets_of_other_kinds_say_what_they_need():
    with pytest.raises(DataError, match="item 0 must be a pair"):
        load(Items(lambda i: {"image": IMAGES[i]}))
    with pytest.raises(DataError, match="label of item 0 has shape"):
        load(Items(lambda i: (IMAGES[i], [0, 1])))
    with pytest.raises(ShapeError, match=r"item 1 has shape .*Resize"):
        load(Items(lambda i: (np.zeros((8, 8 + i)), 0)))
    with pytest.raises(DataError, match=r"loader\.dataset"):
        load(DataLoader(Items(lambda i: (IMAGES[i], 0))))
    for source in (Stream(), 3, {"images": IMAGES}, IMAGES, None):
        with pytest.raises(DataError, match="cannot load a"):
            load(source)


def test_paths_that_do_not_lead_anywhere(tmp_path):
    for source in ("no/such/thing", "nothing.npz", tmp_path / "gone" / "away.npz"):
        with pytest.raises(MissingDataError, match="check the path"):
            load(source)
    text = tmp_path / "images.csv"
    text.write_text("1,2,3")
    with pytest.raises(DataError, match="neither a folder"):
        load(text)


def test_every_error_of_a_source_is_an_input_error():
    assert issubclass(MissingDataError, InvalidInputError)
    assert issubclass(MissingDataError, FileNotFoundError)
