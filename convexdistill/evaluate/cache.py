"""Cells of a matrix that were computed already: JSON lines, so that a killed evaluation goes on where it was.

The first line says what the evaluation is of; every other one holds a cell and its rows. A line that a kill has
cut off is dropped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from convexdistill.differences import differences
from convexdistill.errors import FileFormatError, InvalidInputError, OutputError
from convexdistill.evaluate.table import Row

KIND = "convexdistill evaluation cache"


class Cache:
    """Records by cell.

    Args:
        path: the file, made where there is none; ``None`` keeps nothing.
        settings: what all cells share; plain values.

    Raises:
        InvalidInputError: the file holds cells of another evaluation; the message says what differs.
        FileFormatError: the file is something else.
        OutputError: it cannot be written.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.records: dict[str, dict[str, Any]] = {}
        if path is None:
            return
        header = {"kind": KIND, "settings": json.loads(json.dumps(settings))}
        try:
            before = path.read_text("utf-8") if path.exists() else ""
            whole = before[: before.rfind("\n") + 1]
            if whole:
                self._read(path, whole, header["settings"])
            if whole != before or not whole:
                path.write_text(whole or json.dumps(header) + "\n", "utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise OutputError(f"cannot use {path} as a cache of cells: {error}") from error

    def _read(self, path: Path, text: str, settings: Mapping[str, Any]) -> None:
        try:
            first, *lines = [json.loads(line) for line in text.splitlines()]
            if not isinstance(first, dict) or first.get("kind") != KIND:
                raise ValueError("its first line is not that of a cache")
            found = first["settings"]
            self.records = {_key(line["cell"]): line["record"] for line in lines}
        except (ValueError, KeyError, TypeError) as error:
            raise FileFormatError(f"{path} is no cache of cells ({error}); name another file") from error
        if differ := differences(found, settings):
            raise InvalidInputError(
                f"{path} holds cells of another evaluation ({differ}); name another file, or remove this one"
            )

    def get(self, cell: Mapping[str, Any]) -> dict[str, Any] | None:
        """The record of a cell, if there is one."""
        return self.records.get(_key(cell))

    def put(self, cell: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        """Keep a record, on disk before this returns."""
        self.records[_key(cell)] = json.loads(json.dumps(record))
        if self.path is None:
            return
        line = json.dumps({"cell": cell, "record": record}, allow_nan=False)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")
            stream.flush()
            os.fsync(stream.fileno())


def row_from_dict(record: Mapping[str, Any]) -> Row:
    """A row as JSON gave it back; keys that are missing get their defaults.

    Raises:
        TypeError: a key is unknown, or one without a default is missing.
    """
    tuples = {field.name for field in fields(Row) if "tuple" in str(field.type) or "Interval" in str(field.type)}
    return Row(**{name: _tuples(value) if name in tuples else value for name, value in record.items()})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _key(cell: Mapping[str, Any]) -> str:
    return json.dumps(cell, sort_keys=True)
