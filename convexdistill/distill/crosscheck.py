"""The certificate by an independent solver: the final ridge head through both backends."""

from __future__ import annotations

import time
from typing import Any

from torch import Tensor

from convexdistill import layers
from convexdistill.distill.views import each_view
from convexdistill.errors import BackendUnavailableError, SolveError

# Above this many entries of Φ a conic solver takes minutes.
LARGEST = 20_000


def cross_check(features: Tensor, labels: Tensor, lam: float, count: int = 1) -> dict[str, Any] | None:
    """Solve the ridge head of ``labels`` with ``torch`` and with ``cvxpylayers`` and compare.

    Args:
        features: ``(V·n, d+1)`` float64, base features of an extractor with the column of ones.
        labels: ``(n, C)``, the learned labels.
        lam: λ, absolute.
        count: V, how many rows share a label.

    Returns:
        ``n`` (the rows of Φ), ``d``, ``relative_difference`` (Frobenius), ``torch_seconds``,
        ``cvxpylayers_setup_seconds`` (the first solve, which compiles) and ``cvxpylayers_seconds`` (the second);
        ``None`` where the problem is larger than :data:`LARGEST` entries. ``error`` alone, where cvxpylayers did
        not solve it.
    """
    if features.numel() > LARGEST:
        return None
    labels = each_view(labels, count)

    def timed(backend: str) -> tuple[Tensor, float]:
        start = time.perf_counter()
        head = layers.ridge(features, labels, lam, backend=backend).weight
        return head, time.perf_counter() - start

    timed("torch")  # the first call pays for loading libraries
    ours, torch_seconds = timed("torch")
    try:
        _, setup_seconds = timed("cvxpylayers")
        theirs, cvxpylayers_seconds = timed("cvxpylayers")
    except (SolveError, BackendUnavailableError) as error:  # a second opinion may fail; the answer stands
        return {"error": str(error)}
    return {
        "n": len(features),
        "d": features.shape[1],
        "relative_difference": float((ours - theirs).norm()) / (float(ours.norm()) or 1.0),
        "torch_seconds": torch_seconds,
        "cvxpylayers_seconds": cvxpylayers_seconds,
        "cvxpylayers_setup_seconds": setup_seconds,
    }
