"""Label solves under constraints: against cvxpy, the quadratic-program layer, and the conditions of optimality."""

import cvxpy as cp
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convexdistill import layers
from convexdistill.data import load
from convexdistill.distill.constrained import CONSTRAINTS, onto_simplex, onto_sum, projection, solve_constrained
from convexdistill.distill.outer import outer_terms, teacher_scores
from convexdistill.distill.solve import label_system, solve_labels
from convexdistill.errors import ParameterRangeError, UnknownNameError
from convexdistill.features import pool
from convexdistill.moments import accumulate
from convexdistill.select import choose

DIGITS = load("digits")
TERMS = outer_terms(accumulate(pool("convnet", count=2, width=4), DIGITS), choose(DIGITS, 20), 1e-2)
SYSTEM = label_system(TERMS)
GAMMA, n, C = 0.03, 20, 10
TEACHER = teacher_scores(TERMS)
ZERO = torch.zeros_like(TEACHER)
BOUNDS = (-0.1, 0.6)


def objective(labels, prior):
    return SYSTEM.certificate(labels, GAMMA, prior)["objective"]


def with_cvxpy(constraint, prior):
    Y = cp.Variable((n, C))
    rows = Y + 1 / C
    allowed = {
        "simplex": [rows >= 0, cp.sum(rows, 1) == 1],
        "nonnegative": [rows >= 0],
        "row-sum": [cp.sum(rows, 1) == 1],
        "box": [rows >= BOUNDS[0], rows <= BOUNDS[1]],
        "none": [],
    }[constraint]
    loss = cp.sum_squares(SYSTEM.design.numpy() @ Y - SYSTEM.wanted.numpy())
    penalty = SYSTEM.absolute(GAMMA) * cp.sum_squares(Y - prior.numpy())
    # A gap of 1e-8, the default, leaves labels uncertain by 1e-4.
    tight = {"tol_gap_abs": 1e-13, "tol_gap_rel": 1e-13, "tol_feas": 1e-12}
    cp.Problem(cp.Minimize(loss + penalty), allowed).solve(solver=cp.CLARABEL, **tight)
    return torch.from_numpy(Y.value)


@pytest.mark.parametrize("prior", [ZERO, TEACHER, TEACHER + 0.3], ids=["zero", "teacher", "off-centre"])
@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_the_same_labels_as_cvxpy(constraint, prior):
    labels, certificate = solve_constrained(SYSTEM, GAMMA, prior, constraint, BOUNDS)
    expected = with_cvxpy(constraint, prior)
    assert float((labels - expected).norm() / expected.norm()) < 1e-5
    assert certificate["residual"] < 1e-8
    assert certificate["objective"] == pytest.approx(objective(labels, prior), rel=1e-12)
    rows = labels + 1 / C
    torch.testing.assert_close(projection(constraint, BOUNDS)(rows), rows, rtol=0, atol=1e-14)  # feasible


def test_the_same_labels_as_the_quadratic_program_layer():
    labels, _ = solve_constrained(SYSTEM, GAMMA, ZERO, "simplex")
    # The layer has no shift: rows on the simplex regress what the centred ones want, plus D·(1/C).
    shift = torch.full_like(ZERO, 1 / C)
    wanted = SYSTEM.wanted + SYSTEM.design @ shift
    fit = layers.constrained_ridge(
        SYSTEM.design, wanted, SYSTEM.absolute(GAMMA), constraint="simplex", prior=shift
    )
    torch.testing.assert_close(labels, fit.weight - shift, rtol=0, atol=1e-7)


@pytest.mark.parametrize("constraint", ["simplex", "nonnegative", "box"])
def test_the_constraint_binds_and_the_gap_is_a_bound(constraint):
    free, _ = solve_labels(SYSTEM, GAMMA, ZERO)
    labels, certificate = solve_constrained(SYSTEM, GAMMA, ZERO, constraint)
    assert float((labels - free).norm()) > 1e-2
    assert objective(labels, ZERO) > objective(free, ZERO)
    assert 0 <= certificate["duality_gap"] < 1e-12
    # No feasible point is better, the projection of the free solution included.
    project = projection(constraint, (0.0, 1.0))
    for other in (project(free + 1 / C) - 1 / C, project(TEACHER + 1 / C) - 1 / C):
        assert objective(other, ZERO) >= objective(labels, ZERO)


def test_a_free_solve_with_a_centred_prior_has_row_sums_already():
    free, _ = solve_labels(SYSTEM, GAMMA, TEACHER)
    labels, _ = solve_constrained(SYSTEM, GAMMA, TEACHER, "row-sum")
    torch.testing.assert_close(labels, free, rtol=0, atol=1e-8)


rows = st.lists(st.lists(st.floats(-5, 5), min_size=4, max_size=4), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(rows)
def test_projections_are_feasible_nearest_and_idempotent(values):
    points = torch.tensor(values, dtype=torch.float64)
    found = onto_simplex(points)
    assert float(found.min()) >= 0
    torch.testing.assert_close(found.sum(1), torch.ones(len(points)).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(onto_simplex(found), found, rtol=0, atol=1e-12)
    # Nearest: the way there makes an obtuse angle with the way to every corner.
    corners = torch.eye(4, dtype=torch.float64)
    angles = ((points - found)[:, None] * (corners - found[:, None])).sum(-1)
    assert float(angles.max()) <= 1e-9
    torch.testing.assert_close(onto_sum(points).sum(1), torch.ones(len(points)).double(), rtol=0, atol=1e-12)


def test_what_is_not_known_is_refused():
    with pytest.raises(UnknownNameError, match="'cone'; known are none, simplex"):
        solve_constrained(SYSTEM, GAMMA, ZERO, "cone")
    with pytest.raises(ParameterRangeError, match=r"found 1\.0 and 0\.0"):
        solve_constrained(SYSTEM, GAMMA, ZERO, "box", (1.0, 0.0))
