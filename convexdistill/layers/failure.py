"""What becomes of batch elements that could not be solved: raise, warn, or NaN.

``Status`` is worked out for every element of every backend's answer, from the relative optimality
residual and not from what a solver says of itself.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from convexdistill.errors import (
    InfeasibleError,
    NotConvergedError,
    NumericalWarning,
    SingularSystemError,
    SolveError,
    UnboundedError,
)
from convexdistill.layers.solution import SolveInfo
from convexdistill.layers.status import Status

POLICIES = ("raise", "warn", "nan")

# The accuracy an answer promises, of any backend: relative optimality residual at most this.
ACCEPT_BELOW = 1e-8

ERRORS: dict[Status, type[SolveError]] = {
    Status.SINGULAR: SingularSystemError,
    Status.INFEASIBLE: InfeasibleError,
    Status.UNBOUNDED: UnboundedError,
}


def judge(
    residual: Tensor, reported: Tensor | None, nonfinite: Tensor | None = None, invalid: Tensor | None = None
) -> Tensor:
    """(*B,) int8 of :class:`Status`; the cause nearest to the user's input wins."""
    # `<=` is false for NaN, so an answer that is none counts as inaccurate.
    status = (residual <= ACCEPT_BELOW).logical_not().to(torch.int8)  # Status.OPTIMAL is 0, INACCURATE is 1
    if reported is not None:
        status = torch.where(reported != 0, reported, status)
    if invalid is not None:
        status = status.masked_fill(invalid, int(Status.INVALID_INPUT))
    if nonfinite is not None:
        status = status.masked_fill(nonfinite, int(Status.NONFINITE_INPUT))
    return status


def mark_overflow(info: SolveInfo, *answers: Tensor | None) -> SolveInfo:
    """The record of answers (*B, ...) after their cast to the dtype of the inputs, which may not hold them.

    A verified answer is finite in float64, so infinity in one that is shorter comes from the cast.
    """
    lost = torch.zeros_like(info.status, dtype=torch.bool)
    for answer in answers:
        if answer is None or answer.dtype == torch.float64:
            continue
        core = answer.shape[info.status.ndim :].numel()
        lost = lost | answer.detach().isinf().reshape(*info.status.shape, core).any(-1)
    status = info.status.masked_fill(lost & (info.status == 0), int(Status.OVERFLOW))
    return SolveInfo(info.backend, info.form, info.method, status, info.residual, info.condition, info.steps)


def enforce(info: SolveInfo, on_failure: str) -> None:
    """Raise or warn if an element failed, as ``on_failure`` says; ``"nan"`` does nothing here.

    Raises:
        SingularSystemError: an element's system is singular, and ``on_failure="raise"``.
        InfeasibleError: no point meets an element's constraints, and ``on_failure="raise"``.
        UnboundedError: an element has no minimum, and ``on_failure="raise"``.
        NotConvergedError: an element's answer is not accurate, and ``on_failure="raise"``.
    """
    if on_failure == "nan" or not bool(info.status.any()):
        return
    failed = torch.nonzero(info.status.reshape(-1)).reshape(-1).tolist()
    codes = info.status.reshape(-1)[failed].tolist()
    status = Status(max(codes, key=lambda code: (code in ERRORS, code)))
    message = (
        f"backend={info.backend!r} ({info.form}, {info.method}) failed for batch elements "
        f"{_some(failed)} of {info.status.numel()}, worst relative optimality residual "
        f"{float(info.residual.nan_to_num(nan=float('inf')).max()):.1e}. {status.message}"
    )
    if on_failure == "warn":
        warnings.warn(message, NumericalWarning, stacklevel=4)
        return
    raise ERRORS.get(status, NotConvergedError)(message, info=info, batch_indices=tuple(failed))


def _some(indices: list[int]) -> str:
    shown = ", ".join(map(str, indices[:8]))
    return f"[{shown}{', …' if len(indices) > 8 else ''}]"
