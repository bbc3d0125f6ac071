"""Moreau's decomposition and its derivative, for every cone."""

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from convexdistill.layers.conic import interface, solvers
from convexdistill.layers.conic.cones import Cones, _symmetric_basis, split
from convexdistill.layers.conic.program import Program, adjoint, measure, refine

EVERY = {
    "zero": Cones(zero=3),
    "nonneg": Cones(nonneg=4),
    "soc": Cones(soc=(1, 2, 4)),
    "psd": Cones(psd=(1, 2, 3)),
    "exp": Cones(exp=4),
    "power": Cones(power=(0.3, 0.5, 0.8)),
}
ALL = Cones(2, 3, (2, 4, 3), (1, 3), 4, (0.3, 0.7, 0.5))


def constraints(cones: Cones, s: cp.Variable) -> list:
    """What cvxpy calls s ∈ K."""
    zero, end = cones.zero, cones.zero + cones.nonneg
    found = ([s[:zero] == 0] if zero else []) + ([s[zero:end] >= 0] if cones.nonneg else [])
    for size in cones.soc:
        found.append(cp.SOC(s[end], s[end + 1 : end + size]) if size > 1 else s[end] >= 0)
        end += size
    for side in cones.psd:
        found.append(sum(s[end + i] * E for i, E in enumerate(_symmetric_basis(side))) >> 0)
        end += side * (side + 1) // 2
    for _ in range(cones.exp):
        found.append(cp.ExpCone(s[end], s[end + 1], s[end + 2]))
        end += 3
    for alpha in cones.power:
        found.append(cp.PowCone3D(s[end], s[end + 1], s[end + 2], alpha))
        end += 3
    return found


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("seed", range(4))
def test_the_slack_is_the_projection_that_cvxpy_finds(kind, seed):
    cones = EVERY[kind]
    v = 2 * np.random.default_rng(seed).standard_normal(cones.rows)
    y, s, _ = split(cones, v, np.maximum(-v, 0.1))
    variable = cp.Variable(cones.rows)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(variable + v)), constraints(cones, variable))
    problem.solve(solver="SCS", eps=1e-10, max_iters=50_000)
    assert np.abs(variable.value - s).max() < 1e-6
    assert np.abs(y - s - v).max() < 1e-14
    assert abs(y @ s) < 1e-13 * (v @ v)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(-9, 9))
def test_the_split_is_exact_and_homogeneous_at_every_scale(seed, decade):
    v = np.random.default_rng(seed).standard_normal(ALL.rows)
    y, s, D = split(ALL, v, np.maximum(-v, 0.1))
    scale = 10.0**decade
    scaled, _, _ = split(ALL, scale * v, scale * np.maximum(-v, 0.1))
    assert np.abs(scaled / scale - y).max() < 1e-11
    assert abs(y @ s) < 1e-12 * (v @ v)
    eigenvalues = np.linalg.eigvalsh(D)
    assert eigenvalues.min() > -1e-9
    assert eigenvalues.max() < 1 + 1e-9


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_the_split_is_nonexpansive(seed):
    """‖Π(u) − Π(v)‖ ≤ ‖u − v‖ holds for projections onto convex sets, and for nothing that is wrong."""
    u, v = np.random.default_rng(seed).standard_normal((2, ALL.rows))
    y, s, _ = split(ALL, u, np.maximum(-u, 0.1))
    z, t, _ = split(ALL, v, np.maximum(-v, 0.1))
    assert np.linalg.norm(y - z) <= np.linalg.norm(u - v) * (1 + 1e-12)
    assert np.linalg.norm(s - t) <= np.linalg.norm(u - v) * (1 + 1e-12)


@pytest.mark.parametrize("kind", EVERY)
def test_the_derivative_is_that_of_finite_differences(kind):
    cones, step = EVERY[kind], 1e-6
    v = np.random.default_rng(7).standard_normal(cones.rows)
    _, s, D = split(cones, v, np.maximum(-v, 0.1))
    columns = [
        (split(cones, v + step * e, s)[0] - split(cones, v - step * e, s)[0]) / (2 * step)
        for e in np.eye(cones.rows)
    ]
    assert np.abs(np.stack(columns, 1) - D).max() < 1e-7


def known_program(seed: int, columns: int = 24) -> tuple[Program, np.ndarray, np.ndarray]:
    """A program whose answer is known, because it was built from one."""
    rng = np.random.default_rng(seed)
    v, A = rng.standard_normal(ALL.rows), rng.standard_normal((ALL.rows, columns))
    y, s, _ = split(ALL, v, np.maximum(-v, 0.1))
    x, M = rng.standard_normal(columns), rng.standard_normal((columns, columns))
    P = M.T @ M
    return Program(sp.csc_array(P), -P @ x - A.T @ y, sp.csc_array(A), A @ x + s, ALL), x, v


@pytest.mark.parametrize("name", ["clarabel", "scs"])
@pytest.mark.parametrize("seed", range(3))
def test_solvers_agree_and_newton_brings_them_to_rounding(name, seed):
    program, x, _ = known_program(seed)
    (answer,) = solvers.SOLVERS[name]([program], {})
    raw = measure(program, answer.x, answer.y - answer.s, answer.s)
    point = refine(program, raw)
    assert raw.residual < 1e-3
    assert point.residual < 1e-13
    assert np.abs(point.x - x).max() < 1e-9 * np.abs(x).max()


@pytest.mark.parametrize("seed", range(3))
def test_the_adjoint_is_that_of_finite_differences_in_all_data(seed):
    program, x, v = known_program(seed)
    rng, step = np.random.default_rng(seed + 50), 1e-6
    x_bar, y_bar, dq, db = (rng.standard_normal(k) for k in (len(x), len(v), len(x), len(v)))
    dA, dM = rng.standard_normal(program.A.shape), rng.standard_normal(program.P.shape)
    dP = dM @ dM.T

    def at(t: float) -> float:
        moved = Program(
            program.P + sp.csc_array(t * dP),
            program.q + t * dq,
            program.A + sp.csc_array(t * dA),
            program.b + t * db,
            ALL,
        )
        point = refine(moved, measure(moved, x, v, np.maximum(-v, 0.1)))
        assert point.residual < 1e-13
        return point.x @ x_bar + point.y @ y_bar

    point = refine(program, measure(program, x, v, np.maximum(-v, 0.1)))
    w1, w2, error = adjoint(program, point, x_bar, y_bar)
    found = -w1 @ dq + w2 @ db - w1 @ dP @ point.x - point.y @ dA @ w1 - w2 @ dA @ point.x
    assert error < 1e-12
    assert found == pytest.approx((at(step) - at(-step)) / (2 * step), rel=1e-6)


def test_a_wrong_answer_has_a_large_residual():
    program, x, v = known_program(0)
    slack = np.maximum(-v, 0.1)
    assert measure(program, x, v, slack).residual < 1e-13
    assert measure(program, x + 1e-4, v, slack).residual > 1e-6
    assert measure(program, 0 * x, 0 * v, slack).residual > 0.1


def test_one_program_that_makes_a_solver_raise_does_not_spoil_the_others():
    good, x, _ = known_program(1)
    bad = Program(good.P, good.q * np.nan, good.A * np.nan, good.b * np.nan, ALL)
    answers = interface._try("scs", [good, bad, good], {})
    assert [a.verdict for a in answers] == ["solved", "failed", "solved"]
    assert np.abs(answers[2].x - x).max() < 1e-5
