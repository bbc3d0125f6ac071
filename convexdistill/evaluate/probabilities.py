"""How good a network's probabilities are: calibration error, Brier score, log-likelihood, confusion matrix.

Logits of networks that were trained with squared error have an arbitrary scale, so one temperature is fitted on
the validation split for each row before anything is read off its probabilities (Guo, Pleiss, Sun, Weinberger
2017, section 4.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn.functional import cross_entropy

BINS = 15
_LOG_TEMPERATURES = (-7.0, 7.0)  # e^±7: beyond, probabilities are uniform or one-hot anyway


@dataclass(frozen=True)
class Quality:
    """What the probabilities of the trainings of one row are worth on the test split.

    Attributes:
        temperature: what logits were divided by.
        ece: expected calibration error of the top-1 confidence, 0 … 1, mean over trainings.
        brier: ``Σ_c (p_c − y_c)²``, mean over images and trainings; 0 … 2.
        nll: negative log-likelihood in nats, mean over images and trainings.
        calibration: for each bin of confidence: mean confidence, accuracy, and number of images, over all
            trainings; ``(None, None, 0)`` of an empty bin.
        confusion: ``C × C`` counts over all trainings; rows are true classes, columns predictions.
        worst_class: position of the class with the lowest recall among those that the split holds.
        worst_recall: its recall in percent.
    """

    temperature: float
    ece: float
    brier: float
    nll: float
    calibration: tuple[tuple[float | None, float | None, int], ...]
    confusion: tuple[tuple[int, ...], ...]
    worst_class: int
    worst_recall: float


def quality(logits: Tensor, truth: Tensor, validation_logits: Tensor, validation_truth: Tensor) -> Quality:
    """Judge the probabilities of trainings of one row.

    Args:
        logits: ``(trainings, N, C)`` finite, on the test split.
        truth: ``(N,)`` classes.
        validation_logits: ``(trainings, M, C)``, of the same networks on the validation split.
        validation_truth: ``(M,)``.
    """
    temperature = fit_temperature(validation_logits, validation_truth)
    scaled = logits.double() / temperature
    probabilities = scaled.softmax(-1)
    confidence, predicted = probabilities.max(-1)
    right = (predicted == truth).double()
    bins = [_bins(c, r) for c, r in zip(confidence, right, strict=True)]
    confusion = confusion_matrix(predicted, truth, logits.shape[-1])
    worst, recall = worst_class(confusion)
    hot = torch.nn.functional.one_hot(truth, logits.shape[-1])
    return Quality(
        temperature=temperature,
        ece=sum(map(_error, bins)) / len(bins),
        brier=float((probabilities - hot).square().sum(-1).mean()),
        nll=float(cross_entropy(scaled.flatten(0, 1), truth.repeat(len(logits)))),
        calibration=tuple(_means(torch.stack(bins).sum(0))),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        worst_class=worst,
        worst_recall=recall,
    )


def fit_temperature(logits: Tensor, truth: Tensor) -> float:
    """The T > 0 with the least negative log-likelihood of ``logits / T``; ``(trainings, M, C)`` and ``(M,)``.

    Example:
        >>> import torch
        >>> truth = torch.arange(4).repeat(5)
        >>> logits = torch.nn.functional.one_hot(truth.roll(1), 4)[None].double()
        >>> fit_temperature(logits, truth) > 100  # always wrong: the best it can say is "no idea"
        True
    """
    flat, wanted = logits.float().flatten(0, 1), truth.repeat(len(logits))
    found = minimize_scalar(
        lambda log_t: float(cross_entropy(flat / torch.tensor(log_t).exp(), wanted)),
        bounds=_LOG_TEMPERATURES,
        method="bounded",
        options={"xatol": 1e-3},
    )
    return float(torch.tensor(found.x, dtype=torch.float64).exp())


def confusion_matrix(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Counts ``(C, C)`` over all trainings: rows are true classes, columns predictions ``(trainings, N)``."""
    cells = truth.expand_as(predicted) * classes + predicted
    return torch.bincount(cells.flatten(), minlength=classes * classes).view(classes, classes)


def worst_class(confusion: Tensor) -> tuple[int, float]:
    """Position and recall in percent of the class that is recognised least, of those that occur.

    Example:
        >>> import torch
        >>> worst_class(torch.tensor([[9, 1, 0], [5, 5, 0], [0, 0, 0]]))
        (1, 50.0)
    """
    there = confusion.sum(1)
    recalls = torch.where(there > 0, confusion.diagonal() / there.clamp_min(1), torch.inf)
    worst = int(recalls.argmin())
    return worst, float(recalls[worst]) * 100


def _bins(confidence: Tensor, right: Tensor) -> Tensor:
    """``(BINS, 3)``: sum of confidences, number of right answers, number of images; of equal width."""
    place = (confidence * BINS).long().clamp_max(BINS - 1)
    values = torch.stack([confidence, right, torch.ones_like(right)], 1)
    return torch.zeros(BINS, 3, dtype=torch.float64).index_add_(0, place, values)


def _error(bins: Tensor) -> float:
    """``Σ_b |accuracy − confidence| · share`` of one training."""
    return float((bins[:, 0] - bins[:, 1]).abs().sum() / bins[:, 2].sum())


def _means(bins: Tensor) -> Sequence[tuple[float | None, float | None, int]]:
    return [
        (float(c / n), float(r / n), int(n)) if n else (None, None, 0)  # an empty bin has no mean
        for c, r, n in bins
    ]
