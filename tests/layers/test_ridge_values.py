"""What ``ridge`` returns: against scikit-learn, and by the properties that ridge has."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layers_helpers import data, relative
from sklearn.linear_model import Ridge as SklearnRidge

from convexdistill.layers import Status, ridge
from convexdistill.layers.problems.ridge import RidgeProblem

small = settings(max_examples=25, deadline=None)
sizes = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
seeds = st.integers(0, 2**31)
lams = st.floats(1e-3, 1e3)


def draw(size, seed):
    torch.manual_seed(seed)
    n, d, C = size
    return data(n, d, columns=C)


@pytest.mark.parametrize("intercept", ["none", "free"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(12, 4), (5, 9)])
def test_agrees_with_scikit_learn(backend, shape, weighted, intercept):
    X, Y = data(*shape, columns=3)
    alpha = np.array([0.1, 1.0, 10.0])
    s = torch.rand(shape[0], dtype=torch.float64) + 0.1 if weighted else None
    oracle = SklearnRidge(alpha=alpha, fit_intercept=intercept == "free")
    oracle.fit(X.numpy(), Y.numpy(), sample_weight=None if s is None else s.numpy())
    fit = ridge(X, Y, torch.tensor(alpha), sample_weight=s, intercept=intercept, backend=backend)
    torch.testing.assert_close(fit.weight.T, torch.tensor(oracle.coef_), rtol=1e-6, atol=1e-8)
    if intercept == "free":
        torch.testing.assert_close(fit.intercept, torch.tensor(oracle.intercept_), rtol=1e-6, atol=1e-8)
    query = torch.randn(4, shape[1], dtype=torch.float64)
    torch.testing.assert_close(
        fit.predict(query), torch.tensor(oracle.predict(query.numpy())), rtol=1e-6, atol=1e-8
    )


def test_penalized_intercept_is_the_weight_of_a_ones_column(backend):
    X, Y = data(8, 3)
    fit = ridge(X, Y, 0.3, intercept="penalized", backend=backend)
    plain = ridge(torch.cat([X, X.new_ones(8, 1)], 1), Y, 0.3, backend=backend)
    torch.testing.assert_close(torch.cat([fit.weight, fit.intercept[None]]), plain.weight)


@small
@given(sizes, seeds, lams)
def test_primal_equals_dual(size, seed, lam):
    X, Y = draw(size, seed)
    primal, dual = (ridge(X, Y, lam, form=form) for form in ("primal", "dual"))
    assert (primal.info.form, dual.info.form) == ("primal", "dual")
    torch.testing.assert_close(primal.weight, dual.weight, rtol=1e-8, atol=1e-10)


@small
@given(sizes, seeds, lams)
def test_gradient_of_the_objective_vanishes(size, seed, lam):
    X, Y = draw(size, seed)
    fit = ridge(X, Y, lam)
    W = fit.weight.requires_grad_()
    objective = ((X @ W - Y) ** 2).sum() + lam * (W**2).sum()
    (gradient,) = torch.autograd.grad(objective, W)
    scale = float(X.norm() * Y.norm())
    assert float(gradient.norm()) <= 1e-10 * scale
    assert float(fit.info.residual) == pytest.approx(float(gradient.norm()) / 2 / scale, abs=1e-13)


@small
@given(sizes, seeds, lams)
def test_linear_in_the_labels(size, seed, lam):
    X, Y = draw(size, seed)
    Z = torch.randn_like(Y)
    together = ridge(X, 2 * Y - 3 * Z, lam).weight
    torch.testing.assert_close(
        together, 2 * ridge(X, Y, lam).weight - 3 * ridge(X, Z, lam).weight, rtol=1e-8, atol=1e-8
    )


@small
@given(sizes, seeds, lams, st.sampled_from(["none", "free", "penalized"]))
def test_repeating_a_row_is_a_weight_of_two(size, seed, lam, intercept):
    X, Y = draw(size, seed)
    repeated = ridge(torch.cat([X, X[:1]]), torch.cat([Y, Y[:1]]), lam, intercept=intercept)
    s = torch.ones(len(X), dtype=torch.float64)
    s[0] = 2
    weighted = ridge(X, Y, lam, sample_weight=s, intercept=intercept)
    torch.testing.assert_close(weighted.weight, repeated.weight, rtol=1e-8, atol=1e-9)


@small
@given(sizes, seeds)
def test_weight_goes_to_zero_as_lam_grows(size, seed):
    X, Y = draw(size, seed)
    norms = [float(ridge(X, Y, lam).weight.norm()) for lam in (1e-2, 1.0, 1e2, 1e12)]
    assert norms == sorted(norms, reverse=True)
    assert norms[-1] <= 1e-10 * float(X.norm() * Y.norm())


@small
@given(sizes, seeds, lams)
def test_rotating_the_features_rotates_the_weight(size, seed, lam):
    X, Y = draw(size, seed)
    Q = torch.linalg.qr(torch.randn(X.shape[1], X.shape[1], dtype=torch.float64)).Q
    torch.testing.assert_close(Q @ ridge(X @ Q, Y, lam).weight, ridge(X, Y, lam).weight, rtol=1e-7, atol=1e-8)


def test_batch_equals_loop(backend):
    X, Y = data(2, 3, 6, 4)
    lam = torch.rand(2, 3, 2, dtype=torch.float64) + 0.1
    s = torch.rand(2, 3, 6, dtype=torch.float64) + 0.1
    fit = ridge(X, Y, lam, sample_weight=s, intercept="free", backend=backend)
    assert fit.info.status.shape == fit.info.residual.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            one = ridge(X[i, j], Y[i, j], lam[i, j], sample_weight=s[i, j], intercept="free", backend=backend)
            torch.testing.assert_close(fit.weight[i, j], one.weight, rtol=1e-7, atol=1e-8)
            torch.testing.assert_close(fit.intercept[i, j], one.intercept, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("form", ["primal", "dual"])
@pytest.mark.parametrize(
    ("features", "labels", "lam"),
    [
        ((6, 4), (5, 6, 2), ()),
        ((5, 6, 4), (1, 6, 2), ()),
        ((3, 1, 6, 4), (1, 5, 6, 2), (3, 1, 2)),
        ((6, 4), (1, 6, 2), (7, 1)),
    ],
)
def test_leading_dimensions_broadcast(features, labels, lam, form):
    X, Y = torch.randn(*features).double(), torch.randn(*labels).double()
    lam = torch.rand(lam, dtype=torch.float64) + 0.5
    B = torch.broadcast_shapes(features[:-2], labels[:-2], lam.shape[:-1])
    fit = ridge(X, Y, lam, form=form)
    spread = ridge(X.expand(*B, 6, 4), Y.expand(*B, 6, 2), lam.expand(*B, 2), form=form)
    assert fit.weight.shape == (*B, 4, 2)
    assert fit.info.status.shape == B
    torch.testing.assert_close(fit.weight, spread.weight)


@pytest.mark.parametrize("intercept", ["none", "free"])
def test_vector_labels_are_one_column(backend, intercept):
    X, Y = data(3, 6, 4, columns=1)
    vector = ridge(X, Y[..., 0], 0.5, intercept=intercept, backend=backend)
    matrix = ridge(X, Y, 0.5, intercept=intercept, backend=backend)
    assert vector.weight.shape == (3, 4)
    torch.testing.assert_close(vector.weight, matrix.weight[..., 0])
    query = torch.randn(3, 5, 4, dtype=torch.float64)
    assert vector.predict(query).shape == (3, 5)
    torch.testing.assert_close(vector.predict(query), matrix.predict(query)[..., 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_answer_has_the_dtype_of_the_inputs(backend, dtype):
    X, Y = (t.to(dtype) for t in data(7, 3))
    fit = ridge(X, Y, 0.5, intercept="free", backend=backend)
    assert fit.weight.dtype == fit.intercept.dtype == fit.predict(X).dtype == dtype
    exact = ridge(X.double(), Y.double(), 0.5, intercept="free", backend=backend)
    assert relative(fit.weight.double(), exact.weight) <= 2 * torch.finfo(dtype).eps


def test_float32_inputs_lose_nothing_to_the_solve():
    # The normal equations in float32 were measured 47 % wrong here, with info == 0.
    U, _ = torch.linalg.qr(torch.randn(60, 20, dtype=torch.float64))
    V, _ = torch.linalg.qr(torch.randn(20, 20, dtype=torch.float64))
    X = (U * torch.logspace(0, -4, 20, dtype=torch.float64) @ V.T).float()
    Y = torch.randn(60, 3)
    fit = ridge(X, Y, 1e-9)
    exact = torch.linalg.lstsq(
        torch.cat([X.double(), 1e-9**0.5 * torch.eye(20).double()]),
        torch.cat([Y.double(), torch.zeros(20, 3).double()]),
    ).solution
    assert relative(fit.weight.double(), exact) <= 1e-6
    assert float(fit.info.residual) <= 1e-8


@pytest.mark.parametrize("shape", [(30, 8), (8, 30)])
def test_ill_conditioned_problems_escalate(shape):
    k = min(shape)
    U, _ = torch.linalg.qr(torch.randn(shape[0], k, dtype=torch.float64))
    V, _ = torch.linalg.qr(torch.randn(shape[1], k, dtype=torch.float64))
    X = U * torch.logspace(0, -7, k, dtype=torch.float64) @ V.T
    Y = X @ torch.randn(shape[1], 2, dtype=torch.float64)
    fit = ridge(X, Y, 0.0)
    assert fit.info.method in ("qr", "svd")
    assert fit.info.ok.all()
    exact = torch.linalg.pinv(X, rtol=1e-12) @ Y
    assert relative(fit.weight, exact) <= 1e-7
    S, R = (X.T @ X, X.T @ Y) if shape[0] > shape[1] else (X @ X.T, Y)
    plain = torch.cholesky_solve(R, torch.linalg.cholesky_ex(S).L)
    assert relative(plain if shape[0] > shape[1] else X.T @ plain, exact) > 1e-7
    assert 3e13 <= float(fit.info.condition) <= 1e15


@pytest.mark.parametrize("method", ["cholesky", "qr", "svd"])
def test_every_method_gives_the_same_answer_and_says_its_name(method):
    for shape in ((9, 4), (4, 9)):
        X, Y = data(*shape)
        for form in ("primal", "dual"):
            fit = ridge(X, Y, 0.3, method=method, form=form)
            assert (fit.info.method, fit.info.form) == (method, form)
            torch.testing.assert_close(fit.weight, ridge(X, Y, 0.3).weight)


def test_condition_is_that_of_the_system():
    X, Y = data(20, 6)
    exact = torch.linalg.cond(X.T @ X + 0.5 * torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close(ridge(X, Y, 0.5, method="svd").info.condition, exact)
    bound = 1.001 * (X.square().sum() + 0.5) / 0.5  # what λ alone proves
    for method in ("cholesky", "qr"):
        estimate = ridge(X, Y, 0.5, method=method).info.condition
        assert 0.5 * exact <= estimate <= 6 * exact if method == "qr" else exact <= estimate <= bound


def test_lam_zero_in_the_dual_is_the_minimum_norm_solution():
    X, Y = data(4, 9)
    torch.testing.assert_close(ridge(X, Y, 0.0).weight, torch.linalg.pinv(X) @ Y)


def test_empty_batch(backend):
    X, Y = data(0, 6, 4, grad=True)
    fit = ridge(X, Y, 0.5, intercept="free", backend=backend)
    assert fit.weight.shape == (0, 4, 2)
    assert fit.intercept.shape == (0, 2)
    assert fit.info.status.shape == (0,)
    fit.weight.sum().backward()
    assert X.grad.shape == X.shape
    assert Y.grad.shape == Y.shape


def test_memory_layout_does_not_matter(backend):
    X, Y = data(6, 4)
    strided = ridge(X.T.contiguous().T, Y.repeat(1, 2)[:, :2], 0.5, backend=backend)
    torch.testing.assert_close(strided.weight, ridge(X, Y, 0.5, backend=backend).weight)


def test_inputs_are_left_alone(backend):
    X, Y = data(6, 4)
    lam, s = torch.tensor(0.5).double(), torch.rand(6).double()
    before = [t.clone() for t in (X, Y, lam, s)]
    ridge(X, Y, lam, sample_weight=s, intercept="free", backend=backend)
    for now, then in zip((X, Y, lam, s), before, strict=True):
        assert torch.equal(now, then)


def test_labels_of_zero_have_the_weight_zero(backend):
    X, Y = data(6, 4)
    fit = ridge(X, 0 * Y, 0.5, backend=backend)
    assert float(fit.weight.abs().max()) <= 1e-12
    assert fit.info.ok.all()


def test_scaling_the_data_changes_nothing_but_the_scale(backend):
    X, Y = data(6, 4)
    weight = ridge(X, Y, 0.5, backend=backend).weight
    scaled = ridge(X * 1e4, Y * 1e-5, 0.5e8, backend=backend).weight
    assert relative(scaled * 1e9, weight) <= 1e-7


def test_status_codes_have_sentences():
    assert all(status.message.endswith(".") for status in Status)


@pytest.mark.parametrize(
    ("x", "y", "lam"), [(1.0, 1e200, 1.0), (1e155, 1.0, 1.0), (1e-160, 1.0, 1e-318), (1e-90, 1e120, 1e-180)]
)
def test_sizes_whose_squares_leave_float64_are_measured(x, y, lam):
    features, labels = data(20, 6)
    fit = ridge(features * x, labels * y, lam)
    assert 0 < fit.info.residual <= 1e-12
    expected = ridge(features, labels, lam / x / x).weight / x * y
    torch.testing.assert_close(fit.weight, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("x", "y"), [(1e155, 1.0), (1e-170, 1e-170), (1.0, 1e200), (1e-100, 1e-100)])
def test_what_solves_nothing_has_a_large_residual_at_every_size(x, y):
    features, labels = data(20, 6)
    problem = RidgeProblem(features * x, labels * y, torch.ones(1, dtype=torch.float64))
    expected = RidgeProblem(features, labels, torch.ones(1, dtype=torch.float64))
    nothing = torch.zeros(6, 2, dtype=torch.float64)
    torch.testing.assert_close(problem.residual(nothing), expected.residual(nothing), rtol=10, atol=0)


def test_the_weight_may_be_changed_in_place():
    features, labels = data(20, 6, grad=True)
    weight = ridge(features, labels, 0.5).weight
    weight.mul_(2.0)
    found = torch.autograd.grad(weight.pow(3).sum(), (features, labels))
    right = torch.autograd.grad((2.0 * ridge(features, labels, 0.5).weight).pow(3).sum(), (features, labels))
    torch.testing.assert_close(found, right)
