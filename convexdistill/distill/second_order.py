"""``second_order``: the paper's method LD. Labels by the derivative of what one step of SGD does to a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, replace_all_batch_norm_modules_

from convexdistill.data import ImageData, Preprocessing
from convexdistill.device import resolve_device
from convexdistill.distill.assemble import check_positive
from convexdistill.distill.online import (
    NetworkLike,
    Schedule,
    builder,
    distil_online,
    dtype_of,
    problem_of,
)
from convexdistill.distill.online.learner import in_pieces, stays_whole
from convexdistill.distill.online.state import below, load_optimizer, optimizer_state, under
from convexdistill.distilled import DistilledSet
from convexdistill.errors import ParameterRangeError
from convexdistill.select import BaseExamples
from convexdistill.training import Recipe, train_together
from convexdistill.training.recipe import soft_cross_entropy


class SecondOrderLearner:
    """A network θ, looked at after virtual steps of SGD on a base minibatch, and trained by Adam.

    θ' = θ − η·∇_θ L(θ, Ỹ), L the soft cross-entropy, so that the target's loss at θ' depends on Ỹ by the mixed
    second derivative ∂²L/∂θ∂Ỹ. Normalisation layers use batch statistics throughout, as in the paper's code.

    Args:
        build: a fresh network for a seed.
        inner_rate: η.
        inner_steps: number of virtual steps, all on the same minibatch.
        network_rate: of Adam.
        device: where to compute.
    """

    def __init__(
        self,
        build: Callable[[int], nn.Module],
        inner_rate: float = 0.01,
        inner_steps: int = 1,
        network_rate: float = 1e-3,
        device: str | torch.device = "auto",
    ) -> None:
        self.build, self.inner_rate, self.inner_steps = build, inner_rate, inner_steps
        self.network_rate, self.device = network_rate, resolve_device(device)

    def restart(self, seed: int) -> None:
        """Fresh weights and a fresh Adam."""
        network = self.build(seed)
        self.whole = stays_whole(network, self.device)
        self.network = replace_all_batch_norm_modules_(network).to(self.device)
        self.network.to(memory_format=torch.channels_last).train()
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=self.network_rate)

    def outer(self, images: Tensor, labels: Tensor, target_images: Tensor) -> Tensor:
        """Logits of the target images at θ'."""

        def inner_loss(weights: dict[str, Tensor]) -> Tensor:
            return soft_cross_entropy(functional_call(self.network, weights, (images,)), labels)

        weights = {name: parameter.detach() for name, parameter in self.network.named_parameters()}
        for step in range(self.inner_steps):
            gradient = grad(inner_loss)(weights)
            if step == 0:
                self.gradient = {name: value.detach() for name, value in gradient.items()}
            weights = {name: value - self.inner_rate * gradient[name] for name, value in weights.items()}
        return in_pieces(lambda x: functional_call(self.network, weights, (x,)), target_images, whole=self.whole)

    def update(self, labels: Tensor) -> None:
        """One step of Adam with the gradient at θ, of the labels as they were before their own step."""
        for name, parameter in self.network.named_parameters():
            parameter.grad = self.gradient[name]
        self.optimizer.step()

    def train(self, images: Tensor, labels: Tensor, *, steps: int, batch_size: int, seed: int) -> nn.Module:
        """Ordinary training of the whole network on fixed labels."""
        network = self.build(seed)
        recipe = Recipe("soft-cross-entropy", steps=steps, batch_size=batch_size, learning_rate=self.network_rate)
        train_together([network], images, labels[None], [recipe], [seed], steps=steps, description="validate")
        return network

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {
            **under("network", self.network.state_dict()),
            **under("optimizer", optimizer_state(self.optimizer)),
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state`."""
        self.network.load_state_dict(below("network", state))
        load_optimizer(self.optimizer, below("optimizer", state))


def second_order(
    target: ImageData,
    base: BaseExamples,
    validation: ImageData | None = None,
    *,
    network: NetworkLike = "lenet",
    preprocessing: Preprocessing | None = None,
    epochs: int | None = None,
    batch_size: int = 1024,
    inner_batch_size: int | None = None,
    window: int | None = None,
    validate_every: int = 5,
    label_rate: float = 1e-3,
    initial_labels: Tensor | None = None,
    inner_rate: float = 0.01,
    inner_steps: int = 1,
    network_rate: float = 1e-3,
    seed: int = 0,
    device: str | torch.device = "auto",
    checkpoint: str | Path | None = None,
) -> DistilledSet:
    """Learn soft labels by second derivatives, beside a network that learns from them.

    Every step draws a minibatch of the target and one of the base examples::

        θ' = θ − η·∇_θ CE(f_θ(x̃), Ỹ);  L = CE(f_θ'(x), y)

    Adam moves the labels down ∂L/∂Ỹ and they are put back on the simplex; Adam moves θ by ∇_θ CE(f_θ(x̃), Ỹ),
    and the virtual step is forgotten. θ starts again whenever the moving mean of the error has not fallen
    for a window of steps, and the step of its minimum is how long to train (Bohdal et al. 2020; every
    default is the paper's, as its code has it). Labels are probabilities, the recipe is soft
    cross-entropy with Adam.

    Args:
        target: whose classes are taught; the train split.
        base: base examples, from the target's train split or from any other data set.
        validation: the target's validation split; it picks the labels and T. Without it the last are taken.
        network: a name, or a function of ``(shape, num_classes)`` that returns an ``nn.Module``. Its dtype is the
            precision of everything.
        preprocessing: normalisation; default: fitted to ``target``.
        epochs: passes over the target; ``None``: 400 up to 100 base examples, 800 above.
        batch_size: target examples in a minibatch.
        inner_batch_size: base examples in a minibatch; ``None``: half of them, but 10 to 50, or one for each
            class where there are more than 50 classes.
        window: steps without a better moving mean before a restart; ``None``: 50 up to 100 base examples, 200
            above, and 100 where the target has more than 10 classes.
        validate_every: epochs between validations.
        label_rate: Adam's learning rate of the labels.
        initial_labels: ``(n, C)`` probabilities to start from; ``None``: 1/C everywhere, as the paper.
        inner_rate: η of the virtual steps.
        inner_steps: how many virtual steps; the paper takes one.
        network_rate: Adam's learning rate of θ, and of the recipe.
        seed: of every draw.
        device: where to compute.
        checkpoint: a file that is written after every epoch, and gone on from where it is there: a killed
            run that is started again ends with the labels of an uninterrupted one.

    Raises:
        ParameterRangeError: a number outside its range.
        UnknownNameError: no such network or device.
        InvalidInputError: a test split, a validation split that does not fit, or a checkpoint of other
            settings.
        FileFormatError: the checkpoint is damaged.
        NotConvergedError: the loss is no longer finite.

    Example:
        >>> import convexdistill as cd
        >>> digits = cd.data.load("digits")
        >>> base = cd.select.choose(digits, size=20, seed=0)
        >>> distilled = cd.distill.second_order(digits, base, epochs=2)
        >>> distilled.label_space, distilled.labels.shape
        ('probability', torch.Size([20, 10]))
    """
    check_positive(inner_rate=inner_rate, network_rate=network_rate)
    if type(inner_steps) is not int or inner_steps < 1:
        raise ParameterRangeError(f"inner_steps must be a whole number of at least 1, found {inner_steps!r}")
    schedule = Schedule(epochs, batch_size, inner_batch_size, window, validate_every, label_rate)
    build = builder(network, target.shape, target.num_classes)
    return distil_online(
        "second-order",
        SecondOrderLearner(build, inner_rate, inner_steps, network_rate, device),
        problem_of(target, validation, preprocessing, device, dtype_of(build)),
        base,
        schedule.filled(len(base), target.num_classes),
        facts={"inner_rate": inner_rate, "inner_steps": inner_steps},
        network=network,
        network_rate=network_rate,
        seed=seed,
        checkpoint=checkpoint,
        labels=initial_labels,
    )
