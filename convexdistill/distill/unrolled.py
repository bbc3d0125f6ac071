"""``unrolled``: labels by the derivative of whole trainings, from where the convex solve ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy as cross_entropy_loss

from convexdistill import progress
from convexdistill.data import ImageData, Preprocessing
from convexdistill.device import resolve_device
from convexdistill.distill.assemble import check_positive
from convexdistill.distill.choose import Setting, choose_setting
from convexdistill.distill.cross_entropy import check_softmax_settings, cross_entropy
from convexdistill.distill.forms import Form
from convexdistill.distill.target_features import TargetFeatures
from convexdistill.distilled import DistilledSet, fresh_network
from convexdistill.errors import InvalidInputError, NotConvergedError, ParameterRangeError
from convexdistill.features import ExtractorSpec, ModuleSpec, Shape
from convexdistill.seeds import child_seed, generator
from convexdistill.select import BaseExamples
from convexdistill.training import LOSSES, Augmenter, Recipe, minibatches
from convexdistill.training.side_by_side import cohorts
from convexdistill.training.unroll import logits, unroll

SMALLEST = 1e-6  # probability that a label can start from


def unrolled(
    pool: Sequence[ExtractorSpec | ModuleSpec] | TargetFeatures,
    target: ImageData,
    base: BaseExamples,
    validation: ImageData | None = None,
    *,
    iterations: int = 100,
    steps: int = 80,
    count: int = 2,
    batch_size: int = 512,
    label_rate: float = 0.2,
    lam: float = 1e-3,
    gamma: float | None = None,
    prior: str | None = None,
    label_scale: float | None = None,
    recipe: Recipe | str | None = None,
    augmentation: str = "none",
    network: str | Callable[[Shape, int], nn.Module] = "lenet",
    target_images: int | None = 20_000,
    preprocessing: Preprocessing | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
) -> DistilledSet:
    """Learn the soft labels that trainings from scratch end well with.

    Labels start at the convex solve of :func:`convexdistill.distill.cross_entropy`, whose networks are frozen
    extractors. From there, every iteration draws K fresh networks, trains each on the base examples for T steps of
    Adam, and moves the labels down the derivative of the loss that the trained networks have on a minibatch of the
    target, through all T steps::

        θ_k(Ỹ) = Adam_T(θ_k0; x̃, Ỹ);  L(Ỹ) = 1/K Σ_k CE(f_{θ_k(Ỹ)}(x), y)

    This is the bilevel problem that the second-order method of Bohdal et al. (2020, algorithm 1) approximates by
    one virtual step of SGD; differentiating through many is due to Maclaurin, Duvenaud, Adams (2015). It is not
    convex, has no certificate, and costs about T·K·3 steps of training an iteration: for few base examples and
    small networks, where it counts for most. The graph keeps every step, about T·K·(7 · weights + activations of a
    minibatch) numbers: with 10 base examples, T = 80 and K = 1 that is 0.14 GB for LeNet and 4 GB for AlexNet, and
    more than that while it is differentiated. What moves are logits: the label scale times centred labels, or what
    the softmax of is the label of the paper recipe. The step size falls linearly to zero, and the labels are the
    mean of the last quarter.

    Args:
        pool: of the convex solve; see :func:`convexdistill.distill.cross_entropy`.
        target: the labelled target set.
        base: base examples, from the target's train split or from any other data set.
        validation: the target's validation split; it chooses for the convex solve, and then between its labels
            and these, and the number of steps. Without it: these labels, trained on for T steps; with a
            :class:`Recipe` given: these labels, trained on as it says.
        iterations: label steps.
        steps: T. The learned labels want at least so many steps, and take more.
        count: K, fresh networks in each iteration.
        batch_size: images of the target in an iteration, which its K networks share.
        label_rate: Adam's learning rate of the logits, at the start.
        lam: see :func:`convexdistill.distill.cross_entropy`, as the others that follow.
        gamma: likewise.
        prior: likewise.
        label_scale: likewise.
        recipe: likewise; its optimiser must be Adam.
        augmentation: likewise; the trainings that labels are learned through have it, too.
        network: what is trained, to learn labels and to choose. Normalisation layers use batch statistics
            throughout.
        target_images: how many of the target's images the convex solve looks at.
        preprocessing: normalisation; default: fitted to ``target``.
        seed: of everything random.
        device: where networks run.

    Returns:
        The set. Its manifest has ``outer_losses``, the loss of every iteration, and ``labels_taken``:
        ``"unrolled"``, or ``"cross-entropy"`` where the validation split prefers the labels of the solve.

    Raises:
        ParameterRangeError: a number outside its range.
        InvalidInputError: a recipe with another optimiser than Adam, and what the convex solve raises.
        NotConvergedError: the loss is no longer finite; a smaller ``label_rate`` helps.

    Example:
        >>> import convexdistill as cd
        >>> digits = cd.data.load("digits")
        >>> base = cd.select.choose(digits, size=10, seed=0)
        >>> pool = cd.features.pool(count=1, width=8)
        >>> learned = cd.distill.unrolled(pool, digits, base, iterations=3, steps=5)
        >>> learned.label_space, len(learned.manifest["outer_losses"]), learned.recipe.steps
        ('logit', 3, 5)
    """
    check_unrolled_settings(
        lam,
        gamma,
        prior,
        recipe,
        label_scale,
        target_images,
        augmentation,
        iterations=iterations,
        steps=steps,
        count=count,
        batch_size=batch_size,
    )
    check_positive(label_rate=label_rate)
    where = resolve_device(device)
    options: dict[str, Any] = {
        "lam": lam,
        "gamma": gamma,
        "prior": prior,
        "label_scale": label_scale,
        "recipe": recipe,
        "augmentation": augmentation,
        "network": network,
        "target_images": target_images,
        "preprocessing": preprocessing,
        "seed": seed,
        "device": where,
    }
    first = cross_entropy(pool, target, base, validation, **options)

    def build(one: int) -> nn.Module:
        return fresh_network(network, target.shape, target.num_classes, one)

    def outer(free: Tensor, iteration: int) -> float:
        """L on a minibatch of the target; its derivative is added to that of the logits."""
        seeds = [child_seed(seed, "unrolled", iteration, k) for k in range(count)]
        part = torch.randint(len(target), (batch_size,), generator=generator(seed, "unrolled target", iteration))
        shown, truth = first.preprocessing(target.images[part]).to(where), target.labels[part].to(where)
        total = 0.0
        for members, joint in cohorts([build(one) for one in seeds], target.shape):
            orders = torch.stack([minibatches(len(base), size, steps, seeds[k]) for k in members], 1)
            joint.to(where).train()
            augment = Augmenter(first.recipe.augmentation, [seeds[k] for k in members])
            weights = unroll(joint, images, targets_of(free, loss), orders.to(where), LOSSES[loss], rate, augment)
            found = logits(joint, weights, shown)
            value = cross_entropy_loss(found.flatten(0, 1), truth.repeat(len(members))) * len(members) / count
            value.backward(inputs=[free])
            total += float(value.detach())
        return total

    images = first.preprocessing(first.images).to(where)
    loss, size, rate = first.recipe.loss, first.recipe.batch_size, first.recipe.learning_rate
    start = free_of(first.labels * first.recipe.label_scale, loss).to(where)
    free, losses = descend(outer, start, iterations, label_rate)
    labels = targets_of(free, loss).cpu() / first.recipe.label_scale
    facts = {
        "method": "unrolled",
        "settings": {"iterations": iterations, "steps": steps, "networks": count, "label_rate": label_rate},
        "outer_losses": losses,
        "labels_taken": "unrolled",
        # How near the descent is to an optimum nobody knows: what certifies the solve is about other labels.
        "certificate": {"solver": "adam, through trainings", "outer_loss": mean_of_last_quarter(losses)},
    }
    solved = dict(first.manifest)
    if validation is None or isinstance(recipe, Recipe):
        taken = first.recipe if isinstance(recipe, Recipe) else replace(first.recipe, steps=steps)
        return replace(
            first, labels=labels, manifest=_without_solve({**solved, **facts, "recipe": taken.to_dict()})
        )
    candidates = {"cross-entropy": first.labels, "unrolled": labels}
    choice = choose_setting(
        [Setting(solved["gamma"], solved["prior"], one, Form(first.recipe)) for one in candidates.values()],
        first.images,
        first.preprocessing,
        validation,
        build,
        seed=seed,
        device=where,
    )
    tried = [{**record, "labels": name} for name, record in zip(candidates, choice.tried, strict=True)]
    facts |= {"recipe": choice.recipe.to_dict(), "chosen_from": tried}
    if choice.setting.solved is first.labels:
        facts |= {"labels_taken": "cross-entropy", "certificate": solved["certificate"]}
        return replace(first, manifest={**solved, **facts})
    return replace(first, labels=labels, manifest=_without_solve({**solved, **facts}))


def _without_solve(manifest: dict[str, Any]) -> dict[str, Any]:
    """Without what is said of the solve's labels only."""
    return {name: value for name, value in manifest.items() if name not in ("logit_scale", "logits_divided_by")}


def mean_of_last_quarter(values: Sequence[float]) -> float:
    """The mean of the last quarter, of one value at least."""
    last = values[-max(1, len(values) // 4) :]
    return sum(last) / len(last)


def descend(
    outer: Callable[[Tensor, int], float], start: Tensor, iterations: int, label_rate: float
) -> tuple[Tensor, list[float]]:
    """Adam with a step size that falls linearly to zero; the mean of the last quarter, and every loss.

    Args:
        outer: of what moves and the iteration; returns the loss and adds its derivative to ``.grad``.
        start: where to start.
        iterations: how many steps.
        label_rate: the first step size.

    Raises:
        NotConvergedError: a derivative is not finite.
    """
    free = start.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([free], lr=label_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 1 - i / iterations)
    kept: list[Tensor] = []
    losses: list[float] = []
    with progress.task("descend through trainings", total=iterations) as advance:
        for i in range(iterations):
            optimizer.zero_grad()
            losses.append(outer(free, i))
            if free.grad is None or not free.grad.isfinite().all():
                raise NotConvergedError(
                    f"the derivative through a training is not finite in iteration {i + 1} of {iterations}, where "
                    f"the loss is {losses[-1]:.3g}; a label_rate below {label_rate:g} helps, or fewer steps"
                )
            optimizer.step()
            schedule.step()
            kept = [*kept, free.detach().clone()][-max(1, iterations // 4) :]
            advance(1)
    return torch.stack(kept).mean(0), losses


def free_of(targets: Tensor, loss: str) -> Tensor:
    """What :func:`targets_of` makes these targets of."""
    return targets if loss == "mse" else targets.clamp_min(SMALLEST).log()


def targets_of(free: Tensor, loss: str) -> Tensor:
    """What a loss compares logits with: centred values, or the probabilities of logits."""
    return free - free.mean(1, keepdim=True) if loss == "mse" else free.softmax(1)


def check_unrolled_settings(
    lam: float = 1e-3,
    gamma: float | None = None,
    prior: str | None = None,
    recipe: Recipe | str | None = None,
    label_scale: float | None = None,
    target_images: int | None = None,
    augmentation: str = "none",
    **numbers: int,
) -> None:
    """Raise on a setting of :func:`unrolled` that can be known to be wrong without any data.

    Raises:
        ParameterRangeError: a number outside its range.
        InvalidInputError: a recipe whose training has no derivative here.
    """
    check_softmax_settings(lam, gamma, prior, recipe, label_scale, target_images, augmentation)
    for name, number in numbers.items():
        if type(number) is not int or number < 1:
            raise ParameterRangeError(f"{name} must be a whole number of at least 1, found {number!r}")
    if isinstance(recipe, Recipe):
        wanted = {"optimizer": "adam", "order": "shuffled"}
        for name, value in wanted.items():
            if getattr(recipe, name) != value:
                raise InvalidInputError(
                    f"labels are learned through trainings with {name} {value!r}, not {getattr(recipe, name)!r}; "
                    "learn them so, and evaluate them under any other"
                )
