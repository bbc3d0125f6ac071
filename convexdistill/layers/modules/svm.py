"""Linear support vector machines as an ``nn.Module``."""

from __future__ import annotations

import torch
from torch import Tensor

from convexdistill.errors import ParameterRangeError
from convexdistill.layers.backends.base import pick
from convexdistill.layers.modules.base import RegularisedModule
from convexdistill.layers.problems.quadratic import QuadraticProblem
from convexdistill.layers.solution import LinearFit
from convexdistill.layers.svm import KINDS, linear_svm


class LinearSVM(RegularisedModule):
    """A linear SVM as a module; see :func:`convexdistill.layers.linear_svm` for every option.

    Args:
        lam: λ > 0, a number or a tensor (C,), one for each column; the starting value when it is
            learnt.
        learn_lam: whether λ is a parameter, stored as ``log_lam`` (of the shape of ``lam``) so that it stays
            positive; ``lam`` is then read-only.
        kind: as in ``linear_svm``.
        intercept: as in ``linear_svm``.
        backend: as in ``linear_svm``.
        form: as in ``linear_svm``.
        method: as in ``linear_svm``.
        on_failure: as in ``linear_svm``.

    Raises:
        BackendUnavailableError: the backend cannot run here.
        DtypeError: ``lam`` is neither a number nor a floating-point tensor.
        ParameterRangeError: ``lam`` is not positive, or not finite.
        UnknownNameError: an option is no known word.

    Example:
        >>> import torch
        >>> from convexdistill.layers import LinearSVM
        >>> layer = LinearSVM(lam=0.5, intercept="penalized")
        >>> fit = layer(torch.randn(20, 5), torch.randn(20, 3).softmax(-1))
        >>> fit.weight.shape, fit.intercept.shape
        (torch.Size([5, 3]), torch.Size([3]))
    """

    def __init__(
        self,
        lam: float | Tensor = 1.0,
        *,
        learn_lam: bool = False,
        kind: str = "crammer-singer",
        intercept: str = "none",
        backend: str = "auto",
        form: str = "auto",
        method: str = "auto",
        on_failure: str = "raise",
    ) -> None:
        pick("kind", kind, tuple(KINDS))
        super().__init__(
            QuadraticProblem,
            lam,
            learn_lam,
            kind=kind,
            intercept=intercept,
            backend=backend,
            form=form,
            method=method,
            on_failure=on_failure,
        )
        if bool((torch.as_tensor(self.lam) == 0).any()):
            raise ParameterRangeError("lam is 0, but a support vector machine needs lam > 0.")

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
            labels: (*B, n, C), or (*B, n) for ``kind="one-vs-rest"``, in [0, 1].
            lam: () or broadcastable to (*B, C).
            sample_weight: (*B, n).
        """
        lam = self.current_lam(lam)
        return linear_svm(features, labels, lam, sample_weight=sample_weight, **self.options())
