"""The command line: parses, calls, prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convexdistill import __version__, bias_cli, job, report_cli, terminal
from convexdistill import distill as distillers
from convexdistill.distilled import load
from convexdistill.errors import InvalidInputError
from convexdistill.evaluate_cli import evaluate as evaluate_command
from convexdistill.moments_cli import moments_app
from convexdistill.options import (
    TARGET_HELP,
    DataRoot,
    Device,
    Extractor,
    Json,
    Networks,
    PoolSize,
    Width,
    Zca,
    guarded,
    names,
)
from convexdistill.report import entry
from convexdistill.select.choosing import RULES
from convexdistill.training import AUGMENTATIONS

app = typer.Typer(
    name="convexdistill",
    help="Keep a handful of real images of a data set and learn soft labels for them, so that a network "
    "trained on those few does nearly as well as one trained on everything.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(moments_app, name="moments")


def _number(value: str) -> float | None:
    try:
        return None if value == "auto" else float(value)
    except ValueError:
        raise InvalidInputError(f"{value!r} is neither a number nor 'auto'") from None


@app.command()
@guarded
def distill(
    target: Annotated[str, typer.Option(help=TARGET_HELP)] = "digits",
    source: Annotated[
        str | None, typer.Option(help="Where the base images come from. Default: the target itself.")
    ] = None,
    base_size: Annotated[int, typer.Option(help="How many base images to keep.")] = 100,
    method: Annotated[str, typer.Option(help=f"One of: {', '.join(distillers.METHODS)}.")] = "closed-form",
    select: Annotated[str, typer.Option(help=f"How base images are chosen: {', '.join(RULES)}.")] = "random",
    balanced: Annotated[
        bool | None,
        typer.Option(
            "--balanced/--unbalanced",
            help="The same number of base images of each class. Default: within a data set yes, across no.",
        ),
    ] = None,
    extractor: Extractor = "convnet",
    width: Width = None,
    pool_size: PoolSize = 5,
    zca: Zca = None,
    lam: Annotated[
        float | None,
        typer.Option(
            help="λ of the ridge heads. Default: 1e-3 of the features' scale; the online methods: 1.0, absolute."
        ),
    ] = None,
    gamma: Annotated[
        str,
        typer.Option(help="Weight γ on the labels' norm, relative; auto: chosen on the validation split."),
    ] = "auto",
    prior: Annotated[
        str, typer.Option(help="What γ pulls the labels to: zero, one-hot or teacher; auto: chosen along with γ.")
    ] = "auto",
    constraint: Annotated[
        str,
        typer.Option(
            help="On each row of labels, solved exactly: none, simplex (probabilities), nonnegative, row-sum, box."
        ),
    ] = "none",
    recipe: Annotated[
        str,
        typer.Option(
            help="centred: mean squared error on scaled labels; paper: soft cross-entropy on probabilities; "
            "auto: as the labels are, or chosen on the validation split."
        ),
    ] = "auto",
    augmentation: Annotated[
        str,
        typer.Option(
            help=f"What is done to base images in training: {', '.join(AUGMENTATIONS)}; the solve reckons "
            "with it. mirror: left and right exchanged, for photographs; flip: mirrored and shifted; affine: "
            "turned, zoomed, shifted."
        ),
    ] = "none",
    label_scale: Annotated[
        str,
        typer.Option(help="What labels are multiplied by in training; auto: chosen on the validation split."),
    ] = "auto",
    moments: Annotated[
        Path | None, typer.Option(help="Go on from a file of `convexdistill moments`, not from the images.")
    ] = None,
    backend: Annotated[
        str,
        typer.Option(
            help="torch solves in closed form; cvxpylayers descends through its ridge layer (small sets)."
        ),
    ] = "auto",
    epochs: Annotated[
        int | None,
        typer.Option(help="Passes over the target of online-ridge, second-order, images. Default: the paper's."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="File that an online method keeps, and goes on from when it is started again."),
    ] = None,
    networks: Networks = "lenet",
    base_sets: Annotated[
        int, typer.Option(help="Repeat for so many choices of base images, to see how much they matter.")
    ] = 1,
    repeats: Annotated[int, typer.Option(help="Trainings of each network on each base set.")] = 5,
    evaluate: Annotated[
        bool, typer.Option("--evaluate/--no-evaluate", help="Train and test networks on the result.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Of every random choice: base images, extractors, trainings.")] = 0,
    device: Device = "auto",
    data_root: DataRoot = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results. Default: distilled/TARGET-SIZE.")
    ] = None,
    json: Json = None,
) -> None:
    """Distil a data set: learn soft labels for a few base images, evaluate them, write a report.

    With no argument it distils scikit-learn's digits, which need no download, in under a minute. Writes
    distilled.safetensors, metrics.json and report.html.
    """
    result = job.run(
        job.Job(
            target=target,
            source=source,
            base_size=base_size,
            method=method,
            select=select,
            balanced=balanced,
            extractor=extractor,
            width=width,
            pool_size=pool_size,
            zca=zca,
            lam=lam,
            gamma=_number(gamma),
            prior=None if prior == "auto" else prior,
            constraint=constraint,
            recipe=None if recipe == "auto" else recipe,
            augmentation=augmentation,
            label_scale=_number(label_scale),
            moments=moments,
            backend=backend,
            epochs=epochs,
            checkpoint=checkpoint,
            networks=names(networks),
            base_sets=base_sets,
            repeats=repeats,
            evaluate=evaluate,
            seed=seed,
            device=device,
            data_root=data_root,
            out=out,
        )
    )
    if json is not None:
        terminal.write_record(json, result.metrics)
    if str(json) != terminal.STANDARD_OUTPUT:
        out_console = terminal.console()
        if result.table is not None:
            out_console.print(terminal.results_table(result.metrics["results"]))
        terminal.print_cost([entry(result.distilled, result.metrics)])
        for line in terminal.job_lines(result.metrics):
            out_console.print(line)
    for name in (job.DISTILLED, job.METRICS, job.REPORT):
        terminal.speaker(json)(f"wrote {result.folder / name}")


app.command()(evaluate_command)


@app.command()
@guarded
def compress(
    file: Annotated[Path, typer.Argument(help="A distilled set.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    bits: Annotated[int | None, typer.Option(help="Bits of each value of a label, 1 to 16.")] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Values kept of each label; the others are read as their mean.")
    ] = None,
    json: Json = None,
) -> None:
    """Write a distilled set again with its labels in fewer bytes."""
    before = load(file)
    after = before.compress(bits, top_k)
    after.save(out)
    record = after.manifest["label_code"]
    if json is not None:
        terminal.write_record(json, {"bytes": after.bytes, "bytes_before": before.bytes, "label_code": record})
    terminal.speaker(json)(
        f"wrote {out}: labels {before.bytes['labels']:,} → {after.bytes['labels']:,} bytes, largest error "
        f"{record['largest_error']:.2g}"
    )


for command in (report_cli.report, report_cli.info, report_cli.compare, bias_cli.bias, report_cli.backends):
    app.command()(command)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"convexdistill {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line."""
    app(prog_name="convexdistill")
