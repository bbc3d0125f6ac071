"""``convexdistill evaluate``: parses, calls, prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convexdistill import evaluate as evaluation
from convexdistill import terminal
from convexdistill.data import load as load_data
from convexdistill.device import resolve_device
from convexdistill.distilled import load
from convexdistill.options import DataRoot, Device, Networks, guarded, names
from convexdistill.report import entry
from convexdistill.report.entries import groups_in
from convexdistill.training import AUGMENTATIONS, LOSSES, OPTIMIZERS, ORDERS


@guarded
def evaluate(
    file: Annotated[Path, typer.Argument(help="A distilled set.")],
    target: Annotated[
        str | None, typer.Option(help="Where its target lies now. Default: as named in the file.")
    ] = None,
    networks: Networks = "lenet",
    optimizers: Annotated[
        str, typer.Option(help=f"Optimisers, by commas: {', '.join(OPTIMIZERS)}, or any class of torch.optim.")
    ] = "adam",
    learning_rates: Annotated[
        str,
        typer.Option(
            help="By commas: numbers; auto: the file's or the optimiser's default; x3: three times that."
        ),
    ] = "auto",
    steps: Annotated[
        str, typer.Option(help="By commas: numbers of steps; auto: chosen on the validation split.")
    ] = "auto",
    losses: Annotated[
        str,
        typer.Option(
            help=f"By commas: own (that of the file; one-hot labels: cross-entropy), {', '.join(LOSSES)}, or kl:T "
            "at temperature T."
        ),
    ] = "own",
    augmentations: Annotated[
        str,
        typer.Option(
            "--augmentations",
            "--augment",
            help="What is done to base images in training, by commas: own (as the file says), "
            f"{', '.join(AUGMENTATIONS)}.",
        ),
    ] = "own",
    orders: Annotated[str, typer.Option(help=f"Orders of examples, by commas: {', '.join(ORDERS)}.")] = "shuffled",
    repeats: Annotated[int, typer.Option(help="Trainings of each network.")] = 20,
    baselines: Annotated[
        str | None,
        typer.Option(
            help=f"What to compare with, by commas: {', '.join(evaluation.BASELINES)}. Default: all that need no "
            "training on the whole target."
        ),
    ] = None,
    full_data: Annotated[
        bool, typer.Option("--full-data", help="Also train each network on the whole target: minutes.")
    ] = False,
    trained_teacher: Annotated[
        bool,
        typer.Option(
            "--trained-teacher",
            help="Also take labels from the first of the networks, so trained, for all of them: minutes.",
        ),
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(help="File that keeps finished combinations; a killed evaluation goes on from it."),
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that share the combinations.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the trainings.")] = 0,
    device: Device = "auto",
    data_root: DataRoot = None,
    json: Annotated[
        Path | None,
        typer.Option(
            help="Write the numbers to this file as well, where subgroups that `convexdistill bias` wrote "
            "of the same set are kept; - writes them to the output, without the tables."
        ),
    ] = None,
) -> None:
    """Train networks from scratch on a distilled set and test them, beside baselines on the same images.

    Every combination of networks, optimisers, learning rates, steps, losses, augmentations and orders is trained.
    The validation split chooses the steps; the test split is looked at once, at the end.
    """
    distilled = load(file)
    name = target or distilled.manifest["target"]["name"]
    slow = [*(["full-data"] if full_data else []), *(["trained-teacher"] if trained_teacher else [])]
    whole = load_data(name, root=data_root)
    table = evaluation.matrix(
        distilled,
        names(networks),
        names(optimizers),
        names(learning_rates),
        names(steps),
        names(losses),
        names(augmentations),
        names(orders),
        repeats,
        baselines=evaluation.wanted_baselines(None if baselines is None else names(baselines), slow),
        target=whole,
        validation=load_data(name, split="validation", root=data_root),
        test=load_data(name, split="test", root=data_root),
        seed=seed,
        device=device,
        cache=cache,
        workers=workers,
    )
    first = names(networks)[0]
    costs = evaluation.cost(distilled, whole, first, table=table, device=resolve_device(device))
    seconds = {"evaluate": table.seconds, "total": table.seconds}
    record = evaluation.metrics([distilled], table, seconds, costs)
    if json is not None:
        terminal.write_record(json, record | groups_in(json, distilled))
    if str(json) != terminal.STANDARD_OUTPUT:
        terminal.console().print(terminal.results_table(record["results"]))
        terminal.print_cost([entry(distilled, record)])
