"""Kernel ridge regression as an ``nn.Module``."""

from __future__ import annotations

from torch import Tensor

from convexdistill.layers.kernel_ridge import kernel_ridge
from convexdistill.layers.modules.base import RegularisedModule
from convexdistill.layers.problems.kernel import KernelRidgeProblem
from convexdistill.layers.solution import LinearFit


class KernelRidge(RegularisedModule):
    """Kernel ridge regression as a module; see :func:`convexdistill.layers.kernel_ridge` for every option.

    Args:
        lam: λ ≥ 0, a number or a tensor (C,), one for each column; the starting value when it is
            learnt, then > 0.
        learn_lam: whether λ is a parameter, stored as ``log_lam`` (of the shape of ``lam``) so that it stays
            positive; ``lam`` is then read-only.
        intercept: as in ``kernel_ridge``.
        backend: as in ``kernel_ridge``.
        method: as in ``kernel_ridge``.
        on_failure: as in ``kernel_ridge``.

    Raises:
        BackendUnavailableError: the backend cannot run here.
        DtypeError: ``lam`` is neither a number nor a floating-point tensor.
        ParameterRangeError: ``lam`` is negative or not finite, or zero with ``learn_lam=True``.
        UnknownNameError: an option is no known word.
        UnsupportedError: the backend has no solver for kernel ridge.

    Example:
        >>> import torch
        >>> from convexdistill.layers import KernelRidge
        >>> features = torch.randn(20, 5)
        >>> fit = KernelRidge(lam=0.5, intercept="free")(features @ features.T, torch.randn(20, 3))
        >>> fit.weight.shape, fit.intercept.shape
        (torch.Size([20, 3]), torch.Size([3]))
    """

    def __init__(
        self,
        lam: float | Tensor = 1.0,
        *,
        learn_lam: bool = False,
        intercept: str = "none",
        backend: str = "auto",
        method: str = "auto",
        on_failure: str = "raise",
    ) -> None:
        super().__init__(
            KernelRidgeProblem,
            lam,
            learn_lam,
            intercept=intercept,
            backend=backend,
            method=method,
            on_failure=on_failure,
        )

    def forward(
        self,
        gram: Tensor,
        labels: Tensor,
        *,
        lam: float | Tensor | None = None,
        sample_weight: Tensor | None = None,
    ) -> LinearFit:
        """Fit; a ``lam`` given here takes the place of the module's own.

        Args:
            gram: (*B, n, n).
            labels: (*B, n, C) or (*B, n).
            lam: () or broadcastable to (*B, C).
            sample_weight: (*B, n).
        """
        lam = self.current_lam(lam)
        return kernel_ridge(gram, labels, lam, sample_weight=sample_weight, **self.options())
