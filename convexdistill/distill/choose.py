"""Choose γ, the prior, the label scale and the number of steps by training on the validation split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from convexdistill.data import ImageData, Preprocessing
from convexdistill.distill.solve import LabelSystem, solve_labels
from convexdistill.seeds import child_seed
from convexdistill.training import Candidate, Recipe, run_trials, training_steps

# γ for each prior: the more examples there are, the more the teacher's scores have to say.
GAMMAS = {"zero": (0.01, 0.1, 1.0), "teacher": (0.1, 1.0)}
LABEL_SCALES = (4.0, 8.0)
# Without a validation split: the middle of what is chosen on the data sets of the experiments.
DEFAULT_GAMMA = 0.1
DEFAULT_LABEL_SCALE = 8.0


def trainings(base_size: int) -> int:
    """How many networks each setting is judged by: the fewer examples, the more luck is in one.

    Example:
        >>> trainings(10), trainings(20), trainings(100)
        (6, 3, 3)
    """
    return max(3, min(6, 60 // base_size))


def default_recipe(base_size: int, label_scale: float | None) -> Recipe:
    """The centred recipe for a base set of this size, with nothing chosen yet."""
    scale = DEFAULT_LABEL_SCALE if label_scale is None else label_scale
    return Recipe("mse", label_scale=scale, steps=training_steps(base_size)[-1])


@dataclass(frozen=True)
class Choice:
    """What the validation split chose.

    Attributes:
        gamma: γ, relative.
        prior: ``"zero"`` or ``"teacher"``.
        recipe: with label scale and number of steps.
        tried: every setting with its mean validation accuracy.
    """

    gamma: float
    prior: str
    recipe: Recipe
    tried: list[dict[str, Any]]


def choose_recipe(
    system: LabelSystem,
    priors: Mapping[str, Tensor],
    base_images: Tensor,
    preprocessing: Preprocessing,
    validation: ImageData,
    build: Callable[[int], nn.Module],
    *,
    gamma: float | None,
    label_scale: float | None,
    seed: int,
    device: torch.device,
) -> Choice:
    """Train on the labels of every setting; the best mean validation accuracy wins.

    Args:
        system: the pooled outer problem; solving it once more costs milliseconds.
        priors: the priors Y₀ to choose from, by name.
        base_images: ``(n, c, h, w)`` uint8, in the target's shape.
        preprocessing: normalisation of all images.
        validation: the split that chooses.
        build: a fresh network for a seed; its weights are in no pool.
        gamma: fixed, or ``None`` to choose among :data:`GAMMAS`.
        label_scale: fixed, or ``None`` to choose among :data:`LABEL_SCALES`.
        seed: of the trainings.
        device: where to train.
    """
    scales: Sequence[float] = LABEL_SCALES if label_scale is None else (label_scale,)
    settings = [
        (prior, g, s) for prior in priors for g in (GAMMAS[prior] if gamma is None else (gamma,)) for s in scales
    ]
    candidates = [
        Candidate(
            f"{prior}, γ {g:g}, scale {s:g}",
            solve_labels(system, g, priors[prior])[0],
            default_recipe(len(base_images), s),
        )
        for prior, g, s in settings
    ]
    trials = run_trials(
        candidates,
        base_images,
        preprocessing,
        validation,
        build,
        [child_seed(seed, "choose", k) for k in range(trainings(len(base_images)))],
        device=device,
        description="choose γ, scale and steps",
    )
    tried = [
        {
            "prior": prior,
            "gamma": g,
            "label_scale": s,
            "steps": trial.steps,
            "validation_mean": sum(trial.validation) / len(trial.validation),
        }
        for (prior, g, s), trial in zip(settings, trials, strict=True)
    ]
    winner = max(range(len(trials)), key=lambda i: sum(trials[i].validation))
    prior, g, _ = settings[winner]
    recipe = replace(candidates[winner].recipe, steps=trials[winner].steps)
    return Choice(g, prior, recipe, tried)
