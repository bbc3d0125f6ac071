"""Train networks from scratch on a few labelled images, many at once."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from convexdistill import progress, threads
from convexdistill.training.augmentation import Augmenter
from convexdistill.training.optimizers import build_optimizer, find_optimizer
from convexdistill.training.orders import minibatches
from convexdistill.training.recipe import LOSSES, Recipe
from convexdistill.training.side_by_side import SideBySide, cohorts, draws, joinable

Visit = Callable[[list[int], SideBySide, int], None]


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

    Networks that can be joined are trained as one (:class:`SideBySide`), or on CPUs as several with a core each;
    others one after the other. A network ends with the same weights either way, to floating-point tolerance.

    Args:
        networks: K networks; they end with the weights of the last step.
        images: ``(n, c, h, w)`` normalised, on the device to train on.
        targets: ``(K, n, C)``, what the loss compares the logits with.
        recipes: one a network: loss, batch size, optimiser. They must agree in all but the loss. Their
            number of steps and label scale are the caller's business.
        seeds: one a network, for the order of its minibatches.
        steps: number of optimiser steps.
        checkpoints: steps after which ``visit`` is called.
        visit: called with the positions (in ``networks``) of the members, the members, and the step; on CPUs from
            several threads at once.
        description: what the progress bar says.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> train_together([net], torch.rand(6, 1, 2, 2), torch.rand(1, 6, 2), [Recipe("mse")], [0],
        ...                steps=5)
    """
    if any(_shared(recipe) != _shared(recipes[0]) for recipe in recipes):
        raise ValueError(
            "networks trained together need one optimiser, learning rate and batch size, augmentation and order"
        )
    groups, together = _cohorts(networks, images, recipes[0])
    lock = threading.Lock()
    with progress.task(description, total=steps * len(groups)) as advance:

        def step() -> None:
            threads.check()
            with lock:
                advance(1)

        def train(group: tuple[list[int], SideBySide]) -> None:
            members, joint = group
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
                step,
            )
            for position, k in enumerate(members):
                networks[k].load_state_dict(joint.member_state(position))

        if together:
            threads.in_threads(train, groups, images.device)
        else:
            list(map(train, groups))


def _cohorts(
    networks: Sequence[nn.Module], images: Tensor, recipe: Recipe
) -> tuple[list[tuple[list[int], SideBySide]], bool]:
    """As many together as the CPU's cache and cores like; and whether cohorts may run at the same time.

    Each is alone where the optimiser couples weights. Networks that cannot be joined may share state, and dropout
    draws from one generator for all: these keep their order.
    """
    channels, height, width = images.shape[1:]
    shape = channels, height, width
    kind = find_optimizer(recipe.optimizer)[1]
    together = joinable(networks, shape) and not draws(networks[0], shape)
    if not kind.separable:
        return [([k], SideBySide([network], shape)) for k, network in enumerate(networks)], together
    if images.device.type != "cpu":
        return cohorts(networks, shape), together
    batch = len(images) if kind.whole_set else min(len(images), recipe.batch_size)
    return cohorts(networks, shape, batch_size=batch, parts=threads.workers(images.device)), together


def _shared(recipe: Recipe) -> tuple[object, ...]:
    return recipe.optimizer, recipe.learning_rate, recipe.batch_size, recipe.augmentation, recipe.order


def _train(
    joint: SideBySide,
    images: Tensor,
    targets: Tensor,
    recipes: Sequence[Recipe],
    seeds: Sequence[int],
    steps: int,
    checkpoints: set[int],
    visit: Callable[[SideBySide, int], None] | None,
    advance: Callable[[], None],
) -> None:
    first = recipes[0]
    kind = find_optimizer(first.optimizer)[1]
    if not kind.separable:  # it may want all weights as one vector, which needs them in their plain layout
        joint.to(memory_format=torch.contiguous_format)
    optimizer = build_optimizer(first.optimizer, joint.parameters(), first.learning_rate)
    groups = {(recipe.loss, recipe.temperature) for recipe in recipes}
    losses = [
        (
            functools.partial(LOSSES[name], **({"temperature": t} if name == "kl" else {})),
            torch.tensor(
                [k for k, recipe in enumerate(recipes) if (recipe.loss, recipe.temperature) == (name, t)]
            ),
        )
        for name, t in sorted(groups)
    ]
    batch = len(images) if kind.whole_set else first.batch_size
    classes = targets.argmax(-1)
    orders = torch.stack(
        [minibatches(len(images), batch, steps, s, first.order, c) for s, c in zip(seeds, classes, strict=True)], 1
    ).to(images.device)  # (steps, K, batch)
    augment = Augmenter(first.augmentation, seeds)
    joint.train()
    for step in range(1, steps + 1):
        order = orders[step - 1]
        shown = augment(images[order.T])  # (batch, K, c, h, w)
        wanted = targets.gather(1, order.unsqueeze(-1).expand(-1, -1, targets.shape[-1]))

        def closure(shown: Tensor = shown, wanted: Tensor = wanted) -> Tensor:
            logits = joint(shown)  # (K, batch, C)
            # Summed over members: a member's gradient is that of its own loss alone.
            total = torch.stack([loss(logits[ks], wanted[ks]).sum() for loss, ks in losses]).sum()
            optimizer.zero_grad()
            total.backward()
            return total

        optimizer.step(closure)  # type: ignore[arg-type]
        advance()
        if visit is not None and step in checkpoints:
            visit(joint, step)
