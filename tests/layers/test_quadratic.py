"""The quadratic-program solver alone: against cvxpy, by its conditions, by symmetry, and where it must refuse."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convexdistill.layers.backends.base import SolveOptions
from convexdistill.layers.backends.torch_backend.quadratic.solver import solve_quadratic
from convexdistill.layers.problems.quadratic import QuadraticProblem
from convexdistill.layers.status import Status

OPTIONS = SolveOptions()


def program(seed, k=6, equalities=2, inequalities=5, rank=None):
    """A feasible, bounded program with one solution, (1, 1, …)."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    F = draw(k if rank is None else rank, k)
    P = F.mT @ F + (0.1 * torch.eye(k, dtype=torch.float64) if rank is None else 0)
    R, inside = draw(equalities + inequalities, k), draw(k)
    b = R @ inside
    b[equalities:] += draw(inequalities).abs()  # the point `inside` meets every row
    return [t[None, None] for t in (P, draw(k), R, b)]


def solved(P, q, R, b, equalities=2):
    return solve_quadratic(QuadraticProblem(P, q, R, b, equalities), OPTIONS)


def objective(P, q, x):
    return float(0.5 * x @ P @ x + q @ x)


@given(seed=st.integers(0, 2**32 - 1), k=st.integers(2, 8), inequalities=st.integers(0, 12))
@settings(max_examples=25, deadline=None)
def test_the_conditions_hold_for_any_feasible_program(seed, k, inequalities):
    P, q, R, b = program(seed, k, 1, inequalities)
    answer = solved(P, q, R, b, 1)
    problem = QuadraticProblem(P, q, R, b, 1)
    assert answer.reported is None or not answer.reported.any()
    assert float(problem.residual(answer.answer, answer.dual)) <= 1e-10
    assert (R[..., 1:, :] @ answer.answer[..., None] <= b[..., 1:, None] + 1e-9).all()
    assert (answer.dual[..., 1:] >= -1e-10).all()


@pytest.mark.parametrize("seed", range(4))
def test_cvxpy_finds_the_same_point(seed):
    P, q, R, b = program(seed)
    found = solved(P, q, R, b).answer[0, 0].numpy()
    x = cp.Variable(6)
    p, c, rows, bounds = (t[0, 0].numpy() for t in (P, q, R, b))
    cp.Problem(
        cp.Minimize(0.5 * cp.quad_form(x, cp.psd_wrap(p)) + c @ x),
        [rows[:2] @ x == bounds[:2], rows[2:] @ x <= bounds[2:]],
    ).solve(solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    np.testing.assert_allclose(found, x.value, atol=1e-6)


@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1e-4, 1e-2, 1e3, 1e6]))
@settings(max_examples=15, deadline=None)
def test_units_do_not_matter(seed, scale):
    """The objective in other units has the same minimiser; a row in other units is the same constraint."""
    P, q, R, b = program(seed)
    plain = solved(P, q, R, b)
    scaled = solved(scale * P, scale * q, R / scale, b / scale)
    assert not scaled.reported.any()
    torch.testing.assert_close(scaled.answer, plain.answer, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(scaled.dual, plain.dual * scale**2, rtol=1e-5, atol=1e-8 * scale**2)


def test_units_too_far_apart_are_not_solved_in_silence():
    """Rows 10¹² times as large as the objective: some answers are off, and every one of these says so."""
    P, q, R, b = (torch.cat(parts) for parts in zip(*map(program, range(300)), strict=True))
    plain, scaled = solved(P, q, R, b), solved(1e-6 * P, 1e-6 * q, 1e6 * R, 1e6 * b)
    off = ((scaled.answer - plain.answer).abs() > 1e-7).any(-1)
    assert off.any()
    assert (scaled.reported[off.view_as(scaled.reported)] != 0).all()


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_the_order_of_rows_and_variables_does_not_matter(seed):
    P, q, R, b = program(seed)
    generator = torch.Generator().manual_seed(seed)
    columns = torch.randperm(6, generator=generator)
    rows = torch.cat([torch.arange(2), 2 + torch.randperm(5, generator=generator)])
    moved = solved(P[..., columns, :][..., columns], q[..., columns], R[..., rows, :][..., columns], b[..., rows])
    torch.testing.assert_close(moved.answer, solved(P, q, R, b).answer[..., columns], rtol=1e-8, atol=1e-9)


def test_a_batch_is_a_loop():
    many = [program(seed) for seed in range(5)]
    together = solved(*(torch.cat(parts) for parts in zip(*many, strict=True)))
    for one, answer in zip(many, together.answer, strict=True):
        torch.testing.assert_close(answer, solved(*one).answer[0], rtol=1e-9, atol=1e-10)


def test_derivatives_of_both_orders_match_finite_differences():
    P, q, R, b = (t.requires_grad_() for t in program(0, 4, 1, 3))

    def solve(P, q, R, b):
        return solved((P + P.mT) / 2, q, R, b, 1).answer

    assert torch.autograd.gradcheck(solve, (P, q, R, b), check_batched_grad=True)
    assert torch.autograd.gradgradcheck(solve, (P, q, R, b))


def test_a_singular_objective_with_a_unique_answer_is_solved():
    """P has rank 3 of 6; the rows settle the rest."""
    generator = torch.Generator().manual_seed(1)
    P, q, _, _ = program(1, 6, rank=3)
    box = torch.cat([torch.eye(6), -torch.eye(6)]).double()[None, None]
    b = torch.ones(1, 1, 12, dtype=torch.float64)
    q = q + 0.1 * torch.randn(6, dtype=torch.float64, generator=generator)
    answer = solved(P, q, box, b, 0)
    assert float(QuadraticProblem(P, q, box, b).residual(answer.answer, answer.dual)) <= 1e-9
    point = answer.answer[0, 0]
    for _ in range(200):  # no feasible point is better
        other = (torch.rand(6, dtype=torch.float64, generator=generator) * 2 - 1).clamp(-1, 1)
        assert objective(P[0, 0], q[0, 0], point) <= objective(P[0, 0], q[0, 0], other) + 1e-9


def test_rows_that_bound_nothing_change_nothing():
    P, q, R, b = program(3)
    more_rows = torch.cat([R, torch.randn(1, 1, 4, 6, dtype=torch.float64)], -2)
    more = solved(P, q, more_rows, torch.cat([b, torch.full((1, 1, 4), float("inf"), dtype=torch.float64)], -1))
    torch.testing.assert_close(more.answer, solved(P, q, R, b).answer, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("status", "P", "q", "R", "b"),
    [
        (Status.INFEASIBLE, [[1.0]], [0.0], [[1.0], [-1.0]], [0.0, -1.0]),  # x ≤ 0 and x ≥ 1
        (Status.UNBOUNDED, [[0.0]], [1.0], [[1.0]], [0.0]),  # x falls for ever
        (Status.SINGULAR, [[0.0]], [0.0], [[1.0]], [1.0]),  # any x ≤ 1
    ],
)
def test_what_has_no_answer_is_reported_as_what_it_is(status, P, q, R, b):
    parts = (torch.tensor(v, dtype=torch.float64)[None, None] for v in (P, q, R, b))
    assert int(solved(*parts, 0).reported) == status
