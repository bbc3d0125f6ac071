"""What becomes of batch elements that could not be solved: raise, warn, or NaN.

``Status`` is worked out for every element of every backend's answer, from the relative optimality
residual and not from what a solver says of itself.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from convexdistill.errors import NotConvergedError, NumericalWarning, SingularSystemError
from convexdistill.layers.solution import SolveInfo
from convexdistill.layers.status import Status

POLICIES = ("raise", "warn", "nan")

# The accuracy an answer promises, of any backend: relative optimality residual at most this.
ACCEPT_BELOW = 1e-8


def judge(residual: Tensor, singular: Tensor | None, nonfinite: Tensor, invalid: Tensor) -> Tensor:
    """(*B,) int8 of :class:`Status`; the cause nearest to the user's input wins."""
    status = torch.full_like(residual, int(Status.OPTIMAL), dtype=torch.int8)
    accurate = residual <= ACCEPT_BELOW  # false for NaN
    status = torch.where(accurate, status, int(Status.INACCURATE))
    if singular is not None:
        status = torch.where(singular, int(Status.SINGULAR), status)
    status = torch.where(invalid, int(Status.INVALID_INPUT), status)
    return torch.where(nonfinite, int(Status.NONFINITE_INPUT), status).to(torch.int8)


def enforce(info: SolveInfo, on_failure: str) -> None:
    """Raise or warn if an element failed, as ``on_failure`` says; ``"nan"`` does nothing here.

    Raises:
        SingularSystemError: an element's system is singular, and ``on_failure="raise"``.
        NotConvergedError: an element's answer is not accurate, and ``on_failure="raise"``.
    """
    if on_failure == "nan":
        return
    failed = torch.nonzero(info.status.reshape(-1)).reshape(-1).tolist()
    if not failed:
        return
    codes = info.status.reshape(-1)[failed].tolist()
    status = Status(max(codes, key=lambda code: (code == int(Status.SINGULAR), code)))
    message = (
        f"backend={info.backend!r} ({info.form}, {info.method}) failed for batch elements "
        f"{_some(failed)} of {info.status.numel()}, worst relative optimality residual "
        f"{float(info.residual.nan_to_num(nan=float('inf')).max()):.1e}. {status.message}"
    )
    if on_failure == "warn":
        warnings.warn(message, NumericalWarning, stacklevel=3)
        return
    kind = SingularSystemError if status is Status.SINGULAR else NotConvergedError
    raise kind(message, info=info, batch_indices=tuple(failed))


def _some(indices: list[int]) -> str:
    shown = ", ".join(map(str, indices[:8]))
    return f"[{shown}{', …' if len(indices) > 8 else ''}]"
