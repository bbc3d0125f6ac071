"""From the caller's data to a problem, and from an outcome to a distilled set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convexdistill.data import ImageData, Preprocessing
from convexdistill.device import resolve_device
from convexdistill.distill.assemble import check_validation, distilled_set
from convexdistill.distill.online.learned import Learned
from convexdistill.distill.online.learner import Learner
from convexdistill.distill.online.loop import Outcome, Problem, Run, learn
from convexdistill.distill.online.networks import NetworkLike, name_of
from convexdistill.distill.online.schedule import Schedule
from convexdistill.distilled import DistilledSet
from convexdistill.errors import ParameterRangeError, ShapeError
from convexdistill.seeds import generator
from convexdistill.select import BaseExamples
from convexdistill.training import Recipe

STATED = ("base", "target", "source", "preprocessing")  # which a manifest has in places of their own


def problem_of(
    target: ImageData,
    validation: ImageData | None,
    preprocessing: Preprocessing | None,
    device: str | torch.device,
    dtype: torch.dtype,
) -> Problem:
    """The problem, with everything about the data checked.

    Raises:
        InvalidInputError: a test split, or a validation split of other classes or another image shape.
    """
    target.refuse_test("as target set")
    check_validation(validation, target.classes, target.shape)
    return Problem(target, validation, preprocessing or Preprocessing.fit(target), resolve_device(device), dtype)


def distil_online(
    method: str,
    learner: Learner,
    problem: Problem,
    base: BaseExamples,
    schedule: Schedule,
    *,
    facts: Mapping[str, Any],
    network: NetworkLike,
    network_rate: float,
    seed: int,
    checkpoint: str | Path | None,
    learn_labels: bool = True,
    learn_images: bool = False,
    noise: bool = False,
    labels: Tensor | None = None,
) -> DistilledSet:
    """Run the loop on the base examples and put what it found into a distilled set.

    Args:
        method: its name in the manifest.
        learner: its network.
        problem: target and validation split.
        base: what is learned upon.
        schedule: with nothing left open.
        facts: further settings of the method.
        network: by name or as the caller's function.
        network_rate: learning rate of the recipe.
        seed: of every draw.
        checkpoint: file to go on from, and to write.
        learn_labels: whether labels move.
        learn_images: whether pixels move.
        noise: whether pixels start as uniform noise instead of the base images.
        labels: where labels start; default: uniform.
    """
    classes = problem.target.num_classes
    fitted = base.resized(problem.target.shape)
    pixels = fitted.images.double() / 255
    if noise:
        pixels = torch.rand(pixels.shape, dtype=torch.float64, generator=generator(seed, "pixels"))
    start = (
        torch.full((len(base), classes), 1 / classes) if labels is None else _checked(labels, len(base), classes)
    )
    learned = Learned(
        pixels.to(problem.device, problem.dtype),
        start.to(problem.device, problem.dtype),
        problem.preprocessing,
        rate=schedule.label_rate,
        learn_labels=learn_labels,
        learn_images=learn_images,
    )
    own = Preprocessing.fit(problem.target)
    settings = {
        "method": method,
        **{name: value for name, value in schedule.to_dict().items() if name != "epochs"},
        **facts,
        "network": name_of(network),
        "network_rate": network_rate,
        "seed": seed,
        "precision": str(problem.dtype),
        # The target's own, which its fingerprint stands for, is left out: older checkpoints have none either.
        **({} if problem.preprocessing == own else {"preprocessing": problem.preprocessing.to_dict()}),
        "target": problem.target.fingerprint,
        "validation": None if problem.validation is None else problem.validation.fingerprint,
        "source": base.fingerprint,
        "base": base.indices.tolist(),
        "initial_labels": None if labels is None else hashlib.sha256(start.numpy().tobytes()).hexdigest(),
    }
    run = Run(
        learner, learned, problem, schedule, seed, settings, None if checkpoint is None else Path(checkpoint)
    )
    outcome = learn(run, f"distil ({method})")
    recipe = Recipe(
        "soft-cross-entropy",
        steps=max(1, outcome.steps),
        batch_size=schedule.inner_batch_size or len(base),
        learning_rate=network_rate,
    )
    images = fitted.images
    if learn_images:
        images = (outcome.values["pixels"] * 255).round().to(torch.uint8).cpu()
    target = problem.target
    found = {
        "name": target.name,
        "split": target.split,
        "classes": list(target.classes),
        "shape": list(target.shape),
        "parts": [target.fingerprint],
        "images": len(target),
    }
    return distilled_set(
        found,
        [{"network": settings["network"], "seed": seed, "options": {}}],
        problem.preprocessing,
        base,
        images,
        outcome.values["labels"].cpu(),
        "probability",
        {},
        _facts(method, recipe, outcome, settings),
    )


def _checked(labels: Tensor, size: int, classes: int) -> Tensor:
    """Labels to start from, as float64 on the CPU, or an error."""
    if labels.shape != (size, classes):
        raise ShapeError(f"initial labels must be ({size}, {classes}), found {tuple(labels.shape)}")
    labels = labels.detach().double().cpu().contiguous()
    if not (labels.isfinite().all() and labels.min() >= 0 and (labels.sum(1) - 1).abs().max() < 1e-4):
        raise ParameterRangeError("initial labels must be probabilities: not negative, and each row with sum 1")
    return labels


def _facts(method: str, recipe: Recipe, outcome: Outcome, settings: dict[str, Any]) -> dict[str, Any]:
    """What the manifest says of the run."""
    kept = next(point for point in outcome.curve if point["epoch"] == outcome.epoch)
    shown = {name: value for name, value in settings.items() if name not in STATED}
    return {
        "method": method,
        "backend": settings.get("backend", "torch"),
        **{name: settings[name] for name in ("lam",) if name in settings},
        "recipe": recipe.to_dict(),
        "certificate": {"solver": "adam, online", "outer_loss": kept["outer_loss"]},
        "curve": outcome.curve,
        "best_epoch": outcome.epoch,
        "settings": shown | {"epochs": outcome.epochs},
        "restarts": outcome.lengths,
        "seconds": outcome.seconds,
        "cpu_seconds": outcome.cpu_seconds,
        "seed": settings["seed"],
    }
