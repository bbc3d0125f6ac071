"""One cell of the matrix: every kind of labels trained in one way, on all base sets, all repeats side by side."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from convexdistill.data import ImageData
from convexdistill.distilled import DistilledSet, fresh_network
from convexdistill.evaluate.baselines import candidates, paper_recipe, random_subset
from convexdistill.evaluate.judging import Judged, judge, summarise_judged, with_differences
from convexdistill.evaluate.label_loss import LabelLoss
from convexdistill.evaluate.table import Row
from convexdistill.features import Shape
from convexdistill.seeds import child_seed
from convexdistill.training import (
    Candidate,
    Course,
    Recipe,
    Trial,
    courses,
    find_optimizer,
    training_steps,
    validation_part,
)

NetworkLike = str | Callable[[Shape, int], nn.Module]


@dataclass(frozen=True)
class Cell:
    """One way to train.

    Attributes:
        network: a name, or a function of ``(shape, num_classes)``.
        optimizer: a name.
        rate: the learning rate; ``None``: the recipe's, or the default of an optimiser that is not the recipe's.
        loss: that networks are trained under.
        augmentation: a name.
        order: a name.
    """

    network: NetworkLike
    optimizer: str
    rate: float | None
    loss: LabelLoss
    augmentation: str
    order: str

    @property
    def network_name(self) -> str:
        """What a table shows."""
        return network_name(self.network)

    def recipe(self, recipe: Recipe) -> Recipe:
        """The recipe of a distilled set, changed to this way to train."""
        name, optimizer = find_optimizer(self.optimizer)
        default = recipe.learning_rate if name == recipe.optimizer else optimizer.learning_rate
        return replace(
            recipe,
            optimizer=name,
            learning_rate=default if self.rate is None else self.rate,
            augmentation=self.augmentation,
            order=self.order,
        )


@dataclass(frozen=True)
class Task:
    """What all cells share.

    Attributes:
        sets: the distilled sets, one for each choice of base images.
        transferred: labels from near target images, for each set; ``None`` within a data set.
        teacher: probabilities of a trained teacher, for each set, if that baseline is asked for.
        target: the target's train split, for the random subset; ``None`` where that is not asked for.
        validation: the target's validation split.
        test: the target's test split.
        repeats: trainings for each row and base set.
        seed: of the trainings.
        device: where networks run.
        steps: numbers of steps; ``None`` stands for the best on the validation split.
        baselines: names of those that are wanted.
        untrained: test accuracies of baselines that need no training, by name, for each base set.
    """

    sets: Sequence[DistilledSet]
    transferred: Sequence[Tensor | None]
    teacher: Sequence[Tensor | None]
    target: ImageData | None
    validation: ImageData
    test: ImageData
    repeats: int
    seed: int
    device: torch.device
    steps: tuple[int | None, ...]
    baselines: frozenset[str]
    untrained: Mapping[str, Sequence[Sequence[float]]]

    @property
    def trainings(self) -> int:
        """How many times :func:`compute` calls the training loop for a cell."""
        return len(self.sets) * (1 if self.target is None else 2)


def network_name(network: NetworkLike) -> str:
    """A network's name, or that of the function that builds it; of a partial one with its arguments.

    Example:
        >>> from convexdistill.features import NETWORKS
        >>> network_name("lenet"), network_name(functools.partial(NETWORKS["convnet"], width=64))
        ('lenet', 'convnet(width=64)')
    """
    if isinstance(network, str):
        return network
    if isinstance(network, functools.partial):
        given = [*map(_plain, network.args), *(f"{key}={_plain(v)}" for key, v in network.keywords.items())]
        return f"{network_name(network.func)}({', '.join(given)})"
    return getattr(network, "__name__", type(network).__name__)


def _plain(value: object) -> str:
    """An argument in a name: other objects by their type, as their own words may change from run to run."""
    return repr(value) if isinstance(value, bool | int | float | str | None) else type(value).__name__


def compute(task: Task, cell: Cell) -> list[Row]:
    """The rows of a cell: for each wanted number of steps, one for each kind of labels."""
    start = time.perf_counter()
    found = [_train(task, cell, k) for k in range(len(task.sets))]
    share = (time.perf_counter() - start) / (len(found[0]) * len(task.steps))
    seen = validation_part(task.validation)
    rows: list[Row] = []
    for steps in task.steps:
        judged: list[list[Judged]] = []
        for one, trained in zip(task.sets, found, strict=True):
            trials = [_at(course, steps) for course in trained]
            judged.append(judge(trials, seen, task.test, one.preprocessing, task.device))
        kinds = list(zip(*judged, strict=True))
        mine = [
            summarise_judged(
                kind,
                seen,
                task.test,
                network=cell.network_name,
                optimizer=cell.optimizer,
                augmentation=cell.augmentation,
                order=cell.order,
                steps_by="validation" if steps is None else "given",
                seconds=share,
            )
            for kind in kinds
        ]
        runs: dict[str, Sequence[Sequence[float | None]]] = {
            row.labels: [one.test for one in kind] for row, kind in zip(mine, kinds, strict=True)
        }
        rows += with_differences(mine, {**runs, **task.untrained})
    return rows


def _train(task: Task, cell: Cell, k: int) -> list[Course]:
    """Train on every kind of labels of base set k."""
    one = task.sets[k]
    recipe = cell.recipe(one.recipe)
    seeds = [child_seed(task.seed, "evaluate", k, r) for r in range(task.repeats)]
    given = {step for step in task.steps if step is not None}

    def build(seed: int) -> nn.Module:
        return fresh_network(cell.network, one.shape, len(one.classes), seed)

    def trained(kinds: Sequence[Candidate], images: Tensor, on: str = "") -> list[Course]:
        steps = given | set(training_steps(len(images)) if None in task.steps else ())
        return courses(
            kinds,
            images,
            one.preprocessing,
            task.validation,
            build,
            seeds,
            steps=sorted(steps),
            device=task.device,
            description=f"train {cell.network_name}{on}",
        )

    kinds = candidates(one, recipe, task.transferred[k], loss=cell.loss, trained_teacher=task.teacher[k])
    found = trained([kind for kind in kinds if kind.name in {"distilled", *task.baselines}], one.images)
    if task.target is None:
        return found
    subset = random_subset(one, task.target, child_seed(task.seed, "subset", k))
    hot = one_hot(subset.labels, len(one.classes)).float()
    kind = cell.loss.apply("random-subset", hot, "probability", paper_recipe(recipe))
    return found + trained([kind], subset.images, " on a random subset")


def _at(course: Course, steps: int | None) -> Trial:
    if steps is not None:
        return course.at(steps)
    return course.at(course.best_of(training_steps(course.size)))
