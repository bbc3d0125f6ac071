"""Choose γ, the label scale and the number of steps by training networks on the validation split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from convexdistill.data import ImageData, Preprocessing
from convexdistill.distill.solve import LabelSystem, solve_labels
from convexdistill.seeds import child_seed
from convexdistill.training import Candidate, Recipe, run_trials, training_steps

GAMMAS = (0.01, 0.1, 1.0)
LABEL_SCALES = (4.0, 8.0)
# Without a validation split: the middle of what is chosen on the data sets of the experiments.
DEFAULT_GAMMA = 0.1
DEFAULT_LABEL_SCALE = 8.0
TRAININGS = 3


def default_recipe(base_size: int, label_scale: float | None) -> Recipe:
    """The centred recipe for a base set of this size, with nothing chosen yet."""
    scale = DEFAULT_LABEL_SCALE if label_scale is None else label_scale
    return Recipe("mse", label_scale=scale, steps=training_steps(base_size)[-1])


def choose_recipe(
    system: LabelSystem,
    base_images: Tensor,
    preprocessing: Preprocessing,
    validation: ImageData,
    build: Callable[[int], nn.Module],
    *,
    gamma: float | None,
    label_scale: float | None,
    seed: int,
    device: torch.device,
) -> tuple[float, Recipe, list[dict[str, Any]]]:
    """Train on the labels of every (γ, scale) pair; the best mean validation accuracy wins.

    Args:
        system: the pooled outer problem; solving it for one more γ costs milliseconds.
        base_images: ``(n, c, h, w)`` uint8, in the target's shape.
        preprocessing: normalisation of all images.
        validation: the split that chooses.
        build: a fresh network for a seed; its weights are in no pool.
        gamma: fixed, or ``None`` to choose among :data:`GAMMAS`.
        label_scale: fixed, or ``None`` to choose among :data:`LABEL_SCALES`.
        seed: of the trainings.
        device: where to train.

    Returns:
        γ, the recipe with its number of steps, and the table of all that was tried.
    """
    gammas: Sequence[float] = GAMMAS if gamma is None else (gamma,)
    scales: Sequence[float] = LABEL_SCALES if label_scale is None else (label_scale,)
    tried = [(g, s) for g in gammas for s in scales]
    labels = {g: solve_labels(system, g)[0] for g in gammas}
    candidates = [
        Candidate(f"gamma {g:g}, scale {s:g}", labels[g], default_recipe(len(base_images), s))
        for g, s in tried
    ]
    trials = run_trials(
        candidates,
        base_images,
        preprocessing,
        validation,
        build,
        [child_seed(seed, "choose", k) for k in range(TRAININGS)],
        device=device,
        description="choose γ, scale and steps",
    )
    table = [
        {
            "gamma": g,
            "label_scale": s,
            "steps": trial.steps,
            "validation_mean": sum(trial.validation) / len(trial.validation),
        }
        for (g, s), trial in zip(tried, trials, strict=True)
    ]
    winner = max(range(len(trials)), key=lambda i: table[i]["validation_mean"])
    recipe = replace(trials[winner].candidate.recipe, steps=trials[winner].steps)
    return tried[winner][0], recipe, table
