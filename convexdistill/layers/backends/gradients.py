"""Check the linear solves of backward passes like those of forward passes.

The gradient of a solve is itself the answer U of a system S U = V̄ with V̄ the incoming cotangent. Its
normwise backward error ``‖SU − V̄‖ / (‖S‖ ‖U‖ + ‖V̄‖)`` (Rigal & Gaches 1967) says whether U solves the system
that was meant; nothing else in a backward pass can.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from convexdistill.errors import NotConvergedError, NumericalWarning

ACCEPT_BELOW = 1e-8


def checked(
    solution: Tensor, remainder: Tensor, cotangent: Tensor, size: Callable[[], Tensor], on_failure: str
) -> Tensor:
    """Return the solution where it is accurate; else raise, warn or fill with NaN.

    Args:
        solution: U, (*B, k, c).
        remainder: SU − V̄, (*B, k, c).
        cotangent: V̄, (*B, k, c).
        size: () -> (*B,), a bound of ‖S‖; asked only where the remainder is not small beside V̄.
        on_failure: ``"raise"``, ``"warn"``, or ``"nan"``, which does not wait for the device.

    Raises:
        NotConvergedError: an element is not accurate, and ``on_failure="raise"``.
    """
    with torch.no_grad():
        error, target = _norm(remainder), _norm(cotangent)
        if on_failure != "nan" and bool((error <= ACCEPT_BELOW * target).all()):
            return solution
        relative = error / (size() * _norm(solution) + target).clamp_min(torch.finfo(error.dtype).tiny)
        wrong = ~(relative <= ACCEPT_BELOW)  # true for NaN
    if on_failure == "nan":
        return solution.masked_fill(wrong[..., None, None], float("nan"))
    if not bool(wrong.any()) or not bool(cotangent.isfinite().all()):  # NaN that came in goes out as NaN
        return solution
    failed = torch.nonzero(wrong.reshape(-1)).reshape(-1).tolist()
    message = (
        f"the gradient of the solve is not accurate for {len(failed)} of {wrong.numel()} systems, "
        f"{failed[:8]}: backward error {float(relative.reshape(-1)[failed].max()):.1e}. "
        "Raise lam, or use method='svd'."
    )
    if on_failure == "warn":
        warnings.warn(message, NumericalWarning, stacklevel=2)
        return solution
    raise NotConvergedError(message, batch_indices=tuple(failed))


def _norm(values: Tensor) -> Tensor:
    """Frobenius norm of the last two dimensions."""
    norm: Tensor = torch.linalg.vector_norm(values.detach(), dim=(-2, -1))
    return norm
