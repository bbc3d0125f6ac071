"""What `benchmarks/layers.py` measures: problem, size, gradient, candidates, goals."""

from __future__ import annotations

from typing import NamedTuple

import torch
from layer_peers import PEERS, Peer
from layer_problem_peers import DIFFCP, KERNEL, LEAST_SQUARES, LOGISTIC, MOREAU, NONNEGATIVE, OURS, SVM
from torch import Tensor

HAND, BARE = PEERS[2].name, PEERS[3].name


class Case(NamedTuple):
    """One problem of one size with one gradient, the candidates for it, and the goals."""

    title: str
    shape: tuple[int, ...]  # (*B, n, d)
    columns: int
    wanted: str = "labels"
    peers: tuple[Peer, ...] = PEERS  # the first is ours
    labels: str = "any"  # "any", "one-hot" or "probabilities"
    errors: str = ""  # against what: "50 digits", "ours", or not
    goals: tuple[tuple[str, float], ...] = ()  # peer, how many times faster ours must be


TO_FEATURES = tuple(p for p in PEERS if p.name in (OURS, HAND, BARE, "torch.linalg.lstsq"))
CASES = {
    "small": Case(
        "ridge, (n, d, C) = (100, 85, 10), fit + gradient to labels",
        (100, 85),
        10,
        errors="50 digits",
        goals=((DIFFCP, 200.0), (MOREAU, 50.0), (HAND, 1 / 1.2), (BARE, 1 / 1.5)),
    ),
    "wide": Case("ridge, (50, 85, 10), fit + gradient to labels", (50, 85), 10, errors="50 digits"),
    "features": Case(
        "ridge, (2000, 256, 10), fit + gradient to features",
        (2000, 256),
        10,
        "features",
        TO_FEATURES,
        goals=((HAND, 2.0), (BARE, 1 / 1.5)),
    ),
    "features-batch": Case(
        "ridge, 32 × (100, 128, 10), fit + gradient to features",
        (32, 100, 128),
        10,
        "features",
        TO_FEATURES,
        goals=((HAND, 2.0), (BARE, 1 / 1.5)),
    ),
    "least-squares": Case(
        "least_squares, (100, 85, 10), fit + gradient to labels", (100, 85), 10, peers=LEAST_SQUARES, errors="ours"
    ),
    "kernel": Case(
        "kernel_ridge, linear kernel, (100, 85, 10), fit + gradient to labels",
        (100, 85),
        10,
        peers=KERNEL,
        errors="ours",
    ),
    "nonnegative": Case(
        "constrained_ridge, W ≥ 0, (60, 30, 5), fit + gradient to labels",
        (60, 30),
        5,
        peers=NONNEGATIVE,
        errors="ours",
    ),
    "logistic": Case(
        "logistic_regression, (60, 20, 5), soft labels, fit + gradient to labels",
        (60, 20),
        5,
        peers=LOGISTIC,
        labels="probabilities",
        errors="ours",
    ),
    "svm": Case(
        "linear_svm, Crammer–Singer, (60, 20, 5), fit + gradient to labels",
        (60, 20),
        5,
        peers=SVM,
        labels="one-hot",
        errors="ours",
    ),
}
LAM = 1.0


def example(case: Case) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(*case.shape, dtype=torch.float64, generator=generator)
    Y = torch.randn(*case.shape[:-1], case.columns, dtype=torch.float64, generator=generator)
    if case.labels == "one-hot":
        Y = torch.nn.functional.one_hot(Y.argmax(-1), case.columns).double()
    return X, Y.softmax(-1) if case.labels == "probabilities" else Y
