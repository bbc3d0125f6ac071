"""Least squares of minimum norm as an ``nn.Module``."""

from __future__ import annotations

from torch import Tensor

from convexdistill.layers.least_squares import least_squares
from convexdistill.layers.modules.base import LayerModule
from convexdistill.layers.problems.least_squares import LeastSquaresProblem
from convexdistill.layers.solution import LinearFit


class LeastSquares(LayerModule):
    """Least squares as a module; see :func:`convexdistill.layers.least_squares` for every option.

    Args:
        intercept: as in ``least_squares``: ``"none"`` or ``"free"``.
        rcond: as in ``least_squares``.
        backend: as in ``least_squares``.
        method: as in ``least_squares``.
        on_failure: as in ``least_squares``.

    Raises:
        BackendUnavailableError: the backend cannot run here.
        UnknownNameError: an option is no known word.
        UnsupportedError: the backend has no solver for least squares.

    Example:
        >>> import torch
        >>> from convexdistill.layers import LeastSquares
        >>> fit = LeastSquares(intercept="free")(torch.randn(20, 5), torch.randn(20, 3))
        >>> fit.weight.shape, fit.intercept.shape
        (torch.Size([5, 3]), torch.Size([3]))
    """

    def __init__(
        self,
        *,
        intercept: str = "none",
        rcond: float | None = None,
        backend: str = "auto",
        method: str = "auto",
        on_failure: str = "raise",
    ) -> None:
        super().__init__(
            LeastSquaresProblem,
            intercept=intercept,
            rcond=rcond,
            backend=backend,
            method=method,
            on_failure=on_failure,
        )

    def forward(self, features: Tensor, labels: Tensor, *, sample_weight: Tensor | None = None) -> LinearFit:
        """Fit.

        Args:
            features: (*B, n, d).
            labels: (*B, n, C) or (*B, n).
            sample_weight: (*B, n).
        """
        return least_squares(features, labels, sample_weight=sample_weight, **self.options())
