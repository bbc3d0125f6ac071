"""Official data sets that torchvision knows how to read and where to download.

torchvision's own code does both, so its on-disk layout is ours, and a folder that another program
has filled is read as it is. Each function here describes one family as an :class:`OfficialSet`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchvision import datasets
from torchvision.datasets.mnist import (
    read_image_file,
    read_label_file,
    read_sn3_pascalvincent_tensor,
)
from torchvision.datasets.utils import check_integrity

from convexdistill.data.official import OfficialSet, Part
from convexdistill.data.raw import RawImages

DIGITS = tuple("0123456789")


def idx_set(name: str, *, validation: int, classes: Sequence[str] | None = None) -> OfficialSet:
    """MNIST and its look-alikes: four idx files in ``<name>/raw``. ``classes``: torchvision's."""
    dataset: Any = getattr(datasets, name)
    # torchvision wants all four before it reads any.
    stems = [Path(file).stem for file, _ in dataset.resources]
    files = tuple(f"{name}/raw/{stem}" for stem in stems)
    images_of, labels_of = (
        {"train": files[0], "test": files[2]},
        {"train": files[1], "test": files[3]},
    )
    names = tuple(classes or dataset.classes)

    def read(root: Path, part: Part) -> RawImages:
        return _read_idx(root / images_of[part], root / labels_of[part], names)

    return OfficialSet(
        read,
        files=lambda part: files,
        damaged=lambda root, part: _unreadable_idx(root, files),
        validation=validation,
        download=lambda root, part: dataset(root, download=True),
        where=dataset.mirrors[0],
    )


def emnist_letters_set(classes: Sequence[str]) -> OfficialSet:
    """EMNIST's ``letters``, put upright, numbered from 0.

    The idx files hold every image transposed (EMNIST was written from MATLAB, column by column),
    and number the letters 1..26. The paper's code leaves them transposed; here they stand upright,
    like MNIST's digits, which is also how people read them.
    """

    def files(part: Part) -> tuple[str, ...]:
        return tuple(f"EMNIST/raw/emnist-letters-{part}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1"))

    def read(root: Path, part: Part) -> RawImages:
        images, labels = (root / file for file in files(part))
        found = _read_idx(images, labels, classes)
        return RawImages(found.images.transpose(1, 2), found.labels - 1, found.classes)

    return OfficialSet(
        read,
        files=files,
        damaged=lambda root, part: _unreadable_idx(root, files(part)),
        download=lambda root, part: datasets.EMNIST(root, split="letters", download=True),
        where=datasets.EMNIST.url,
    )


def cifar_set(name: str, *, validation: int) -> OfficialSet:
    """CIFAR-10 or CIFAR-100 in the python batches.

    Those batches are pickles, which could run anything. They are safe here because torchvision
    (``_check_integrity``, ``_load_meta``) compares each with the published md5 before it opens it.
    """
    dataset: Any = getattr(datasets, name)
    meta = [dataset.meta["filename"], dataset.meta["md5"]]
    sums = {f"{dataset.base_folder}/{file}": md5 for file, md5 in [*dataset.train_list, *dataset.test_list, meta]}

    def read(root: Path, part: Part) -> RawImages:
        found = dataset(root, train=part == "train")
        return RawImages(found.data, found.targets, tuple(found.classes))

    return OfficialSet(
        read,
        files=lambda part: tuple(sums),
        damaged=lambda root, part: _wrong_md5(root, sums),
        validation=validation,
        download=lambda root, part: dataset(root, download=True),
        where=dataset.url,
    )


def svhn_set() -> OfficialSet:
    """Street View House Numbers, cropped digits; one MATLAB file a part."""

    def files(part: Part) -> tuple[str, ...]:
        return (datasets.SVHN.split_list[part][1],)

    def read(root: Path, part: Part) -> RawImages:
        found: Any = datasets.SVHN(root, split=part)
        return RawImages(found.data, found.labels, DIGITS)

    return OfficialSet(
        read,
        files=files,
        damaged=lambda root, part: _wrong_md5(
            root, {datasets.SVHN.split_list[part][1]: datasets.SVHN.split_list[part][2]}
        ),
        download=lambda root, part: datasets.SVHN(root, split=part, download=True),
        where=datasets.SVHN.split_list["train"][0],
    )


def usps_set() -> OfficialSet:
    """USPS digits, 16×16, in libsvm's text form. torchvision reads it whatever its md5."""

    def files(part: Part) -> tuple[str, ...]:
        return (datasets.USPS.split_list[part][1],)

    def read(root: Path, part: Part) -> RawImages:
        found: Any = datasets.USPS(root, train=part == "train")
        return RawImages(found.data, found.targets, DIGITS)

    return OfficialSet(
        read,
        files=files,
        damaged=lambda root, part: list(files(part)),
        download=lambda root, part: datasets.USPS(root, train=part == "train", download=True),
        where=datasets.USPS.split_list["train"][0],
    )


def _read_idx(images: Path, labels: Path, classes: Sequence[str]) -> RawImages:
    """Images and labels from torchvision's idx parser.

    Not through the data set's class: that would rather open an old ``processed/*.pt`` where one
    lies beside, which is a pickle.
    """
    return RawImages(read_image_file(str(images)), read_label_file(str(labels)), classes)


def _unreadable_idx(root: Path, files: Sequence[str]) -> list[str]:
    """The idx files whose size is not what their header says, or that have no such header."""
    wrong = []
    for file in files:
        try:
            read_sn3_pascalvincent_tensor(str(root / file), strict=True)
        except Exception:  # whatever the parser stumbles over, the file is what is wrong
            wrong.append(file)
    return wrong


def _wrong_md5(root: Path, sums: dict[str, str]) -> list[str]:
    """The files that are not byte for byte the published ones."""
    return [file for file, md5 in sums.items() if not check_integrity(root / file, md5)]
