"""The whole way from the name of a data set to a distilled set, its numbers and its report."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from convexdistill import distill
from convexdistill.data import ImageData, Preprocessing, load, stream
from convexdistill.data.stream import STREAMED
from convexdistill.data.zca import check_regularisation
from convexdistill.device import resolve_device
from convexdistill.differences import differences
from convexdistill.distilled import DistilledSet
from convexdistill.errors import InvalidInputError, OutputError, UnknownNameError
from convexdistill.evaluate import DISTIL_SECONDS, EvaluationTable, Spent, cost, evaluate, metrics, spending
from convexdistill.features import NETWORKS, Pool, pool
from convexdistill.files import write_json
from convexdistill.moments import Moments, accumulate
from convexdistill.report import write_report
from convexdistill.select import USES_MOMENTS, check, choose

# Settings that a method may have a parameter for.
OPTIONS = (
    "lam",
    "gamma",
    "prior",
    "constraint",
    "recipe",
    "augmentation",
    "label_scale",
    "backend",
    "epochs",
    "checkpoint",
)
# Settings of the pool of extractors, which a method may not have.
POOL_OPTIONS = ("extractor", "width", "pool_size", "moments")
DISTILLED, METRICS, REPORT = "distilled.safetensors", "metrics.json", "report.html"


@dataclass(frozen=True)
class Job:
    """The settings of a distillation; every one is an option of ``convexdistill distill``.

    Attributes:
        target: name, ``.npz`` or folder of the data set whose classes are taught.
        source: where base images come from; ``None``: the target.
        base_size: how many base images.
        method: a key of :data:`convexdistill.distill.METHODS`.
        select: a rule of :func:`convexdistill.select.choose`.
        balanced: the same number of each class; ``None``: yes within a data set, no across.
        extractor: network of the pool.
        width: channels of its convolutions, where it has that parameter.
        pool_size: number of extractors.
        zca: regularisation of ZCA whitening; ``None``: channels are normalised only.
        lam: λ of the ridge heads; ``None``: the method's default.
        gamma: γ of the label solve, relative; ``None`` chooses on the validation split.
        prior: ``"zero"``, ``"one-hot"`` or ``"teacher"``; ``None`` chooses on the validation split where γ is
            chosen.
        constraint: of the closed form; see :func:`convexdistill.distill.closed_form`.
        recipe: ``"centred"`` or ``"paper"``; ``None`` leaves it to the method.
        augmentation: of the base images, in the solve and in training.
        label_scale: of the recipe; ``None`` chooses on the validation split.
        moments: file of moments to go on from, instead of a pass over the target.
        backend: ``"auto"``, ``"torch"`` or ``"cvxpylayers"``.
        networks: what is trained from scratch to evaluate; the first also chooses.
        epochs: passes over the target of the online methods; ``None``: the paper's.
        checkpoint: file that an online method goes on from after a kill; further base sets have one each.
        base_sets: how many choices of base images, with seeds ``seed``, ``seed + 1``, ….
        repeats: trainings of each network on each base set.
        evaluate: whether to evaluate at all.
        seed: of every random choice.
        device: where networks run.
        data_root: where data sets lie.
        out: folder of the results; ``None``: ``distilled/TARGET-SIZE``.
    """

    target: str = "digits"
    source: str | None = None
    base_size: int = 100
    method: str = "closed-form"
    select: str = "random"
    balanced: bool | None = None
    extractor: str = "convnet"
    width: int | None = None
    pool_size: int = 5
    zca: float | None = None
    lam: float | None = None
    gamma: float | None = None
    prior: str | None = None
    constraint: str = "none"
    recipe: str | None = None
    augmentation: str = "none"
    label_scale: float | None = None
    moments: Path | None = None
    backend: str = "auto"
    epochs: int | None = None
    checkpoint: Path | None = None
    networks: tuple[str, ...] = ("lenet",)
    base_sets: int = 1
    repeats: int = 5
    evaluate: bool = True
    seed: int = 0
    device: str = "auto"
    data_root: str | None = None
    out: Path | None = None

    @property
    def folder(self) -> Path:
        """Where the results go."""
        if self.out is not None:
            return self.out
        names = [Path(name).stem for name in (self.source, self.target) if name is not None]
        return Path("distilled") / f"{'-to-'.join(names).lower()}-{self.base_size}"


@dataclass(frozen=True)
class Result:
    """What a job made: the set of the first seed, the numbers, and where they were written."""

    distilled: DistilledSet
    table: EvaluationTable | None
    metrics: dict[str, Any]
    folder: Path


def run(job: Job) -> Result:
    """Load, choose base examples, accumulate, solve, evaluate, report.

    Raises:
        InvalidInputError: anything about the settings, the data or the output folder that cannot work; found
            before the long part starts wherever it can be, and nothing is left behind.
    """
    _check(job)
    clock = _Clock()
    with clock("load"):
        target = load(job.target, root=job.data_root)
        validation = load(job.target, split="validation", root=job.data_root)
        source = target if job.source is None else load(job.source, root=job.data_root)
        # Loaded now, so that a missing file is known before the work; shown to networks at the very end.
        test = load(job.target, split="test", root=job.data_root) if job.evaluate else None
    across = source.fingerprint != target.fingerprint
    balanced = not across if job.balanced is None else job.balanced
    check(source, job.base_size, job.select, balanced=balanced, seed=job.seed)
    method = distill.METHODS[job.method]
    with clock("accumulate"):
        inputs = _inputs(job, method, target)
    moments = inputs.get("moments")
    with clock("select"):
        bases = [
            choose(source, job.base_size, job.select, balanced=balanced, seed=job.seed + k, moments=moments)
            for k in range(job.base_sets)
        ]
    with clock("solve"):
        accepted = inspect.signature(method).parameters
        options = {name: value for name, value in inputs.items() if name in accepted}
        options |= {**_options(job, method), "network": job.networks[0], "device": job.device}
        sets = [
            method(base=base, validation=validation, seed=job.seed + k, **options, **_checkpoint(job, k))
            for k, base in enumerate(bases)
        ]
    spent = None if job.moments is not None else clock.distilling(len(sets))  # who knows what the moments took
    if spent is not None:
        sets = [replace(one, manifest={**one.manifest, DISTIL_SECONDS: round(spent.seconds, 3)}) for one in sets]
    table = costs = None
    with clock("evaluate"):
        if job.evaluate:
            table = evaluate(
                sets,
                job.networks,
                repeats=job.repeats,
                target=target,
                validation=validation,
                test=test,
                seed=job.seed,
                device=job.device,
            )
            where = resolve_device(job.device)
            costs = cost(sets[0], target, job.networks[0], distil=spent, table=table, device=where)
    record = metrics(sets, table, {**clock.seconds, "total": clock.total}, costs)
    folder = job.folder
    sets[0].save(folder / DISTILLED)
    write_json(folder / METRICS, record)
    write_report(folder / REPORT, sets[0], record)
    return Result(sets[0], table, record, folder)


def _check(job: Job) -> None:
    """Raise on whatever can be known to fail before any work is done."""
    if job.method not in distill.METHODS:
        raise UnknownNameError(f"unknown method {job.method!r}; known are {', '.join(distill.METHODS)}")
    if unknown := [network for network in job.networks if network not in NETWORKS]:
        raise UnknownNameError(f"unknown network {unknown[0]!r}; known are {', '.join(NETWORKS)}")
    if not job.networks:
        raise InvalidInputError("name at least one network")
    for name, value in (("base-sets", job.base_sets), ("repeats", job.repeats)):
        if value < 1:
            raise InvalidInputError(f"--{name} must be at least 1, found {value}")
    if job.zca is not None:
        check_regularisation(job.zca)
    resolve_device(job.device)
    accepted = inspect.signature(distill.METHODS[job.method]).parameters
    pooled = not {"moments", "pool"}.isdisjoint(accepted) or job.select in USES_MOMENTS
    for name in OPTIONS if pooled else OPTIONS + POOL_OPTIONS:
        if name not in accepted and getattr(job, name) != getattr(Job, name):
            raise InvalidInputError(f"--{name.replace('_', '-')} has no meaning for the method {job.method!r}")
    distill.CHECKS[job.method](**_options(job, distill.METHODS[job.method]))
    # Writing may fail for reasons that only writing shows; the plain ones should not cost an hour first.
    place = next(p for p in (job.folder.absolute(), *job.folder.absolute().parents) if p.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise OutputError(
            f"cannot write into {job.folder}: {place} is not a folder that can be written to; choose another --out"
        )


def _options(job: Job, method: Callable[..., DistilledSet]) -> dict[str, Any]:
    """The settings of the job that the method has a parameter for; ``None`` leaves it its own default."""
    accepted = inspect.signature(method).parameters
    given = {name: getattr(job, name) for name in OPTIONS if name in accepted and name != "checkpoint"}
    return {name: value for name, value in given.items() if value is not None}


def _checkpoint(job: Job, base_set: int) -> dict[str, Path]:
    """The checkpoint of a base set, where one was asked for."""
    if job.checkpoint is None:
        return {}
    path = job.checkpoint
    return {"checkpoint": path if base_set == 0 else path.with_stem(f"{path.stem}-{job.seed + base_set}")}


def _inputs(job: Job, method: Callable[..., DistilledSet], target: ImageData) -> dict[str, Any]:
    """What a method may take of the target; moments only where method or selection read them."""
    read = "moments" in inspect.signature(method).parameters or job.select in USES_MOMENTS
    if not (read or job.moments is not None):
        return {"target": target, "pool": _specs(job), "preprocessing": Preprocessing.fit(target, zca=job.zca)}
    moments = _moments(job, target)
    return {"target": target, "pool": moments.pool, "moments": moments, "preprocessing": moments.preprocessing}


def _specs(job: Job) -> Pool:
    return pool(job.extractor, job.pool_size, job.seed, **({} if job.width is None else {"width": job.width}))


def _moments(job: Job, target: ImageData) -> Moments:
    if job.moments is None:
        fitted = Preprocessing.fit(target, zca=job.zca)
        return accumulate(_specs(job), target, preprocessing=fitted, device=job.device)
    moments = Moments.load(job.moments)
    record, zca = moments.pool[0].to_dict(), moments.preprocessing.zca
    brought = {
        "extractor": record["network"],
        "width": record["options"].get("width"),
        "pool_size": len(moments.pool),
        "zca": None if zca is None else zca.regularisation,
    }
    for name, value in brought.items():
        if getattr(job, name) not in (getattr(Job, name), value):
            raise InvalidInputError(
                f"{job.moments} brings its own extractors and whitening, with {name} {value}, not "
                f"{getattr(job, name)}; leave --{name.replace('_', '-')} out"
            )
    if moments.missing:
        raise InvalidInputError(
            f"{job.moments} lacks {len(moments.missing)} shards; merge all of them first "
            "(convexdistill moments merge)"
        )
    summed = {part.partition("#")[0] for part in moments.target["parts"]}
    if all(part.startswith(STREAMED) for part in summed):
        # Images that went by have no fingerprint to know them by: what must fit is what the solve reads.
        for name, found, wanted in (
            ("classes", moments.target["classes"], list(target.classes)),
            ("image shape", moments.target["shape"], list(target.shape)),
        ):
            if found != wanted:
                raise InvalidInputError(
                    f"the {name} of the stream in {job.moments} and of --target {job.target!r} differ "
                    f"({differences(found, wanted)}); name a --target with the same: base images, validation and "
                    "test come from it"
                )
        if Path(job.target).is_dir():
            whole = stream(job.target, shape=target.shape)
            if whole.fingerprint in summed:
                raise InvalidInputError(
                    f"{job.moments} holds all images of {job.target}, those of its test split as well: accumulate "
                    "without --stream, or name a --target of images that were not streamed"
                )
        # Base images, validation and test are --target's, and so is the name to find them by.
        moments = replace(moments, target={**moments.target, "name": target.name})
    elif target.fingerprint not in summed or moments.target["split"] != target.split:
        raise InvalidInputError(
            f"{job.moments} holds moments of {moments.target['name']!r} ({moments.target['split']}), not of "
            f"the train split of {job.target!r}; name the --target they were accumulated from"
        )
    return moments


class _Clock:
    """What each phase has cost; what comes between the phases counts towards the total."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.spent: dict[str, Spent] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        with spending() as self.spent[phase]:
            yield

    @property
    def seconds(self) -> dict[str, float]:
        return {phase: spent.seconds for phase, spent in self.spent.items()}

    @property
    def total(self) -> float:
        return time.perf_counter() - self.start

    def distilling(self, sets: int) -> Spent:
        """What one of so many sets has cost: they share the moments, not the choice of images and the solve."""
        parts = [(self.spent["accumulate"], 1.0), *((self.spent[name], 1 / sets) for name in ("select", "solve"))]
        energies = [spent.kwh for spent, _ in parts]
        kwh = sum(e * share for e, (_, share) in zip(energies, parts, strict=True) if e is not None)
        return Spent(
            sum(spent.seconds * share for spent, share in parts),
            None if None in energies else kwh,
            parts[0][0].of,
        )
