"""Read an ``.npz`` file with ``images``, ``labels`` and perhaps ``classes``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from convexdistill.data.raw import RawImages
from convexdistill.errors import DataError


def read_npz(path: Path) -> RawImages:
    """The arrays of the file. Nothing in it is ever unpickled.

    Raises:
        DataError: damaged, not an ``.npz``, an array missing, or an array of Python objects.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            absent = [key for key in ("images", "labels") if key not in file.files]
            if absent:
                raise DataError(
                    f"{path}: no array {' nor '.join(map(repr, absent))}; an .npz needs 'images' "
                    f"and 'labels', found {', '.join(map(repr, file.files)) or 'nothing'}"
                )
            classes = file["classes"].tolist() if "classes" in file.files else None
            return RawImages(file["images"], file["labels"], classes)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # zip, zlib, header: each layer fails in its own way
        if "allow_pickle" in str(error):
            raise DataError(
                f"{path} holds Python objects, which are never unpickled; save plain arrays, "
                f"strings as np.array(labels, dtype=str)"
            ) from error
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"{path} cannot be read as .npz, it is damaged or of another kind ({reason}); write it "
            f"again with numpy.savez_compressed"
        ) from error
