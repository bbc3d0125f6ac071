"""Everything that the cells of a matrix share, loaded and checked before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from convexdistill import data as data_sets
from convexdistill.data import ImageData
from convexdistill.distilled import DistilledSet
from convexdistill.errors import InvalidInputError
from convexdistill.evaluate.axes import Axes
from convexdistill.evaluate.baselines import UNTRAINED, transferred_labels, untrained_accuracy
from convexdistill.evaluate.cells import Task
from convexdistill.features import Shape


def prepare_task(
    sets: Sequence[DistilledSet],
    axes: Axes,
    target: ImageData | None,
    validation: ImageData | None,
    test: ImageData | None,
    root: str | None,
    repeats: int,
    seed: int,
    device: torch.device,
) -> Task:
    """Everything that cells share; the arguments are those of :func:`convexdistill.evaluate.matrix`.

    Raises:
        InvalidInputError: the sets or splits have different classes or image shapes, or a split is not what it
            has to be.
    """
    first = sets[0]
    name = first.manifest["target"]["name"]
    validation = validation or data_sets.load(name, split="validation", root=root)
    test = test or data_sets.load(name, split="test", root=root)
    for one in sets:
        check_fits(first, one.classes, one.shape)
        if one.is_cross != first.is_cross:
            raise InvalidInputError("sets within a data set and across data sets are not of one job")
    validation.refuse_test("to choose the number of steps")
    for split in (validation, test):
        check_fits(first, split.classes, split.shape)
    subset = "random-subset" in axes.baselines
    transferred: list[Tensor | None] = [None] * len(sets)
    if subset or first.is_cross:
        target = target or data_sets.load(name, split="train", root=root)
        target.refuse_test("for baselines")
        check_fits(first, target.classes, target.shape)
    if first.is_cross:
        assert target is not None
        transferred = [*transferred_labels(sets, target)]
    rules = [] if first.is_cross else [rule for rule in UNTRAINED if rule in axes.baselines]
    return Task(
        sets=sets,
        transferred=transferred,
        teacher=[None] * len(sets),
        target=target if subset else None,
        validation=validation,
        test=test,
        repeats=repeats,
        seed=seed,
        device=device,
        steps=axes.steps,
        baselines=axes.baselines,
        untrained={rule: [[untrained_accuracy(rule, one, test)] for one in sets] for rule in rules},
    )


def check_fits(first: DistilledSet, classes: tuple[str, ...], shape: Shape) -> None:
    """Raise unless these are the classes and the image shape of a distilled set.

    Raises:
        InvalidInputError: they are not.
    """
    if classes != first.classes or shape != first.shape:
        raise InvalidInputError(
            f"the distilled set is for {len(first.classes)} classes and images of {first.shape}, but found "
            f"{len(classes)} classes and images of {shape}"
            + (" (the same number of classes, with other names)" if len(classes) == len(first.classes) else "")
        )
