"""Reading and writing convexdistill's files: safetensors with a JSON manifest, whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from convexdistill.errors import FileFormatError, OutputError

# safetensors keeps one flat map of strings; the whole manifest is JSON under this key.
_KEY = "convexdistill"


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` so that the file is either as before or complete.

    Raises:
        OutputError: the folder does not exist and cannot be made, or cannot be written to.
    """
    part: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False
        ) as file:
            part = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.chmod(0o666 & ~_umask())
        part.replace(path)
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; choose a folder that can be written to"
        ) from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


def _umask() -> int:
    # The temporary file is private to the user; the result gets the permissions any new file gets.
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]) -> None:
    """Write tensors and a manifest as one safetensors file.

    Raises:
        OutputError: the file cannot be written.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {_KEY: json.dumps(manifest, allow_nan=False, sort_keys=True)}
    write_atomically(Path(path), save(contiguous, metadata=header))


def read_tensors(path: str | Path, *, kind: str, version: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file of :func:`write_tensors`; nothing in it is executed or unpickled.

    Args:
        path: the file.
        kind: what the manifest's ``kind`` must be.
        version: the newest ``format_version`` that the caller understands.

    Raises:
        FileFormatError: no such file, cut off, not written by convexdistill, of another kind or from a newer
            version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileFormatError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise FileFormatError(f"{path} is not a whole safetensors file ({error}); write it again") from error
    try:
        manifest = json.loads(header[_KEY])
        found_kind, found_version = manifest["kind"], manifest["format_version"]
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"{path} was not written by convexdistill: it carries no manifest") from error
    if found_kind != kind:
        raise FileFormatError(f"{path} holds {found_kind!r}, not {kind!r}")
    if not isinstance(found_version, int) or found_version < 1:
        raise FileFormatError(f"{path} has the impossible format version {found_version!r}")
    if found_version > version:
        raise FileFormatError(
            f"{path} has format version {found_version}, this convexdistill reads up to {version}; "
            "upgrade convexdistill"
        )
    return tensors, manifest


def write_json(path: str | Path, record: Mapping[str, Any]) -> None:
    """Write a record as indented JSON, atomically.

    Raises:
        OutputError: the file cannot be written.
    """
    write_atomically(Path(path), (json.dumps(record, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a record of :func:`write_json`.

    Raises:
        FileFormatError: no such file, or not a JSON object.
    """
    try:
        record = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise FileFormatError(f"{path} cannot be read as JSON ({error}); write it again") from error
    if not isinstance(record, dict):
        raise FileFormatError(f"{path} holds no JSON object; write it again")
    return record
