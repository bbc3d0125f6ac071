"""Multinomial logistic regression by damped Newton steps, all batch elements at once, in float64.

Every step goes to (nearly) the minimum along Newton's direction by lengths that cannot overshoot, see
``softmax.line_minimum``: the objective falls monotonically from any start, and convergence is quadratic at the end.
An element is done when a full step moves no logit of an example by more than 1e-8: logits have no unit, and what is
left after such a step is of the order of its square. (The gradient alone cannot tell: for separable data and λ = 0
it goes to zero along steps that never end.) Elements that are done keep what they have.

With fewer examples than features the *dual* form rotates first: W = QṼ with the orthonormal basis Q of the rows of
X, so that n rows are unknown and not d (the representer theorem, Kimeldorf & Wahba 1971, for any kernel; Bishop
2006, section 4.3.3 for these Newton steps).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from convexdistill.errors import UnsupportedError
from convexdistill.layers.backends import newton_factors as newton
from convexdistill.layers.backends.base import Plan, Solved, SolveOptions, pick
from convexdistill.layers.backends.implicit_logistic import minimiser
from convexdistill.layers.backends.newton_factors import Factor
from convexdistill.layers.backends.softmax import gauge_strength, hessian_apply, line_minimum, misfit
from convexdistill.layers.logistic_problem import LogisticProblem
from convexdistill.layers.status import Status

METHODS = ("auto", "newton", "newton-cg")
WHOLE_ORDER = 1024  # largest Hessian (CD) that "auto" forms
WHOLE_BYTES = 2**30  # and how much memory all of a batch may take
STEPS, STEPS_HIDDEN = 100, 16
DONE = 1e-8
ACCEPT = 1e-6
ENDLESS = 30.0  # logits further apart, without penalty and still moving: the data are separable
HOPELESS = 200.0  # and here probabilities are about to be exactly 0
CG_LIMIT = 500


@dataclass(frozen=True, eq=False)
class Descent:
    """Where the Newton steps ended.

    Attributes:
        W: (*B, D, C).
        gauge: ρ of the last step, (*B, D, 1).
        factor: that of the last step; H has hardly moved since.
        change: how far the last step moved a logit, (*B,).
        spread: the largest range of an example's logits, (*B,).
        steps: how many steps each element took, (*B,).
    """

    W: Tensor
    gauge: Tensor
    factor: Factor
    change: Tensor
    spread: Tensor
    steps: Tensor


def plan_logistic(problem: LogisticProblem, options: SolveOptions) -> Plan:
    """What :func:`solve_logistic` would run, and why."""
    pick("method", options.method, METHODS, 'with backend="torch"')
    n, d, C = problem.features.shape[-2], problem.features.shape[-1] - problem.free, problem.labels.shape[-1]
    form, why = options.form, f"form={options.form!r} was asked for"
    if form == "auto":
        form, why = ("primal", f"n={n} >= d={d}") if d <= n else ("dual", f"n={n} < d={d}")
    order = C * ((d if form == "primal" else min(n, d)) + problem.free)
    if options.method != "auto":
        return Plan(form, (options.method,), f"{why}; method={options.method!r} was asked for")
    size = 8 * order**2 * problem.batch_shape.numel()
    if not options.data_dependent or (order <= WHOLE_ORDER and size <= WHOLE_BYTES):
        return Plan(form, ("newton",), f"{why}, so a {order}×{order} Hessian")
    return Plan(form, ("newton-cg",), f"{why}; a {order}×{order} Hessian would be too large to form")


def solve_logistic(problem: LogisticProblem, options: SolveOptions) -> Solved:
    """Solve a logistic problem by Newton steps, with the Hessian or with conjugate gradients.

    Raises:
        UnsupportedError: ``method="newton-cg"`` under a transform, where values are hidden.
        NotConvergedError: in the backward pass, when a gradient is not accurate.
    """
    plan = plan_logistic(problem, options)
    whole, look = plan.methods[0] == "newton", options.data_dependent
    if not (whole or look):
        raise UnsupportedError(
            'method="newton-cg" stops by the values that it sees, which torch.func transforms and torch.compile '
            'hide; use method="newton" there.'
        )
    batch, C = problem.batch_shape, problem.labels.shape[-1]
    n, D = problem.features.shape[-2:]
    X = problem.features.expand(*batch, n, D)
    w, T = problem.masses().expand(*batch, n), problem.targets().expand(*batch, n, C)
    penalty = problem.penalty().expand(*batch, D, C)
    with torch.no_grad():
        lam = problem.lam.detach()
        found, gauge, factor = _find(problem, plan.form, whole, look, w.detach(), T.detach())
        separated, singular, stopped = _troubles(found, lam, plan.form == "dual" and n < D - problem.free)
        reported = torch.zeros(batch, dtype=torch.int8, device=X.device)
        for trouble, status in (
            (stopped, Status.MAX_STEPS),
            (singular, Status.SINGULAR),
            (separated, Status.UNBOUNDED),
        ):
            reported = reported.masked_fill(trouble, int(status))
    W = minimiser(X, w, T, penalty, gauge, found.W, factor, whole, options.on_failure)
    condition = newton.condition(found.factor).expand(batch) if whole else None
    return Solved(W, plan.form, plan.methods[0], condition, reported, steps=found.steps)


def _find(
    problem: LogisticProblem, form: str, whole: bool, look: bool, w: Tensor, T: Tensor
) -> tuple[Descent, Tensor, Factor]:
    """The minimiser of a problem in one of its forms; then ρ and the factor for all D rows."""
    X, lam, free = problem.features.detach(), problem.lam.detach(), problem.free
    batch, C = w.shape[:-1], T.shape[-1]
    uniform = lam.shape[-1] == 1
    d = X.shape[-1] - free
    if form == "dual":
        Q, R = torch.linalg.qr(X[..., :d].mT)
        rotated = torch.cat([R.mT, X[..., d:]], -1)
    else:
        rotated = X
    k = rotated.shape[-1]
    rows = torch.ones((), dtype=torch.bool, device=X.device) if uniform else (lam == 0).all(-1)
    gauged = rows[..., None, None].expand(*rows.shape, k, 1)
    penalty = lam.unsqueeze(-2).expand(*lam.shape[:-1], k, C)
    if free:
        gauged = torch.cat([gauged[..., :-1, :], torch.ones_like(gauged[..., -1:, :])], -2)
        penalty = torch.cat([penalty[..., :-1, :], torch.zeros_like(penalty[..., -1:, :])], -2)
    found = descend(
        rotated.expand(*batch, -1, k), w, T, penalty.expand(*batch, k, C), gauged, free, whole=whole, look=look
    )
    if form == "primal":
        return found, found.gauge, found.factor
    Q = Q.expand(*batch, -1, -1)
    inner = k - free
    rho = found.gauge[..., :1, :]
    gauge = torch.cat([rho.expand(*batch, d, 1), found.gauge[..., inner:, :]], -2)
    spread = _inverse(lam.unsqueeze(-2))
    mean = _inverse(lam.unsqueeze(-2) + rho) if uniform else spread
    W = torch.cat([Q @ found.W[..., :inner, :], found.W[..., inner:, :]], -2)
    descent = Descent(W, gauge, found.factor, found.change, found.spread, found.steps)
    return descent, gauge, (*found.factor, Q, spread, mean)


def descend(
    X: Tensor,
    w: Tensor,
    T: Tensor,
    penalty: Tensor,
    gauged: Tensor,
    free: bool,
    *,
    start: Tensor | None = None,
    whole: bool = True,
    look: bool = True,
) -> Descent:
    """Newton steps from ``start`` to the minimum.

    Args:
        X: (*B, n, D).
        w: (*B, n).
        T: (*B, n, C).
        penalty: Λ, (*B, D, C).
        gauged: which rows of W have to sum to zero, (*B', D, 1) bool.
        free: whether the last row is an intercept without penalty.
        start: (*B, D, C). Default: 0.
        whole: whether the Hessian is formed.
        look: whether values may be looked at; else the number of steps is fixed.
    """
    W = torch.zeros_like(penalty) if start is None else start
    change = torch.full(w.shape[:-1], float("inf"), dtype=X.dtype, device=X.device)
    done = torch.zeros_like(change, dtype=torch.bool)
    steps = torch.zeros_like(change, dtype=torch.int32)
    endless = (penalty[..., : X.shape[-1] - free, :] == 0).flatten(-2).any(-1)
    for _ in range(STEPS if look else STEPS_HIDDEN):
        Z = X @ W
        P = torch.softmax(Z, -1)
        gradient = X.mT @ misfit(P, w, T) + penalty * W
        gauge = gauge_strength(X, w, P, gauged, free)
        factor = newton.factorise(X, w, P, penalty, gauge, whole, look)
        direction = -_direction(X, w, P, penalty, gauge, factor, gradient, change, whole, look)
        # Rounding, and inexact solves, must not lead out of the rows of sum zero: no logit would tell.
        direction = direction - gauged * direction.mean(-1, keepdim=True)
        ZD = X @ direction
        slope, bend = ((penalty * V * direction).sum((-2, -1)) for V in (W, direction))
        t, moved = line_minimum(Z, ZD, w, T, slope, bend)
        W = torch.where(done[..., None, None], W, W + t[..., None, None] * direction)
        change = torch.where(done, change, moved)
        steps = steps + ~done
        done = done | (moved <= DONE) | (endless & (_range(Z) > HOPELESS))
        if look and bool(done.all()):
            break
    return Descent(W, gauge, factor, change, _range(X @ W), steps)


def _direction(
    X: Tensor,
    w: Tensor,
    P: Tensor,
    penalty: Tensor,
    gauge: Tensor,
    factor: Factor,
    gradient: Tensor,
    change: Tensor,
    whole: bool,
    look: bool,
) -> Tensor:
    """H⁻¹ times the gradient, as exactly as quadratic convergence asks (Dembo, Eisenstat & Steihaug 1982)."""
    if whole:
        return newton.apply(factor, gradient)

    def H(V: Tensor) -> Tensor:
        return hessian_apply(X, w, P, penalty, gauge, V)

    tolerance = change.square().clamp(1e-10, 1e-2)
    return newton.solve(H, factor, gradient, tolerance, CG_LIMIT, look)[0]


def _troubles(found: Descent, lam: Tensor, deficient: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(*B,) masks: no minimum, more than one, not reached. ``deficient``: fewer examples than features."""
    stopped = ~(found.change <= ACCEPT)  # true for NaN
    unpenalised = (lam == 0).any(-1)
    singular = newton.condition(found.factor) > newton.SINGULAR_ABOVE
    return stopped & unpenalised & (found.spread > ENDLESS), singular | (unpenalised & deficient), stopped


def _range(Z: Tensor) -> Tensor:
    """The largest range of a row, (*B,)."""
    return (Z.amax(-1) - Z.amin(-1)).amax(-1)


def _inverse(values: Tensor) -> Tensor:
    """1 / values, and 0 for 0: the problem is reported as singular then."""
    return torch.where(values > 0, 1 / values, 0.0)
