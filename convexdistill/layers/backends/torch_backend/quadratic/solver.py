"""Quadratic programs in PyTorch: a batched interior-point method, then one differentiable linear system.

The answer is x of the KKT system of the active rows (``kkt.py``), so at an answer with strict complementarity
(every active row has a positive multiplier) every derivative of every order is exact. Where a row is active with
a multiplier of zero, x has a kink, and the derivative is that of the side on which the row stays active. Where
active rows depend on each other, so that the multipliers are not unique, the derivative through P and q is right,
and that through R and b is one of several one-sided ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from convexdistill.layers.backends.base import Plan, Solved, SolveOptions, pick
from convexdistill.layers.backends.torch_backend.quadratic import kkt
from convexdistill.layers.backends.torch_backend.quadratic.active_set import search, select, system
from convexdistill.layers.problems.quadratic import QuadraticProblem

METHODS = ("auto", "interior-point")
STRICT_ABOVE = 1e-12  # of ‖P‖: least eigenvalue at which forming P has left something of it


def plan_quadratic(problem: QuadraticProblem, options: SolveOptions) -> Plan:
    """What :func:`solve_quadratic` would run, and why."""
    pick("method", options.method, METHODS, 'with backend="torch"')
    k, r = problem.linear.shape[-1], problem.bounds.shape[-1]
    why = f"{k} variables, {problem.equalities} equalities and {r - problem.equalities} inequalities"
    return Plan(problem.form, ("interior-point",), why)


def solve_quadratic(problem: QuadraticProblem, options: SolveOptions) -> Solved:
    """Solve the programs of every batch element.

    Raises:
        UnknownNameError: ``method`` is neither ``"auto"`` nor ``"interior-point"``.
        NotConvergedError: in the backward pass, when a gradient is not accurate and ``on_failure="raise"``.
    """
    pick("method", options.method, METHODS, 'with backend="torch"')
    shape = problem.shape
    P, q, R, b = flatten(problem)
    strict = strictly_convex(problem, P)
    found = search(P, q, R, b, strict, problem.slack, problem.unique, problem.equalities)
    x = attach(P, q, R, b, strict, found.x, found.y, found.active, found.settled, options)
    answer, dual = x.reshape(*shape, q.shape[-1]), found.y.reshape(*shape, b.shape[-1])
    return Solved(
        answer,
        problem.form,
        "interior-point",
        reported=found.reported.reshape(shape).amax(-1),
        dual=dual,
        steps=found.steps.reshape(shape).amax(-1),
    )


def flatten(problem: QuadraticProblem) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """P, q, R and b with one leading dimension."""
    shape = problem.shape
    parts = problem.quadratic, problem.linear, problem.rows, problem.bounds
    matrix = (True, False, True, False)
    flat = []
    for tensor, is_matrix in zip(parts, matrix, strict=True):
        core = tensor.shape[-2:] if is_matrix else tensor.shape[-1:]
        flat.append(tensor.expand(*shape, *core).reshape(shape.numel(), *core))
    return flat[0], flat[1], flat[2], flat[3]


def strictly_convex(problem: QuadraticProblem, P: Tensor) -> Tensor:
    """(N,) bool: where P, (N, k, k), is positive definite, by what is known of its least eigenvalue."""
    size = torch.linalg.matrix_norm(P.detach())
    if problem.curvature is None:
        return torch.zeros_like(size, dtype=torch.bool)
    strict: Tensor = problem.curvature.detach().expand(problem.shape).reshape(-1) > STRICT_ABOVE * size
    return strict


def attach(
    P: Tensor,
    q: Tensor,
    R: Tensor,
    b: Tensor,
    strict: Tensor,
    x: Tensor,
    y: Tensor,
    active: Tensor,
    settled: Tensor,
    options: SolveOptions,
) -> Tensor:
    """x, (N, k), as a differentiable function of P, q, R and b, for known active rows.

    Args:
        P: (N, k, k).
        q: (N, k).
        R: (N, r, k).
        b: (N, r).
        strict: (N,) bool, where P is known to be positive definite.
        x: the answer without gradient, (N, k): it stays where the rows leave x open.
        y: its multipliers, (N, r).
        active: (N, r) bool.
        settled: (N,) bool, whether the rows determine x.
        options: whether values can be seen, and what becomes of gradients that are not accurate.
    """
    if options.data_dependent:
        rows, m = select(active)
    else:  # the number of active rows is hidden: take all, and switch off the others
        rows = torch.arange(b.shape[-1], device=b.device).expand(b.shape)
        m = active.to(b.dtype)
    K, f = system(P, q, R, b, rows, m)
    factor = kkt.factorise(K, q.shape[-1], strict)
    point = torch.cat([x, y.gather(-1, rows) * m], -1)
    start = torch.where(settled.unsqueeze(-1), 0.0, point).unsqueeze(-1)
    V = kkt.solve(K, f, start, factor, "nan" if not options.data_dependent else options.on_failure)
    return V[..., : q.shape[-1], 0]
