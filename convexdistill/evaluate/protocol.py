"""``evaluate`` and ``matrix``: train from scratch on the distilled set and on every baseline, and test once."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from convexdistill import data as data_sets
from convexdistill.data import ImageData
from convexdistill.device import resolve_device
from convexdistill.distill.versions import versions
from convexdistill.distilled import DistilledSet
from convexdistill.evaluate.axes import Axes, check_lasting_names
from convexdistill.evaluate.baselines import untrained_accuracy
from convexdistill.evaluate.cache import Cache, row_from_dict
from convexdistill.evaluate.cells import Cell, NetworkLike, Task, network_name
from convexdistill.evaluate.judging import with_difference_to
from convexdistill.evaluate.machine import machine
from convexdistill.evaluate.table import EvaluationTable, Row, summarise
from convexdistill.evaluate.task import prepare_task
from convexdistill.evaluate.whole_target import FULL_DATA, REPEATS, train_on_everything
from convexdistill.evaluate.workers import run_cells
from convexdistill.training import validation_part


def evaluate(
    distilled: DistilledSet | Sequence[DistilledSet],
    networks: Iterable[NetworkLike] = ("lenet",),
    optimizers: Iterable[str] = ("adam",),
    repeats: int = 20,
    *,
    target: ImageData | None = None,
    validation: ImageData | None = None,
    test: ImageData | None = None,
    root: str | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
) -> EvaluationTable:
    """How well networks trained from scratch on a distilled set do, beside baselines on the same images.

    For every row the validation split picks the number of steps; then, and only then, the networks of those
    steps are shown the test split, once. :func:`matrix` does the same for more ways to train.

    Args:
        distilled: one set, or several of one job that differ in their base images.
        networks: names (:data:`convexdistill.features.NETWORKS`) or functions of ``(shape, num_classes)``, each
            of its own ``__name__``; a ``functools.partial`` is named with its arguments.
        optimizers: names (:func:`convexdistill.training.optimizer_names`).
        repeats: trainings for each row and base set.
        target: the target's train split; loaded by name where it is needed and not given.
        validation: the target's validation split; loaded by name if not given.
        test: the target's test split; loaded by name if not given.
        root: where data sets lie; see :func:`convexdistill.data.load`.
        seed: of the trainings.
        device: where to train.

    Raises:
        ParameterRangeError: ``repeats`` below 1, or no set, network or optimiser at all.
        UnknownNameError: unknown network or optimiser.
        InvalidInputError: the sets or splits have different classes or image shapes; two networks have one name.

    Example:
        >>> import convexdistill as cd
        >>> digits = cd.data.load("digits")
        >>> moments = cd.accumulate(cd.features.pool(count=1), digits)
        >>> distilled = cd.distill.closed_form(moments, cd.select.choose(digits, size=20))
        >>> table = cd.evaluate.evaluate(distilled, repeats=2)
        >>> [row.labels for row in table][:3]
        ['distilled', 'one-hot', 'smoothed']
    """
    return matrix(
        distilled,
        networks,
        optimizers,
        repeats=repeats,
        target=target,
        validation=validation,
        test=test,
        root=root,
        seed=seed,
        device=device,
    )


def matrix(
    distilled: DistilledSet | Sequence[DistilledSet],
    networks: Iterable[NetworkLike] = ("lenet",),
    optimizers: Iterable[str] = ("adam",),
    learning_rates: Iterable[float | str] = ("auto",),
    steps: Iterable[int | str] = ("auto",),
    losses: Iterable[str] = ("own",),
    augmentations: Iterable[str] = ("own",),
    orders: Iterable[str] = ("shuffled",),
    repeats: int = 20,
    *,
    baselines: Iterable[str] | None = None,
    target: ImageData | None = None,
    validation: ImageData | None = None,
    test: ImageData | None = None,
    root: str | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    cache: str | Path | None = None,
    workers: int = 1,
) -> EvaluationTable:
    """Every combination of networks, optimisers, learning rates, steps, losses, augmentations and orders.

    All trainings of one combination are made side by side, seed by seed with the same initial weights and the same
    minibatches for every kind of labels, so that differences are paired. Steps that are "auto" are chosen on the
    validation split, row by row. The test split is shown the networks of the chosen or given steps alone.

    Args:
        distilled: one set, or several of one job that differ in their base images.
        networks: names (:data:`convexdistill.features.NETWORKS`) or functions of ``(shape, num_classes)``, each
            of its own ``__name__``; a ``functools.partial`` is named with its arguments.
        optimizers: names (:func:`convexdistill.training.optimizer_names`): those of
            :data:`convexdistill.training.OPTIMIZERS`, or of any class of ``torch.optim``.
        learning_rates: numbers; ``"auto"``: the one in the file, for an optimiser that is not the file's its
            default; ``"x3"``: three times that.
        steps: numbers of steps, or ``"auto"``.
        losses: ``"own"``: that of the file, and for one-hot labels the paper's; ``"soft-cross-entropy"``,
            ``"mse"``, ``"kl"`` or ``"kl:T"``: this one for all; see
            :mod:`convexdistill.evaluate.label_loss`.
        augmentations: ``"own"``: that of the file; or names (:data:`convexdistill.training.AUGMENTATIONS`).
        orders: names (:data:`convexdistill.training.ORDERS`).
        repeats: trainings for each row and base set.
        baselines: names (:data:`convexdistill.evaluate.BASELINES`); default: the quick ones. ``"full-data"`` and
            ``"trained-teacher"`` train networks on the whole target: the first of ``networks`` gives the teacher's
            labels, on which all of them are trained.
        target: the target's train split; loaded by name where it is needed and not given.
        validation: the target's validation split; loaded by name if not given.
        test: the target's test split; loaded by name if not given.
        root: where data sets lie; see :func:`convexdistill.data.load`.
        seed: of the trainings.
        device: where to train.
        cache: a file that keeps finished combinations; a killed evaluation goes on from it, and a longer list of
            networks or rates adds to it.
        workers: processes that share the combinations; they divide torch's threads among them.

    Raises:
        ParameterRangeError: a number outside its range, or an empty list.
        UnknownNameError: an unknown name; the message lists the known ones.
        InvalidInputError: the sets or splits have different classes or image shapes; two networks have one name;
            the cache is of another evaluation, or a network is a lambda, which a cache cannot know again; a
            network cannot be sent to a worker.

    Example:
        >>> import convexdistill as cd
        >>> digits = cd.data.load("digits")
        >>> moments = cd.accumulate(cd.features.pool(count=1), digits)
        >>> distilled = cd.distill.closed_form(moments, cd.select.choose(digits, size=20))
        >>> table = cd.evaluate.matrix(
        ...     distilled, optimizers=("adam", "sgd-momentum"), steps=(10, 20), repeats=2, baselines=("one-hot",))
        >>> [(row.labels, row.optimizer, row.steps) for row in table][:3]
        [('distilled', 'adam', (10,)), ('one-hot', 'adam', (10,)), ('distilled', 'adam', (20,))]
    """
    sets = [distilled] if isinstance(distilled, DistilledSet) else list(distilled)
    axes = Axes.checked(
        networks,
        optimizers,
        learning_rates,
        steps,
        losses,
        augmentations,
        orders,
        baselines,
        repeats,
        workers,
        sets,
    )
    if cache is not None:
        check_lasting_names(axes.networks)
    start = time.perf_counter()
    whole = None
    if axes.needs_target(sets[0]):
        whole = target or data_sets.load(sets[0].manifest["target"]["name"], split="train", root=root)
    task = prepare_task(sets, axes, whole, validation, test, root, repeats, seed, resolve_device(device))
    kept = Cache(None if cache is None else Path(cache), _settings(task, axes, whole) if cache else {})

    full: dict[str, Row] = {}
    if axes.trains_on_everything:
        assert whole is not None
        wanted = axes.networks if FULL_DATA in axes.baselines else axes.networks[:1]
        for network in wanted:
            row, teacher = _full_data(network, task, whole, kept)
            full[network_name(network)] = row
            if network is axes.networks[0] and "trained-teacher" in axes.baselines:
                task = replace(task, teacher=teacher)
    cells = axes.cells(sets[0].recipe)
    missing = [cell for cell in cells if kept.get(_facts(cell)) is None]

    def done(cell: Cell, rows: list[Row]) -> None:
        kept.put(_facts(cell), {"rows": EvaluationTable(tuple(rows), 0.0).to_dicts()})

    run_cells(task, missing, workers, done)
    rows: list[Row] = []
    for cell in cells:
        record = kept.get(_facts(cell))
        assert record is not None
        for row in map(row_from_dict, record["rows"]):
            against = full.get(cell.network_name) if FULL_DATA in axes.baselines else None
            rows.append(row if against is None else with_difference_to(row, against))
    rows += full.values() if FULL_DATA in axes.baselines else ()
    rows += [_untrained_row(name, runs, sets, task.validation) for name, runs in task.untrained.items()]
    how = {"seed": seed, "repeats": repeats, "machine": machine(task.device)}
    return EvaluationTable(tuple(rows), time.perf_counter() - start, how)


def _settings(task: Task, axes: Axes, target: ImageData | None) -> dict[str, object]:
    """What a cache of cells must agree in: all that its numbers depend on beside the cell."""
    return {
        "versions": {name: version for name, version in versions().items() if name in ("convexdistill", "torch")},
        "distilled sets": [one.fingerprint for one in task.sets],
        "target": None if target is None else target.fingerprint,
        "validation split": task.validation.fingerprint,
        "test split": task.test.fingerprint,
        "repeats": task.repeats,
        "seed": task.seed,
        "steps": list(task.steps),
        "baselines": sorted(axes.baselines),
        "device": task.device.type,
    }


def _facts(cell: Cell) -> dict[str, object]:
    """What tells cells apart in a cache."""
    return {
        "network": cell.network_name,
        "optimizer": cell.optimizer,
        "learning rate": cell.rate,
        "loss": str(cell.loss),
        "augmentation": cell.augmentation,
        "order": cell.order,
    }


def _full_data(network: NetworkLike, task: Task, target: ImageData, kept: Cache) -> tuple[Row, list[Tensor]]:
    """The row of a network that is trained on everything, and what it says of the base images."""
    facts = {"network": network_name(network), "on": FULL_DATA}
    if kept.get(facts) is None:
        found = train_on_everything(
            network,
            task.sets,
            target,
            task.validation,
            task.test,
            repeats=min(REPEATS, task.repeats),
            seed=task.seed,
            device=task.device,
        )
        table = EvaluationTable((found["row"],), 0.0)
        record = {"rows": table.to_dicts(), "teacher": [labels.tolist() for labels in found["teacher"]]}
        kept.put(facts, record)
    record = kept.get(facts) or {}
    return row_from_dict(record["rows"][0]), [torch.tensor(labels) for labels in record["teacher"]]


def _untrained_row(
    name: str, runs: Sequence[Sequence[float]], sets: Sequence[DistilledSet], validation: ImageData
) -> Row:
    seen = validation_part(validation)
    return summarise(
        runs,
        [[untrained_accuracy(name, one, seen)] for one in sets],
        labels=name,
        network=None,
        optimizer=None,
        loss=None,
        label_scale=None,
        steps=(),
    )
