"""``evaluate``: train from scratch on the distilled set and on every baseline, and test once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from convexdistill import data as data_sets
from convexdistill.data import ImageData
from convexdistill.device import resolve_device
from convexdistill.distilled import DistilledSet, fresh_network
from convexdistill.errors import InvalidInputError, ParameterRangeError, UnknownNameError
from convexdistill.evaluate.baselines import candidates, nearest_neighbour_accuracy, transferred_labels
from convexdistill.evaluate.judging import Judged, judge, summarise_judged, with_differences
from convexdistill.evaluate.table import EvaluationTable, Row, summarise
from convexdistill.features import NETWORKS, Shape
from convexdistill.seeds import child_seed
from convexdistill.training import OPTIMIZERS, Recipe, run_trials, validation_part

NetworkLike = str | Callable[[Shape, int], nn.Module]


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
    steps are shown the test split, once.

    Args:
        distilled: one set, or several of one job that differ in their base images.
        networks: names (:data:`convexdistill.features.NETWORKS`) or functions of ``(shape, num_classes)``.
        optimizers: names (:data:`convexdistill.training.OPTIMIZERS`).
        repeats: trainings for each row and base set.
        target: the target's train split; needed across data sets only, loaded by name if not given.
        validation: the target's validation split; loaded by name if not given.
        test: the target's test split; loaded by name if not given.
        root: where data sets lie; see :func:`convexdistill.data.load`.
        seed: of the trainings.
        device: where to train.

    Raises:
        ParameterRangeError: ``repeats`` below 1, or no set, network or optimiser at all.
        UnknownNameError: unknown network or optimiser.
        InvalidInputError: the sets or splits have different classes or image shapes.

    Example:
        >>> import convexdistill as cd
        >>> digits = cd.data.load("digits")
        >>> moments = cd.accumulate(cd.features.pool(count=1), digits)
        >>> distilled = cd.distill.closed_form(moments, cd.select.choose(digits, size=20))
        >>> table = cd.evaluate.evaluate(distilled, repeats=2)
        >>> [row.labels for row in table][:3]
        ['distilled', 'one-hot', 'smoothed']
    """
    sets = [distilled] if isinstance(distilled, DistilledSet) else list(distilled)
    networks, optimizers = list(networks), list(optimizers)
    if repeats < 1 or not (sets and networks and optimizers):
        raise ParameterRangeError(
            "evaluation needs at least one distilled set, network, optimizer and repeat, found "
            f"{len(sets)}, {len(networks)}, {len(optimizers)} and {repeats}"
        )
    for optimizer in optimizers:
        _with_optimizer(sets[0].recipe, optimizer)
    for network in networks:
        if isinstance(network, str) and network not in NETWORKS:
            raise UnknownNameError(f"unknown network {network!r}; known are {', '.join(NETWORKS)}")
    start = time.perf_counter()
    first = sets[0]
    name = first.manifest["target"]["name"]
    validation = validation or data_sets.load(name, split="validation", root=root)
    test = test or data_sets.load(name, split="test", root=root)
    for one in sets:
        _check_fits(first, one.classes, one.shape)
        if one.is_cross != first.is_cross:
            raise InvalidInputError("sets within a data set and across data sets are not of one job")
    validation.refuse_test("to choose the number of steps")
    for split in (validation, test):
        _check_fits(first, split.classes, split.shape)
    transferred: list[Tensor | None] = [None] * len(sets)
    if first.is_cross:
        target = target or data_sets.load(name, split="train", root=root)
        _check_fits(first, target.classes, target.shape)
        transferred = [*transferred_labels(sets, target)]

    splits = validation, test
    neighbour = [] if first.is_cross else [_nearest_neighbour_row(sets, validation, test)]
    untrained = {row.labels: [[run] for run in row.runs] for row in neighbour}
    where = resolve_device(device)
    rows = [
        row
        for network in networks
        for optimizer in optimizers
        for row in _rows(network, optimizer, sets, transferred, splits, repeats, seed, where, untrained)
    ]
    return EvaluationTable((*rows, *neighbour), time.perf_counter() - start)


def _rows(
    network: NetworkLike,
    optimizer: str,
    sets: Sequence[DistilledSet],
    transferred: Sequence[Tensor | None],
    splits: tuple[ImageData, ImageData],
    repeats: int,
    seed: int,
    device: torch.device,
    untrained: Mapping[str, Sequence[Sequence[float | None]]],
) -> list[Row]:
    """One row for each kind of labels: a network and an optimiser on all base sets."""
    validation, test = splits
    name = network if isinstance(network, str) else getattr(network, "__name__", type(network).__name__)
    start = time.perf_counter()
    judged: list[list[Judged]] = []

    def build(weights_seed: int) -> nn.Module:
        return fresh_network(network, sets[0].shape, len(sets[0].classes), weights_seed)

    for k, one in enumerate(sets):
        trials = run_trials(
            candidates(one, _with_optimizer(one.recipe, optimizer), transferred[k]),
            one.images,
            one.preprocessing,
            validation,
            build,
            [child_seed(seed, "evaluate", k, r) for r in range(repeats)],
            device=device,
            description=f"train {name}" + (f", base set {k + 1}/{len(sets)}" if len(sets) > 1 else ""),
        )
        judged.append(judge(trials, validation_part(validation), test, one.preprocessing, device))
    share = (time.perf_counter() - start) / len(judged[0])
    rows = [
        summarise_judged(
            [found[i] for found in judged],
            validation_part(validation),
            test,
            network=name,
            optimizer=optimizer,
            seconds=share,
        )
        for i in range(len(judged[0]))
    ]
    runs = {row.labels: [found[i].test for found in judged] for i, row in enumerate(rows)}
    return with_differences(rows, {**runs, **untrained})


def _nearest_neighbour_row(sets: Sequence[DistilledSet], validation: ImageData, test: ImageData) -> Row:
    return summarise(
        [[nearest_neighbour_accuracy(one, test)] for one in sets],
        [[nearest_neighbour_accuracy(one, validation_part(validation))] for one in sets],
        labels="nearest-neighbour",
        network=None,
        optimizer=None,
        loss=None,
        label_scale=None,
        steps=(),
    )


def _with_optimizer(recipe: Recipe, optimizer: str) -> Recipe:
    """The recipe with another optimiser at that one's default learning rate."""
    if optimizer == recipe.optimizer:
        return recipe
    rate = OPTIMIZERS[optimizer][1] if optimizer in OPTIMIZERS else 0.0
    return replace(recipe, optimizer=optimizer, learning_rate=rate)


def _check_fits(first: DistilledSet, classes: tuple[str, ...], shape: Shape) -> None:
    if classes != first.classes or shape != first.shape:
        raise InvalidInputError(
            f"the distilled set is for {len(first.classes)} classes and images of {first.shape}, but found "
            f"{len(classes)} classes and images of {shape}"
            + (" (the same number of classes, with other names)" if len(classes) == len(first.classes) else "")
        )
