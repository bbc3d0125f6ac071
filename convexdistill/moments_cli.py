"""The commands ``convexdistill moments …``."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any

import typer

from convexdistill import terminal
from convexdistill.data import ImageData, ImageStream, Preprocessing, stream
from convexdistill.data import load as load_data
from convexdistill.data.streaming import is_stream
from convexdistill.errors import InvalidInputError
from convexdistill.features import pool
from convexdistill.moments import Moments, accumulate
from convexdistill.moments.workers import accumulate_together, process_group, under_torchrun
from convexdistill.options import TARGET_HELP, DataRoot, Device, Extractor, Json, PoolSize, Width, Zca, guarded

moments_app = typer.Typer(
    help="Moments: all that the label solve needs to know of a target set. Sum them in shards, merge, go on.",
    no_args_is_help=True,
)
STREAM_HELP = " Or a stream: tar files in the WebDataset format ('data/train-*.tar', in quotes), or hf:NAME."


@moments_app.command("accumulate")
@guarded
def moments_accumulate(
    out: Annotated[Path, typer.Option(help="The file to write.")],
    target: Annotated[str, typer.Option(help=TARGET_HELP + STREAM_HELP)] = "digits",
    whole_folder: Annotated[
        bool,
        typer.Option(
            "--stream", help="Read a folder of class folders image by image, all of it, not its train split."
        ),
    ] = False,
    classes: Annotated[
        str | None, typer.Option(help="Of tar files: the number of classes, or a file with a name a line.")
    ] = None,
    extractor: Extractor = "convnet",
    width: Width = None,
    pool_size: PoolSize = 5,
    zca: Zca = None,
    seed: Annotated[int, typer.Option(help="Of the extractors' random weights.")] = 0,
    shard: Annotated[
        str,
        typer.Option(help="i/m: every m-th image from the i-th on (of tar files every m-th file), i from 0."),
    ] = "0/1",
    batch_size: Annotated[
        int | None, typer.Option(help="Images a batch. Default: 256 on a CPU, 1024 elsewhere.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Write the sums here every few seconds; the same command goes on from there after it was killed. "
            "Deleted when FILE is written."
        ),
    ] = None,
    every: Annotated[float, typer.Option(help="Seconds between checkpoints.")] = 5.0,
    autocast: Annotated[
        bool, typer.Option("--autocast", help="Features in half precision: faster on GPUs, about 0.1 % off.")
    ] = False,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compiled",
            help="Compile the extractors by torch.compile first; docs/performance.md has what it gains.",
        ),
    ] = False,
    device: Device = "auto",
    data_root: DataRoot = None,
    json: Json = None,
) -> None:
    """Sum the moments of a target set, or of one shard of it.

    Under torchrun the workers divide the images among them:
    torchrun --nproc-per-node 4 -m convexdistill moments accumulate --target mnist --out mnist.safetensors
    """
    index, slash, count = shard.partition("/")
    if not (slash and index.isdigit() and count.isdigit()):
        raise InvalidInputError(f"a shard is written i/m, as in 0/4, found {shard!r}")
    specs = pool(extractor, pool_size, seed, **({} if width is None else {"width": width}))
    data = _target(target, whole_folder, classes, data_root)
    run = functools.partial(
        accumulate_together if under_torchrun() else accumulate,
        specs,
        data,
        preprocessing=None if zca is None else Preprocessing.fit(data, zca=zca),
        shard=(int(index), int(count)),
        batch_size=batch_size,
        checkpoint=checkpoint,
        every=every,
        autocast=autocast,
        compiled=compiled,
        device=device,
    )
    if under_torchrun():
        with process_group() as is_first:
            moments = run()
    else:
        moments, is_first = run(), True
    if is_first:
        moments.save(out)
        for file in [] if checkpoint is None else _checkpoints(checkpoint):
            file.unlink(missing_ok=True)
        _say(moments, out, json, f"wrote {out}: {moments.images} images")


def _target(name: str, whole_folder: bool, classes: str | None, root: str | None) -> ImageData | ImageStream:
    if not (whole_folder or is_stream(name)):
        if classes is not None:
            raise InvalidInputError(f"--classes is for tar files; {name!r} names its classes itself")
        return load_data(name, root=root)
    if classes is None or classes.isdigit():
        return stream(name, classes=None if classes is None else int(classes))
    try:
        lines = Path(classes).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(
            f"--classes {classes!r} is neither a number nor a file of names, one a line ({error})"
        ) from error
    names = [line.strip() for line in lines]
    while names and not names[-1]:
        names.pop()
    if "" in names:
        raise InvalidInputError(
            f"--classes {classes!r}: line {names.index('') + 1} is empty, and would be a class"
        )
    return stream(name, classes=names)


def _checkpoints(path: Path) -> list[Path]:
    """The checkpoint of one process, or those of all workers."""
    return [path, *path.parent.glob(f"{path.name}.*-of-*")]


@moments_app.command("merge")
@guarded
def moments_merge(
    files: Annotated[list[Path], typer.Argument(help="Files of shards, in any order.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    allow_gaps: Annotated[
        bool, typer.Option("--allow-gaps", help="Write the file although shards are missing; merge them later.")
    ] = False,
    skip_duplicates: Annotated[
        bool, typer.Option("--skip-duplicates", help="Leave out files whose shards are all there already.")
    ] = False,
    json: Json = None,
) -> None:
    """Add moments of disjoint parts.

    Parts that do not belong together, come twice or are missing are refused, unless the options say otherwise.
    """
    merged = Moments.load(files[0])
    skipped = 0
    for file in files[1:]:
        other = Moments.load(file)
        if skip_duplicates and merged.holds(other):
            skipped += 1
        else:
            merged = merged.merge(other)
    if merged.missing and not allow_gaps:
        raise InvalidInputError(
            f"{len(merged.missing)} shards are missing: {', '.join(merged.missing[:3])}"
            f"{', …' if len(merged.missing) > 3 else ''}; add their files, or say --allow-gaps to merge them later"
        )
    merged.save(out)
    missing = f"; still missing: {len(merged.missing)} shards" if merged.missing else ""
    left = f"; left out: {skipped} duplicates" if skipped else ""
    _say(merged, out, json, f"wrote {out}: {merged.images} images{missing}{left}")


def _record(moments: Moments, file: Path) -> dict[str, Any]:
    """What ``--json`` says of a file of moments, whichever command wrote or read it."""
    return {
        "target": dict(moments.target),
        "images": moments.images,
        "shape": list(moments.shape),
        "counts": moments.counts.tolist(),
        "extractors": [spec.to_dict() for spec in moments.pool],
        "features": [len(gram) - 1 for gram in moments.gram],
        "preprocessing": moments.preprocessing.to_dict(),
        "missing": list(moments.missing),
        "bytes": file.stat().st_size,
    }


def _say(moments: Moments, file: Path, json: Path | None, line: str) -> None:
    """Say that a file is there, and its numbers where they are asked for."""
    terminal.speaker(json)(line)
    if json is not None:
        terminal.write_record(json, _record(moments, file))


@moments_app.command("info")
@guarded
def moments_info(file: Annotated[Path, typer.Argument(help="A file of moments.")], json: Json = None) -> None:
    """Say what a file of moments holds."""
    moments = Moments.load(file)
    specs = [spec.to_dict() for spec in moments.pool]
    per_class, zca = moments.counts, moments.preprocessing.zca
    if json is not None:
        terminal.write_record(json, _record(moments, file))
        return
    facts = {
        "target": f"{moments.target['name']} ({moments.target['split']}), {moments.num_classes} classes",
        "images": f"{moments.images:,} of {'×'.join(map(str, moments.shape))}",
        "images a class": f"{int(per_class.min()):,} to {int(per_class.max()):,}",
        "extractors": f"{len(specs)} × {specs[0]['network']} {specs[0]['options']}",
        "features": ", ".join(str(len(gram) - 1) for gram in moments.gram),
        "seeds": ", ".join(str(spec["seed"]) for spec in specs),
        "mean, std": ", ".join(
            f"{mean:.4f} ± {std:.4f}"
            for mean, std in zip(moments.preprocessing.mean, moments.preprocessing.std, strict=True)
        ),
        "ZCA": "none" if zca is None else f"regularisation {zca.regularisation:g}",
        "parts": ", ".join(moments.target["parts"]),
        "missing": ", ".join(moments.missing) or "nothing",
        "bytes": f"{file.stat().st_size:,}",
    }
    terminal.console().print(terminal.facts_table(facts))
