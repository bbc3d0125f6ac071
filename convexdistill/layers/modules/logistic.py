"""Multinomial logistic regression as an ``nn.Module``."""

from __future__ import annotations

from torch import Tensor

from convexdistill.layers.logistic import logistic_regression
from convexdistill.layers.modules.base import RegularisedModule
from convexdistill.layers.problems.logistic import LogisticProblem
from convexdistill.layers.solution import LinearFit


class LogisticRegression(RegularisedModule):
    """Logistic regression on soft labels; see :func:`convexdistill.layers.logistic_regression` for every option.

    Args:
        lam: λ ≥ 0, scikit-learn's 1/C, a number or a tensor (C,), one for each column; the starting value when
            it is learnt, then > 0.
        learn_lam: whether λ is a parameter, stored as ``log_lam`` (of the shape of ``lam``) so that it stays
            positive; ``lam`` is then read-only.
        intercept: as in ``logistic_regression``.
        backend: as in ``logistic_regression``.
        form: as in ``logistic_regression``.
        method: as in ``logistic_regression``.
        on_failure: as in ``logistic_regression``.

    Raises:
        BackendUnavailableError: the backend cannot run here.
        DtypeError: ``lam`` is neither a number nor a floating-point tensor.
        ParameterRangeError: ``lam`` is negative or not finite, or zero with ``learn_lam=True``.
        UnknownNameError: an option is no known word.

    Example:
        >>> import torch
        >>> from convexdistill.layers import LogisticRegression
        >>> layer = LogisticRegression(lam=0.5, intercept="free")
        >>> fit = layer(torch.randn(20, 5), torch.randn(20, 3).softmax(-1))
        >>> fit.predict(torch.randn(4, 5)).softmax(-1).shape
        torch.Size([4, 3])
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
            LogisticProblem,
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
    ) -> LinearFit:
        """Fit; a ``lam`` given here takes the place of the module's own.

        Args:
            features: (*B, n, d).
            labels: (*B, n, C) soft labels, or (*B, n) probabilities of the second of two classes.
            lam: () or broadcastable to (*B, C).
            sample_weight: (*B, n).
        """
        lam = self.current_lam(lam)
        return logistic_regression(features, labels, lam, sample_weight=sample_weight, **self.options())
