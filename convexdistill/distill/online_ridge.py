"""``online_ridge``: the paper's first-order method, LD-RR. Labels by a ridge layer, step by step."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from convexdistill.data import ImageData, Preprocessing
from convexdistill.distill.assemble import check_positive
from convexdistill.distill.online import (
    NetworkLike,
    Schedule,
    builder,
    distil_online,
    dtype_of,
    problem_of,
)
from convexdistill.distill.ridge_learner import RidgeLearner, RidgeSettings, check_average_rate
from convexdistill.distilled import DistilledSet
from convexdistill.select import BaseExamples
from convexdistill.training import ReadyNetwork


def online_ridge(
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
    lam: float = 1.0,
    average_rate: float = 0.01,
    network_rate: float = 1e-3,
    calibration_rate: float = 1e-2,
    freeze_extractor: bool = False,
    backend: str = "auto",
    seed: int = 0,
    device: str | torch.device = "auto",
    checkpoint: str | Path | None = None,
) -> DistilledSet:
    """Learn soft labels by gradients through a ridge layer, beside a network that learns from them.

    Every step draws a minibatch of the target and one of the base examples, and with Φ = [φ(x̃), 1]::

        w_l = Φᵀ(ΦΦᵀ + λI)⁻¹Ỹ;  w ← (1 − α)w + α·w_l;  L = CE(s·[φ(x), 1]w, y)

    Adam moves the labels down ∂L/∂Ỹ and they are put back on the simplex; then Adam moves the extractor φ
    and the calibration s on the base minibatch with its new labels. φ, w and s start again whenever the
    moving mean of the error has not fallen for a window of steps, and the step of its minimum is how long
    to train (Bohdal et al. 2020, the ridge-regression variant; every default is the paper's, as its code has
    it). Labels are probabilities, the recipe is soft cross-entropy with Adam.

    Args:
        target: whose classes are taught; the train split.
        base: base examples, from the target's train split or from any other data set.
        validation: the target's validation split; it picks the labels and T. Without it the last are taken.
        network: whose body is φ: a name, or a function of ``(shape, num_classes)`` that returns a
            :class:`convexdistill.features.Network`. Its dtype is the precision of everything.
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
        lam: λ of the ridge layer.
        average_rate: α of the moving average.
        network_rate: Adam's learning rate of φ, and of the recipe.
        calibration_rate: Adam's learning rate of s.
        freeze_extractor: leave φ as it was drawn; only w and s learn.
        backend: of the ridge layer, see :func:`convexdistill.layers.ridge`.
        seed: of every draw.
        device: where to compute.
        checkpoint: a file that is written after every epoch, and gone on from where it is there: a killed
            run that is started again ends with the labels of an uninterrupted one.

    Raises:
        ParameterRangeError: a number outside its range.
        UnknownNameError: no such network, backend or device.
        InvalidInputError: a test split, a validation split that does not fit, a network without body and
            head, or a checkpoint of other settings.
        FileFormatError: the checkpoint is damaged.
        NotConvergedError: the loss is no longer finite.

    Example:
        >>> import convexdistill as cd
        >>> digits = cd.data.load("digits")
        >>> base = cd.select.choose(digits, size=20, seed=0)
        >>> distilled = cd.distill.online_ridge(digits, base, epochs=2)
        >>> distilled.label_space, distilled.recipe.loss, distilled.recipe.batch_size
        ('probability', 'soft-cross-entropy', 10)
    """
    check_positive(lam=lam, network_rate=network_rate, calibration_rate=calibration_rate)
    check_average_rate(average_rate)
    schedule = Schedule(epochs, batch_size, inner_batch_size, window, validate_every, label_rate)
    settings = RidgeSettings(lam, average_rate, network_rate, calibration_rate, freeze_extractor, backend)
    build = builder(network, target.shape, target.num_classes)
    return distil_online(
        "online-ridge",
        RidgeLearner(build, settings, device),
        problem_of(target, validation, preprocessing, device, dtype_of(build)),
        base,
        schedule.filled(len(base), target.num_classes),
        facts=asdict(settings),
        network=network,
        network_rate=network_rate,
        seed=seed,
        checkpoint=checkpoint,
        labels=initial_labels,
    )


def train_ridge(
    distilled: DistilledSet,
    network: NetworkLike = "lenet",
    seed: int = 0,
    *,
    steps: int | None = None,
    lam: float = 1.0,
    average_rate: float = 0.01,
    network_rate: float = 1e-3,
    calibration_rate: float = 1e-2,
    freeze_extractor: bool = False,
    backend: str = "auto",
    device: str | torch.device = "auto",
) -> ReadyNetwork:
    """A network trained as the paper evaluates LD-RR: the steps of :func:`online_ridge` with fixed labels.

    The head is the moving average w of the ridge solutions. :meth:`DistilledSet.train` instead trains body and
    head together, as any user of the labels would.

    Args:
        distilled: the labels, probabilities.
        network: see :func:`online_ridge`.
        seed: of the weights and the minibatches.
        steps: how long; ``None``: the recipe's.
        lam: see :func:`online_ridge`, as all that follow.
        average_rate: α.
        network_rate: of φ.
        calibration_rate: of s.
        freeze_extractor: whether φ stays as drawn.
        backend: of the ridge layer.
        device: where to compute.

    Returns:
        A module that takes images as they are (uint8, or float in [0, 1]) and returns logits ``(N, C)``.

    Example:
        >>> import convexdistill as cd
        >>> digits = cd.data.load("digits")
        >>> distilled = cd.distill.online_ridge(digits, cd.select.choose(digits, size=20), epochs=1)
        >>> cd.distill.train_ridge(distilled, steps=3)(digits.images[:4]).shape
        torch.Size([4, 10])
    """
    settings = RidgeSettings(lam, average_rate, network_rate, calibration_rate, freeze_extractor, backend)
    build = builder(network, distilled.shape, len(distilled.classes))
    learner = RidgeLearner(build, settings, device)
    dtype = dtype_of(build)
    images = distilled.preprocessing(distilled.images).to(learner.device, dtype)
    trained = learner.train(
        images.contiguous(memory_format=torch.channels_last),
        distilled.labels.to(learner.device, dtype),
        steps=distilled.recipe.steps if steps is None else steps,
        batch_size=distilled.recipe.batch_size,
        seed=seed,
    )
    return ReadyNetwork(distilled.preprocessing, trained).to(learner.device).eval()
