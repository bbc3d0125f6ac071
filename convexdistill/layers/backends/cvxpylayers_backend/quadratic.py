r"""Quadratic programs through cvxpylayers: the general reference beside the torch solver.

The program is ``min ½‖Fx‖² + qᵀx`` with Rx = b or ≤ b row by row, F a square root of P, on data that are scaled
to entries near 1 because solvers have absolute tolerances. A conic solver leaves x uncertain by about the root
of its tolerance where a row is nearly active; an answer that does not meet the KKT conditions to 1e-10 is
therefore found again from its active rows (``active_set.py``), and ``method`` says so.

Only q and b are parameters with a gradient. For a cotangent x̄ the solver's derivative gives q̄ = −u and b̄ = w,
with Pu + Rᵀw = x̄ and R_i u = 0 in active rows, w_i = 0 in the others. That is verified, refined by asking again
for what is left (``guard.py`` says why), and refused where it does not hold. The other gradients
follow from the KKT conditions: Px + q + Rᵀy = 0 depends on P and R as it does on q + dP x + dRᵀy, and Rx = b as on
b − dR x, so

    P̄ = q̄ xᵀ        R̄ = y q̄ᵀ − b̄ xᵀ

which spares the derivative of F, undefined where P is singular.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convexdistill.errors import NotConvergedError
from convexdistill.layers.backends.base import Solved, SolveOptions, pick
from convexdistill.layers.backends.cvxpylayers_backend import guard
from convexdistill.layers.backends.cvxpylayers_backend.guard import METHODS
from convexdistill.layers.backends.torch_backend.quadratic.active_set import ACCEPT_BELOW, correct
from convexdistill.layers.backends.torch_backend.quadratic.diagnosis import diagnose
from convexdistill.layers.backends.torch_backend.quadratic.interior_point import Iterate, equilibrate
from convexdistill.layers.backends.torch_backend.quadratic.slacks import Priceless, priceless
from convexdistill.layers.backends.torch_backend.quadratic.solver import flatten, strictly_convex
from convexdistill.layers.problems.quadratic import QuadraticProblem, relative, times, violation
from convexdistill.layers.status import Status

KEPT_BELOW = 1e-10  # violation of the KKT conditions by an answer of the solver that is kept as it is
GRADIENT_TARGET = 1e-11
GRADIENT_ACCEPT = 1e-8
MAX_REFINEMENTS = 6

CACHE = guard.Cache()


def solve_quadratic(problem: QuadraticProblem, options: SolveOptions) -> Solved:
    """Solve the program above for every batch element.

    Raises:
        BackendUnavailableError: ``method="moreau"``, and it is not installed.
        UnknownNameError: ``method`` is not ``"auto"``, ``"moreau"`` or ``"diffcp"``.
        NotConvergedError: in the backward pass, when a gradient is not accurate.
        UnsupportedError: under a ``torch.func`` transform; or in the backward pass, when gradients of gradients
            are asked for.
    """
    pick("method", options.method, METHODS, 'with backend="cvxpylayers"')
    solver = guard.require_solver(options.method)
    P, q, R, b = flatten(problem)
    shape, e = problem.shape, problem.equalities
    record: dict[str, Tensor] = {}
    x: Tensor = _Reference.apply(P, q, R, b, problem, solver, options.on_failure, record)
    error = violation(P.detach(), q.detach(), R.detach(), b.detach(), e, x.detach(), record["y"])
    reported = torch.where(record["settled"], 0, int(Status.SINGULAR)).to(torch.int8)
    lost = ~(error <= ACCEPT_BELOW)
    if bool(lost.any()):
        codes = diagnose(P[lost].detach(), q[lost].detach(), R[lost].detach(), b[lost].detach(), e)
        reported = reported.masked_scatter(lost, codes)
    return Solved(
        x.reshape(*shape, q.shape[-1]),
        problem.form,
        f"{solver}+active-set" if bool(record["polished"].any()) else solver,
        reported=reported.reshape(shape).amax(-1),
        dual=record["y"].reshape(*shape, b.shape[-1]),
    )


def compile_quadratic(k: int, r: int, e: int, solver: str) -> guard.Compiled:
    """Compile the program for one shape; its variable is x and the multipliers of all rows, side by side."""
    cp: Any = import_module("cvxpy")
    layers: Any = import_module("cvxpylayers.torch")

    F, q, x = cp.Parameter((k, k)), cp.Parameter(k), cp.Variable(k)
    parameters, constraints = [F, q], []
    for count, equal in ((e, True), (r - e, False)):
        if count:
            A, c = cp.Parameter((count, k)), cp.Parameter(count)
            parameters += [A, c]
            constraints.append(A @ x == c if equal else A @ x <= c)
    cost = 0.5 * cp.sum_squares(F @ x) + q @ x
    duals = [c.dual_variables[0] for c in constraints]
    layer = layers.CvxpyLayer(
        cp.Problem(cp.Minimize(cost), constraints), parameters, [x, *duals], **guard.constructor_arguments(solver)
    )

    def call(F: Tensor, q: Tensor, R: Tensor, b: Tensor, **arguments: Any) -> tuple[Tensor, ...]:
        parts = [F, q]
        for rows in (slice(0, e), slice(e, r)):
            if rows.stop > rows.start:
                parts += [R[..., rows, :], b[..., rows]]
        return (torch.cat(layer(*parts, **arguments), -1),)

    return guard.Compiled(
        call,
        shapes=((k, k), (k,), (r, k), (r,)),
        output=(k + r,),
        solver=solver,
        derivative=guard.derivative_arguments(solver, embedding=3 * k + 2 * r + 7),
    )


class _Kept(NamedTuple):
    """What the backward pass needs of the forward pass."""

    x: Tensor
    y: Tensor
    active: Tensor
    left_out: Priceless | None


class _Reference(torch.autograd.Function):
    """x, (N, k), with the solver's own derivative."""

    @staticmethod
    def forward(
        ctx: Any,
        P: Tensor,
        q: Tensor,
        R: Tensor,
        b: Tensor,
        problem: QuadraticProblem,
        solver: str,
        on_failure: str,
        record: dict[str, Tensor],
    ) -> Tensor:
        k, e = q.shape[-1], problem.equalities
        left_out = priceless(P, q, R, b, problem.slack)
        ctx.leaves, ctx.inner, ctx.on_failure = None, None, on_failure
        wanted = any(ctx.needs_input_grad)
        with torch.set_grad_enabled(wanted):
            q_leaf, b_leaf = (t.detach().clone().requires_grad_(wanted) for t in (q, b))
            V = _conic(left_out.P if left_out else P, q_leaf, R, b_leaf, left_out, e, solver, on_failure)
        if wanted:
            ctx.leaves, ctx.inner = (q_leaf, b_leaf), V
        x, y = V.detach()[..., :k], V.detach()[..., k:]
        y = torch.where(b.isfinite(), y, 0.0)
        slack, multiplier, _ = relative(P, q, R, b, x, y)
        active = multiplier > slack
        active[..., :e] = True
        if left_out:
            x, active = left_out.settle(R, b, x, active)
        polished = ~(violation(P, q, R, b, e, x, y) <= KEPT_BELOW)
        guess = Iterate(
            x.nan_to_num(), y.nan_to_num(), active, torch.zeros_like(active[..., 0], dtype=torch.int64)
        )
        strict = strictly_convex(problem, P)
        best_x, best_y, active, settled, _ = correct(P, q, R, b, strict, e, problem.unique, guess)
        x = torch.where(polished.unsqueeze(-1), best_x, x)
        y = torch.where(polished.unsqueeze(-1), best_y, y)
        record.update(y=y, settled=settled, polished=polished)
        ctx.kept = _Kept(x, y, active, left_out)
        ctx.save_for_backward(P, q, R, b)
        return x

    @staticmethod
    def backward(ctx: Any, x_bar: Tensor) -> Any:
        P, q, R, b = ctx.saved_tensors
        q_bar, b_bar = _gradients(ctx, P.detach(), R.detach(), x_bar.detach())
        x, y = ctx.kept.x.unsqueeze(-2), ctx.kept.y.unsqueeze(-1)
        made: dict[int, Callable[[], Tensor]] = {
            0: lambda: q_bar.unsqueeze(-1) * x,
            1: lambda: q_bar,
            2: lambda: y * q_bar.unsqueeze(-2) - b_bar.unsqueeze(-1) * x,
            3: lambda: b_bar,
        }
        grads: list[Tensor | None] = []
        for i, make in made.items():
            grad = make() if ctx.needs_input_grad[i] else None
            if grad is not None and torch.is_grad_enabled():
                grad = guard.no_second_order(grad, x_bar, P, q, R, b)
            grads.append(grad)
        return *grads, None, None, None, None


def _conic(
    P: Tensor, q: Tensor, R: Tensor, b: Tensor, left_out: Priceless | None, e: int, solver: str, on_failure: str
) -> Tensor:
    """x and y, (N, k + r), of the conic solver, differentiable in q and b."""
    with torch.no_grad():
        bounded = (left_out.b if left_out else b).isfinite()
        R = torch.where(bounded.unsqueeze(-1), R, 0.0)  # a row 0 ≤ 1 bounds nothing
        column, row, cost = equilibrate(P, q, R)
        scaled = column.unsqueeze(-1) * P * column.unsqueeze(-2) / cost.unsqueeze(-1)
        values, vectors = torch.linalg.eigh(scaled)
        F = values.clamp_min(0.0).sqrt().unsqueeze(-1) * vectors.mT
        R = row.unsqueeze(-1) * R * column.unsqueeze(-2)
    b = torch.where(bounded, row * b, 1.0)
    (k, r) = q.shape[-1], b.shape[-1]
    layer = CACHE.get((k, r, e, solver), lambda: compile_quadratic(k, r, e, solver))
    V: Tensor = guard.solve(layer, F, column * q / cost, R, b, on_failure=on_failure)
    scale: Tensor = torch.cat([column, cost * row], -1)
    return V * scale


@torch.no_grad()
def _gradients(ctx: Any, P: Tensor, R: Tensor, x_bar: Tensor) -> tuple[Tensor, Tensor]:
    """q̄ and b̄, verified and refined.

    Raises:
        NotConvergedError: they are not accurate, and ``on_failure`` is not ``"nan"``.
    """
    active, left_out = ctx.kept.active, ctx.kept.left_out
    u, w = torch.zeros_like(x_bar), torch.zeros_like(R[..., 0])
    rest = torch.cat([x_bar, w], -1)
    size = _norm(rest)
    best, error = torch.full_like(size, float("inf")), size
    kept = u, w
    for _ in range(MAX_REFINEMENTS):
        dq, db = torch.autograd.grad(ctx.inner, ctx.leaves, rest, retain_graph=True)
        u, w = u - dq, w + torch.where(active, db, 0.0)
        if left_out:
            u = left_out.push(R, u, active)
        rest = torch.cat(
            [x_bar - times(P, u) - times(R.mT, w), torch.where(active, -times(R, u), -w)],
            -1,
        )
        error = _norm(rest)
        better = error < best
        kept = (
            torch.where(better.unsqueeze(-1), u, kept[0]),
            torch.where(better.unsqueeze(-1), w, kept[1]),
        )
        best = torch.where(better, error, best)
        if not bool(better.any()) or bool((best <= GRADIENT_TARGET * size).all()):
            break
    u, w = kept
    wrong = ~(best <= GRADIENT_ACCEPT * size)
    if ctx.on_failure == "nan":
        u, w = (t.masked_fill(wrong.unsqueeze(-1), float("nan")) for t in (u, w))
    elif bool(wrong.any()):
        raise NotConvergedError(
            f"the gradient through cvxpylayers is not accurate for {int(wrong.sum())} of {wrong.numel()} programs "
            f"(relative residual {float((best / size)[wrong].max()):.1e}), as happens where a constraint is "
            'active with a multiplier of zero. Use backend="torch".',
            batch_indices=tuple(torch.nonzero(wrong).reshape(-1).tolist()),
        )
    return -u, w


def _norm(rows: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(rows, dim=-1)
    return norm
