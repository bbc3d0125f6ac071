"""Data that ships inside a dependency: no file, no download."""

from __future__ import annotations

import numpy as np

from convexdistill.data.raw import RawImages


def read_digits() -> RawImages:
    """scikit-learn's 1,797 scanned digits, 8×8.

    Its grey values count the inked pixels of a 4×4 block, 0..16; scaled to 0..255 and rounded.
    """
    from sklearn.datasets import load_digits  # scikit-learn takes a second to import

    found = load_digits()
    images = np.rint(found.images * (255 / 16)).astype(np.uint8)
    return RawImages(images, found.target.astype(np.int64), tuple("0123456789"))
