r"""Ridge regression whose weights must keep to bounds or to the simplex: the function ``constrained_ridge``.

The objective ``Σ_i s_i ‖x_i W − y_i‖² + Σ_jc λ_c p_j (W_jc − W₀_jc)²`` is separable over the columns w_c of W.
Half of it is, but for a constant, ``½ wᵀP_c w + q_cᵀw`` with

    P_c = XᵀSX + λ_c diag(p)        q_c = −XᵀS y_c − λ_c p∘w₀_c

Bounds keep the columns apart: C quadratic programs of d variables. The simplex ties them together row by row: one
program of dC variables.
"""

from __future__ import annotations

import torch
from torch import Tensor

from convexdistill.errors import ParameterRangeError, ShapeError
from convexdistill.layers import pipeline
from convexdistill.layers.arguments import Argument, Rule, Values
from convexdistill.layers.backends.base import pick
from convexdistill.layers.problems.quadratic import QuadraticProblem
from convexdistill.layers.reduction import INTERCEPTS, Recover, reduce
from convexdistill.layers.ridge import intercept_rules, ridge_arguments
from convexdistill.layers.solution import LinearFit

CONSTRAINTS = ("nonnegative", "simplex", "box")


def constrained_ridge(
    features: Tensor,
    labels: Tensor,
    lam: float | Tensor = 1.0,
    *,
    constraint: str = "nonnegative",
    lower: float | Tensor | None = None,
    upper: float | Tensor | None = None,
    sample_weight: Tensor | None = None,
    intercept: str = "none",
    prior: Tensor | None = None,
    penalty: Tensor | None = None,
    backend: str = "auto",
    method: str = "auto",
    on_failure: str = "raise",
) -> LinearFit:
    r"""Fit ridge regression under constraints on the weight; differentiable in every tensor that went in.

    Minimises ``Σ_i s_i ‖x_i W + b − y_i‖² + Σ_c λ_c ‖W_c‖²``, as :func:`~convexdistill.layers.ridge` does, over
    the W that meet the constraint; an intercept is free of it. ``constraint="nonnegative"`` is scikit-learn's
    ``Ridge(positive=True)``, and with ``lam=0`` the problem of Lawson & Hanson (1974, chapter 23).

    The answer has kinks where an entry of W just reaches its bound; there the derivative is that of the side on
    which it stays, everywhere else all derivatives are exact. The solve runs in float64, the answer has the dtype
    and device of the inputs.

    Args:
        features: X, (*B, n, d).
        labels: Y, (*B, n, C); or vectors (*B, n), exactly when ``labels.ndim == features.ndim - 1``.
        lam: λ ≥ 0: a number, or a tensor () or broadcastable to (*B, C). May require grad.
        constraint: ``"nonnegative"``, W ≥ 0; ``"simplex"``, W ≥ 0 and every row of W (one a feature) sums to 1
            over the C columns; or ``"box"``, only what ``lower`` and ``upper`` say.
        lower: a number, or a tensor () or broadcastable to (*B, d, C), for vector labels to (*B, d): W ≥ lower, in
            addition to the constraint. May hold −inf. Default: none.
        upper: likewise W ≤ upper; may hold +inf.
        sample_weight: s ≥ 0, (*B, n). Default: all 1.
        intercept: ``"none"``; ``"free"``, unpenalised; or ``"penalized"``, the weight of a column of ones.
        prior: W₀, (*B, d, C): the penalty becomes ``Σ_c λ_c ‖W_c − W₀_c‖²``. Default: 0.
        penalty: p > 0, (*B, d), one factor a feature, as in ``ridge``. Default: 1.
        backend: ``"auto"`` (torch), ``"torch"``, or a registered name.
        method: ``"auto"``, or one the backend knows.
        on_failure: ``"raise"``, ``"warn"`` or ``"nan"``, as in ``ridge``.

    Returns:
        A :class:`LinearFit`: ``weight`` (*B, d, C), or (*B, d) for vector labels; ``intercept`` (*B, C),
        (*B,) or None; ``info``.

    Raises:
        DtypeError: an argument is not a floating-point tensor, or dtypes differ.
        DeviceError: tensors are on different devices.
        ShapeError: shapes do not fit together.
        NonFiniteInputError: a value is NaN, or infinite where that has no meaning.
        ParameterRangeError: ``lam`` or a sample weight is negative, a penalty is not positive, a lower bound
            exceeds its upper bound, or ``constraint="box"`` comes without bounds.
        UnknownNameError: ``constraint``, ``intercept``, ``backend``, ``method`` or ``on_failure`` is no known
            word.
        InfeasibleError: no row of a simplex keeps to the bounds.
        SingularSystemError: the answer is not unique (``lam=0`` and dependent features).
        NotConvergedError: the optimality residual is above 1e-8.

    Example:
        >>> import torch
        >>> from convexdistill.layers import constrained_ridge
        >>> X = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> Y = torch.tensor([[1.0], [-1.0], [1.0]], requires_grad=True)
        >>> fit = constrained_ridge(X, Y, lam=1.0)
        >>> fit.weight.T
        tensor([[0.6667, 0.0000]], grad_fn=<PermuteBackward0>)
        >>> fit.weight.sum().backward()
        >>> [round(g, 4) for g in Y.grad.flatten().tolist()]
        [0.3333, 0.0, 0.3333]
    """
    pick("constraint", constraint, CONSTRAINTS)
    pick("intercept", intercept, INTERCEPTS)
    if constraint == "box" and lower is None and upper is None:
        raise ParameterRangeError('constraint="box" needs bounds: give lower=, upper=, or both.')
    vector_labels, arguments = ridge_arguments(features, labels, lam, sample_weight, prior, penalty)
    d, C = features.shape[-1], 1 if vector_labels else labels.shape[-1]
    arguments += [
        Argument(name, _bound(name, value, d, C, vector_labels), 2, infinite=True)
        for name, value in (("lower", lower), ("upper", upper))
    ]

    def build(v: Values) -> tuple[QuadraticProblem, Recover]:
        X, Y, lam = v["features"], v["labels"], v["lam"]
        assert X is not None
        assert Y is not None
        assert lam is not None
        plain, recover = reduce(X, Y, lam, v["sample_weight"], intercept)
        P, q, least = _objective(plain.features, plain.labels, lam, v)
        low, high = _effective(v, constraint)

        def within(V: Tensor) -> tuple[Tensor, Tensor | None]:
            W, b = recover(V)
            return _snap(W, low, high), b

        if constraint == "simplex":
            return _on_simplex(P, q, least, low, high, d, within)
        return _in_box(P, q, least, low, high, d, within)

    return pipeline.run(
        QuadraticProblem,
        arguments,
        build,
        backend=backend,
        form="auto",
        method=method,
        on_failure=on_failure,
        vector_labels=vector_labels,
        rules=intercept_rules(sample_weight, intercept) + _bound_rules(lower, upper, constraint),
    )


def _bound(
    name: str, value: float | Tensor | None, d: int, columns: int, vector_labels: bool
) -> float | Tensor | None:
    """A bound that broadcasts against (*B, d, C).

    Raises:
        ShapeError: it does not.
    """
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    shaped = value.unsqueeze(-1) if vector_labels else value
    if shaped.ndim < 2 or shaped.shape[-2] not in (1, d) or shaped.shape[-1] not in (1, columns):
        wanted = f"(*B, d) = (*B, {d})" if vector_labels else f"(*B, d, C) = (*B, {d}, {columns})"
        raise ShapeError(f"{name} has shape {tuple(value.shape)}; it must be () or broadcast to {wanted}.")
    return shaped


def _bound_rules(lower: object, upper: object, constraint: str) -> list[Rule]:
    """Bounds must leave room; where they do not, ``on_failure="nan"`` goes on without them."""

    def crossed(v: Values) -> Tensor:
        low, high = _effective(v, constraint)
        assert high is not None
        wrong = torch.eq(high, -torch.inf) if low is None else (low > high) | torch.eq(high, -torch.inf)
        return wrong.flatten(-2).any(-1)

    def nowhere(v: Values) -> Tensor:
        low = v["lower"]
        assert low is not None
        return torch.eq(low, torch.inf).flatten(-2).any(-1)

    rules = []
    if lower is not None:
        message = "lower is inf, which no weight reaches; use -inf where there is no lower bound."
        rules.append(Rule(nowhere, message, "lower", -torch.inf))
    if upper is not None:
        floor = "" if constraint == "box" else f' (constraint="{constraint}" asks for weights >= 0)'
        message = f"lower exceeds upper{floor}, so no weight lies between them; raise upper, or lower lower."
        rules.append(Rule(crossed, message, "upper", torch.inf))
    return rules


def _effective(v: Values, constraint: str) -> tuple[Tensor | None, Tensor | None]:
    """The lower and upper bounds, each (*B, d or 1, C or 1), that constraint and arguments make together."""
    low, high = v["lower"], v["upper"]
    if constraint != "box":
        X = v["features"]
        assert X is not None
        low = X.new_zeros(1, 1) if low is None else low.clamp_min(0.0)
    return low, high


def _objective(X: Tensor, Y: Tensor, lam: Tensor, v: Values) -> tuple[Tensor, Tensor, Tensor]:
    """P (*B, C or 1, d, d) and q (*B, C, d) of the module's docstring, and what λ adds to every eigenvalue of P.

    Args:
        X: design, (*B, n, d); d counts the column of ones of a penalized intercept.
        Y: (*B, n, C).
        lam: (*B, C or 1).
        v: for the weights, the penalty and the prior.
    """
    s, penalty, prior = v["sample_weight"], v["penalty"], v["prior"]
    weighted = X if s is None else s.unsqueeze(-1) * X
    d = X.shape[-1]
    p = X.new_ones(d) if penalty is None else _pad(penalty, d, 1.0)
    diagonal = lam.unsqueeze(-1) * p.unsqueeze(-2)  # (*B, C or 1, d)
    P = (weighted.mT @ X).unsqueeze(-3) + torch.diag_embed(diagonal)
    q = -(weighted.mT @ Y).mT
    if prior is not None:
        q = q - diagonal * _pad(prior.mT, d, 0.0)
    return P, q, diagonal.detach().amin(-1)


def _snap(W: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
    """W on the bounds that it misses by rounding, with its own derivative: √W must not be NaN."""
    exact = W.detach()
    if low is not None:
        exact = torch.maximum(exact, low.detach())
    if high is not None:
        exact = torch.minimum(exact, high.detach())
    return W + (exact - W.detach())


def _in_box(
    P: Tensor,
    q: Tensor,
    least: Tensor,
    low: Tensor | None,
    high: Tensor | None,
    bounded: int,
    recover: Recover,
) -> tuple[QuadraticProblem, Recover]:
    """A program for every column, with bounds on its first entries."""
    C, d = q.shape[-2:]
    eye = torch.eye(bounded, d, dtype=q.dtype, device=q.device)
    rows, bounds = _bounds(eye, low, high, bounded, C)
    problem = QuadraticProblem(P, q, rows, bounds, curvature=least)
    return problem, lambda x: recover(x.mT)


def _on_simplex(
    P: Tensor,
    q: Tensor,
    least: Tensor,
    low: Tensor | None,
    high: Tensor | None,
    bounded: int,
    recover: Recover,
) -> tuple[QuadraticProblem, Recover]:
    """One program in all columns, one after the other, with Σ_c W_jc = 1."""
    C, d = q.shape[-2:]
    columns = torch.eye(C, dtype=q.dtype, device=q.device)
    eye = torch.eye(bounded, d, dtype=q.dtype, device=q.device)
    blocks = P.expand(*P.shape[:-3], C, d, d).unsqueeze(-2) * columns[:, None, :, None]
    whole = blocks.reshape(*P.shape[:-3], 1, C * d, C * d)
    rows, bounds = _bounds(torch.kron(columns, eye), low, high, bounded, C)
    bounds = bounds.unflatten(-1, (-1, bounded)).movedim(-3, -2).flatten(-3).unsqueeze(-2)
    sums = torch.kron(torch.ones_like(columns[:1]), eye)
    problem = QuadraticProblem(
        whole,
        q.flatten(-2).unsqueeze(-2),
        torch.cat([sums, rows], -2),
        torch.cat([bounds.new_ones(*bounds.shape[:-1], bounded), bounds], -1),
        equalities=bounded,
        curvature=least.amin(-1, keepdim=True),
    )
    return problem, lambda x: recover(x.reshape(*x.shape[:-2], C, d).mT)


def _bounds(
    eye: Tensor, low: Tensor | None, high: Tensor | None, bounded: int, columns: int
) -> tuple[Tensor, Tensor]:
    """Rows −I and I, as far as there are bounds, and the bounds (*B, C, d) or (*B, C, 2d)."""
    rows, bounds = [], []
    for sign, bound in ((-1.0, low), (1.0, high)):
        if bound is not None:
            rows.append(sign * eye)
            bounds.append(sign * bound.mT.expand(*bound.shape[:-2], columns, bounded))
    if len(bounds) == 2:
        bounds = list(torch.broadcast_tensors(*bounds))
    return torch.cat(rows, -2), torch.cat(bounds, -1)


def _pad(values: Tensor, size: int, fill: float) -> Tensor:
    """Values for the column of ones, where there is one."""
    missing = size - values.shape[-1]
    return torch.nn.functional.pad(values, (0, missing), value=fill) if missing else values
