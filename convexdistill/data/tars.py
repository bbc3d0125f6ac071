"""Read WebDataset-style tar shards as a stream, by the standard library.

A sample is a run of members of one name up to the first dot, such as ``a/0001.jpg`` and ``a/0001.cls``
(https://github.com/webdataset/webdataset, "The WebDataset Format"). The image is a member that Pillow decodes;
the label is text in ``.cls`` (a number or a name), or ``label`` in ``.json``.
"""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from convexdistill.data.readers import Shape, picture
from convexdistill.data.stream import Chunk, Shard
from convexdistill.errors import DataError

IMAGES = ("jpg", "jpeg", "png", "ppm", "pgm", "bmp", "webp", "tif", "tiff", "gif")
Sample = dict[str, bytes]


@dataclass(frozen=True)
class TarReader:
    """Reads tar files one after the other; nothing is unpacked to disk, and one sample is held at a time.

    Attributes:
        files: the tar files, compressed or not.
        classes: names of the classes; labels are positions in it, or names.
        shape: what images are brought to; ``None``: as they come.
    """

    files: tuple[Path, ...]
    classes: tuple[str, ...]
    shape: Shape | None

    def chunks(self, shard: Shard, skip: int) -> Iterator[Chunk]:
        """Whole tar files where there are at least m, else every m-th sample of all of them."""
        index, count = shard
        files, step, start = self.files, count, index + skip * count
        if len(files) >= count:
            files, step, start = files[index::count], 1, skip
        seen = 0
        names = {name: label for label, name in enumerate(self.classes)}
        for file in files:
            for key, sample in _samples(file):
                wanted = seen >= start and (seen - start) % step == 0
                seen += 1
                if wanted:  # the others are not decoded
                    yield _decode(file, key, sample, self.shape), torch.tensor([_label(file, key, sample, names)])


def _samples(file: Path) -> Iterator[tuple[str, Sample]]:
    key, sample = "", Sample()
    try:
        with tarfile.open(file, "r|*") as archive:  # a forward-only stream: no seeking, no index in memory
            for member in archive:
                # tarfile keeps every header it has seen, for seeking back; in an endless file that is a leak.
                archive.members = []  # type: ignore[attr-defined]
                if not member.isfile():
                    continue
                folder, _, base = member.name.rpartition("/")
                stem, _, extension = base.partition(".")
                found = f"{folder}/{stem}" if folder else stem
                if found != key and sample:
                    yield key, sample
                    sample = Sample()
                key = found
                content = archive.extractfile(member)
                assert content is not None  # it is a file
                sample[extension.lower()] = content.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{file} is not a whole tar file ({error}); fetch or write it again") from error
    if sample:
        yield key, sample


def _label(file: Path, key: str, sample: Sample, names: Mapping[str, int]) -> int:
    label: Any = None
    if "cls" in sample:
        label = sample["cls"].decode("utf-8", "replace").strip()
    elif "json" in sample:
        with contextlib.suppress(ValueError, AttributeError):
            label = json.loads(sample["json"]).get("label")
    if str(label) in names:
        return names[str(label)]
    if str(label).isdigit():  # ImageStream checks its range
        return int(label)
    raise DataError(
        f"{file}: sample {key!r} has no usable label ({label!r}); it needs a .cls member with a class number "
        "or one of the classes' names, or a .json member with 'label'"
    )


def _decode(file: Path, key: str, sample: Sample, shape: Shape | None) -> Tensor:
    found = next((extension for extension in sample if extension in IMAGES), None)
    if found is None:
        raise DataError(f"{file}: sample {key!r} has no image; members are {', '.join(sample)}")
    try:
        with Image.open(io.BytesIO(sample[found])) as image:
            return picture(ImageOps.exif_transpose(image), shape)
    except MemoryError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{file}: the image of sample {key!r} cannot be decoded ({reason})") from error
