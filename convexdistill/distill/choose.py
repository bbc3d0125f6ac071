"""Choose γ, the prior, the label scale and the number of steps by training on the validation split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from convexdistill.data import ImageData, Preprocessing
from convexdistill.distill.forms import Form
from convexdistill.seeds import child_seed
from convexdistill.training import Candidate, Recipe, run_trials


def trainings(base_size: int) -> int:
    """How many networks each setting is judged by: the fewer examples, the more luck is in one.

    Example:
        >>> trainings(10), trainings(20), trainings(100), trainings(500)
        (6, 3, 3, 2)
    """
    return max(3 if base_size < 200 else 2, min(6, 60 // base_size))


@dataclass(frozen=True)
class Setting:
    """Solved labels and a way to train on them: one candidate of the choice.

    Attributes:
        gamma: γ, relative.
        prior: name of Y₀.
        solved: ``(n, C)``, what the solve gave.
        form: how networks are trained on it.
    """

    gamma: float
    prior: str
    solved: Tensor
    form: Form

    @property
    def labels(self) -> Tensor:
        """What a network is trained on, ``(n, C)``."""
        return self.form.labels(self.solved)

    def to_dict(self) -> dict[str, Any]:
        """What a manifest keeps of a setting that was tried."""
        recipe = self.form.recipe
        facts = {"prior": self.prior, "gamma": self.gamma, "label_scale": recipe.label_scale, "loss": recipe.loss}
        return facts if self.form.logit_scale is None else {**facts, "logit_scale": self.form.logit_scale}


@dataclass(frozen=True)
class Choice:
    """What the validation split chose.

    Attributes:
        setting: the best one.
        recipe: its recipe, with the number of steps.
        validation: its mean validation accuracy in percent.
        tried: every setting with its steps and mean validation accuracy.
    """

    setting: Setting
    recipe: Recipe
    validation: float
    tried: list[dict[str, Any]]


Judge = Callable[[list[Setting]], Choice]


def settle(
    solves: Mapping[tuple[str, float], Tensor], forms: Sequence[Form], judge: Judge | None, *, fixed: bool
) -> tuple[Setting, Recipe, list[dict[str, Any]]]:
    """Which labels, and how they are trained on: the choice in turn, as far as there is one.

    First prior and γ, under the last form; then, for the best, the form: a few more trainings than there are
    solves, instead of one for each solve under each form.

    Args:
        solves: solved labels ``(n, C)`` by prior and γ.
        forms: ways to train on them; the last is the one that solves are compared under.
        judge: :func:`choose_setting` with all that it needs; ``None`` takes the first solve and the last form.
        fixed: whether the caller has fixed the recipe, steps and all.

    Returns:
        The setting, its recipe, and what was tried.
    """

    def settings(key: tuple[str, float], ways: Sequence[Form]) -> list[Setting]:
        prior, gamma = key
        return [Setting(gamma, prior, solves[key], form) for form in ways]

    if judge is None or (fixed and len(solves) == 1):
        setting = settings(next(iter(solves)), forms)[-1]
        return setting, setting.form.recipe, []
    if len(solves) == 1:
        choice = judge(settings(next(iter(solves)), forms))
    else:
        choice = judge([setting for key in solves for setting in settings(key, forms[-1:])])
        if len(forms) > 1:
            second = judge(settings((choice.setting.prior, choice.setting.gamma), forms[:-1]))
            better = second if second.validation > choice.validation else choice
            choice = replace(better, tried=[*choice.tried, *second.tried])
    return choice.setting, choice.setting.form.recipe if fixed else choice.recipe, choice.tried


def choose_setting(
    settings: Sequence[Setting],
    base_images: Tensor,
    preprocessing: Preprocessing,
    validation: ImageData,
    build: Callable[[int], nn.Module],
    *,
    seed: int,
    device: torch.device,
) -> Choice:
    """Train on the labels of every setting, side by side; the best mean validation accuracy wins.

    Args:
        settings: what to choose from.
        base_images: ``(n, c, h, w)`` uint8, in the target's shape.
        preprocessing: normalisation of all images.
        validation: the split that chooses.
        build: a fresh network for a seed; its weights are in no pool.
        seed: of the trainings.
        device: where to train.
    """
    trials = run_trials(
        [Candidate(f"setting {i}", one.labels, one.form.recipe) for i, one in enumerate(settings)],
        base_images,
        preprocessing,
        validation,
        build,
        [child_seed(seed, "choose", k) for k in range(trainings(len(base_images)))],
        device=device,
        description="choose γ, scale and steps",
    )
    means = [sum(trial.validation) / len(trial.validation) for trial in trials]
    winner = means.index(max(means))
    tried = [
        {**setting.to_dict(), "steps": trial.steps, "validation_mean": mean}
        for setting, trial, mean in zip(settings, trials, means, strict=True)
    ]
    recipe = replace(settings[winner].form.recipe, steps=trials[winner].steps)
    return Choice(settings[winner], recipe, means[winner], tried)
