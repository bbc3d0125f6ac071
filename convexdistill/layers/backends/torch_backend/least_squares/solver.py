"""Least squares of minimum norm: QR where the rank is full beyond doubt, the singular values elsewhere.

QR (of X, or of Xᵀ where there are fewer examples than features) costs a fraction of the SVD, but cannot decide a
rank. From R it gives the bound ``κ ≤ ‖R‖ ‖R⁻¹‖`` (Frobenius norms, R⁻¹ worked out); where that lies well below
1/rcond no singular value is near the cut, and QR's answer is as exact as that of the SVD (Golub & Van Loan, Matrix
Computations, 5.3 and 5.5).
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from convexdistill.errors import NumericalWarning
from convexdistill.layers.backends.base import Plan, Solved, SolveOptions, pick
from convexdistill.layers.backends.torch_backend.least_squares.pseudoinverse import Pinv, apply, pinv_apply
from convexdistill.layers.backends.torch_backend.ridge.factors import harmless
from convexdistill.layers.problems.base import TINY
from convexdistill.layers.problems.least_squares import LeastSquaresProblem
from convexdistill.layers.status import Status

METHODS = ("auto", "qr", "svd")
QR_CONDITION = 1e8
UNSTABLE = 10.0  # a singular value within this factor of the cut makes the rank a matter of luck
MARGIN = 0.01  # QR's bound must lie this much below the condition of a matrix at the cut


def plan_least_squares(problem: LeastSquaresProblem, options: SolveOptions) -> Plan:
    """What :func:`solve_least_squares` would run, and why."""
    pick("method", options.method, METHODS, 'with backend="torch"')
    form = "pseudoinverse"
    if options.method != "auto":
        return Plan(form, (options.method,), f"method={options.method!r} was asked for")
    if not options.data_dependent:
        return Plan(form, ("svd",), "values are hidden under transforms, and only the SVD works without a look")
    why = "the SVD runs where QR cannot rule out singular values near"
    return Plan(form, ("qr", "svd"), f"{why} {problem.rcond:.1e} times the largest")


def solve_least_squares(problem: LeastSquaresProblem, options: SolveOptions) -> Solved:
    """Solve a least-squares problem, and warn where the rank is a matter of luck.

    Warns:
        NumericalWarning: a singular value lies within a factor of 10 of the cut.
    """
    plan = plan_least_squares(problem, options)
    X, Y, batch = problem.features, problem.labels, problem.batch_shape
    n, d = X.shape[-2:]
    one_system = X.shape[:-2].numel() == 1
    with torch.no_grad():
        factored = _factor(problem, plan.methods)
    pinv, condition = factored.pinv, factored.condition.expand(batch)
    reported = None
    if pinv.method == "qr":  # asked for by name where the rank may not be full
        singular = ~(factored.condition * torch.finfo(torch.float64).eps < 1)
        reported = (singular.to(torch.int8) * int(Status.SINGULAR)).expand(batch)
        if options.on_failure == "nan":  # no NaN in the gradients of what is shared
            pinv = pinv._replace(middle=harmless("qr", (pinv.middle,), singular)[0])
    if options.data_dependent and pinv.method == "svd":
        full = bool((pinv.middle != 0).all())
        pinv = pinv._replace(injective=full and d <= n, surjective=full and n <= d)
        if options.on_failure != "nan" and bool(factored.unstable.any()):
            _warn(problem.rcond, factored)
    policy = options.on_failure if options.data_dependent else "nan"
    if one_system:  # many label sets: they become columns, and one factorisation serves all
        pinv = pinv.reshaped(())
        X, Y = X.reshape(n, d), Y.expand(*batch, *Y.shape[-2:]).movedim(-2, 0)
        shape = Y.shape[1:]
        W, Z = _solve(X, Y.reshape(n, shape.numel()), pinv, policy)
        W, Z = (t.reshape(t.shape[0], *shape).movedim(0, -2) for t in (W, Z))
    else:
        pinv = pinv.reshaped(batch)
        W, Z = _solve(X.expand(*batch, n, d), Y.expand(*batch, *Y.shape[-2:]), pinv, policy)
    residual = problem.residual(W, Z, factored.dropped)
    return Solved(W, plan.form, pinv.method, condition, reported, dual=Z, residual=residual)


def _solve(X: Tensor, Y: Tensor, pinv: Pinv, policy: str) -> tuple[Tensor, Tensor]:
    """The answer W = X⁺Y, differentiable, and its certificate Z = X⁺ᵀW, which is not."""
    W = pinv_apply(X, Y, pinv, policy)
    with torch.no_grad():
        return W, apply(pinv.transposed, W.detach())


class Factored(NamedTuple):
    """What is known of X (*Bx, n, d) once it is factored.

    Attributes:
        pinv: the factors.
        condition: (*Bx,) ratio of the largest to the smallest singular value that is kept, or a bound of it.
        dropped: (*Bx,) the largest singular value that counts as zero.
        unstable: (*Bx,) bool, whether a singular value lies near the cut.
    """

    pinv: Pinv
    condition: Tensor
    dropped: Tensor
    unstable: Tensor


def _factor(problem: LeastSquaresProblem, methods: tuple[str, ...]) -> Factored:
    """Factor X with the first method that can decide its rank."""
    X = problem.features.detach()
    if "qr" in methods:
        factored = _qr(X)
        if methods == ("qr",):
            return factored
        limit = torch.full_like(factored.condition, min(QR_CONDITION, MARGIN / max(problem.rcond, TINY)))
        if problem.noise is not None:  # the smallest singular value is at least ‖X‖/κ
            limit = limit.minimum(MARGIN * torch.linalg.matrix_norm(X) / problem.noise.clamp_min(TINY))
        if bool((factored.condition <= limit).all()):
            return factored
    return _svd(X, problem)


def _qr(X: Tensor) -> Factored:
    """X = QR, or Xᵀ = QR where that is the tall one."""
    n, d = X.shape[-2:]
    Q, R = torch.linalg.qr(X if d <= n else X.mT)
    eye = torch.eye(min(n, d), dtype=X.dtype, device=X.device)
    inverse = torch.linalg.solve_triangular(R, eye.expand_as(R), upper=True)
    condition = torch.linalg.matrix_norm(R) * torch.linalg.matrix_norm(inverse)
    nothing = torch.zeros_like(condition)
    return Factored(Pinv("qr", Q, R, None, d > n, d <= n, n <= d), condition, nothing, nothing.bool())


def _svd(X: Tensor, problem: LeastSquaresProblem) -> Factored:
    """X = L diag(σ) Hᵀ, with the singular values that count as zero left out of the inverse."""
    L, sigma, Ht = torch.linalg.svd(X, full_matrices=False)
    cut = problem.rcond * sigma[..., :1]
    if problem.noise is not None:
        cut = cut.maximum(problem.noise.unsqueeze(-1))
    kept = sigma > cut
    inverse = torch.where(kept, 1 / torch.where(kept, sigma, 1.0), 0.0)
    condition = (sigma[..., 0] * inverse.amax(-1)).clamp_min(1.0)
    dropped = sigma.masked_fill(kept, 0.0).amax(-1)
    # What rounding leaves of a zero may come near the cut, and leaves nothing in doubt.
    rounding = 4 * problem.precision * sigma[..., :1]
    lower = (cut / UNSTABLE).maximum(rounding).minimum(cut)
    unstable = ((sigma > lower) & (sigma < UNSTABLE * cut)).any(-1)
    return Factored(Pinv("svd", L, inverse, Ht), condition, dropped, unstable)


def _warn(rcond: float, factored: Factored) -> None:
    where = torch.nonzero(factored.unstable.reshape(-1)).reshape(-1).tolist()
    rank = (factored.pinv.middle != 0).sum(-1).reshape(-1)[where].tolist()
    warnings.warn(
        f"the rank of the features is a matter of luck for batch elements {where[:8]}: they have singular values "
        f"within a factor of {UNSTABLE:.0f} of the cut at rcond = {rcond:.1e} times the largest (the rank was "
        f"taken as {rank[:8]}), so the answer and its gradient may jump. Give an rcond that lies in a gap of the "
        "singular values, or use ridge.",
        NumericalWarning,
        stacklevel=5,
    )
