"""What a report is about: distilled sets with the numbers that belong to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from convexdistill.distilled import DistilledSet, load
from convexdistill.errors import FileFormatError, InvalidInputError
from convexdistill.evaluate import Row
from convexdistill.files import read_json
from convexdistill.report.compare import DISTILLED, Difference, Standing, difference, setting, standing, unpaired

METRICS = "metrics.json"
OF_BIAS = ("subgroups", "disparities")
_AGAIN = "write it again with `convexdistill evaluate FILE --json metrics.json`"


@dataclass(frozen=True)
class Entry:
    """A distilled set and its numbers.

    Attributes:
        name: what tables and plots of a comparison call it.
        distilled: the set.
        metrics: its numbers, as :func:`convexdistill.evaluate.metrics` makes them; empty where there are none.
        rows: those of the evaluation.
    """

    name: str
    distilled: DistilledSet
    metrics: Mapping[str, Any]
    rows: tuple[Row, ...]

    @cached_property
    def standing(self) -> Standing | None:
        """Where its labels stand among the baselines."""
        return standing(self.rows)

    @property
    def to_best(self) -> Difference | None:
        """Its labels minus the best baseline."""
        found = self.standing
        return difference(found.row, found.best) if found is not None and found.best is not None else None


def entry(distilled: DistilledSet, metrics: Mapping[str, Any] | None, name: str = DISTILLED) -> Entry:
    """A set with its numbers.

    Raises:
        FileFormatError: the numbers cannot be read, or are those of another set.
    """
    return Entry(name, distilled, metrics or {}, rows_of(metrics, distilled))


def read_entries(files: Sequence[Path], metrics: Sequence[Path] = ()) -> list[Entry]:
    """Sets from files, each with its numbers: those of ``metrics``, else those beside it, else none.

    Args:
        files: at least one.
        metrics: files of numbers, one for each set, instead of those beside them.

    Raises:
        InvalidInputError: another number of metrics than of sets, or sets that teach different targets.
        FileFormatError: a file cannot be read, or the numbers are those of another set.
    """
    if metrics and len(metrics) != len(files):
        raise InvalidInputError(
            f"found {len(metrics)} files of metrics for {len(files)} distilled sets; name one each"
        )
    entries = []
    for k, (file, name) in enumerate(zip(files, distinct_names(files), strict=True)):
        numbers = metrics[k] if metrics else numbers_beside(file)
        try:
            record = None if numbers is None else read_json(numbers)
            entries.append(entry(load(file), record, name))
        except FileFormatError as error:
            raise FileFormatError(
                str(error) if numbers is None else f"{numbers}, beside {file}: {error}"
            ) from error
    check_comparable(entries)
    return entries


def numbers_beside(file: Path) -> Path | None:
    """The file of the numbers that lie beside a set: ``STEM.json``, else ``metrics.json``, else none."""
    return next((p for p in (file.with_suffix(".json"), file.parent / METRICS) if p.is_file()), None)


def groups_in(path: Path, distilled: DistilledSet) -> dict[str, Any]:
    """What ``convexdistill bias`` has written of this set into a file of numbers; nothing where there is none."""
    try:
        before = read_json(path) if path.is_file() else {}
        rows_of(before, distilled)
    except FileFormatError:  # cut off, or the numbers of another set
        return {}
    return {name: before[name] for name in OF_BIAS if name in before}


def distinct_names(files: Sequence[Path]) -> list[str]:
    """Short names that tell files apart: their stem, the folder where stems are the same, or both.

    Example:
        >>> distinct_names([Path("a/x.safetensors"), Path("a/y.safetensors")])
        ['x', 'y']
        >>> distinct_names([Path("a/x.safetensors"), Path("b/x.safetensors")])
        ['a', 'b']
    """
    whole = [file.absolute() for file in files]
    for names in (
        [file.stem for file in whole],
        [file.parent.name for file in whole],
        [f"{file.parent.name}/{file.stem}" for file in whole],
    ):
        if len(set(names)) == len(names):
            return names
    return [f"{k}: {file}" for k, file in enumerate(files, 1)]


def check_comparable(entries: Sequence[Entry]) -> None:
    """Raise unless all sets teach the same target, at the same size.

    Raises:
        InvalidInputError: they do not; the message says which two, and how they differ.
    """
    first = entries[0]
    for other in entries[1:]:
        for what, of in (("classes", _classes), ("image sizes", _shape), ("target data", _parts)):
            if of(first) != of(other):
                found = f": {_short(of(first))} and {_short(of(other))}" if what != "target data" else ""
                targets = " and ".join(repr(e.distilled.manifest["target"]["name"]) for e in (first, other))
                raise InvalidInputError(
                    f"{first.name} and {other.name} cannot be compared, they have different {what}{found} "
                    f"(targets {targets}); compare sets that were distilled for the same target"
                )


def _classes(one: Entry) -> tuple[str, ...]:
    return one.distilled.classes


def _shape(one: Entry) -> tuple[int, ...]:
    return one.distilled.shape


def _parts(one: Entry) -> set[str]:
    return {part.partition("#")[0] for part in one.distilled.manifest["target"]["parts"]}


def _short(value: object) -> str:
    if isinstance(value, tuple) and value and isinstance(value[0], str):
        return f"{len(value)} ({', '.join(value[:3])}{', …' if len(value) > 3 else ''})"
    return "×".join(map(str, value)) if isinstance(value, tuple) else str(value)


def against(first: Entry, other: Entry) -> Difference | None:
    """``other`` minus ``first``, of their main rows; ``None`` where either has none.

    Paired where both were trained in the same way on the same base images, with a seed that both have recorded;
    else unpaired.
    """
    if first.standing is None or other.standing is None:
        return None
    ours, theirs = other.standing.row, first.standing.row
    images = [
        (e.distilled.indices.tolist(), e.distilled.manifest["source"]["fingerprint"], e.metrics.get("seeds"))
        for e in (first, other)
    ]
    seeds = [(e.metrics.get("evaluation") or {}).get("seed") for e in (first, other)]
    # A seed that was not recorded may be any.
    if images[0] == images[1] and seeds[0] == seeds[1] is not None and setting(ours) == setting(theirs):
        plain = Row(**{**{field.name: getattr(ours, field.name) for field in fields(Row)}, "differences": {}})
        return difference(plain, theirs) or unpaired(ours, theirs)
    return unpaired(ours, theirs)


def rows_of(metrics: Mapping[str, Any] | None, distilled: DistilledSet) -> tuple[Row, ...]:
    """The rows of a metrics record; none where there is no record, or nothing was evaluated.

    Raises:
        FileFormatError: a row cannot be read, or the numbers are those of another distilled set.
    """
    if metrics is None:
        return ()
    if not isinstance(metrics, Mapping):
        raise FileFormatError(f"the metrics are no record; {_AGAIN}")
    facts: dict[str, object] = {
        "target": distilled.manifest["target"]["name"],
        "base_size": len(distilled),
        "certificate": distilled.manifest["certificate"],
        "bytes": distilled.bytes,
    }
    if other := [key for key, value in facts.items() if metrics.get(key, value) != value]:
        raise FileFormatError(
            f"the metrics belong to another distilled set (they differ in {', '.join(other)}); {_AGAIN}"
        )
    records = metrics.get("results", [])
    if not isinstance(records, list):
        raise FileFormatError(f"the metrics' results are no list; {_AGAIN}")
    return tuple(row_of(record) for record in records)


def row_of(record: Mapping[str, Any]) -> Row:
    """A row from its record; what older programs did not write keeps its default.

    Raises:
        FileFormatError: it cannot be read.
    """
    needed = {field.name for field in fields(Row) if field.default is MISSING and field.default_factory is MISSING}
    try:
        values = {f.name: record[f.name] for f in fields(Row) if f.name in needed or f.name in record}
        for name in ("steps", "runs", "validation_runs", "trainings", "calibration", "curve"):
            if name in values:
                values[name] = tuple(values[name])
        for name in ("accuracy_ci95", "accuracy_bootstrap_ci95"):
            if name in values:
                low, high = values[name]
                values[name] = (low, high)
        if values["runs"]:
            float(values["accuracy_mean"]), float(values["validation_mean"]), [float(v) for v in values["runs"]]
        elif not values.get("diverged"):
            raise ValueError("it has no runs")
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"a row of the metrics cannot be read ({error!r}); {_AGAIN}") from error
    return Row(**values)
