"""Trials: train on candidate labels, several seeds each, and let the validation split pick the steps.

The one place where networks are trained to be measured: the choice of hyper-parameters and the final
evaluation both go through it, so every row of a table is made the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from convexdistill import threads
from convexdistill.data import ImageData, Preprocessing
from convexdistill.seeds import generator
from convexdistill.training.loop import train_together
from convexdistill.training.recipe import Recipe
from convexdistill.training.side_by_side import SideBySide, cohorts

# Choosing steps and hyper-parameters needs a ranking, not the last digit: with this many images the standard
# error of one accuracy is below one point, and looking costs less than training.
VALIDATION_IMAGES = 2500
CHECKPOINTS = 5


@dataclass(frozen=True)
class Candidate:
    """Labels ``(n, C)`` for the base images, and the recipe to train on them."""

    name: str
    labels: Tensor
    recipe: Recipe


@dataclass(frozen=True)
class Trial:
    """What training on a candidate gave.

    Attributes:
        candidate: what was trained on.
        steps: the number of steps with the best mean validation accuracy; the fewest of equals.
        validation: accuracy in percent of each training, at that number of steps; 0 where it diverged.
        networks: the trained networks, at that number of steps.
        diverged: whether each training's logits are NaN or infinite there.
        curve: at each checkpoint the steps, and the mean and the standard deviation of the validation accuracy
            over the trainings that did not diverge; ``None`` where there are too few for it.
    """

    candidate: Candidate
    steps: int
    validation: tuple[float, ...]
    networks: tuple[nn.Module, ...]
    diverged: tuple[bool, ...] = ()
    curve: tuple[tuple[int, float | None, float | None], ...] = ()


def training_steps(base_size: int) -> list[int]:
    """The numbers of steps that are tried with ``base_size`` examples, in rising order.

    Example:
        >>> training_steps(100)
        [80, 160, 240, 320, 400]
    """
    longest = min(200 + 2 * base_size, 2000)
    return [longest * (i + 1) // CHECKPOINTS for i in range(CHECKPOINTS)]


@dataclass(frozen=True)
class Course:
    """How the trainings on one candidate went.

    Attributes:
        candidate: what was trained on.
        validation: accuracies in percent of each training, by number of steps; ``None`` where it diverged.
        networks: one a training; their weights are those of the last :meth:`at`.
        states: the weights of each training, by number of steps.
    """

    candidate: Candidate
    validation: Mapping[int, tuple[float | None, ...]]
    networks: tuple[nn.Module, ...]
    states: Mapping[int, tuple[dict[str, Tensor], ...]]

    def best_of(self, steps: Iterable[int]) -> int:
        """Of these, the best mean validation accuracy, the fewest of equals; what diverged counts as 0."""
        return max(steps, key=lambda step: (sum(a or 0.0 for a in self.validation[step]), -step))

    @property
    def size(self) -> int:
        """The number of examples that were trained on."""
        return len(self.candidate.labels)

    @property
    def curve(self) -> tuple[tuple[int, float | None, float | None], ...]:
        """See :attr:`Trial.curve`."""
        points = []
        for step, found in self.validation.items():
            known = torch.tensor([value for value in found if value is not None], dtype=torch.float64)
            mean = float(known.mean()) if len(known) else None
            points.append((step, mean, float(known.std()) if len(known) > 1 else None))
        return tuple(points)

    def at(self, step: int) -> Trial:
        """The trial of a number of steps; the networks get the weights that they had there."""
        for network, state in zip(self.networks, self.states[step], strict=True):
            network.load_state_dict(state)
        found = self.validation[step]
        scores = tuple(value or 0.0 for value in found)
        diverged = tuple(value is None for value in found)
        return Trial(self.candidate, step, scores, self.networks, diverged, self.curve)


def run_trials(
    candidates: Sequence[Candidate],
    base_images: Tensor,
    preprocessing: Preprocessing,
    validation: ImageData,
    build: Callable[[int], nn.Module],
    seeds: Sequence[int],
    *,
    device: torch.device,
    description: str,
) -> list[Trial]:
    """Train every candidate with every seed, side by side; the validation split picks the number of steps.

    Args:
        candidates: as :func:`courses` takes them, and so are the others.
        base_images: ``(n, c, h, w)`` uint8.
        preprocessing: normalisation of all images.
        validation: the split that picks the number of steps.
        build: a fresh network for a seed.
        seeds: one for each training.
        device: where to train.
        description: what the progress bar says.
    """
    steps = training_steps(len(base_images))
    found = courses(
        candidates,
        base_images,
        preprocessing,
        validation,
        build,
        seeds,
        steps=steps,
        device=device,
        description=description,
    )
    return [course.at(course.best_of(steps)) for course in found]


def courses(
    candidates: Sequence[Candidate],
    base_images: Tensor,
    preprocessing: Preprocessing,
    validation: ImageData,
    build: Callable[[int], nn.Module],
    seeds: Sequence[int],
    *,
    steps: Sequence[int],
    device: torch.device,
    description: str,
) -> list[Course]:
    """Train every candidate with every seed, all of them side by side, and look at each number of steps.

    Seed by seed, all candidates share initial weights and order of minibatches, so that their differences
    are paired.

    Args:
        candidates: their recipes must share optimiser and batch size.
        base_images: ``(n, c, h, w)`` uint8.
        preprocessing: normalisation of all images.
        validation: the split that is looked at; a fixed part of it.
        build: a fresh network for a seed.
        seeds: one for each training.
        steps: when to look, in rising order; the last ends the training.
        device: where to train.
        description: what the progress bar says.
    """
    members = [(c, seed) for c in candidates for seed in seeds]
    networks = [build(seed) for _, seed in members]
    images = preprocessing(base_images).to(device)
    targets = torch.stack([c.labels.float() * c.recipe.label_scale for c, _ in members]).to(device)
    part = validation_part(validation)
    seen, truth = preprocessing(part.images).to(device), part.labels
    accuracies: dict[tuple[int, int], float | None] = {}
    states: dict[tuple[int, int], dict[str, Tensor]] = {}

    def visit(positions: list[int], joint: SideBySide, step: int) -> None:
        logits = joint.predict(seen).cpu()
        finite = logits.isfinite().flatten(1).all(1)
        right = (logits.argmax(-1) == truth).double().mean(1) * 100
        for k, position in enumerate(positions):
            accuracies[step, position] = float(right[k]) if finite[k] else None
            states[step, position] = joint.member_state(k)

    train_together(
        networks,
        images,
        targets,
        [candidate.recipe for candidate, _ in members],
        [seed for _, seed in members],
        steps=steps[-1],
        checkpoints=steps,
        visit=visit,
        description=description,
    )
    found = []
    for index, candidate in enumerate(candidates):
        mine = range(index * len(seeds), (index + 1) * len(seeds))
        found.append(
            Course(
                candidate,
                {step: tuple(accuracies[step, p] for p in mine) for step in steps},
                tuple(networks[p] for p in mine),
                {step: tuple(states[step, p] for p in mine) for step in steps},
            )
        )
    return found


def predictions(
    networks: Sequence[nn.Module], data: ImageData, preprocessing: Preprocessing, device: torch.device
) -> Tensor:
    """Logits ``(K, N, C)`` of each network on ``data``, on the CPU; of one architecture they run side by side."""
    images = preprocessing(data.images).to(device)
    groups = cohorts(networks, data.shape, parts=threads.workers(device))
    logits = threads.in_threads(lambda group: group[1].to(device).predict(images).cpu(), groups, device)
    order = torch.tensor([k for members, _ in groups for k in members]).argsort()
    return torch.cat(logits)[order]


def accuracies(
    networks: Sequence[nn.Module], data: ImageData, preprocessing: Preprocessing, device: torch.device
) -> list[float]:
    """Accuracy in percent of each network on ``data``; networks of one architecture run side by side."""
    logits = predictions(networks, data, preprocessing, device)
    correct = (logits.argmax(-1) == data.labels).double().mean(1) * 100
    return [float(value) for value in correct]


def validation_part(validation: ImageData) -> ImageData:
    """The same random part of the validation split, whoever asks; all of it where it is small."""
    order = torch.randperm(len(validation), generator=generator(0, "part of the validation split"))
    return validation.subset(order[:VALIDATION_IMAGES])
