"""Read an official data set from its files, and download them first where they are missing."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from convexdistill.data.official import OfficialSet, Part
from convexdistill.data.raw import RawImages
from convexdistill.errors import DataError, MissingDataError

ROOT_VARIABLE = "CONVEXDISTILL_DATA"
_TIMEOUT = 10.0  # seconds that a server may stay silent


def data_root(root: str | os.PathLike[str] | None) -> Path:
    """Where the data lies: the argument, else ``$CONVEXDISTILL_DATA``, else ``./data``."""
    return Path(root or os.environ.get(ROOT_VARIABLE) or "data").expanduser()


def read_official(name: str, data: OfficialSet, part: Part, root: Path, *, download: bool) -> RawImages:
    """One part of an official data set.

    Raises:
        MissingDataError: files are missing, and could not be or were not to be downloaded.
        DataError: files are there, but damaged.
    """
    if _missing(data, part, root):
        reason = _download(data, part, root) if download else "download is off"
        missing = _missing(data, part, root)
        if missing:
            them = "it" if len(missing) == 1 else "them"
            raise MissingDataError(
                f"{name}: {', '.join(missing)} not found under {root.absolute()} ({reason}); put "
                f"{them} there, unpacked, from {data.where}, or point root (--data-root, "
                f"${ROOT_VARIABLE}) to the folder that holds {them}"
            )
    try:
        return data.read(root, part)
    except MemoryError:
        raise
    except Exception as error:  # each format's parser fails in its own way on a damaged file
        wrong = data.damaged(root, part) or list(data.files(part))
        them = "it" if len(wrong) == 1 else "them"
        raise DataError(
            f"{name}: {', '.join(str(root / file) for file in wrong)} cannot be read, damaged or "
            f"not the official file ({_one_line(error)}); delete {them} and download again"
        ) from error


def _missing(data: OfficialSet, part: Part, root: Path) -> list[str]:
    return [file for file in data.files(part) if not (root / file).is_file()]


def _download(data: OfficialSet, part: Part, root: Path) -> str:
    """Bring the files of ``part`` to ``root``; the answer says what became of it.

    torchvision writes where it stands, so a download that breaks off would leave half a file that
    looks like a whole one. Here it works in a temporary folder beside, and only what is complete
    and checked moves over.
    """
    if data.download is None:
        return "it has no automatic download"
    made_root = not root.exists()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as folder, _patience():
            data.download(Path(folder), part)
            for file in {*data.files("train"), *data.files("test")}:
                if (Path(folder) / file).is_file():
                    (root / file).parent.mkdir(parents=True, exist_ok=True)
                    shutil.move(Path(folder) / file, root / file)
    except MemoryError:
        raise
    except Exception as error:  # network, server, archive, disk: all end in "it is not there"
        if made_root:
            with contextlib.suppress(OSError):
                root.rmdir()
        return f"the download failed: {_one_line(error)}"
    return "the download did not bring all files"


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """Give silent servers up after a while; no progress bars but on a terminal."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        if sys.stderr.isatty():
            yield
        else:
            with contextlib.redirect_stderr(io.StringIO()):
                yield
    finally:
        socket.setdefaulttimeout(before)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
