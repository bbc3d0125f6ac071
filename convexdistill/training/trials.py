"""Trials: train on candidate labels, several seeds each, and let the validation split pick the steps.

The one place where networks are trained to be measured: the choice of hyper-parameters and the final
evaluation both go through it, so every row of a table is made the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from convexdistill.data import ImageData, Preprocessing
from convexdistill.seeds import generator
from convexdistill.training.loop import train_together
from convexdistill.training.recipe import Recipe
from convexdistill.training.side_by_side import NotJoinableError, SideBySide

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
        validation: accuracy in percent of each training, at that number of steps.
        networks: the trained networks, at that number of steps.
    """

    candidate: Candidate
    steps: int
    validation: tuple[float, ...]
    networks: tuple[nn.Module, ...]


def training_steps(base_size: int) -> list[int]:
    """The numbers of steps that are tried with ``base_size`` examples, in rising order.

    Example:
        >>> training_steps(100)
        [80, 160, 240, 320, 400]
    """
    longest = min(200 + 2 * base_size, 2000)
    return [longest * (i + 1) // CHECKPOINTS for i in range(CHECKPOINTS)]


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
    """Train every candidate with every seed; all of them side by side.

    Seed by seed, all candidates share initial weights and order of minibatches, so that their differences
    are paired.

    Args:
        candidates: their recipes must share optimiser and batch size.
        base_images: ``(n, c, h, w)`` uint8.
        preprocessing: normalisation of all images.
        validation: the split that picks the number of steps; a fixed part of it is looked at.
        build: a fresh network for a seed.
        seeds: one for each training.
        device: where to train.
        description: what the progress bar says.
    """
    members = [(c, seed) for c in candidates for seed in seeds]
    networks = [build(seed) for _, seed in members]
    images = preprocessing(base_images).to(device)
    targets = torch.stack([c.labels.float() * c.recipe.label_scale for c, _ in members]).to(device)
    part = validation_part(validation)
    seen, truth = preprocessing(part.images).to(device), part.labels
    accuracies: dict[tuple[int, int], float] = {}
    snapshots: dict[tuple[int, int], dict[str, Tensor]] = {}

    def visit(positions: list[int], joint: SideBySide, step: int) -> None:
        right = joint.predict(seen).argmax(-1).cpu() == truth
        for k, position in enumerate(positions):
            accuracies[step, position] = float(right[k].float().mean()) * 100
            snapshots[step, position] = joint.member_state(k)

    steps = training_steps(len(base_images))
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
    trials = []
    for index, candidate in enumerate(candidates):
        mine = range(index * len(seeds), (index + 1) * len(seeds))
        means = [sum(accuracies[step, p] for p in mine) for step in steps]
        step = steps[means.index(max(means))]
        for position in mine:
            networks[position].load_state_dict(snapshots[step, position])
        scores = tuple(accuracies[step, p] for p in mine)
        trials.append(Trial(candidate, step, scores, tuple(networks[p] for p in mine)))
    return trials


def accuracies(
    networks: Sequence[nn.Module], data: ImageData, preprocessing: Preprocessing, device: torch.device
) -> list[float]:
    """Accuracy in percent of each network on ``data``; networks of one architecture run side by side."""
    images = preprocessing(data.images).to(device)
    try:
        cohorts = [SideBySide(networks, data.shape)]
    except NotJoinableError:
        cohorts = [SideBySide([network], data.shape) for network in networks]
    logits = torch.cat([cohort.to(device).predict(images).cpu() for cohort in cohorts])
    correct = (logits.argmax(-1) == data.labels).double().mean(1) * 100
    return [float(value) for value in correct]


def validation_part(validation: ImageData) -> ImageData:
    """The same random part of the validation split, whoever asks; all of it where it is small."""
    order = torch.randperm(len(validation), generator=generator(0, "part of the validation split"))
    return validation.subset(order[:VALIDATION_IMAGES])
