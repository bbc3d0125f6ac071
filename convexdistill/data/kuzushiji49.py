"""Kuzushiji-49: 49 classes of cursive hiragana, 28×28 (rois-codh/kmnist, CC BY-SA 4.0).

torchvision has no class for it. The four official files are ``.npz`` with one array each.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from convexdistill.data.official import OfficialSet, Part
from convexdistill.data.raw import RawImages

# k49_classmap.csv of the data set, in label order.
_HIRAGANA = (
    "あいうえおかきくけこさしすせそたちつてとなにぬねの"  # 0..24
    "はひふへほまみむめもやゆよらりるれろわゐゑをんゝ"  # 25..48
)
_KINDS = ("imgs", "labels")


def kuzushiji49_set(*, validation: int) -> OfficialSet:
    """``K49/k49-{train,test}-{imgs,labels}.npz`` under the root."""
    return OfficialSet(
        _read,
        files=_files,
        damaged=lambda root, part: [file for file in _files(part) if not _readable(root / file)],
        validation=validation,
        where="http://codh.rois.ac.jp/kmnist/ (Kuzushiji-49, NumPy format)",
    )


def _files(part: Part) -> tuple[str, ...]:
    return tuple(f"K49/k49-{part}-{kind}.npz" for kind in _KINDS)


def _read(root: Path, part: Part) -> RawImages:
    images, labels = (_array(root / file) for file in _files(part))
    return RawImages(images, labels.astype(np.int64), tuple(_HIRAGANA))


def _array(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with np.load(path, allow_pickle=False) as file:
        return np.asarray(file["arr_0"], dtype=np.uint8)


def _readable(path: Path) -> bool:
    try:
        _array(path)
    except Exception:  # whatever the parser stumbles over, the file is what is wrong
        return False
    return True
