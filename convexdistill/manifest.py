"""What the manifest of a distilled set must hold: one line a fact."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from convexdistill.errors import FileFormatError

Check = Callable[[Any], bool]

_ABSENT = object()


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(map(_text, value))


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _record(value: Any) -> bool:
    return isinstance(value, Mapping)


def _shape(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(isinstance(size, int) and size > 0 for size in value)
    )


def _extractors(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(_record(one) and {"network", "seed", "options"} <= set(one) for one in value)
    )


# A path of keys, what it should be in words, and whether it is. Methods differ in their settings: those
# of OPTIONAL are checked where they are.
FACTS: tuple[tuple[tuple[str, ...], str, Check], ...] = (
    (("target", "name"), "a name", _text),
    (("target", "classes"), "a list of names", _texts),
    (("target", "shape"), "channels, height and width", _shape),
    (("target", "parts"), "a list of fingerprints", _texts),
    (("source", "name"), "a name", _text),
    (("source", "classes"), "a list of names", _texts),
    (("source", "fingerprint"), "a fingerprint", _text),
    (("selection",), "a record", _record),
    (("method",), "a name", _text),
    (("backend",), "a name", _text),
    (("preprocessing",), "a record", _record),
    (("recipe",), "a record", _record),
    (("extractors",), "a list of extractors", _extractors),
    (("certificate", "outer_loss"), "a number", _number),
    (("seed",), "a number", _number),
    (("versions",), "a record", _record),
)
OPTIONAL: tuple[tuple[tuple[str, ...], str, Check], ...] = (
    (("lam",), "a number", _number),
    (("gamma",), "a number", _number),
    (("prior",), "a name", _text),
    (("certificate", "residual"), "a number", _number),
)


def check_manifest(manifest: Mapping[str, Any]) -> None:
    """Raise unless every fact is there and of its kind.

    Raises:
        FileFormatError: naming the first fact that is missing or malformed.
    """
    for path, kind, is_valid in (*FACTS, *OPTIONAL):
        value: Any = manifest
        for key in path:
            if not isinstance(value, Mapping) or key not in value:
                value = _ABSENT
                break
            value = value[key]
        if value is _ABSENT:
            if (path, kind, is_valid) in FACTS:
                raise FileFormatError(f"the manifest lacks {'.'.join(path)}")
        elif not is_valid(value):
            raise FileFormatError(f"{'.'.join(path)} in the manifest should be {kind}, found {value!r}")
