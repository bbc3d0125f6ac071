"""Multinomial logistic regression by Newton's method and implicit differentiation, in float64.

With fewer examples than features the *dual* form rotates first: W = QW̃ with an orthonormal basis Q of the rows of
X, so that n rows are unknown and not d (the representer theorem, Kimeldorf & Wahba 1971). The Newton steps are
those of ``newton_descent.py``, the derivatives those of ``implicit_logistic.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from convexdistill.errors import UnsupportedError
from convexdistill.layers.backends.base import Plan, Solved, SolveOptions, pick
from convexdistill.layers.backends.torch_backend.logistic import newton_factors as newton
from convexdistill.layers.backends.torch_backend.logistic.implicit import minimiser
from convexdistill.layers.backends.torch_backend.logistic.newton_descent import Descent, descend
from convexdistill.layers.backends.torch_backend.logistic.newton_factors import Factor
from convexdistill.layers.problems.logistic import LogisticProblem
from convexdistill.layers.status import Status

METHODS = ("auto", "newton", "newton-cg")
WHOLE_ORDER = 1024  # largest Hessian (CD) that "auto" forms
WHOLE_BYTES = 2**30  # and how much memory all of a batch may take
ACCEPT = 1e-6  # a last step that moved a logit by more did not converge
ENDLESS = 30.0  # logits further apart, without penalty and still moving: the data are separable


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
    if torch.compiler.is_compiling() or (order <= WHOLE_ORDER and size <= WHOLE_BYTES):
        return Plan(form, ("newton",), f"{why}, so a {order}×{order} Hessian")
    return Plan(form, ("newton-cg",), f"{why}; a {order}×{order} Hessian would be too large to form")


def solve_logistic(problem: LogisticProblem, options: SolveOptions) -> Solved:
    """Solve a logistic problem by Newton steps, with the Hessian or with conjugate gradients.

    Raises:
        UnsupportedError: ``method="newton-cg"`` in ``torch.compile``.
        NotConvergedError: in the backward pass, when a gradient is not accurate.
    """
    plan = plan_logistic(problem, options)
    form, method = plan.form, plan.methods[0]
    if method == "newton-cg" and torch.compiler.is_compiling():
        raise UnsupportedError(
            'method="newton-cg" solves for gradients in a number of steps that torch.compile cannot know; use '
            'method="newton", or compile what stands around the layer.'
        )
    batch, C = problem.batch_shape, problem.labels.shape[-1]
    n, D = problem.features.shape[-2:]
    X = problem.features.expand(*batch, n, D)
    w, T = problem.masses().expand(*batch, n), problem.targets().expand(*batch, n, C)
    penalty = problem.penalty().expand(*batch, D, C)
    with torch.no_grad():
        lam = problem.lam.detach()
        found, factor, gauged = _find(problem, form, method, w.detach(), T.detach())
        codes = reported(found, lam, form == "dual" and n < D - problem.free)
    W = minimiser(X, w, T, penalty, gauged, found.W, factor, method, options.on_failure)
    condition = newton.condition(found.factor).expand(batch) if method == "newton" else None
    return Solved(W, form, method, condition, codes, steps=found.steps)


def _find(
    problem: LogisticProblem, form: str, method: str, w: Tensor, T: Tensor
) -> tuple[Descent, Factor, Tensor]:
    """The minimiser of a problem in one of its forms; then the factor and the gauged rows for all D rows."""
    X, lam, free = problem.features.detach(), problem.lam.detach(), problem.free
    d = X.shape[-1] - free
    if form == "primal":
        found = _from_zero(X, w, T, lam, free, method)
        return found, found.factor, gauged_rows(lam, d, free, w)
    Q, R = torch.linalg.qr(X[..., :d].mT)
    found = _from_zero(torch.cat([R.mT, X[..., d:]], -1), w, T, lam, free, method)
    Q = Q.expand(*w.shape[:-1], -1, -1)
    V, bias = found.W.split([Q.shape[-1], int(free)], -2)
    outside = torch.where(lam > 0, 1 / lam, 0.0).unsqueeze(-2)  # for λ = 0 the problem is reported as singular
    found = found._replace(W=torch.cat([Q @ V, bias], -2))
    return found, (found.L, found.scale, Q, outside), gauged_rows(lam, d, free, w)


def _from_zero(X: Tensor, w: Tensor, T: Tensor, lam: Tensor, free: bool, method: str) -> Descent:
    """The descent from W = 0."""
    rows = X.shape[-1] - free
    penalty = lam.unsqueeze(-2).expand(*w.shape[:-1], rows, T.shape[-1])
    if free:
        penalty = torch.cat([penalty, torch.zeros_like(penalty[..., :1, :])], -2)
    X, gauged = X.expand(*w.shape[:-1], -1, -1), gauged_rows(lam, rows, free, w)
    return descend(X, w, T, penalty, gauged, torch.zeros_like(penalty), free, method)


def gauged_rows(lam: Tensor, rows: int, free: bool, w: Tensor) -> Tensor:
    """(*B, D, 1), 1 where a row of W sums to zero: the intercept's, and all where λ is shared or 0."""
    shared = (lam == 0).all(-1) | (lam.shape[-1] == 1)
    gauged = shared.to(lam.dtype)[..., None, None].expand(*w.shape[:-1], rows, 1)
    return torch.cat([gauged, torch.ones_like(gauged[..., :1, :])], -2) if free else gauged


def reported(found: Descent, lam: Tensor, deficient: bool) -> Tensor:
    """(*B,) int8 Status: no minimum, more than one, not reached, or nothing to report.

    ``deficient`` says that there are fewer examples than features.
    """
    stopped = ~(found.change <= ACCEPT)  # true for NaN
    unpenalised = (lam == 0).any(-1)
    singular = (newton.condition(found.factor) > newton.SINGULAR_ABOVE) | (unpenalised & deficient)
    separable = stopped & unpenalised & (found.spread > ENDLESS)
    codes = torch.zeros_like(found.steps, dtype=torch.int8)
    for trouble, status in (
        (stopped, Status.MAX_STEPS),
        (singular, Status.SINGULAR),
        (separable, Status.UNBOUNDED),
    ):
        codes = codes.masked_fill(trouble, int(status))
    return codes
