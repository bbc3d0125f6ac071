r"""Ridge regression by products alone, with the derivative of its answer.

At the optimum F(W) = Aᵀ(Y − A W) − λ W = 0, so dW = S⁻¹ dF with S = AᵀA + λI, where dF is taken at a fixed W.
The answer is found without a graph; then F is formed once more *with* one, at the answer as a constant, and tied
to it: for a cotangent W̄ the tie hands U = S⁻¹ W̄ to F, and autograd carries U from there to the labels, to λ,
and to whatever A's products use:

    ∂L/∂Y = A U      ∂L/∂λ = −⟨U, W⟩      ∂L/∂θ = ⟨U, ∂F/∂θ⟩.

U comes from the same iterative method, and its residual is checked. The graph of F holds W as a constant, so a
second derivative through it would lack a term; asking for one is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from convexdistill.errors import NotConvergedError, NumericalWarning, UnsupportedError
from convexdistill.layers.backends.base import (
    Plan,
    Solved,
    SolveOptions,
    has_tangent,
    inside_dual_level,
    inside_transform,
    pick,
)
from convexdistill.layers.backends.first_order import first_order
from convexdistill.layers.backends.torch_backend.operator import preconditioners
from convexdistill.layers.backends.torch_backend.operator.krylov import (
    Apply,
    Krylov,
    System,
    conjugate_gradients,
    norm,
)
from convexdistill.layers.backends.torch_backend.operator.lsmr import lsmr
from convexdistill.layers.failure import ACCEPT_BELOW
from convexdistill.layers.problems.base import TINY
from convexdistill.layers.problems.operator import OperatorProblem
from convexdistill.layers.status import Status

METHODS = ("auto", "cg", "lsmr")

HIDDEN = (
    "ridge_matrix_free looks at values to know when it has converged, which torch.func transforms and "
    "torch.compile hide; use leading batch dimensions instead of vmap, or the dense layer ridge."
)
FORWARD = (
    "ridge_matrix_free has no forward-mode derivatives; use backward(), or the dense layer "
    "convexdistill.layers.ridge, which has both."
)
SECOND = (
    "ridge_matrix_free has no gradients of gradients; use the dense layer convexdistill.layers.ridge, whose "
    "solves are differentiable to any order."
)


def plan_operator(problem: OperatorProblem, options: SolveOptions) -> Plan:
    """What :func:`solve_operator` would run, and why.

    Raises:
        UnsupportedError: a preconditioner was asked for together with LSMR.
    """
    pick("method", options.method, METHODS, "for ridge_matrix_free")
    if problem.preconditioner is not None:
        if options.method == "lsmr":
            raise UnsupportedError("method='lsmr' takes no preconditioner; use method='cg', or leave it out.")
        return Plan("operator", ("cg",), "a preconditioner is for conjugate gradients")
    if options.method != "auto":
        return Plan("operator", (options.method,), f"method={options.method!r} was asked for")
    if bool((problem.lam == 0).any()):
        return Plan("operator", ("lsmr",), "lam is 0, where only LSMR does not square the condition")
    return Plan("operator", ("cg", "lsmr"), "LSMR runs only where conjugate gradients were not accurate")


def solve_operator(problem: OperatorProblem, options: SolveOptions) -> Solved:
    """Solve by conjugate gradients or LSMR.

    Raises:
        UnsupportedError: values are hidden, an input is a dual number, or what was asked for does not go together.
    """
    if inside_transform():
        raise UnsupportedError(HIDDEN)
    methods = plan_operator(problem, options).methods
    batch = problem.batch_shape
    n, d = problem.A.shape[-2:]
    Y, lam = problem.labels, problem.lam.unsqueeze(-2)
    Y = Y.expand(*batch, n, Y.shape[-1])
    if Y.numel() == 0:  # no batch elements; the sum ties the empty answer to its inputs
        W = Y.new_zeros(*batch, d, Y.shape[-1]) + 0 * (Y.sum() + lam.sum())
        return Solved(W, "operator", methods[0], residual=Y.new_zeros(batch), steps=_no_steps(batch, Y))
    with torch.no_grad():
        precondition = _preconditioner(problem)
        found, method = _iterate(problem, methods, precondition, Y.detach(), None)
        residual = problem.residual(found.x)
    W, A = found.x, problem.A
    if torch.is_grad_enabled() or inside_dual_level():
        F = A.rmatmul(Y - A.matmul(W)) - lam * W
        if has_tangent(F):  # dual numbers may be hidden in whatever A's products use, but F knows
            raise UnsupportedError(FORWARD)
        if F.requires_grad:
            index = methods.index(method)

            def adjoint(W_bar: Tensor) -> Tensor:
                return _iterate(problem, methods[index:], precondition, None, W_bar)[0].x

            W = _Tie.apply(F, W, adjoint, problem, options.on_failure)
    reported = found.open.any(-1).to(torch.int8) * int(Status.MAX_STEPS)
    reported = reported.masked_fill(~problem.size.isfinite().expand(batch), int(Status.NONFINITE_INPUT))
    return Solved(W, "operator", method, None, reported, None, residual, found.steps.amax(-1))


def _no_steps(batch: torch.Size, like: Tensor) -> Tensor:
    return torch.zeros(batch, dtype=torch.int64, device=like.device)


def _preconditioner(problem: OperatorProblem) -> Apply | None:
    """The function r -> P⁻¹ r; a callable of the user's own is taken as it is."""
    chosen = problem.preconditioner
    if isinstance(chosen, str):
        return preconditioners.build(chosen, problem.A, problem.lam.detach().unsqueeze(-2))
    return chosen


def _iterate(
    problem: OperatorProblem,
    methods: tuple[str, ...],
    precondition: Apply | None,
    E: Tensor | None,
    B: Tensor | None,
) -> tuple[Krylov, str]:
    """Solve S x = AᵀE + B by the first of the methods that is accurate, else by the last; and which that was."""
    size = problem.size.unsqueeze(-1)
    system = System(problem.A, size, problem.lam.detach().unsqueeze(-2), E, B)
    with torch.no_grad():
        accept = system.goal(ACCEPT_BELOW)
        for method in methods:
            if method == "cg":
                found = conjugate_gradients(system, problem.rtol, problem.max_steps, precondition)
            else:
                found = lsmr(system, problem.rtol, problem.max_steps)
            _, s = system.residual(found.x)
            if bool((norm(s) <= accept(found.x)).all()) and not bool(found.open.any()):
                break
    return found, method


class _Tie(torch.autograd.Function):
    """The answer W, whose derivative is S⁻¹ dF."""

    @staticmethod
    def forward(
        ctx: Any,
        F: Tensor,
        W: Tensor,
        adjoint: Callable[[Tensor], Tensor],
        problem: OperatorProblem,
        on_failure: str,
    ) -> Tensor:
        ctx.save_for_backward(F)
        ctx.adjoint, ctx.problem, ctx.on_failure = adjoint, problem, on_failure
        return W.clone()

    @staticmethod
    def backward(ctx: Any, W_bar: Tensor) -> Any:
        if inside_transform(W_bar):
            raise UnsupportedError(HIDDEN)
        (F,) = ctx.saved_tensors
        U = ctx.adjoint(W_bar.detach())
        U = _checked(ctx.problem, U, W_bar.detach(), ctx.on_failure)
        if torch.is_grad_enabled():
            U = first_order(U, SECOND, F, W_bar)
        return U, None, None, None, None


def _checked(problem: OperatorProblem, U: Tensor, W_bar: Tensor, on_failure: str) -> Tensor:
    """U where it solves S U = W̄ to a backward error of 1e-8; else raise, warn or NaN.

    Raises:
        NotConvergedError: it does not for some element, and ``on_failure="raise"``.
    """
    with torch.no_grad():
        lam = problem.lam.detach().unsqueeze(-2)
        _, remainder = System(problem.A, problem.size.unsqueeze(-1), lam, None, W_bar).residual(U)
        error, target = torch.linalg.matrix_norm(remainder), torch.linalg.matrix_norm(W_bar)
        bound = (problem.size.square() + problem.lam.detach().amax(-1)) * torch.linalg.matrix_norm(U) + target
        relative = error / bound.clamp_min(TINY)
        wrong = ~(relative <= ACCEPT_BELOW)
    if on_failure == "nan":
        return U.masked_fill(wrong[..., None, None], float("nan"))
    if not bool(wrong.any()) or not bool(W_bar.isfinite().all()):  # NaN that came in goes out as NaN
        return U
    failed = torch.nonzero(wrong.reshape(-1)).reshape(-1).tolist()
    message = (
        f"the gradient of ridge_matrix_free did not converge in {problem.max_steps} steps for batch elements "
        f"{failed[:8]} of {wrong.numel()}: backward error {float(relative.reshape(-1)[failed].max()):.1e}. "
        "Raise lam or max_steps, or use preconditioner='nystrom'."
    )
    if on_failure == "warn":
        warnings.warn(message, NumericalWarning, stacklevel=2)
        return U
    raise NotConvergedError(message, batch_indices=tuple(failed))
