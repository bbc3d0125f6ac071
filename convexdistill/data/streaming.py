"""``stream``: one door to target sets of any size."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from convexdistill.data.hub import HubReader, columns, is_hub_dataset, open_hub
from convexdistill.data.images import ImageData
from convexdistill.data.readers import FolderReader, IterableReader, Shape, again
from convexdistill.data.splits import check_split
from convexdistill.data.stream import ImageStream, Reader, fingerprint_of, from_memory
from convexdistill.data.tars import TarReader
from convexdistill.errors import DataError, MissingDataError

HUB = "hf:"


def stream(
    source: Any,
    split: str = "train",
    *,
    classes: int | Sequence[str] | None = None,
    shape: Shape | None = None,
    name: str | None = None,
) -> ImageStream:
    """A target set that is read on the way, in memory that does not depend on its size.

    A stream is not parted: what it gives is the split ``split``, all of it.

    Args:
        source: one of

            * a ``DataLoader``, an ``IterableDataset``, or any other iterable, or a function that returns an
              iterator, of pairs (images, labels): batches ``(b, c, h, w)`` with ``(b,)``, or one image and its
              label. Pixels are bytes, or floats in 0..1 as torchvision's ``ToTensor`` gives them, before any
              normalisation. The order must be the same every time, or resuming and sharding are wrong;
            * the path of a folder of class folders of images;
            * the path of a tar file or a pattern such as ``"data/train-*.tar"``, or a list of paths: shards in
              the WebDataset format;
            * a Hugging Face data set, streaming or not, or ``"hf:NAME"``, one of the hub or a local folder;
            * an :class:`ImageData`.
        split: which split this is: ``"train"`` or ``"validation"``.
        classes: names of the classes, or how many; needed for tar shards and where the source has no
            ``classes`` of its own.
        shape: (channels, height, width) that images are brought to; default: the shape of the first image.
            Folders and tar files resize the others to it; elsewhere another shape is an error.
        name: what to call the data set; it stands for it where it cannot be fingerprinted.

    Raises:
        DataError: the source cannot be read as a stream.
        MissingDataError: no such file.
        BackendUnavailableError: ``hf:`` without Hugging Face's library.

    Example:
        >>> import torch
        >>> batches = [(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0]))] * 3
        >>> stream(batches, classes=3, name="toy").shape
        (1, 8, 8)
    """
    check_split(split)
    if isinstance(source, ImageData):
        return from_memory(source)
    if isinstance(source, str) and source.startswith(HUB):
        key = source.removeprefix(HUB)
        return _hub(open_hub(key, split), split, classes, shape, name or source, (key, split))
    if is_hub_dataset(source):
        facts = (str(getattr(source.info, "dataset_name", "")), str(source.split), name or "")
        return _hub(source, split, classes, shape, name or facts[0] or "hf", facts)
    if isinstance(source, str | os.PathLike) or _are_paths(source):
        paths = [source] if isinstance(source, str | os.PathLike) else list(source)
        return _files(paths, split, classes, shape, name)
    return _iterable(source, split, classes, shape, name)


def is_stream(source: str) -> bool:
    """Whether a name of the command line can only be a stream: ``hf:NAME``, tar files or a pattern of them."""
    return source.startswith(HUB) or ".tar" in Path(source).name or source.endswith(".tgz")


def _are_paths(source: Any) -> bool:
    return (
        isinstance(source, list | tuple) and bool(source) and all(isinstance(p, str | os.PathLike) for p in source)
    )


def _names(classes: int | Sequence[str] | None, found: Sequence[str] | None, where: str) -> tuple[str, ...]:
    if classes is None:
        classes = found
    if classes is None:
        raise DataError(
            f"{where} does not say which classes there are; give classes=, their number or their names"
        )
    names = tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(map(str, classes))
    if len(names) < 2 or len(set(names)) != len(names):
        raise DataError(f"{where}: at least 2 classes of different names are needed, found {names}")
    return names


def _with_shape(reader: Reader, shape: Shape | None, where: str) -> Shape:
    """The shape of the first image, where none is given."""
    if shape is not None:
        return shape
    first = next(iter(reader.chunks((0, 1), 0)), None)
    if first is None:
        raise DataError(f"{where} holds no images")
    channels, height, width = first[0].shape[1:]
    return channels, height, width


def _iterable(source: Any, split: str, classes: Any, shape: Shape | None, name: str | None) -> ImageStream:
    behind = source.dataset if isinstance(source, DataLoader) else source
    if isinstance(source, DataLoader) and "Random" in type(source.sampler).__name__:
        raise DataError("the DataLoader shuffles: a pass could be neither resumed nor divided; give shuffle=False")
    try:
        make = again(source)
    except TypeError as error:
        raise DataError(f"a {type(source).__name__} gives no images: {error}") from error
    where = f"stream {name or type(behind).__name__!r}"
    names = _names(classes, getattr(behind, "classes", None), where)
    reader = IterableReader(make, names, where, shape)
    shape = _with_shape(reader, shape, where)
    called = name or type(behind).__name__
    return ImageStream(reader, shape, names, called, split, fingerprint_of(called, split, shape, names))


def _hub(
    dataset: Any, split: str, classes: Any, shape: Shape | None, name: str, facts: tuple[str, ...]
) -> ImageStream:
    image, label, found = columns(dataset)
    where = f"data set {name!r}"
    names = _names(classes, found, where)
    streaming = dataset.to_iterable_dataset() if hasattr(dataset, "to_iterable_dataset") else dataset
    reader = HubReader(streaming, image, label, shape)
    shape = _with_shape(reader, shape, where)
    count = len(dataset) if hasattr(dataset, "__len__") else None
    return ImageStream(reader, shape, names, name, split, fingerprint_of(facts, shape, names), count)


def _files(
    paths: Sequence[str | os.PathLike[str]], split: str, classes: Any, shape: Shape | None, name: str | None
) -> ImageStream:
    called = name or os.fspath(paths[0])
    first = Path(paths[0]).expanduser()
    if len(paths) == 1 and first.is_dir():
        return _folder(first, split, classes, shape, called)
    files = [Path(found) for path in paths for found in sorted(glob.glob(os.path.expanduser(os.fspath(path))))]
    if not files:
        raise MissingDataError(f"there is no file {called}; check the path or the pattern")
    names = _names(classes, None, f"tar files {called!r}")
    shape = _with_shape(TarReader(tuple(files), names, shape), shape, called)
    sizes = [(file.name, file.stat().st_size) for file in files]
    reader = TarReader(tuple(files), names, shape)
    return ImageStream(reader, shape, names, called, split, fingerprint_of(sizes, shape, names))


def _folder(path: Path, split: str, classes: Any, shape: Shape | None, name: str) -> ImageStream:
    from convexdistill.data.folder import class_files, own_shape  # torchvision takes seconds to import

    files, found = class_files(path)
    if classes is not None and _names(classes, found, f"folder {name!r}") != tuple(found):
        raise DataError(f"folder {name!r} names its classes itself: {', '.join(found)}; leave classes out")
    names = _names(None, found, f"folder {name!r}")
    shape = shape or own_shape(files[0][0])
    listed = [(file.relative_to(path).as_posix(), label) for file, label in files]
    reader = FolderReader(tuple(files), shape)
    return ImageStream(reader, shape, names, name, split, fingerprint_of(listed, shape), len(files))
