"""Logistic regression through cvxpylayers, as an exponential-cone program: an independent reference.

The program is ``min Σ_i w_i logsumexp(z_i) − ⟨B, V⟩ + ½‖Λ^½∘V‖²`` with Z = XV and B = XᵀT. Soft labels stand in
the linear term, as a product of X, T and V would not be DPP; Z is a variable for the same reason. Features are
scaled to columns of size 1 and masses to a sum of 1, because solvers have absolute tolerances.

Conic solvers leave 1e-5 to 1e-8 of V uncertain here, so Newton steps follow from where they ended
(``newton_descent.py``), and ``method`` says so; an answer that is far from optimal is not touched, and reported.

Only B is a parameter with a gradient. For a cotangent W̄ the solver's derivative gives B̄ = U with HU = W̄, H the
Hessian at W. That is verified at the final W, refined by asking again for what is left (``guard.py``
says why), and refused where it does not hold. The other gradients follow from U, see ``implicit_logistic.py``.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from convexdistill.errors import NotConvergedError, UnsupportedError
from convexdistill.layers.backends.base import Solved, SolveOptions, pick
from convexdistill.layers.backends.cvxpylayers_backend import guard
from convexdistill.layers.backends.cvxpylayers_backend.guard import METHODS
from convexdistill.layers.backends.torch_backend.logistic.implicit import pull_back
from convexdistill.layers.backends.torch_backend.logistic.newton_descent import Descent, descend
from convexdistill.layers.backends.torch_backend.logistic.softmax import hessian_apply, without_shift
from convexdistill.layers.backends.torch_backend.logistic.solver import gauged_rows, reported
from convexdistill.layers.problems.logistic import LogisticProblem

LARGEST = 1000  # n·C, the number of exponential cones
NEAR = 1e-3  # relative gradient above which a conic answer is not one that Newton steps may improve
GRADIENT_TARGET, GRADIENT_ACCEPT = 1e-11, 1e-8
MAX_REFINEMENTS = 8

CACHE = guard.Cache()


def solve_logistic(problem: LogisticProblem, options: SolveOptions) -> Solved:
    """Solve the program above for every batch element.

    Raises:
        BackendUnavailableError: ``method="moreau"``, and it is not installed.
        UnknownNameError: ``method`` is not ``"auto"``, ``"moreau"`` or ``"diffcp"``.
        NotConvergedError: in the backward pass, when a gradient is not accurate.
        UnsupportedError: the problem is too large; ``form="dual"``; a ``torch.func`` transform is running; or in
            the backward pass, when gradients of gradients are asked for.
    """
    pick("method", options.method, METHODS, 'with backend="cvxpylayers"')
    solver = guard.require_solver(options.method)
    n, D = problem.features.shape[-2:]
    C, batch = problem.labels.shape[-1], problem.batch_shape
    if max(n, D) * C > LARGEST:
        raise UnsupportedError(
            f'backend="cvxpylayers" solves logistic problems with max(n, d)·C <= {LARGEST}; n={n}, d={D}, C={C} '
            f'make {max(n, D) * C}; use backend="torch".'
        )
    if options.form == "dual":
        raise UnsupportedError(
            'form="dual" of a logistic problem is not there with backend="cvxpylayers"; use form="auto", or '
            'backend="torch".'
        )
    N = batch.numel()
    X = problem.features.expand(*batch, n, D).reshape(N, n, D)
    w = problem.masses().expand(*batch, n).reshape(N, n)
    T = problem.targets().expand(*batch, n, C).reshape(N, n, C)
    penalty = problem.penalty().expand(*batch, D, C).reshape(N, D, C)
    columns = problem.lam.shape[-1]
    lam = problem.lam.detach().expand(*batch, columns).reshape(N, columns)
    gauged = gauged_rows(lam, D - problem.free, problem.free, w)
    record: dict[str, Descent] = {}
    W = _Reference.apply(X, w, T, penalty, gauged, problem.free, solver, options.on_failure, record)
    found = record["found"]
    codes = reported(found, lam, n < D - problem.free).reshape(batch)
    steps = found.steps.reshape(batch)
    return Solved(W.reshape(*batch, D, C), "primal", f"{solver}+newton", reported=codes, steps=steps)


def compile_logistic(n: int, D: int, C: int, gauged: tuple[int, ...], solver: str) -> guard.Compiled:
    """Compile the program for one shape, with rows ``gauged`` of V that sum to zero; imports cvxpy."""
    cp: Any = import_module("cvxpy")
    layers: Any = import_module("cvxpylayers.torch")

    X, w = cp.Parameter((n, D)), cp.Parameter(n, nonneg=True)
    root, B = cp.Parameter((D, C), nonneg=True), cp.Parameter((D, C))
    V, Z = cp.Variable((D, C)), cp.Variable((n, C))
    losses = cp.hstack([cp.log_sum_exp(Z[i]) for i in range(n)])
    cost = w @ losses - cp.sum(cp.multiply(B, V)) + 0.5 * cp.sum_squares(cp.multiply(root, V))
    constraints = [Z == X @ V] + ([cp.sum(V[list(gauged)], axis=1) == 0] if gauged else [])
    layer = layers.CvxpyLayer(
        cp.Problem(cp.Minimize(cost), constraints), [X, w, root, B], [V], **guard.constructor_arguments(solver)
    )
    return guard.Compiled(
        layer,
        shapes=((n, D), (n,), (D, C), (D, C)),
        output=(D, C),
        solver=solver,
        derivative=guard.derivative_arguments(solver, embedding=6 * n * C + 3 * D * C + 7),
    )


class _Reference(torch.autograd.Function):
    """W, (N, D, C), with the solver's own derivative."""

    @staticmethod
    def forward(
        ctx: Any,
        X: Tensor,
        w: Tensor,
        T: Tensor,
        penalty: Tensor,
        gauged: Tensor,
        free: bool,
        solver: str,
        on_failure: str,
        record: dict[str, Descent],
    ) -> Tensor:
        wanted = any(ctx.needs_input_grad)
        size = torch.linalg.vector_norm(X, dim=-2)
        size = torch.where(size > 0, size, 1.0).unsqueeze(-1)
        total = w.sum(-1)
        total = torch.where(total > 0, total, 1.0)[..., None, None]
        scaled = X / size.mT
        B = (scaled.mT @ (T / total)).requires_grad_(wanted)
        root = (penalty / total).sqrt() / size
        # A row is gauged in all programs of a batch, or left to its penalty.
        rows = tuple(j for j, everywhere in enumerate((gauged != 0).all(0).flatten().tolist()) if everywhere)
        (n, D), C = X.shape[-2:], T.shape[-1]
        layer = CACHE.get((n, D, C, rows, solver), lambda: compile_logistic(n, D, C, rows, solver))
        with torch.set_grad_enabled(wanted):
            V = guard.solve(layer, scaled, w / total.squeeze(-1), root, B, on_failure=on_failure)
        ctx.inner = (B, V, size, total) if wanted else None
        ctx.on_failure = on_failure
        start = without_shift(V.detach() / size, gauged)
        far = ~(_relative_gradient(X, w, T, penalty, start) <= NEAR)
        found = descend(X, w, T, penalty, gauged, start.nan_to_num(), free)
        W = torch.where(far[..., None, None], start, found.W)
        record["found"] = found._replace(W=W, change=found.change.masked_fill(far, float("inf")))
        ctx.save_for_backward(X, w, T, penalty, gauged, W)
        return W

    @staticmethod
    def backward(ctx: Any, W_bar: Tensor) -> Any:
        X, w, T, penalty, gauged, W = ctx.saved_tensors
        with torch.no_grad():
            P = torch.softmax(X @ W, -1)
            U = _adjoint(ctx, X, w, P, penalty, gauged, W_bar)
            grads = pull_back(X, w, T, W, P, U, ctx.needs_input_grad[:4])
        result: list[Tensor | None] = [
            guard.no_second_order(g, W_bar, X, w, T, penalty) if g is not None and torch.is_grad_enabled() else g
            for g in grads
        ]
        return *result, None, None, None, None, None


def _adjoint(ctx: Any, X: Tensor, w: Tensor, P: Tensor, penalty: Tensor, gauged: Tensor, W_bar: Tensor) -> Tensor:
    """U with HU = W̄ by the solver's derivative, verified and refined.

    Raises:
        NotConvergedError: it is not accurate, and ``on_failure`` is not ``"nan"``.
    """
    B, V, size, total = ctx.inner
    target = without_shift(W_bar, gauged)
    norm = torch.linalg.matrix_norm(target)
    U, rest, best = torch.zeros_like(target), target, norm
    for _ in range(MAX_REFINEMENTS if V.requires_grad else 0):  # it has none where the solver gave up
        (step,) = torch.autograd.grad(V, B, rest / size, retain_graph=True)
        closer = U + without_shift(step / (size * total), gauged)
        left = target - hessian_apply(X, w, P, penalty, closer)
        error = torch.linalg.matrix_norm(left)
        better = error < best  # an element that refinement does not help keeps what it has
        chosen = better[..., None, None]
        U, rest = torch.where(chosen, closer, U), torch.where(chosen, left, rest)
        best = torch.where(better, error, best)
        if bool((best <= GRADIENT_TARGET * norm).all()) or not bool(better.any()):
            break
    wrong = ~(best <= GRADIENT_ACCEPT * norm)
    if ctx.on_failure == "nan":
        return U.masked_fill(wrong[..., None, None], float("nan"))
    if bool(wrong.any()):
        raise NotConvergedError(
            f"the gradient through cvxpylayers is not accurate for {int(wrong.sum())} of {wrong.numel()} "
            f"programs: relative residual {float((best / norm)[wrong].max()):.1e}. Raise lam, or use "
            'backend="torch".',
            batch_indices=tuple(torch.nonzero(wrong).reshape(-1).tolist()),
        )
    return U


def _relative_gradient(X: Tensor, w: Tensor, T: Tensor, penalty: Tensor, W: Tensor) -> Tensor:
    """The norm of the gradient at W over that of XᵀT by Cauchy–Schwarz, (N,)."""
    gradient = X.mT @ (w.unsqueeze(-1) * torch.softmax(X @ W, -1) - T) + penalty * W
    scale = torch.linalg.matrix_norm(X) * torch.linalg.matrix_norm(T)
    relative: Tensor = torch.linalg.matrix_norm(gradient) / torch.where(scale > 0, scale, 1.0)
    return relative
