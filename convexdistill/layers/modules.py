"""The layers as ``nn.Module``: thin, without buffers that depend on the data."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from convexdistill.errors import ParameterRangeError
from convexdistill.layers.backends import select
from convexdistill.layers.backends.base import pick
from convexdistill.layers.failure import POLICIES
from convexdistill.layers.problem import RidgeProblem
from convexdistill.layers.reduction import INTERCEPTS
from convexdistill.layers.ridge import FORMS, ridge
from convexdistill.layers.solution import LinearFit


class Ridge(nn.Module):
    """Ridge regression as a module; see :func:`convexdistill.layers.ridge` for every option.

    Args:
        lam: λ ≥ 0; the starting value when it is learnt, then > 0.
        learn_lam: whether λ is a parameter, stored as ``log_lam`` so that it stays positive.
        intercept: as in ``ridge``.
        backend: as in ``ridge``.
        form: as in ``ridge``.
        method: as in ``ridge``.
        on_failure: as in ``ridge``.

    Raises:
        BackendUnavailableError: the backend cannot run here.
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

    log_lam: nn.Parameter | None

    def __init__(
        self,
        lam: float = 1.0,
        *,
        learn_lam: bool = False,
        intercept: str = "none",
        backend: str = "auto",
        form: str = "auto",
        method: str = "auto",
        on_failure: str = "raise",
    ) -> None:
        super().__init__()
        lam = float(lam)
        if not (math.isfinite(lam) and lam >= 0):
            raise ParameterRangeError(f"lam is {lam}, but lam must be finite and >= 0.")
        if learn_lam and lam == 0:
            raise ParameterRangeError(
                "lam is 0, which learn_lam=True cannot start from, since it learns log(lam); give a positive lam."
            )
        self.lam = lam
        self.learn_lam = learn_lam
        self.intercept = pick("intercept", intercept, INTERCEPTS)
        select(backend, RidgeProblem)  # refuse an unknown backend now and not at the first batch
        self.backend = backend
        self.form = pick("form", form, FORMS)
        self.method = method
        self.on_failure = pick("on_failure", on_failure, POLICIES)
        self.register_parameter("log_lam", nn.Parameter(torch.tensor(math.log(lam))) if learn_lam else None)

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
            labels: (*B, n, C) or (*B, n).
            lam: () or broadcastable to (*B, C).
            sample_weight: (*B, n).
        """
        if lam is None:
            # The parameter has a dtype of its own; the solve wants that of the features.
            dtype = getattr(features, "dtype", None)
            lam = self.lam if self.log_lam is None else self.log_lam.exp().to(dtype)
        return ridge(
            features,
            labels,
            lam,
            sample_weight=sample_weight,
            intercept=self.intercept,
            backend=self.backend,
            form=self.form,
            method=self.method,
            on_failure=self.on_failure,
        )

    def extra_repr(self) -> str:
        """The options that differ from the defaults, and λ as it is now."""
        lam = self.lam if self.log_lam is None else math.exp(self.log_lam.item())
        words = [f"lam={lam:g}"] + (["learn_lam=True"] if self.learn_lam else [])
        defaults = {
            "intercept": "none",
            "backend": "auto",
            "form": "auto",
            "method": "auto",
            "on_failure": "raise",
        }
        words += [f"{k}={getattr(self, k)!r}" for k, v in defaults.items() if getattr(self, k) != v]
        return ", ".join(words)
