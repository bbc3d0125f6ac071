"""Ridge regression from sums over the examples: a stream of any length, in memory that does not grow with it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from convexdistill.errors import ParameterRangeError, ShapeError
from convexdistill.layers import arguments as args
from convexdistill.layers import failure
from convexdistill.layers.backends.base import pick
from convexdistill.layers.kernel_ridge import kernel_ridge
from convexdistill.layers.reduction import INTERCEPTS
from convexdistill.layers.solution import LinearFit


def ridge_from_gram(
    gram: Tensor,
    cross: Tensor,
    lam: float | Tensor = 1.0,
    *,
    backend: str = "auto",
    method: str = "auto",
    on_failure: str = "raise",
) -> LinearFit:
    """Fit ridge regression whose data are known only by G = XᵀX and R = XᵀY; differentiable in all that went in.

    ``W = (G + λI)⁻¹R`` minimises ``‖XW − Y‖² + λ‖W‖²``. With V = (G + λI)⁻¹ ∂L/∂W: ``∂L/∂R = V``,
    ``∂L/∂G = −(VWᵀ + WVᵀ)/2``, ``∂L/∂λ = −⟨V, W⟩``. G has the square of the condition of X, so prefer
    :func:`~convexdistill.layers.ridge` where X is at hand and ill-conditioned. It is the system of
    :func:`~convexdistill.layers.kernel_ridge`, which solves it.

    Args:
        gram: G, (*B, d, d), symmetric and positive semi-definite.
        cross: R, (*B, d, C), or (*B, d) for one target.
        lam: λ ≥ 0: a number, or a tensor () or broadcastable to (*B, C). May require grad.
        backend: as in ``kernel_ridge``.
        method: as in ``kernel_ridge``.
        on_failure: ``"raise"``, ``"warn"`` or ``"nan"``, as in ``ridge``.

    Returns:
        A :class:`LinearFit` whose ``predict`` takes features (*B, m, d); ``info.form`` is ``"gram"``.

    Raises:
        InvalidInputError, SolveError: as ``kernel_ridge`` does.

    Example:
        >>> import torch
        >>> from convexdistill.layers import ridge, ridge_from_gram
        >>> X, Y = torch.randn(50, 4), torch.randn(50, 2)
        >>> fit = ridge_from_gram(X.T @ X, X.T @ Y, lam=0.5)
        >>> torch.allclose(fit.weight, ridge(X, Y, lam=0.5).weight, atol=1e-5)
        True
    """
    fit = kernel_ridge(gram, cross, lam, backend=backend, method=method, on_failure=on_failure)
    return replace(fit, info=replace(fit.info, form="gram"))


class GramAccumulator:
    """Adds up batches of examples, and fits ridge regression to all of them at any time.

    Keeps the mean of features and labels and the sums ``Σ s (x − x̄)(x − x̄)ᵀ`` and ``Σ s (x − x̄)(y − ȳ)ᵀ``, in
    float64, by the update of Chan, Golub & LeVeque 1983 ("Algorithms for computing the sample variance"), in which
    nothing cancels however far the mean is from zero. Accumulators of parts of the data merge into that of the
    whole. Memory: (d + C)·d numbers, whatever the number of examples. What requires grad stays differentiable.

    Example:
        >>> import torch
        >>> from convexdistill.layers import GramAccumulator, ridge
        >>> X, Y = torch.randn(90, 4), torch.randn(90, 2)
        >>> seen = GramAccumulator()
        >>> for x, y in zip(X.split(32), Y.split(32)):
        ...     _ = seen.update(x, y)
        >>> fit = seen.fit(lam=0.5, intercept="free")
        >>> torch.allclose(fit.weight, ridge(X, Y, 0.5, intercept="free").weight, atol=1e-5)
        True
    """

    def __init__(self) -> None:
        self.weight: Tensor | None = None  # Σ s, (*B,)
        self._mean: tuple[Tensor, Tensor] | None = None  # (*B, d), (*B, C)
        self._sums: tuple[Tensor, Tensor] | None = None  # (*B, d, d), (*B, d, C), about the mean
        self._dtype = torch.float64

    def update(self, features: Tensor, labels: Tensor, sample_weight: Tensor | None = None) -> GramAccumulator:
        """Add examples; returns itself.

        Args:
            features: X, (*B, n, d).
            labels: Y, (*B, n, C).
            sample_weight: s ≥ 0, (*B, n). Default: all 1.

        Raises:
            InvalidInputError: a shape, dtype or value is wrong, or differs from what came before.
        """
        if args.examples(features, labels):
            raise ShapeError("labels are vectors; pass labels.unsqueeze(-1) and take column 0 of the weight.")
        args.require_length("sample_weight", sample_weight, features.shape[-2])
        arguments = [
            args.Argument("features", features, 2),
            args.Argument("labels", labels, 2),
            args.Argument("sample_weight", sample_weight, 1, "nonnegative"),
        ]
        values = args.convert(arguments)
        args.check_finite(arguments)
        args.check_signs(arguments, values, ())
        X, Y, s = values["features"], values["labels"], values["sample_weight"]
        assert X is not None
        assert Y is not None
        s = torch.ones(X.shape[:-1], dtype=X.dtype, device=X.device) if s is None else s
        total = s.sum(-1)
        safe = torch.where(total > 0, total, 1.0).unsqueeze(-1)
        x, y = ((s.unsqueeze(-1) * values).sum(-2) / safe for values in (X, Y))
        D = X - x.unsqueeze(-2)
        weighted = s.unsqueeze(-1) * D
        part = GramAccumulator()
        part.weight, part._mean, part._dtype = total, (x, y), features.dtype
        part._sums = weighted.mT @ D, weighted.mT @ (Y - y.unsqueeze(-2))
        return self.merge(part)

    def merge(self, other: GramAccumulator) -> GramAccumulator:
        """Add all that another accumulator has seen; returns itself.

        Raises:
            ShapeError: it has seen other numbers of features or labels.
        """
        if other.weight is None or other._mean is None or other._sums is None:
            return self
        if self.weight is None or self._mean is None or self._sums is None:
            self.weight, self._mean, self._sums, self._dtype = other.weight, other._mean, other._sums, other._dtype
            return self
        if self._sums[1].shape[-2:] != other._sums[1].shape[-2:]:
            (d, C), (e, D) = self._sums[1].shape[-2:], other._sums[1].shape[-2:]
            raise ShapeError(f"seen so far are {d} features and {C} labels, now come {e} and {D}.")
        total = self.weight + other.weight
        share = other.weight / torch.where(total > 0, total, 1.0)
        dx, dy = (b - a for a, b in zip(self._mean, other._mean, strict=True))
        between = (self.weight * share).unsqueeze(-1) * dx
        self._sums = (
            self._sums[0] + other._sums[0] + between.unsqueeze(-1) * dx.unsqueeze(-2),
            self._sums[1] + other._sums[1] + between.unsqueeze(-1) * dy.unsqueeze(-2),
        )
        x, y = self._mean
        self._mean = x + share.unsqueeze(-1) * dx, y + share.unsqueeze(-1) * dy
        self.weight = total
        return self

    def moments(self, intercept: str = "none") -> tuple[Tensor, Tensor]:
        """G and R in float64: about the mean for ``"free"``, with a last row for the ones for ``"penalized"``.

        Raises:
            ParameterRangeError: nothing was seen yet.
            UnknownNameError: ``intercept`` is no known word.
        """
        pick("intercept", intercept, INTERCEPTS)
        if self.weight is None or self._mean is None or self._sums is None:
            raise ParameterRangeError("no examples were seen yet; call update first.")
        if intercept == "free":
            return self._sums
        (x, y), total = self._mean, self.weight[..., None]
        G = self._sums[0] + (total * x).unsqueeze(-1) * x.unsqueeze(-2)
        R = self._sums[1] + (total * x).unsqueeze(-1) * y.unsqueeze(-2)
        if intercept == "none":
            return G, R
        column = torch.cat([total * x, total], -1).unsqueeze(-1)
        G = torch.cat([torch.cat([G, column[..., :-1, :].mT], -2), column], -1)
        return G, torch.cat([R, (total * y).unsqueeze(-2)], -2)

    def fit(
        self,
        lam: float | Tensor = 1.0,
        *,
        intercept: str = "none",
        backend: str = "auto",
        method: str = "auto",
        on_failure: str = "raise",
    ) -> LinearFit:
        """Ridge regression on all examples seen so far, as :func:`~convexdistill.layers.ridge` would fit it.

        Args:
            lam: as in :func:`ridge_from_gram`, in float64 or the dtype of the examples.
            intercept: ``"none"``, ``"free"`` or ``"penalized"``.
            backend: as in :func:`ridge_from_gram`.
            method: likewise.
            on_failure: likewise.

        Returns:
            A :class:`LinearFit` in the dtype of the examples.

        Raises:
            ParameterRangeError: nothing was seen yet.
            SolveError: as :func:`ridge_from_gram` does.
        """
        G, R = self.moments(intercept)
        lam = lam.double() if isinstance(lam, Tensor) else lam
        found = ridge_from_gram(G, R, lam, backend=backend, method=method, on_failure=on_failure)
        weight, bias = found.weight, None
        if intercept == "free" and self._mean is not None:
            x, y = self._mean
            bias = (y - (x.unsqueeze(-2) @ weight).squeeze(-2)).to(self._dtype)
        elif intercept == "penalized":
            weight, bias = weight[..., :-1, :], weight[..., -1, :].to(self._dtype)
        weight = weight.to(self._dtype)
        info = failure.mark_overflow(found.info, weight, bias)
        failure.enforce(info, on_failure)
        if on_failure == "nan":
            lost = ~info.ok[..., None]
            weight = weight.masked_fill(lost[..., None], float("nan"))
            bias = None if bias is None else bias.masked_fill(lost, float("nan"))
        return LinearFit(weight, bias, info)
