"""What two records of settings differ in, short enough for a message."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_ABSENT = object()
MOST, LONGEST = 8, 90  # differences, and letters of a value


def differences(found: Any, wanted: Any, places: tuple[str, str] = ("there", "now")) -> str:
    """Where two JSON values differ, and how: the deepest places, not the whole texts around them.

    Args:
        found: what is there.
        wanted: what is asked for now.
        places: what to call the two.

    Example:
        >>> differences({"pool": [{"width": 8, "seed": 1}]}, {"pool": [{"width": 16, "seed": 1}]})
        'pool[0].width: 8 there, 16 now'
        >>> differences({"steps": [50, 100], "seed": 1}, {"steps": [50]})  # lists of plain values as a whole
        'steps: [50, 100] there, [50] now; seed: 1 there, nothing now'
    """
    listed = list(_apart(found, wanted, "", places))
    more = [f"and {len(listed) - MOST} more"] if len(listed) > MOST else []
    return "; ".join([*listed[:MOST], *more])


def _apart(found: Any, wanted: Any, path: str, places: tuple[str, str]) -> Iterator[str]:
    if found == wanted:
        return
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        for key in dict.fromkeys([*found, *wanted]):
            yield from _apart(
                found.get(key, _ABSENT), wanted.get(key, _ABSENT), f"{path}.{key}" if path else str(key), places
            )
    elif isinstance(found, list) and isinstance(wanted, list) and any(map(_is_record, [*found, *wanted])):
        for i in range(max(len(found), len(wanted))):
            one, other = (values[i] if i < len(values) else _ABSENT for values in (found, wanted))
            yield from _apart(one, other, f"{path}[{i}]", places)
    else:
        yield f"{path}: {_short(found)} {places[0]}, {_short(wanted)} {places[1]}"


def _is_record(value: Any) -> bool:
    return isinstance(value, Mapping)


def _short(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 30]} … {text[-27:]}"
