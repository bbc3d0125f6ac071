"""Ridge regression under constraints as an ``nn.Module``."""

from __future__ import annotations

from torch import Tensor

from convexdistill.layers.backends.base import pick
from convexdistill.layers.constrained import CONSTRAINTS, constrained_ridge
from convexdistill.layers.modules.base import RegularisedModule
from convexdistill.layers.problems.quadratic import QuadraticProblem
from convexdistill.layers.solution import LinearFit


class ConstrainedRidge(RegularisedModule):
    """Constrained ridge as a module; see :func:`convexdistill.layers.constrained_ridge` for every option.

    Args:
        lam: λ ≥ 0, a number or a tensor (C,), one for each column; the starting value when it is
            learnt, then > 0.
        learn_lam: whether λ is a parameter, stored as ``log_lam`` (of the shape of ``lam``) so that it stays
            positive; ``lam`` is then read-only.
        constraint: as in ``constrained_ridge``; bounds go to ``forward``.
        intercept: as in ``constrained_ridge``.
        backend: as in ``constrained_ridge``.
        method: as in ``constrained_ridge``.
        on_failure: as in ``constrained_ridge``.

    Raises:
        BackendUnavailableError: the backend cannot run here.
        DtypeError: ``lam`` is neither a number nor a floating-point tensor.
        ParameterRangeError: ``lam`` is negative or not finite, or zero with ``learn_lam=True``.
        UnknownNameError: an option is no known word.

    Example:
        >>> import torch
        >>> from convexdistill.layers import ConstrainedRidge
        >>> fit = ConstrainedRidge(lam=0.5)(torch.randn(20, 5), torch.randn(20, 3))
        >>> bool((fit.weight >= 0).all())
        True
    """

    def __init__(
        self,
        lam: float | Tensor = 1.0,
        *,
        learn_lam: bool = False,
        constraint: str = "nonnegative",
        intercept: str = "none",
        backend: str = "auto",
        method: str = "auto",
        on_failure: str = "raise",
    ) -> None:
        pick("constraint", constraint, CONSTRAINTS)
        super().__init__(
            QuadraticProblem,
            lam,
            learn_lam,
            constraint=constraint,
            intercept=intercept,
            backend=backend,
            method=method,
            on_failure=on_failure,
        )

    def forward(
        self,
        features: Tensor,
        labels: Tensor,
        *,
        lam: float | Tensor | None = None,
        lower: float | Tensor | None = None,
        upper: float | Tensor | None = None,
        sample_weight: Tensor | None = None,
        prior: Tensor | None = None,
        penalty: Tensor | None = None,
    ) -> LinearFit:
        """Fit; a ``lam`` given here takes the place of the module's own.

        Args:
            features: (*B, n, d).
            labels: (*B, n, C) or (*B, n).
            lam: () or broadcastable to (*B, C).
            lower: bound of the weight, broadcastable to (*B, d, C).
            upper: likewise.
            sample_weight: (*B, n).
            prior: (*B, d, C), what the weight is drawn to.
            penalty: (*B, d), one factor a feature.
        """
        return constrained_ridge(
            features,
            labels,
            self.current_lam(lam),
            lower=lower,
            upper=upper,
            sample_weight=sample_weight,
            prior=prior,
            penalty=penalty,
            **self.options(),
        )
