"""Ridge regression that chooses its own λ, as an ``nn.Module``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from convexdistill.layers.backends.base import pick
from convexdistill.layers.modules.base import LayerModule
from convexdistill.layers.problems.ridge import RidgeProblem
from convexdistill.layers.ridge import ridge
from convexdistill.layers.selection import CRITERIA, check_grid, select_lam
from convexdistill.layers.solution import LinearFit
from convexdistill.layers.status import Status


class RidgeCV(LayerModule):
    """Ridge regression with λ from a grid, by leave-one-out or generalised cross-validation.

    λ is chosen anew for every fit and every batch element; gradients flow through the fit at that λ, not through
    the choice. To learn λ by descent take ``Ridge(learn_lam=True)``; to choose it once for many fits,
    :func:`~convexdistill.layers.select_lam`.

    Args:
        lams: the grid, numbers > 0.
        criterion: ``"loo"`` or ``"gcv"``.
        per_target: whether each column of the labels has a λ of its own.
        intercept: as in :func:`convexdistill.layers.ridge`.
        backend: as in ``ridge``, of the fit; λ is chosen by the closed form of the scores, in PyTorch.
        form: as in ``ridge``.
        method: as in ``ridge``.
        on_failure: as in ``ridge``, of the choice and of the fit. With ``"nan"``, an element for which no λ of the
            grid has a score is NaN and reported as singular.

    Raises:
        BackendUnavailableError: the backend cannot run here.
        ParameterRangeError: the grid is empty or holds a number that is not positive and finite.
        UnknownNameError: an option is no known word.

    Example:
        >>> import torch
        >>> from convexdistill.layers import RidgeCV
        >>> layer = RidgeCV([0.01, 0.1, 1.0, 10.0], intercept="free")
        >>> layer(torch.randn(20, 5), torch.randn(20, 3)).weight.shape
        torch.Size([5, 3])
    """

    intercept: str
    on_failure: str

    def __init__(
        self,
        lams: Sequence[float] | Tensor,
        criterion: str = "loo",
        *,
        per_target: bool = False,
        intercept: str = "none",
        backend: str = "auto",
        form: str = "auto",
        method: str = "auto",
        on_failure: str = "raise",
    ) -> None:
        super().__init__(
            RidgeProblem, intercept=intercept, backend=backend, form=form, method=method, on_failure=on_failure
        )
        self.lams = tuple(check_grid(lams).tolist())
        self.criterion = pick("criterion", criterion, CRITERIA)
        self.per_target = per_target

    def forward(self, features: Tensor, labels: Tensor, *, sample_weight: Tensor | None = None) -> LinearFit:
        """Choose λ, and fit.

        Args:
            features: (*B, n, d).
            labels: (*B, n, C) or (*B, n).
            sample_weight: (*B, n), ≥ 0.
        """
        chosen = select_lam(
            features,
            labels,
            self.lams,
            criterion=self.criterion,
            per_target=self.per_target,
            sample_weight=sample_weight,
            intercept=self.intercept,
            on_failure=self.on_failure,
        )
        fit = ridge(features, labels, chosen.lam, sample_weight=sample_weight, **self.options())
        if self.on_failure != "nan":
            return fit
        # Where no λ has a score there is none to fit with, though the inputs are in order.
        undetermined = chosen.score.isinf().any(-1)
        status = fit.info.status.masked_fill(undetermined, int(Status.SINGULAR))
        return replace(fit, info=replace(fit.info, status=status))

    def extra_repr(self) -> str:
        """The grid, and the options that differ from the defaults."""
        words = [f"lams={list(self.lams)}", f"criterion={self.criterion!r}"]
        words += ["per_target=True"] if self.per_target else []
        return ", ".join(filter(None, [*words, super().extra_repr()]))
