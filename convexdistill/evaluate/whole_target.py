"""Networks trained on the whole target: what distilling gives up, and a teacher for the base images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import one_hot

from convexdistill.data import ImageData
from convexdistill.distilled import DistilledSet, fresh_network
from convexdistill.evaluate.cells import NetworkLike, network_name
from convexdistill.evaluate.judging import judge, summarise_judged
from convexdistill.evaluate.probabilities import fit_temperature
from convexdistill.seeds import child_seed
from convexdistill.training import Candidate, Recipe, courses, predictions, validation_part

FULL_DATA = "full-data"
REPEATS = 3  # networks trained on everything differ less than those trained on little, and cost far more
BATCH = 128
PASSES, SHORTEST, LOOKS = 10, 1500, 10


def full_steps(size: int) -> list[int]:
    """The numbers of steps that are tried with the whole target of ``size`` images, in rising order.

    Ten passes in minibatches of 128, and at least 1500 steps; looked at ten times.

    Example:
        >>> full_steps(50_000)[-1], full_steps(1000)[:2]
        (3900, [150, 300])
    """
    longest = max(SHORTEST, PASSES * max(1, size // BATCH))
    return [longest * (i + 1) // LOOKS for i in range(LOOKS)]


def train_on_everything(
    network: NetworkLike,
    sets: Sequence[DistilledSet],
    target: ImageData,
    validation: ImageData,
    test: ImageData,
    *,
    repeats: int,
    seed: int,
    device: torch.device,
) -> dict[str, Any]:
    """Train a network on the whole target, with Adam and cross-entropy; the validation split picks the steps.

    Returns:
        ``row``: the row of the full data; ``seconds``: one training's share, up to the chosen steps; ``teacher``:
        for each set, the probabilities ``(n, C)`` that the first of the networks gives its base images, at a
        temperature fitted on the validation split.
    """
    target.refuse_test("to train on")
    preprocessing = sets[0].preprocessing
    classes = target.num_classes

    def build(weights_seed: int) -> nn.Module:
        return fresh_network(network, target.shape, classes, weights_seed)

    start = time.perf_counter()
    steps = full_steps(len(target))
    labels = one_hot(target.labels, classes).float()
    (course,) = courses(
        [Candidate(FULL_DATA, labels, Recipe("soft-cross-entropy", steps=steps[-1], batch_size=BATCH))],
        target.images,
        preprocessing,
        validation,
        build,
        [child_seed(seed, FULL_DATA, r) for r in range(repeats)],
        steps=steps,
        device=device,
        description=f"train {network_name(network)} on everything",
    )
    seconds = time.perf_counter() - start
    trial = course.at(course.best_of(steps))
    seen = validation_part(validation)
    row = summarise_judged(
        judge([trial], seen, test, preprocessing, device),
        seen,
        test,
        network=network_name(network),
        optimizer="adam",
        augmentation="none",
        order="shuffled",
        steps_by="validation",
        seconds=seconds,
    )
    teacher = trial.networks[:1]
    temperature = fit_temperature(predictions(teacher, seen, preprocessing, device), seen.labels)
    said = []
    for one in sets:
        images = ImageData(one.images, torch.zeros(len(one), dtype=torch.int64), target.classes, "base", "train")
        said.append((predictions(teacher, images, preprocessing, device)[0] / temperature).softmax(-1))
    return {
        "row": row,
        "seconds": seconds * trial.steps / steps[-1] / repeats,
        "teacher": said,
    }
