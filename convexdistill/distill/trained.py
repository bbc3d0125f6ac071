"""Extractors that have been trained: the bodies of networks at several moments of a training, frozen.

A ridge head over random features predicts a network whose body stays as it was drawn. Bodies that were trained on
the base images with the current labels, or for a while on the target itself, look more like those of the networks
that the labels are for. The manifest keeps what they were trained on and a fingerprint of their weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from convexdistill.data import Preprocessing
from convexdistill.device import resolve_device
from convexdistill.distilled import fresh_network
from convexdistill.errors import InvalidInputError, ParameterRangeError
from convexdistill.features import ModuleSpec, Network, Shape
from convexdistill.seeds import child_seed
from convexdistill.training import Recipe, SideBySide, train_together


@dataclass(frozen=True)
class TrainedSpec(ModuleSpec):
    """An extractor that was trained here: a module, and how it came about.

    Attributes:
        facts: ``network``, ``seed``, ``steps``, ``recipe``, and ``data``, a fingerprint of images and labels.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """What a manifest keeps: how it was trained, beside the fingerprint of its weights."""
        record = super().to_dict()
        name = f"module/{self.facts['network']}"
        return {**record, "network": name, "options": {**record["options"], "trained": dict(self.facts)}}


def trained_pool(
    images: Tensor,
    labels: Tensor,
    preprocessing: Preprocessing,
    recipe: Recipe,
    *,
    network: str | Callable[[Shape, int], nn.Module] = "lenet",
    count: int = 3,
    steps: Sequence[int] | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
) -> list[TrainedSpec]:
    """The bodies of ``count`` networks at each of the moments ``steps`` of their training.

    Args:
        images: ``(n, c, h, w)`` uint8: base images, or images of the target.
        labels: ``(n, C)``, what the recipe's loss takes.
        preprocessing: normalisation of the images.
        recipe: loss, label scale, batch size, optimiser.
        network: a name of :data:`convexdistill.features.NETWORKS`, or a function of ``(shape, num_classes)`` that
            returns a :class:`convexdistill.features.Network`.
        count: how many networks, trained side by side.
        steps: after how many optimiser steps bodies are taken; default: half of the recipe's, and all.
        seed: of weights and minibatches.
        device: where to train.

    Returns:
        ``count · len(steps)`` specifications, moment by moment.

    Raises:
        ParameterRangeError: ``count`` or a moment is below 1.
        InvalidInputError: the network has no body of its own.

    Example:
        >>> import torch
        >>> from convexdistill.data import Preprocessing, load
        >>> digits = load("digits").subset(range(20))
        >>> one_hot = torch.nn.functional.one_hot(digits.labels, 10).float()
        >>> recipe = Recipe("soft-cross-entropy", steps=4)
        >>> pool = trained_pool(digits.images, one_hot, Preprocessing.fit(digits), recipe, count=2)
        >>> [spec.to_dict()["options"]["trained"]["steps"] for spec in pool]
        [2, 2, 4, 4]
    """
    steps = sorted({max(1, recipe.steps // 2), recipe.steps} if steps is None else set(steps))
    if count < 1 or not steps or steps[0] < 1:
        raise ParameterRangeError(f"count and moments must be at least 1, found {count} and {list(steps)}")
    channels, height, width = images.shape[1:]
    shape, classes = (channels, height, width), labels.shape[1]
    where = resolve_device(device)
    seeds = [child_seed(seed, "trained", k) for k in range(count)]
    networks = [fresh_network(network, shape, classes, one) for one in seeds]
    if not all(isinstance(one, Network) for one in networks):
        raise InvalidInputError("extractors are the bodies of networks: give a convexdistill.features.Network")
    states: dict[tuple[int, int], dict[str, Tensor]] = {}

    def visit(positions: list[int], joint: SideBySide, step: int) -> None:
        for k, position in enumerate(positions):
            states[step, position] = {name: value.cpu() for name, value in joint.member_state(k).items()}

    train_together(
        networks,
        preprocessing(images).to(where),
        (labels.float() * recipe.label_scale).to(where).expand(count, -1, -1),
        [recipe] * count,
        seeds,
        steps=steps[-1],
        checkpoints=steps,
        visit=visit,
        description="train extractors",
    )
    data = _fingerprint(images, labels)
    found = []
    for step in steps:
        for k, one in enumerate(seeds):
            body = fresh_network(network, shape, classes, one)
            body.load_state_dict(states[step, k])
            name = network if isinstance(network, str) else getattr(network, "__name__", type(network).__name__)
            facts = {"network": name, "seed": one, "steps": step, "recipe": recipe.to_dict(), "data": data}
            assert isinstance(body, Network)
            found.append(TrainedSpec(body.body.eval(), facts=facts))
    return found


def _fingerprint(images: Tensor, labels: Tensor) -> str:
    digest = hashlib.sha256(images.contiguous().numpy().tobytes())
    digest.update(labels.float().contiguous().numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"
