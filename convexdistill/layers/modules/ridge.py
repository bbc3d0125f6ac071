"""Ridge regression as an ``nn.Module``."""

from __future__ import annotations

from torch import Tensor

from convexdistill.errors import UnsupportedError
from convexdistill.layers.factorized import FactorizedRidge, factorize
from convexdistill.layers.modules.base import RegularisedModule
from convexdistill.layers.problems.ridge import RidgeProblem
from convexdistill.layers.ridge import ridge
from convexdistill.layers.solution import LinearFit


class Ridge(RegularisedModule):
    """Ridge regression as a module; see :func:`convexdistill.layers.ridge` for every option.

    Args:
        lam: λ ≥ 0, a number or a tensor (C,), one for each column; the starting value when it is
            learnt, then > 0.
        learn_lam: whether λ is a parameter, stored as ``log_lam`` (of the shape of ``lam``) so that it stays
            positive; ``lam`` is then read-only.
        intercept: as in ``ridge``.
        backend: as in ``ridge``.
        form: as in ``ridge``.
        method: as in ``ridge``.
        on_failure: as in ``ridge``.

    Raises:
        BackendUnavailableError: the backend cannot run here.
        DtypeError: ``lam`` is neither a number nor a floating-point tensor.
        ParameterRangeError: ``lam`` is negative or not finite, or zero with ``learn_lam=True``.
        UnknownNameError: an option is no known word.

    Example:
        >>> import torch
        >>> from convexdistill.layers import Ridge
        >>> layer = Ridge(lam=0.5, learn_lam=True, intercept="free")
        >>> fit = layer(torch.randn(20, 5), torch.randn(20, 3))
        >>> fit.weight.shape, fit.intercept.shape
        (torch.Size([5, 3]), torch.Size([3]))
    """

    def __init__(
        self,
        lam: float | Tensor = 1.0,
        *,
        learn_lam: bool = False,
        intercept: str = "none",
        backend: str = "auto",
        form: str = "auto",
        method: str = "auto",
        on_failure: str = "raise",
    ) -> None:
        super().__init__(
            RidgeProblem,
            lam,
            learn_lam,
            intercept=intercept,
            backend=backend,
            form=form,
            method=method,
            on_failure=on_failure,
        )

    def forward(
        self,
        features: Tensor,
        labels: Tensor,
        *,
        lam: float | Tensor | None = None,
        sample_weight: Tensor | None = None,
        prior: Tensor | None = None,
        penalty: Tensor | None = None,
    ) -> LinearFit:
        """Fit; a ``lam`` given here takes the place of the module's own.

        Args:
            features: (*B, n, d).
            labels: (*B, n, C) or (*B, n).
            lam: () or broadcastable to (*B, C).
            sample_weight: (*B, n).
            prior: (*B, d, C), what the weight is drawn to.
            penalty: (*B, d), one factor a feature.
        """
        lam = self.current_lam(lam)
        return ridge(
            features, labels, lam, sample_weight=sample_weight, prior=prior, penalty=penalty, **self.options()
        )

    def factorize(
        self,
        features: Tensor,
        *,
        lam: float | Tensor | None = None,
        sample_weight: Tensor | None = None,
    ) -> FactorizedRidge:
        """Factor the features once, to fit many label sets; see :func:`convexdistill.layers.factorize`.

        Args:
            features: (*B, n, d).
            lam: () or broadcastable to (*B, C).
            sample_weight: (*B, n).

        Raises:
            UnsupportedError: the module's backend is not ``"torch"``, which alone keeps factors.
        """
        options = self.options()
        if options.pop("backend") not in ("auto", "torch"):
            raise UnsupportedError(f"backend={self.backend!r} keeps no factors; use backend='torch'.")
        return factorize(features, self.current_lam(lam), sample_weight=sample_weight, **options)
