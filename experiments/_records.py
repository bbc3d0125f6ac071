"""What the experiments share: records as JSON lines, resumed after a kill, and pages made of nothing else.

An experiment is a list of settings (frozen dataclasses of plain values) and a function that measures one::

    EXPERIMENT = Experiment(__doc__, "selection", FULL, QUICK, measure, table, plot)
    if __name__ == "__main__":
        run(EXPERIMENT)

``run`` gives it the options ``--quick``, ``--table``, ``--data-root`` and ``--out``. A setting is measured
unless its record is there already; its record is written when it is done, so a killed run goes on where it
was. The page (``NAME.md``) and the plot (``NAME.svg``) are made from the records of ``NAME.jsonl`` alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from convexdistill import progress, terminal
from convexdistill.errors import MissingDataError

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"

Record = dict[str, Any]
"""``setting`` (its fields), ``result`` (what was measured), ``seconds``, ``machine``."""


@dataclass(frozen=True)
class Experiment:
    """One table of the results.

    Attributes:
        help: what ``--help`` says: the script's docstring.
        name: of the files in ``docs/results``.
        full: every setting; dataclasses whose fields JSON can hold.
        quick: those of ``--quick``: at most ten minutes on two cores.
        measure: ``(setting, data_root)`` to a record of plain values.
        table: records to a page in Markdown.
        plot: records to a figure.
    """

    help: str
    name: str
    full: Sequence[Any]
    quick: Sequence[Any]
    measure: Callable[[Any, str | None], Mapping[str, Any]]
    table: Callable[[list[Record]], str]
    plot: Callable[[list[Record]], Figure] | None = None


def run(experiment: Experiment, arguments: Sequence[str] | None = None) -> None:
    """The command line of an experiment."""
    parser = argparse.ArgumentParser(
        description=experiment.help, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a part that takes minutes")
    parser.add_argument("--table", action="store_true", help="measure nothing; write page and plot")
    parser.add_argument("--data-root", help="where data sets lie; default $CONVEXDISTILL_DATA or ./data")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="folder of records, page and plot; default docs/results"
    )
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / f"{experiment.name}.jsonl"
    if not options.table:
        settings = experiment.quick if options.quick else experiment.full
        measure_missing(experiment, settings, file, options.data_root)
    records = read(file)
    page = options.out / f"{experiment.name}.md"
    page.write_text(experiment.table(records), "utf-8")
    print(f"wrote {page}")
    if experiment.plot is not None and records:
        save_plot(experiment.plot(records), options.out / f"{experiment.name}.svg")


def measure_missing(experiment: Experiment, settings: Iterable[Any], file: Path, data_root: str | None) -> None:
    """Measure every setting that has no record in ``file``; those whose data is not at hand are left out.

    Raises:
        SystemExit: nothing could be measured, and nothing of it is recorded.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    done = [record["setting"] for record in read(file)]
    missing: set[str] = set()
    measured = 0
    for setting in settings:
        # A record that is older than one of the fields was measured with what is its default now.
        if plain(asdict(setting)) in [defaults(setting) | record for record in done]:
            print(f"recorded already: {setting}", flush=True)
            measured += 1
            continue
        start = time.perf_counter()
        try:
            with progress.reporting(terminal.reporter()):
                result = experiment.measure(setting, data_root)
        except MissingDataError as error:
            if str(error) not in missing:  # one line for each data set, not for each setting
                print(f"left out, as all others that need the same: {setting}\n{error}", flush=True)
            missing.add(str(error))
            continue
        measured += 1
        seconds = round(time.perf_counter() - start, 2)
        record = {"setting": asdict(setting), "result": result, "seconds": seconds, "machine": machine()}
        append(file, record)
        print(f"{setting}: {seconds:.0f} s", flush=True)
    if missing and not measured:
        raise SystemExit("nothing was measured: all that was asked for needs what is missing above")


def read(file: Path) -> list[Record]:
    """The records of a file, in the order in which they were made; none where there is no file."""
    if not file.is_file():
        return []
    return [json.loads(line) for line in _whole_lines(file.read_text("utf-8")).splitlines()]


def append(file: Path, record: Mapping[str, Any]) -> None:
    """Add one record; the rest of a line that a kill has cut off is dropped first."""
    line = json.dumps(record, allow_nan=False, ensure_ascii=False)
    before = file.read_text("utf-8") if file.is_file() else ""
    if before != _whole_lines(before):
        file.write_text(_whole_lines(before), "utf-8")
    with file.open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def _whole_lines(text: str) -> str:
    return text[: text.rfind("\n") + 1]


def defaults(setting: Any) -> dict[str, Any]:
    """The fields of a setting, or of its class, that need not be given.

    A record that is older than a field was measured with its default: do not change one, or the record would say
    what it was not.
    """
    return plain({field.name: field.default for field in fields(setting) if field.default is not MISSING})


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as JSON gives them back: tuples become lists."""
    restored: dict[str, Any] = json.loads(json.dumps(values))
    return restored


def machine() -> dict[str, Any]:
    """What a reader must know to judge seconds and last digits."""
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "convexdistill": version("convexdistill"),
        "commit": COMMIT,
        "torch": version("torch"),
    }


def _commit() -> str | None:
    """The commit that is checked out, where there is a repository, and whether code differs from it."""
    git = ["git", "-C", str(RESULTS.parent.parent)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], check=True, capture_output=True, text=True
        )
        code = ["status", "--porcelain", "--", "convexdistill", "experiments"]
        changed = subprocess.run([*git, *code], check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + (" and changes" if changed else "")


COMMIT = _commit()  # of the code that is loaded now; a long run may end with another one checked out


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a Markdown table; numbers stand to the right where the column's name ends in ``:``."""
    names = [name.removesuffix(":") for name in columns]
    rule = ["---:" if name.endswith(":") else "---" for name in columns]
    return ["| " + " | ".join(map(str, cells)) + " |" for cells in (names, rule, *rows)]


def save_plot(figure: Figure, path: Path) -> None:
    """Write a figure as SVG, byte for byte the same for the same records."""
    with matplotlib.rc_context({"svg.hashsalt": path.stem, "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})
    print(f"wrote {path}")
