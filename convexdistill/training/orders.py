"""In which order base examples come: the minibatches of a training."""

from __future__ import annotations

import torch
from torch import Tensor

from convexdistill.errors import UnknownNameError
from convexdistill.seeds import generator

ORDERS = {
    "shuffled": "every pass in a new order, each example at most once a pass",
    "fixed": "one order, over and over",
    "by-class": "class after class, over and over: the least helpful order",
    "replacement": "every minibatch drawn anew from all examples",
}


def check_order(order: str) -> None:
    """Raise unless the order is known.

    Raises:
        UnknownNameError: it is not; the message lists the known ones.
    """
    if order not in ORDERS:
        raise UnknownNameError(f"unknown order {order!r}; known are {', '.join(ORDERS)}")


def minibatches(
    size: int,
    batch_size: int,
    steps: int,
    seed: int,
    order: str = "shuffled",
    classes: Tensor | None = None,
) -> Tensor:
    """Indices ``(steps, min(batch_size, size))``.

    Args:
        size: number of examples.
        batch_size: examples in a minibatch.
        steps: number of minibatches.
        seed: of the order.
        order: a key of :data:`ORDERS`.
        classes: ``(size,)``; needed for ``"by-class"``.

    Raises:
        UnknownNameError: no such order.

    Example:
        >>> sorted(minibatches(4, 2, 2, seed=0).flatten().tolist())
        [0, 1, 2, 3]
    """
    check_order(order)
    batch_size = min(batch_size, size)
    draw = generator(seed, "minibatches")
    if order == "replacement":
        return torch.stack([torch.randperm(size, generator=draw)[:batch_size] for _ in range(steps)])
    if order == "shuffled":
        per_pass = size // batch_size
        passes = [
            torch.randperm(size, generator=draw)[: per_pass * batch_size].view(per_pass, batch_size)
            for _ in range(-(-steps // per_pass))
        ]
        return torch.cat(passes)[:steps]
    once = torch.randperm(size, generator=draw)
    if order == "by-class":
        assert classes is not None
        once = once[classes.cpu()[once].argsort(stable=True)]
    # A batch may begin at the end of one pass and end at the beginning of the next: no example is left out.
    return once.repeat(-(-steps * batch_size // size))[: steps * batch_size].view(steps, batch_size)
