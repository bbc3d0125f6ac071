"""The networks by name. A new one is one small file and one line here."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from convexdistill.errors import ParameterRangeError, UnknownNameError
from convexdistill.features.alexnet import alexnet
from convexdistill.features.convnet import convnet
from convexdistill.features.lenet import lenet
from convexdistill.features.network import Network, Shape
from convexdistill.features.resnet import resnet
from convexdistill.seeds import seeded

NETWORKS: dict[str, Callable[..., Network]] = {
    "lenet": lenet,
    "alexnet": alexnet,
    "resnet": resnet,
    "convnet": convnet,
    "convnet-none": functools.partial(convnet, norm="none"),
}


def build_network(name: str, shape: Shape, num_classes: int, *, seed: int, **options: Any) -> Network:
    """A network with fresh weights drawn from ``seed``; torch's global random state is not touched.

    Args:
        name: a key of ``NETWORKS``.
        shape: channels, height, width of its images.
        num_classes: size of the output.
        seed: seed of the initial weights.
        options: further parameters of that network, e.g. ``width`` and ``depth`` of ``convnet``.

    Raises:
        UnknownNameError: no such network; the message lists those there are.
        ParameterRangeError: an option that this network does not have, or a value it cannot take.

    Example:
        >>> a = build_network("lenet", (1, 28, 28), 10, seed=0)
        >>> b = build_network("lenet", (1, 28, 28), 10, seed=0)
        >>> bool((a.head.weight == b.head.weight).all())
        True
    """
    if name not in NETWORKS:
        raise UnknownNameError(f"unknown network {name!r}; known are {', '.join(NETWORKS)}")
    with seeded(seed):
        try:
            return NETWORKS[name](shape, num_classes, **options)
        except TypeError as error:
            raise ParameterRangeError(f"network {name!r}: {error}") from error
