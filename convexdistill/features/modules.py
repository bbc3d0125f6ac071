"""Extractors from any ``nn.Module`` and from torchvision's model zoo."""

from __future__ import annotations

from collections.abc import Callable
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from convexdistill.errors import MissingDataError, ParameterRangeError, UnknownNameError
from convexdistill.features.network import Shape
from convexdistill.seeds import seeded


class _Layer(nn.Module):
    """The output of one named layer of a module."""

    def __init__(self, module: nn.Module, layer: str) -> None:
        super().__init__()
        self.trunk: Callable[[Tensor], dict[str, Tensor]] = create_feature_extractor(
            module, return_nodes={layer: "features"}
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.trunk(images)["features"]


class _GreyToRGB(nn.Module):
    """Repeat a single channel three times; leave three channels as they are."""

    def forward(self, images: Tensor) -> Tensor:
        return images.expand(-1, 3, -1, -1)


def layer_of(module: nn.Module, layer: str | None) -> nn.Module:
    """A module that computes the output of ``layer`` of ``module``, by its name in the traced graph.

    Args:
        module: any module that torchvision's ``create_feature_extractor`` can trace; it is not changed.
        layer: a node name (``"avgpool"``, ``"body.3"``); ``None`` takes what the last node reads.

    Raises:
        UnknownNameError: no such layer; the message lists the last ones there are.
    """
    nodes = get_graph_node_names(module.eval())[1]
    chosen = nodes[-2] if layer is None else layer
    if chosen not in nodes and not any(node.startswith(f"{chosen}.") for node in nodes):
        raise UnknownNameError(f"the module has no layer {chosen!r}; its last ones are {', '.join(nodes[-8:])}")
    return _Layer(module, chosen)


def torchvision_body(name: str, shape: Shape, *, weights: str | None, seed: int, layer: str | None) -> nn.Module:
    """The body of a torchvision classification model; single-channel images are repeated to RGB.

    Args:
        name: a name of ``torchvision.models.list_models``, e.g. ``"resnet18"``.
        shape: channels, height, width of the images.
        weights: ``"DEFAULT"`` or a weight name of that model; ``None`` draws random ones from ``seed``.
        seed: seed of the random weights.
        layer: see :func:`layer_of`; default: what the classifier reads.

    Raises:
        UnknownNameError: no such model or weights.
        MissingDataError: the pretrained weights are not in torch's cache and cannot be downloaded.
    """
    try:
        with seeded(seed):
            model = torchvision.models.get_model(name, weights=weights)
    except (URLError, ConnectionError, TimeoutError) as error:
        raise MissingDataError(
            f"the weights {weights!r} of torchvision's {name!r} cannot be downloaded ({error}); put "
            f"their file into {torch.hub.get_dir()}/checkpoints, or leave weights out for random ones"
        ) from error
    except (ValueError, KeyError, AttributeError) as error:
        raise UnknownNameError(f"torchvision has no model {name!r} with weights {weights!r}: {error}") from error
    if shape[0] not in (1, 3):
        raise ParameterRangeError(f"torchvision's models take 1 or 3 channels, found {shape[0]}")
    return nn.Sequential(_GreyToRGB(), layer_of(model, layer))
