"""What a layer returns: the fitted linear model, and the record of how it was found.

Both classes are registered pytrees, so that they pass through ``torch.func`` transforms and
``torch.compile``: their tensors are leaves, their words are structure.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from convexdistill.layers.status import Status


@dataclass(frozen=True, eq=False)
class SolveInfo:
    """What really ran, and how well the answer meets the optimality conditions.

    Attributes:
        backend: name of the backend that solved.
        form: ``"primal"`` (a d×d system), ``"dual"`` (n×n), or what the backend calls its own.
        method: the factorisation or solver that gave the answer, after any escalation.
        status: (*B,) int8, a :class:`Status` per batch element.
        residual: (*B,) float64, the relative optimality residual, see
            :meth:`convexdistill.layers.problems.ridge.RidgeProblem.residual`.
        condition: (*B,) float64 condition number of the system that was solved, or None where the backend
            does not know it. Exact for ``"svd"``; for ``"cholesky"`` the bound ‖S‖/λ, S the system, where
            that is below 1e4; else an estimate (within about the size of the system).
        steps: (*B,) or () number of iterations, or None for a direct solver.
    """

    backend: str
    form: str
    method: str
    status: Tensor
    residual: Tensor
    condition: Tensor | None = None
    steps: Tensor | None = None

    @property
    def ok(self) -> Tensor:
        """(*B,) bool, true where the status is ``Status.OPTIMAL``."""
        return self.status == int(Status.OPTIMAL)

    def __repr__(self) -> str:
        words = f"backend={self.backend!r}, form={self.form!r}, method={self.method!r}"
        try:
            counts = Counter(Status(code).name for code in self.status.reshape(-1).tolist())
            worst = f"{float(self.residual.max()):.1e}" if self.residual.numel() else "none"
        except RuntimeError:  # inside a transform the values cannot be read
            return f"SolveInfo({words})"
        return f"SolveInfo({words}, status={dict(counts)}, worst_residual={worst})"


@dataclass(frozen=True, eq=False)
class LinearFit:
    """A fitted linear model ``x ↦ x W + b``.

    Attributes:
        weight: (*B, d, C), or (*B, d) when the labels were vectors (*B, n).
        intercept: (*B, C), or (*B,) for vector labels, or None when none was asked for.
        info: the :class:`SolveInfo` of the solve.
        vector_labels: whether the labels were vectors.

    Example:
        >>> import torch
        >>> from convexdistill.layers import ridge
        >>> fit = ridge(torch.eye(3), torch.eye(3), lam=1.0)
        >>> fit.predict(torch.ones(2, 3)).shape
        torch.Size([2, 3])
    """

    weight: Tensor
    intercept: Tensor | None
    info: SolveInfo
    vector_labels: bool = False

    def predict(self, query: Tensor) -> Tensor:
        """Return ``query @ W + b``.

        Args:
            query: (*B, m, d); leading dimensions broadcast against those of the fit.

        Returns:
            (*B, m, C), or (*B, m) when the labels were vectors.
        """
        if self.vector_labels:
            scores = (query @ self.weight.unsqueeze(-1)).squeeze(-1)
            return scores if self.intercept is None else scores + self.intercept.unsqueeze(-1)
        scores = query @ self.weight
        return scores if self.intercept is None else scores + self.intercept.unsqueeze(-2)


def _flatten_info(info: SolveInfo) -> tuple[list[Any], Any]:
    # None would count as a leaf, and transforms take tensors only.
    optional = [info.condition, info.steps]
    tensors = [info.status, info.residual, *(t for t in optional if t is not None)]
    return tensors, (info.backend, info.form, info.method, *(t is not None for t in optional))


def _unflatten_info(values: Any, words: Any) -> SolveInfo:
    backend, form, method, has_condition, has_steps = words
    status, residual, *rest = values
    optional = iter(rest)
    condition = next(optional) if has_condition else None
    steps = next(optional) if has_steps else None
    return SolveInfo(backend, form, method, status, residual, condition, steps)


def _flatten_fit(fit: LinearFit) -> tuple[list[Any], Any]:
    intercept = [] if fit.intercept is None else [fit.intercept]
    return [fit.weight, fit.info, *intercept], fit.vector_labels


def _unflatten_fit(values: Any, vector_labels: Any) -> LinearFit:
    weight, info, *intercept = values
    return LinearFit(weight, intercept[0] if intercept else None, info, vector_labels)


pytree.register_pytree_node(
    SolveInfo,
    _flatten_info,
    _unflatten_info,
    serialized_type_name="convexdistill.layers.SolveInfo",
)
pytree.register_pytree_node(
    LinearFit,
    _flatten_fit,
    _unflatten_fit,
    serialized_type_name="convexdistill.layers.LinearFit",
)
torch.serialization.add_safe_globals([SolveInfo, LinearFit])
