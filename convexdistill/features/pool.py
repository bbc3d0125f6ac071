"""Pools of extractors: lists of specifications with seeds, built when they meet data."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from convexdistill.errors import FileFormatError, ParameterRangeError, UnknownNameError
from convexdistill.features.extractor import FrozenExtractor
from convexdistill.features.fingerprint import weights_fingerprint
from convexdistill.features.network import Shape, output_features
from convexdistill.features.registry import NETWORKS, build_network
from convexdistill.seeds import child_seed

TORCHVISION = "torchvision/"


@dataclass(frozen=True)
class ExtractorSpec:
    """What it takes to build one extractor again, anywhere.

    Attributes:
        network: a name of :data:`NETWORKS`, or ``"torchvision/NAME"``.
        seed: seed of its random weights.
        options: parameters of the network (``width``, ``depth``, ``norm``); for torchvision ``weights`` and
            ``layer``.

    Example:
        >>> ExtractorSpec("convnet", seed=1, options={"width": 8, "norm": "none"}).build((1, 8, 8)).training
        False
    """

    network: str
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.network not in NETWORKS and not self.network.startswith(TORCHVISION):
            raise UnknownNameError(
                f"unknown extractor {self.network!r}; known are {', '.join(NETWORKS)} and "
                f"{TORCHVISION}NAME for torchvision's models"
            )

    def build(self, shape: Shape) -> FrozenExtractor:
        """The frozen extractor for images of ``shape`` (channels, height, width).

        Raises:
            ParameterRangeError: an option that the network does not have, or a value it cannot take.
            ShapeError: the network does not work on such images.
        """
        if self.network.startswith(TORCHVISION):
            if unknown := set(self.options) - {"weights", "layer"}:
                raise ParameterRangeError(
                    f"extractor {self.network!r} has the options weights and layer, found "
                    f"{', '.join(sorted(unknown))}"
                )
            # Imported where it is used: torchvision takes seconds.
            from convexdistill.features.modules import torchvision_body

            body = torchvision_body(
                self.network.removeprefix(TORCHVISION),
                shape,
                weights=self.options.get("weights"),
                seed=self.seed,
                layer=self.options.get("layer"),
            )
        else:
            # The head is not used: one class is the smallest there is.
            body = build_network(self.network, shape, 1, seed=self.seed, **self.options).body
        return FrozenExtractor(body)

    def to_dict(self) -> dict[str, Any]:
        """What a manifest keeps."""
        return {"network": self.network, "seed": self.seed, "options": dict(self.options)}


@dataclass(frozen=True)
class ModuleSpec:
    """An extractor that the caller brought: known by a fingerprint of its weights, not rebuildable from it.

    What is built is a frozen copy: the caller's module stays as it is, and may go on being trained.

    Attributes:
        module: any ``nn.Module`` on normalised images.
        layer: the named layer whose output is the feature; ``None`` takes the module's own output.

    Example:
        >>> from torch import nn
        >>> spec = ModuleSpec(nn.Sequential(nn.Flatten(), nn.Linear(64, 5)))
        >>> spec.to_dict()["network"]
        'module/Sequential'
    """

    module: nn.Module
    layer: str | None = None

    def build(self, shape: Shape) -> FrozenExtractor:
        """The module, or its layer, frozen."""
        module = copy.deepcopy(self.module)
        if self.layer is not None:
            from convexdistill.features.modules import layer_of

            module = layer_of(module, self.layer)
        extractor = FrozenExtractor(module)
        output_features(extractor, shape)  # raises where the module does not work on such images
        return extractor

    def to_dict(self) -> dict[str, Any]:
        """What a manifest keeps: the class, the layer and a fingerprint of the weights."""
        options = {"layer": self.layer, "weights": weights_fingerprint(self.module)}
        return {"network": f"module/{type(self.module).__name__}", "seed": 0, "options": options}


Pool = list[ExtractorSpec | ModuleSpec]


def pool(network: str = "convnet", count: int = 5, seed: int = 0, **options: Any) -> Pool:
    """``count`` extractors of one kind with different random weights.

    Args:
        network: a name of :data:`NETWORKS` or ``"torchvision/NAME"``.
        count: how many, at least 1. One over-fits the labels to itself; five are enough (see the guide).
        seed: every extractor draws from a stream of its own below it.
        options: parameters of the network. A ``convnet`` here has ``width=32`` and ``norm="none"`` unless
            told otherwise: random features want their magnitudes.

    Raises:
        ParameterRangeError: ``count`` below 1.
        UnknownNameError: no such network.

    Example:
        >>> specs = pool("convnet", count=2, seed=0, width=8)
        >>> len(specs), specs[0].seed != specs[1].seed
        (2, True)
    """
    if count < 1:
        raise ParameterRangeError(f"a pool needs at least 1 extractor, found {count}")
    if network == "convnet":
        options = {"width": 32, "norm": "none", **options}
    return [ExtractorSpec(network, child_seed(seed, "pool", k), options) for k in range(count)]


def spec_from_dict(values: Mapping[str, Any]) -> ExtractorSpec:
    """The inverse of :meth:`ExtractorSpec.to_dict`.

    Raises:
        FileFormatError: the record is malformed, or is that of a caller's own module.
    """
    try:
        return ExtractorSpec(str(values["network"]), int(values["seed"]), dict(values["options"]))
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"this extractor cannot be rebuilt from its record: {error}") from error
