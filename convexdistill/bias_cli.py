"""``convexdistill bias``: whom distillation costs more."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convexdistill import evaluate as evaluation
from convexdistill import terminal
from convexdistill.data import load as load_data
from convexdistill.distilled import load
from convexdistill.errors import InvalidInputError
from convexdistill.evaluate.groups import read_column
from convexdistill.files import read_json, write_json
from convexdistill.job import METRICS
from convexdistill.options import DataRoot, Device, Json, guarded
from convexdistill.report import entry
from convexdistill.report import further_tables as tables
from convexdistill.report.entries import numbers_beside


@guarded
def bias(
    file: Annotated[Path, typer.Argument(help="A distilled set.")],
    group: Annotated[
        list[str] | None,
        typer.Option(
            help="A column of subgroups, FILE.csv:COLUMN, FILE.npz:ARRAY or FILE.npy: one value for each image of "
            "the test split, in its order. May be given several times; the classes are always there."
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Where its target lies now. Default: as named in the file.")
    ] = None,
    network: Annotated[str, typer.Option(help="Network to train from scratch.")] = "lenet",
    repeats: Annotated[int, typer.Option(help="Trainings of each kind of labels, and on everything.")] = 5,
    parts: Annotated[int, typer.Option(help="Parts of equal size that a column of numbers is cut into.")] = 4,
    seed: Annotated[int, typer.Option(help="Of the trainings and the intervals.")] = 0,
    device: Device = "auto",
    data_root: DataRoot = None,
    json: Json = None,
) -> None:
    """Compare accuracy by class and subgroup: distilled labels, baselines, and training on everything.

    The gap is what distillation costs a group, the excess what it costs it beyond everyone. The numbers are
    added to those beside FILE that `convexdistill report FILE` reads: STEM.json where there is one, else
    metrics.json. With --json they go there instead. Needs fairlearn: pip install 'convexdistill[bias]'.
    """
    distilled = load(file)
    name = target or distilled.manifest["target"]["name"]
    beside = numbers_beside(file) or file.parent / METRICS
    before = read_json(beside) if beside.is_file() else evaluation.metrics([distilled], None, {})
    one = entry(distilled, before)  # before the long part: are these the numbers of this set?
    columns = [read_column(place) for place in group or []]
    names = ["class", *(column for column, _ in columns)]
    if len(set(names)) < len(names):
        raise InvalidInputError(f"every column needs a name of its own, found {', '.join(names)}")
    found = evaluation.bias(
        distilled,
        dict(columns),
        network,
        repeats,
        parts=parts,
        target=load_data(name, root=data_root),
        validation=load_data(name, split="validation", root=data_root),
        test=load_data(name, split="test", root=data_root),
        seed=seed,
        device=device,
    )
    numbers = found.to_dicts()
    if json is None:
        write_json(beside, {**before, **numbers})
    else:
        terminal.write_record(json, numbers)
    if str(json) != terminal.STANDARD_OUTPUT:
        shown = entry(one.distilled, {**before, **numbers})
        for table in (tables.groups(shown), tables.disparities(shown)):
            if table is not None:
                terminal.console().print(terminal.rich_table(table))
    if json is None:
        print(f"wrote {beside}")
