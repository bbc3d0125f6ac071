"""Factor the features once, solve ridge regression for many label sets: ``factorize``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from convexdistill.layers import arguments as args
from convexdistill.layers import checks, failure, pipeline
from convexdistill.layers.arguments import Argument, Rule, Values
from convexdistill.layers.backends import require_torch
from convexdistill.layers.backends.base import SolveOptions, inside_transform, pick
from convexdistill.layers.backends.torch_backend.ridge.factorized import factor_ridge
from convexdistill.layers.backends.torch_backend.ridge.solver import plan_ridge
from convexdistill.layers.problems.factorized import Factored, FactorizedProblem
from convexdistill.layers.problems.ridge import RidgeProblem
from convexdistill.layers.reduction import INTERCEPTS, Recover, reduce
from convexdistill.layers.ridge import intercept_rules, ridge_arguments
from convexdistill.layers.solution import LinearFit


@dataclass(frozen=True, eq=False)
class FactorizedRidge:
    """Features that have been factored: what :func:`factorize` returns.

    Attributes:
        features: X, (*B, n, d), as they were given.
        lam: λ.
        sample_weight: (*B, n) or None.
        intercept: ``"none"``, ``"free"`` or ``"penalized"``.
        on_failure: ``"raise"``, ``"warn"`` or ``"nan"``.
        factored: the factors, with the condition of the system.
    """

    features: Tensor
    lam: float | Tensor
    sample_weight: Tensor | None
    intercept: str
    on_failure: str
    factored: Factored

    def solve(self, labels: Tensor) -> LinearFit:
        """Fit one more label set, for the price of a few matrix products.

        The same answer, checks and derivatives as :func:`convexdistill.layers.ridge`. Each call has a graph of
        its own, so its backward pass does not spoil the next.

        Args:
            labels: (*L, n, C), or vectors (*B, n) exactly when they have one dimension less than the features.
                Leading dimensions broadcast against those of the features; more of them are more label sets.
                Where λ has a value for every column, C must be their number.

        Raises:
            DtypeError: labels are no floating-point tensor of the features' dtype.
            DeviceError: labels are on another device.
            ShapeError: shapes do not fit together.
            NonFiniteInputError: a value is NaN or infinite.
            SingularSystemError: the answer is not unique (``lam=0`` and dependent features).
            NotConvergedError: the optimality residual is above 1e-8, as when the features have been changed in
                place since they were factored.
        """
        vector_labels, arguments = _arguments(self.features, labels, self.lam, self.sample_weight)

        def build(v: Values) -> tuple[FactorizedProblem, Recover]:
            problem, recover = _reduced(v, self.intercept)
            X, Y, lam, s = problem.features, problem.labels, problem.lam, problem.weights
            return FactorizedProblem(X, Y, lam, s, self.factored), recover

        return pipeline.run(
            FactorizedProblem,
            arguments,
            build,
            backend="torch",
            form="auto",
            method="auto",
            on_failure=self.on_failure,
            vector_labels=vector_labels,
            rules=intercept_rules(self.sample_weight, self.intercept),
        )


def factorize(
    features: Tensor,
    lam: float | Tensor = 1.0,
    *,
    sample_weight: Tensor | None = None,
    intercept: str = "none",
    form: str = "auto",
    method: str = "auto",
    on_failure: str = "raise",
) -> FactorizedRidge:
    """Factor the system of ridge regression once, to solve it for many label sets.

    A factorisation takes ``O(n d min(n, d))``, a solve with it ``O(n d C)``. Gradients go to labels, and to
    features, λ and sample weights where they require grad.

    Args:
        features: X, (*B, n, d).
        lam: λ ≥ 0: a number, or a tensor () or broadcastable to (*B, C).
        sample_weight: s ≥ 0, (*B, n), or None for 1.
        intercept: as in :func:`convexdistill.layers.ridge`.
        form: ``"primal"`` (d×d), ``"dual"`` (n×n), or ``"auto"``, the smaller.
        method: ``"cholesky"``, ``"qr"``, ``"svd"``, or ``"auto"``: the first whose condition is good enough,
            1e10 for Cholesky.
        on_failure: as in ``ridge``.

    Returns:
        A :class:`FactorizedRidge`; its ``solve(labels)`` returns a :class:`LinearFit`.

    Raises:
        DtypeError: an argument is not a floating-point tensor, or dtypes differ.
        DeviceError: tensors are on different devices.
        ShapeError: shapes do not fit together.
        NonFiniteInputError: a value is NaN or infinite.
        ParameterRangeError: λ or a sample weight is negative.
        UnknownNameError: ``intercept``, ``form``, ``method`` or ``on_failure`` is no known word.
        UnsupportedError: inside ``use_backend`` of another backend than torch.

    Example:
        >>> import torch
        >>> from convexdistill.layers import factorize
        >>> factorized = factorize(torch.randn(50, 8), lam=0.1)
        >>> factorized.solve(torch.randn(50, 3)).weight.shape
        torch.Size([8, 3])
        >>> factorized.solve(torch.randn(20, 50, 3)).weight.shape  # twenty label sets
        torch.Size([20, 8, 3])
    """
    require_torch("factorize")
    pick("intercept", intercept, INTERCEPTS)
    pick("form", form, pipeline.FORMS)
    pick("on_failure", on_failure, failure.POLICIES)
    X = checks.require_tensor("features", features)
    C = lam.shape[-1] if isinstance(lam, Tensor) and lam.ndim else 1
    # Labels of zero stand in for those to come: the factors do not depend on them.
    _, arguments = _arguments(X, X.new_zeros(()).expand(*X.shape[:-1], C), lam, sample_weight)
    rules: list[Rule] = intercept_rules(sample_weight, intercept)
    hidden = inside_transform()
    values = args.convert(arguments)
    if hidden or on_failure == "nan":
        values, _, _ = args.sanitise(arguments, values, rules)
    else:
        args.check_finite(arguments)
        args.check_signs(arguments, values, rules)
    problem, _ = _reduced(values, intercept)
    may_look = not hidden and pipeline.may_look(on_failure, values)
    options = SolveOptions(form, method, on_failure, data_dependent=may_look)
    if not hidden:
        pipeline.announce("FactorizedProblem", "torch", lambda: plan_ridge(problem, options))
    with torch.no_grad():
        factored = factor_ridge(problem, options)
    return FactorizedRidge(X, lam, sample_weight, intercept, on_failure, factored)


def _arguments(
    features: Tensor, labels: Tensor, lam: float | Tensor, sample_weight: Tensor | None
) -> tuple[bool, list[Argument]]:
    return ridge_arguments(features, labels, lam, sample_weight, None, None)


def _reduced(v: Values, intercept: str) -> tuple[RidgeProblem, Recover]:
    X, Y, lam = v["features"], v["labels"], v["lam"]
    assert X is not None
    assert Y is not None
    assert lam is not None
    return reduce(X, Y, lam, v["sample_weight"], intercept)
