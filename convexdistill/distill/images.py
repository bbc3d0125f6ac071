"""``images``: learn the pixels instead of the labels, through the same ridge layer; a baseline."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from torch.nn.functional import one_hot

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
from convexdistill.errors import InvalidInputError, UnknownNameError
from convexdistill.select import BaseExamples

STARTS = ("base", "noise")


def images(
    target: ImageData,
    base: BaseExamples,
    validation: ImageData | None = None,
    *,
    learn_labels: bool = False,
    start: str = "base",
    network: NetworkLike = "lenet",
    preprocessing: Preprocessing | None = None,
    epochs: int | None = None,
    batch_size: int = 1024,
    inner_batch_size: int | None = None,
    window: int = 50,
    validate_every: int = 5,
    rate: float = 1e-3,
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
    """Learn images by gradients through features and a ridge layer, beside a network that learns from them.

    The loop is that of :func:`convexdistill.distill.online_ridge`; what moves is the pixels, by ∂L/∂x̃: through the
    ridge solution w_l to the features φ(x̃), and through φ to x̃. They are clamped to [0, 1] after every step. The
    labels are the one-hot classes of the base images, or are learned along with the pixels (Bohdal et al.
    2020, the image variant of its code; Wang et al. 2018 is where images were distilled first).

    A distilled set holds bytes: pixels are rounded to the nearest of 256 levels, also for validation, so what is
    judged is what is kept. Its indices and base labels are those of the images that it started from, also where
    ``start="noise"`` took only their number and their classes.

    Args:
        target: whose classes are taught; the train split.
        base: images to start from. Of other classes than the target's they have no one-hot labels:
            ``learn_labels=True`` then starts from uniform ones.
        validation: the target's validation split; it picks images, labels and T.
        learn_labels: whether labels move as well.
        start: ``"base"``, or ``"noise"``: uniform in [0, 1], as the paper.
        network: see :func:`convexdistill.distill.online_ridge`, as all that follow.
        preprocessing: normalisation; default: fitted to ``target``.
        epochs: passes over the target; ``None``: 400 up to 100 base examples, 800 above.
        batch_size: target examples in a minibatch.
        inner_batch_size: base examples in a minibatch.
        window: of the restart rule.
        validate_every: epochs between validations.
        rate: Adam's learning rate of the pixels, and of the labels where they move.
        lam: λ of the ridge layer.
        average_rate: α of the moving average.
        network_rate: Adam's learning rate of φ, and of the recipe.
        calibration_rate: Adam's learning rate of s.
        freeze_extractor: leave φ as it was drawn.
        backend: of the ridge layer.
        seed: of every draw.
        device: where to compute.
        checkpoint: a file to go on from, written after every epoch.

    Raises:
        InvalidInputError: as ``online_ridge``, or one-hot labels are asked of base images of other classes.
        ParameterRangeError: a number outside its range.
        UnknownNameError: no such start, network, backend or device.

    Example:
        >>> import convexdistill as cd
        >>> digits = cd.data.load("digits")
        >>> base = cd.select.choose(digits, size=10, seed=0)
        >>> learned = cd.distill.images(digits, base, epochs=1, rate=0.05)
        >>> bool((learned.images != base.images).any()), float(learned.labels.max())
        (True, 1.0)
    """
    check_positive(lam=lam, network_rate=network_rate, calibration_rate=calibration_rate)
    check_average_rate(average_rate)
    if start not in STARTS:
        raise UnknownNameError(f"unknown start {start!r}; known are {', '.join(STARTS)}")
    named = base.classes == target.classes
    if not (named or learn_labels):
        raise InvalidInputError(
            f"the base images have the classes of {base.source!r}, not of {target.name!r}: they have "
            "no one-hot labels; take learn_labels=True, or base images of the target"
        )
    schedule = Schedule(epochs, batch_size, inner_batch_size, window, validate_every, rate)
    settings = RidgeSettings(lam, average_rate, network_rate, calibration_rate, freeze_extractor, backend)
    build = builder(network, target.shape, target.num_classes)
    return distil_online(
        "images",
        RidgeLearner(build, settings, device),
        problem_of(target, validation, preprocessing, device, dtype_of(build)),
        base,
        schedule.filled(len(base), target.num_classes),
        facts={**asdict(settings), "learn_labels": learn_labels, "start": start},
        network=network,
        network_rate=network_rate,
        seed=seed,
        checkpoint=checkpoint,
        learn_labels=learn_labels,
        learn_images=True,
        noise=start == "noise",
        labels=one_hot(base.labels, target.num_classes).double() if named else None,
    )
