"""Train networks from scratch on a few labelled images, many at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from convexdistill import progress
from convexdistill.seeds import generator
from convexdistill.training.recipe import LOSSES, OPTIMIZERS, Recipe
from convexdistill.training.side_by_side import NotJoinableError, SideBySide

Visit = Callable[[list[int], SideBySide, int], None]


def minibatches(size: int, batch_size: int, steps: int, seed: int) -> Tensor:
    """Indices ``(steps, min(batch_size, size))``: shuffled passes, each example at most once a pass.

    Example:
        >>> sorted(minibatches(4, 2, 2, seed=0).flatten().tolist())
        [0, 1, 2, 3]
    """
    batch_size = min(batch_size, size)
    draw = generator(seed, "minibatches")
    per_pass = size // batch_size
    passes = [
        torch.randperm(size, generator=draw)[: per_pass * batch_size].view(per_pass, batch_size)
        for _ in range(-(-steps // per_pass))
    ]
    return torch.cat(passes)[:steps]


def train_together(
    networks: Sequence[nn.Module],
    images: Tensor,
    targets: Tensor,
    recipes: Sequence[Recipe],
    seeds: Sequence[int],
    *,
    steps: int,
    checkpoints: Sequence[int] = (),
    visit: Visit | None = None,
    description: str = "train",
) -> None:
    """Train K networks of one architecture on the same images, each with its own labels, in place.

    Networks that can be joined are trained as one (:class:`SideBySide`), others one after the other; a
    network ends with the same weights either way, to floating-point tolerance.

    Args:
        networks: K networks; they end with the weights of the last step.
        images: ``(n, c, h, w)`` normalised, on the device to train on.
        targets: ``(K, n, C)``, what the loss compares the logits with.
        recipes: one a network: loss, batch size, optimiser. Their optimisers and batch sizes must agree;
            losses may differ. Their number of steps and label scale are the caller's business.
        seeds: one a network, for the order of its minibatches.
        steps: number of optimiser steps.
        checkpoints: steps after which ``visit`` is called.
        visit: called with the positions (in ``networks``) of the members, the members, and the step.
        description: what the progress bar says.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> train_together([net], torch.rand(6, 1, 2, 2), torch.rand(1, 6, 2), [Recipe("mse")], [0],
        ...                steps=5)
    """
    shape = tuple(images.shape[1:])
    everyone = list(range(len(networks)))
    try:
        cohorts = [(everyone, SideBySide(networks, shape))]  # type: ignore[arg-type]
    except NotJoinableError:
        cohorts = [([k], SideBySide([networks[k]], shape)) for k in everyone]  # type: ignore[arg-type]
    with progress.task(description, total=steps * len(cohorts)) as advance:
        for members, joint in cohorts:
            joint.to(images.device)
            _train(
                joint,
                images,
                targets[members],
                [recipes[k] for k in members],
                [seeds[k] for k in members],
                steps,
                set(checkpoints),
                functools.partial(visit, members) if visit else None,
                advance,
            )
            for position, k in enumerate(members):
                networks[k].load_state_dict(joint.member_state(position))


def _train(
    joint: SideBySide,
    images: Tensor,
    targets: Tensor,
    recipes: Sequence[Recipe],
    seeds: Sequence[int],
    steps: int,
    checkpoints: set[int],
    visit: Callable[[SideBySide, int], None] | None,
    advance: progress.Advance,
) -> None:
    first = recipes[0]
    if any(
        (r.optimizer, r.learning_rate, r.batch_size) != (first.optimizer, first.learning_rate, first.batch_size)
        for r in recipes
    ):
        raise ValueError("networks trained together need one optimiser, learning rate and batch size")
    optimizer = OPTIMIZERS[first.optimizer][0](joint.parameters(), lr=first.learning_rate)
    by_loss = {
        name: torch.tensor([k for k, recipe in enumerate(recipes) if recipe.loss == name])
        for name in {recipe.loss for recipe in recipes}
    }
    orders = torch.stack([minibatches(len(images), first.batch_size, steps, seed) for seed in seeds], 1)
    orders = orders.to(images.device)  # (steps, K, batch)
    joint.train()
    for step in range(1, steps + 1):
        order = orders[step - 1]
        logits = joint(images[order.T])  # (K, batch, C)
        wanted = targets.gather(1, order.unsqueeze(-1).expand(-1, -1, targets.shape[-1]))
        # Summed over members: a member's gradient is that of its own loss alone.
        loss = torch.stack([LOSSES[name](logits[ks], wanted[ks]).sum() for name, ks in by_loss.items()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        advance(1)
        if visit is not None and step in checkpoints:
            visit(joint, step)
