r"""Ridge regression with constraints on the weight: ``constrained_ridge``.

Half the objective of column c, with G = DᵀSD, D the features with a column of ones where there is an intercept, and
Π = diag(p), is the quadratic program ``½ wᵀ(G + λ_cΠ)w − (DᵀSy_c + λ_cΠw₀)ᵀw``. Bounds leave the columns apart: one
program of d unknowns a column. The simplex ties those of a feature together: one program of dC unknowns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from convexdistill.errors import ParameterRangeError, ShapeError
from convexdistill.layers import pipeline
from convexdistill.layers.arguments import Argument, Rule, Values
from convexdistill.layers.backends.base import pick
from convexdistill.layers.problem import broadcast_shapes
from convexdistill.layers.quadratic import QuadraticProblem, kron_identity
from convexdistill.layers.reduction import INTERCEPTS, Recover
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
    r"""Fit ridge regression whose weight must lie in a set; differentiable in every tensor that went in.

    Minimises ``Σ_i s_i ‖x_i W + b − y_i‖² + Σ_jc λ_c p_j (W_jc − W₀_jc)²`` (scikit-learn's convention, without 1/2)
    over W in the set; intercepts are free of it. The derivative is that of the optimality conditions with the active
    constraints held fixed (Amos & Kolter 2017, OptNet, arXiv 1703.00443, section 3): exact, to any order, where every
    active constraint has a positive multiplier; where one has a multiplier of zero the weight has a kink, and the
    derivative is that of one side.

    Args:
        features: X, (*B, n, d).
        labels: Y, (*B, n, C); or vectors (*B, n).
        lam: λ ≥ 0, a number, or a tensor () or broadcastable to (*B, C).
        constraint: ``"nonnegative"``: W ≥ 0. ``"simplex"``: every row of W is a distribution over the columns,
            W_jc ≥ 0 and Σ_c W_jc = 1. ``"box"``: lower ≤ W ≤ upper.
        lower: for ``"box"``: a number, or a tensor broadcastable to (*B, d, C), or to (*B, d) for vector labels;
            −inf where there is no bound. Default: none.
        upper: likewise, with +inf.
        sample_weight: s ≥ 0, (*B, n). Default: all 1.
        intercept: ``"none"``, ``"free"`` or ``"penalized"``, as in :func:`~convexdistill.layers.ridge`.
        prior: W₀, (*B, d, C), which need not lie in the set. Default: 0.
        penalty: p > 0, (*B, d). Default: 1.
        backend: ``"auto"``, ``"torch"`` (an interior-point method, and a linear system of the active constraints),
            or a registered name.
        method: ``"auto"``, or one the backend knows.
        on_failure: as in :func:`~convexdistill.layers.ridge`.

    Returns:
        A :class:`LinearFit`, as of :func:`~convexdistill.layers.ridge`. Weights on a bound lie on it to rounding.

    Raises:
        DtypeError: an argument is not a floating-point tensor, or dtypes differ.
        DeviceError: tensors are on different devices.
        ShapeError: shapes do not fit together, or a simplex would have one column.
        NonFiniteInputError: a value is NaN or infinite (bounds may be infinite).
        ParameterRangeError: a number has the wrong sign, bounds leave nothing between them, or bounds came without
            ``constraint="box"``.
        UnknownNameError: a word is not known.
        SingularSystemError: the answer is not unique (``lam=0`` and dependent features).
        NotConvergedError: the optimality residual is above 1e-8.
        UnsupportedError: the backend cannot do what was asked.

    Example:
        >>> import torch
        >>> from convexdistill.layers import constrained_ridge
        >>> X = torch.eye(2)
        >>> constrained_ridge(X, torch.tensor([[4.0], [-4.0]])).weight.T
        tensor([[2., 0.]])
        >>> constrained_ridge(X, torch.tensor([[0.6, 0.1], [9.0, 0.0]]), lam=0.0, constraint="simplex").weight
        tensor([[0.7500, 0.2500],
                [1.0000, 0.0000]])
    """
    pick("constraint", constraint, CONSTRAINTS)
    pick("intercept", intercept, INTERCEPTS)
    vector_labels, arguments = ridge_arguments(features, labels, lam, sample_weight, prior, penalty)
    shape = features.shape[-1], 1 if vector_labels else labels.shape[-1]
    if constraint == "simplex" and shape[1] < 2:
        raise ShapeError('labels has one column; constraint="simplex" needs two or more, to share a sum of 1.')
    rules = intercept_rules(sample_weight, intercept)
    if constraint == "box":
        arguments += [_bound("lower", lower, shape, vector_labels), _bound("upper", upper, shape, vector_labels)]
        rules.append(Rule(_empty, f"lower {_EMPTY}", "lower", -float("inf")))
    elif lower is not None or upper is not None:
        name = "upper" if lower is None else "lower"
        raise ParameterRangeError(
            f'{name} was given with constraint={constraint!r}; bounds need constraint="box".'
        )

    def build(v: Values) -> tuple[QuadraticProblem, Recover]:
        P, q = _objective(v, intercept)
        if constraint == "simplex":
            return _simplex(P, q, intercept)
        low = P.new_zeros(1, 1) if constraint == "nonnegative" else v["lower"]
        return _box(P, q, low, v.get("upper"), shape[0], intercept)

    return pipeline.run(
        QuadraticProblem,
        arguments,
        build,
        backend=backend,
        form="auto",
        method=method,
        on_failure=on_failure,
        vector_labels=vector_labels,
        rules=rules,
    )


_EMPTY = (
    "lies above upper, or is +inf, or upper is -inf, for some weight, so that no value is allowed; "
    "every weight needs lower <= upper."
)


def _bound(name: str, value: float | Tensor | None, shape: tuple[int, int], vector_labels: bool) -> Argument:
    """The argument for a bound.

    Raises:
        ShapeError: it does not broadcast to the weight.
    """
    if isinstance(value, Tensor):
        if vector_labels and value.ndim:
            value = value.unsqueeze(-1)
        core = tuple(value.shape[-2:])
        if any(have not in (1, want) for have, want in zip(core[::-1], shape[::-1], strict=False)):
            raise ShapeError(
                f"{name} has shape {tuple(value.shape)}; it must be broadcastable to the weight, "
                f"(*B, d, C) = (*B, {shape[0]}, {shape[1]})."
            )
    return Argument(name, value, 2, infinite=True)


def _empty(values: Values) -> Tensor:
    lower, upper = values["lower"], values["upper"]
    broken = torch.zeros((), dtype=torch.bool)
    if lower is not None:
        broken = (lower == float("inf")).flatten(-2).any(-1)
    if upper is not None:
        broken = broken.to(upper.device) | (upper == -float("inf")).flatten(-2).any(-1)
    if lower is not None and upper is not None:
        broken = broken | (lower > upper).flatten(-2).any(-1)
    return broken


def _objective(v: Values, intercept: str) -> tuple[Tensor, Tensor]:
    """P, (*B, C or 1, k, k), and q, (*B, C, k), of the programs of the columns."""
    X, Y, lam, s, prior, p = (v[k] for k in ("features", "labels", "lam", "sample_weight", "prior", "penalty"))
    assert X is not None
    assert Y is not None
    assert lam is not None
    d = X.shape[-1]
    factor = X.new_ones(d) if p is None else p
    if intercept != "none":
        X = torch.cat([X, X.new_ones(*X.shape[:-1], 1)], -1)
        own = factor.new_full((*factor.shape[:-1], 1), 1.0 if intercept == "penalized" else 0.0)
        factor = torch.cat([factor, own], -1)
    weighted = X if s is None else s.unsqueeze(-1) * X
    penalties = lam.unsqueeze(-1) * factor.unsqueeze(-2)  # (*B, C or 1, k)
    P = (X.mT @ weighted).unsqueeze(-3) + torch.diag_embed(penalties)
    q = -(Y.mT @ weighted)
    if prior is not None:
        if X.shape[-1] > d:
            prior = torch.cat([prior, prior.new_zeros(*prior.shape[:-2], 1, prior.shape[-1])], -2)
        q = q - penalties * prior.mT
    return P, q


def _box(
    P: Tensor, q: Tensor, lower: Tensor | None, upper: Tensor | None, d: int, intercept: str
) -> tuple[QuadraticProblem, Recover]:
    """One program a column: −w ≤ −lower, then w ≤ upper."""
    C, k = q.shape[-2:]
    eye = torch.eye(d, k, dtype=q.dtype, device=q.device)
    rows, bounds = [], []
    for sign, bound in ((-1.0, lower), (1.0, upper)):
        if bound is not None:
            rows.append(sign * eye)
            bounds.append(sign * bound.expand(*bound.shape[:-2], d, C).mT)
    if not rows:
        rows, bounds = [eye[:0]], [q.new_zeros(C, 0)]
    batch = broadcast_shapes(*(b.shape[:-2] for b in bounds))
    b = torch.cat([bound.expand(*batch, *bound.shape[-2:]) for bound in bounds], -1)

    def recover(answer: Tensor) -> tuple[Tensor, Tensor | None]:
        return split(answer.mT, intercept)

    return QuadraticProblem(P, q, torch.cat(rows), b), recover


def _simplex(P: Tensor, q: Tensor, intercept: str) -> tuple[QuadraticProblem, Recover]:
    """One program for all columns: unknown jC + c is W_jc. First Σ_c W_jc = 1, then −W ≤ 0."""
    C, k = q.shape[-2:]
    d = k - (intercept != "none")
    P = P.expand(*P.shape[:-3], C, k, k)
    joint = torch.diag_embed(P.movedim(-3, -1), dim1=-3, dim2=-1)  # (*B, k, C, k, C)
    joint = joint.reshape(*P.shape[:-3], 1, k * C, k * C)
    eye = torch.eye(d, k, dtype=q.dtype, device=q.device)
    sums = eye.repeat_interleave(C, -1)
    rows = torch.cat([sums, -kron_identity(eye, C)])
    bounds = torch.cat([q.new_ones(d), q.new_zeros(d * C)])

    def recover(answer: Tensor) -> tuple[Tensor, Tensor | None]:
        return split(answer.reshape(*answer.shape[:-2], k, C), intercept)

    linear = q.mT.reshape(*q.shape[:-2], 1, k * C)
    return QuadraticProblem(joint, linear, rows, bounds, equalities=d), recover


def split(V: Tensor, intercept: str) -> tuple[Tensor, Tensor | None]:
    """Weight and intercept, which is the last row where there is one."""
    return (V, None) if intercept == "none" else (V[..., :-1, :], V[..., -1, :])
