"""``load``: one door to every data set, whatever it is made of."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from convexdistill.data.datasets import read_dataset
from convexdistill.data.fetch import data_root, read_official
from convexdistill.data.images import ImageData
from convexdistill.data.known import KNOWN
from convexdistill.data.labels import index_labels
from convexdistill.data.npz import read_npz
from convexdistill.data.official import OfficialSet
from convexdistill.data.pixels import to_array, to_images
from convexdistill.data.raw import RawImages
from convexdistill.data.splits import check_split, hold_out, stratified_split
from convexdistill.errors import DataError, MissingDataError, UnknownNameError


def load(
    source: str | os.PathLike[str] | Dataset[Any] | tuple[Any, Any],
    split: str = "train",
    root: str | os.PathLike[str] | None = None,
    *,
    download: bool = True,
    name: str | None = None,
) -> ImageData:
    """One split of a data set.

    Args:
        source: one of

            * a name (:func:`names` lists them; case does not matter);
            * the path of an ``.npz`` file with ``images`` (see :func:`to_images` for the shapes and
              pixels), ``labels`` (integers or strings) and, where wanted, ``classes`` (names);
            * the path of a folder of class folders of images, as for torchvision's ``ImageFolder``;
              images that differ in size are brought to the most common one;
            * a map-style ``torch.utils.data.Dataset`` of (image, label), the images PIL or tensors;
              it is read through once, so its transform should not be random;
            * a pair (images, labels) of tensors or arrays.
        split: ``"train"``, ``"validation"`` or ``"test"``. Official training images less a fixed
            validation split are train, and official test images test. Data without official parts
            is parted 70 / 10 / 20, the same share of every class. The same data, the same split,
            on every machine.
        root: folder of the named data sets, laid out as torchvision does. Default:
            ``$CONVEXDISTILL_DATA``, else ``./data``.
        download: whether files of a named data set that are missing may be downloaded.
        name: what the data set shall be called; by default the name or path as given.

    Raises:
        UnknownNameError: no such name or split.
        MissingDataError: files are missing; the message says which, and where they should lie.
        DataError, ShapeError, NonFiniteInputError: the data is damaged or cannot be used.

    Example:
        >>> digits = load("digits")
        >>> len(digits), digits.shape, digits.num_classes
        (1258, (1, 8, 8), 10)
        >>> images, labels = torch.rand(20, 3, 8, 8), torch.arange(20) % 2
        >>> len(load((images, labels), "test"))
        4
    """
    check_split(split)
    if isinstance(source, str) and (key := _key(source)) in KNOWN:
        known = KNOWN[key]()
        if isinstance(known, OfficialSet):
            return _official(key, known, split, data_root(root), download, name or key)
        return _parted(known, split, name or key)
    raw, default_name = _read(source)
    return _parted(raw, split, name or default_name)


def _key(source: str) -> str:
    return source.strip().lower().replace("_", "-")


def _official(key: str, data: OfficialSet, split: str, root: Path, download: bool, name: str) -> ImageData:
    raw = read_official(key, data, "test" if split == "test" else "train", root, download=download)
    where = f"data set {name!r}"
    images = to_images(raw.images, where)
    labels = torch.from_numpy(to_array(raw.labels).astype(np.int64))
    # The official order of classes stands, so labels are not renumbered; ImageData checks them.
    whole = ImageData(images, labels, tuple(raw.classes or ()), name=name, split=split)
    if split == "test":
        return whole
    train, validation = hold_out(len(whole), data.validation)
    return whole.subset(torch.from_numpy(train if split == "train" else validation))


def _parted(raw: RawImages, split: str, name: str) -> ImageData:
    where = f"data set {name!r}"
    images = to_images(raw.images, where)
    labels, classes = index_labels(raw.labels, raw.classes, len(images), where)
    chosen = torch.from_numpy(stratified_split(labels, split, where))
    return ImageData(images[chosen], torch.from_numpy(labels)[chosen], classes, name=name, split=split)


def _read(source: Any) -> tuple[RawImages, str]:
    """Everything that has no name of its own: the images, and what to call them."""
    if isinstance(source, str | os.PathLike):
        return _read_path(os.fspath(source)), os.fspath(source)
    if _is_pair(source):
        return RawImages(source[0], source[1]), "arrays"
    if isinstance(source, DataLoader):
        raise DataError("a DataLoader cannot be loaded; give the dataset behind it: loader.dataset")
    if _is_map_style(source):
        return read_dataset(source), type(source).__name__
    raise DataError(
        f"cannot load a {type(source).__name__}; give a name, an .npz file, a folder of class "
        f"folders, a map-style Dataset, or a pair (images, labels)"
    )


def _is_pair(source: Any) -> bool:
    # A list of two may also be a data set of two items; arrays in it tell the difference.
    return (isinstance(source, tuple) and len(source) == 2) or (
        isinstance(source, list) and len(source) == 2 and isinstance(source[0], Tensor | np.ndarray)
    )


def _is_map_style(source: Any) -> bool:
    foreign = (Tensor, np.ndarray, Mapping, bytes, IterableDataset)
    indexed = hasattr(source, "__getitem__") and hasattr(source, "__len__")
    return indexed and not isinstance(source, foreign)


def _read_path(source: str) -> RawImages:
    path = Path(source).expanduser()
    if path.is_dir():
        from convexdistill.data.folder import read_folder  # torchvision takes seconds to import

        return read_folder(path)
    if path.suffix == ".npz":
        if not path.is_file():
            raise MissingDataError(f"there is no file {source}; check the path")
        return read_npz(path)
    if path.exists():
        raise DataError(f"{source} is neither a folder of class folders nor an .npz file with images and labels")
    if len(path.parts) > 1:
        raise MissingDataError(f"there is no file or folder {source}; check the path")
    close = difflib.get_close_matches(_key(source), KNOWN, n=1)
    hint = f", did you mean {close[0]!r}?" if close else ";"
    raise UnknownNameError(
        f"unknown data set {source!r}{hint} known are {', '.join(KNOWN)}, and the path of an .npz "
        f"file or of a folder of class folders"
    )
