"""``kernel_ridge``: answers, derivatives, transforms, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.kernel_ridge import KernelRidge as SklearnKernelRidge
from torch.autograd import gradcheck, gradgradcheck

from convexdistill.errors import (
    NonFiniteInputError,
    NumericalWarning,
    ParameterRangeError,
    ShapeError,
    SingularSystemError,
    UnknownNameError,
    UnsupportedError,
)
from convexdistill.layers import KernelRidge, Status, explain, kernel_ridge, ridge

INTERCEPTS = ["none", "free", "penalized"]


def rbf(a, b, width=1.0):
    return (-((a.unsqueeze(-2) - b.unsqueeze(-3)) ** 2).sum(-1) / (2 * width)).exp()


def problem(*batch, n=6, columns=2):
    points = torch.randn(*batch, n, 3, dtype=torch.float64)
    return points, rbf(points, points), torch.randn(*batch, n, columns, dtype=torch.float64)


def weights(n=6):
    return torch.rand(n, dtype=torch.float64) + 0.5


def fitted(**options):
    """A function of a matrix that is made symmetric, so that single entries may be moved."""

    def function(K, Y, lam, s=None):
        fit = kernel_ridge((K + K.mT) / 2, Y, lam, sample_weight=s, **options)
        return (fit.weight,) if fit.intercept is None else (fit.weight, fit.intercept)

    return function


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("lam", [0.3, [0.3, 2.0]])
@pytest.mark.parametrize("method", ["auto", "cholesky", "eigh"])
def test_agrees_with_sklearn(method, lam, weighted):
    points, K, Y = problem(n=12)
    s = weights(12) if weighted else None
    query = torch.randn(5, 3, dtype=torch.float64)
    fit = kernel_ridge(K, Y, torch.tensor(lam, dtype=torch.float64), sample_weight=s, method=method)
    reference = SklearnKernelRidge(alpha=np.array(lam), kernel="precomputed")
    reference.fit(K.numpy(), Y.numpy(), sample_weight=None if s is None else s.numpy())
    np.testing.assert_allclose(fit.weight, reference.dual_coef_, rtol=1e-9, atol=1e-11)
    cross = rbf(query, points)
    np.testing.assert_allclose(fit.predict(cross), reference.predict(cross.numpy()), rtol=1e-9, atol=1e-11)
    assert fit.info.method == ("cholesky" if method == "auto" else method)
    assert fit.info.form == "dual"


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("intercept", INTERCEPTS)
def test_a_linear_kernel_is_ridge(intercept, weighted):
    X = torch.randn(2, 7, 4, dtype=torch.float64)
    Y = torch.randn(2, 7, 3, dtype=torch.float64)
    s = weights(7) if weighted else None
    if s is not None:
        s[2] = 0.0
    fit = kernel_ridge(X @ X.mT, Y, 0.4, sample_weight=s, intercept=intercept)
    expected = ridge(X, Y, 0.4, sample_weight=s, intercept=intercept)
    torch.testing.assert_close(X.mT @ fit.weight, expected.weight, rtol=1e-10, atol=1e-12)
    query = torch.randn(2, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(fit.predict(query @ X.mT), expected.predict(query), rtol=1e-10, atol=1e-12)
    if intercept != "none":
        torch.testing.assert_close(fit.intercept, expected.intercept, rtol=1e-10, atol=1e-12)
    if s is not None:
        assert (fit.weight[:, 2].abs() < 1e-15).all()


def test_the_condition_is_known():
    _, K, Y = problem()
    expected = torch.linalg.cond(K + 0.1 * torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close(kernel_ridge(K, Y, 0.1, method="eigh").info.condition, expected)
    estimate = float(kernel_ridge(K, Y, 0.1).info.condition / expected)
    assert 0.5 < estimate < 6.0
    assert explain(kernel_ridge, K, Y, 0.1).methods == ("cholesky", "eigh")


@pytest.mark.parametrize("intercept", INTERCEPTS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("lam", [0.5, [0.7, 0.3]])
def test_first_and_second_derivatives_match_finite_differences(lam, weighted, intercept):
    _, K, Y = problem(n=4)
    arguments = [K, Y, torch.tensor(lam, dtype=torch.float64), *([weights(4)] if weighted else [])]
    arguments = [t.requires_grad_() for t in arguments]
    function = fitted(intercept=intercept)
    assert gradcheck(function, arguments, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, arguments)


def test_eigenvalues_give_the_same_derivatives_also_where_they_repeat():
    K = torch.eye(4, dtype=torch.float64).requires_grad_()
    Y = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    lam = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    assert gradcheck(fitted(method="eigh"), (K, Y, lam), check_forward_ad=True)
    assert gradgradcheck(fitted(method="eigh"), (K, Y, lam))


def test_the_gradients_are_the_formulas_and_that_to_gram_is_symmetric():
    _, K, Y = problem(n=5)
    lam = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    s = weights(5).requires_grad_()
    A = kernel_ridge(K.requires_grad_(), Y.requires_grad_(), lam, sample_weight=s).weight
    G = torch.randn_like(A)
    dK, dY, dlam, ds = torch.autograd.grad(A, (K, Y, lam, s), G)
    U = torch.linalg.solve(K + lam * torch.diag(1 / s), G)
    torch.testing.assert_close(dY, U)
    torch.testing.assert_close(dK, -(U @ A.T + A @ U.T) / 2)
    torch.testing.assert_close(dlam, -(U * A / s[:, None]).sum())
    torch.testing.assert_close(ds, lam * (U * A).sum(-1) / s**2)
    assert torch.equal(dK, dK.T)


@pytest.mark.parametrize("intercept", INTERCEPTS)
def test_weights_of_zero_have_first_and_second_derivatives(intercept):
    _, K, Y = problem(n=5)
    s = torch.tensor([0.0, 1.0, 0.5, 0.0, 2.0], dtype=torch.float64, requires_grad=True)

    def loss(s):
        return kernel_ridge(K, Y, 0.3, sample_weight=s, intercept=intercept).weight.pow(2).sum()

    (gradient,) = torch.autograd.grad(loss(s), s, create_graph=True)
    (second,) = torch.autograd.grad(gradient[0], s)
    h = 1e-5
    e = torch.zeros(5, dtype=torch.float64)
    e[0] = h
    with torch.no_grad():  # one-sided, second order: weights must not be negative
        slope = (-3 * loss(s) + 4 * loss(s + e) - loss(s + 2 * e)) / (2 * h)
    torch.testing.assert_close(gradient[0].detach(), slope, rtol=1e-5, atol=1e-7)

    def at(s):
        return torch.autograd.grad(loss(s), s)[0][0]

    moved = [(s.detach() + k * e).requires_grad_() for k in (0, 1, 2)]
    slope = (-3 * at(moved[0]) + 4 * at(moved[1]) - at(moved[2])) / (2 * h)
    torch.testing.assert_close(second[0], slope, rtol=1e-5, atol=1e-7)


def test_without_regularisation_it_interpolates_and_weights_do_not_matter():
    _, K, Y = problem(n=4)
    s = weights(4).requires_grad_()
    lam = torch.zeros((), dtype=torch.float64, requires_grad=True)
    K = K.requires_grad_()
    fit = kernel_ridge(K, Y, lam, sample_weight=s)
    torch.testing.assert_close(fit.predict(K), Y, rtol=1e-9, atol=1e-9)
    dK, ds, dlam = torch.autograd.grad(fit.weight.sum(), (K, s, lam))
    inverse = torch.linalg.inv(K.detach())
    A, U = inverse @ Y, inverse @ torch.ones_like(Y)
    torch.testing.assert_close(ds, torch.zeros_like(s), rtol=0, atol=1e-9)
    torch.testing.assert_close(dlam, -(U * A / s.detach()[:, None]).sum(), rtol=1e-6, atol=0)
    torch.testing.assert_close(dK, -(U @ A.T + A @ U.T) / 2, rtol=1e-6, atol=1e-6)


def test_transforms_agree_with_loops():
    _, K, Y = problem(3, n=4)
    lam = torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)
    s = torch.rand(3, 4, dtype=torch.float64) + 0.1

    def weight(K, Y, lam, s):
        return kernel_ridge(K, Y, lam, sample_weight=s).weight

    loop = torch.stack([weight(K[i], Y[i], lam[i], s[i]) for i in range(3)])
    torch.testing.assert_close(torch.func.vmap(weight)(K, Y, lam, s), loop)
    torch.testing.assert_close(weight(K, Y, lam.unsqueeze(-1), s), loop)
    for wrt in range(4):
        arguments = (K[0], Y[0], lam[0], s[0])
        reverse = torch.func.jacrev(weight, wrt)(*arguments)
        torch.testing.assert_close(torch.func.jacfwd(weight, wrt)(*arguments), reverse)

    def loss(lam):
        return weight(K[0], Y[0], lam, s[0]).pow(2).sum()

    hessian = torch.func.hessian(loss)(lam[0])
    at = lam[0].clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(at), at, create_graph=True)
    torch.testing.assert_close(hessian, torch.autograd.grad(slope, at)[0])


@pytest.mark.parametrize("method", ["auto", "eigh"])
@pytest.mark.parametrize("intercept", ["none", "free"])
def test_compiles_without_graph_breaks(intercept, method):
    _, K, Y = problem()
    K, Y, s = K.requires_grad_(), Y.requires_grad_(), weights()

    def function(K, Y):
        return kernel_ridge(K, Y, 0.3, sample_weight=s, intercept=intercept, method=method).weight

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(K, Y), function(K, Y))
    found = torch.autograd.grad(compiled(K, Y).square().sum(), (K, Y))
    torch.testing.assert_close(found, torch.autograd.grad(function(K, Y).square().sum(), (K, Y)))


def test_any_leading_dimensions():
    _, K, Y = problem(2, 1, n=5)
    many = Y.expand(2, 3, 5, 2)
    fit = kernel_ridge(K, many, torch.tensor([0.1, 0.7], dtype=torch.float64))
    assert fit.weight.shape == (2, 3, 5, 2)
    torch.testing.assert_close(
        fit.weight[1, 2], kernel_ridge(K[1, 0], Y[1, 0], torch.tensor([0.1, 0.7], dtype=torch.float64)).weight
    )
    shared = kernel_ridge(K[0, 0], many, 0.4)
    assert shared.info.condition.shape == shared.info.status.shape == (2, 3)
    torch.testing.assert_close(shared.weight[1, 0], kernel_ridge(K[0, 0], Y[1, 0], 0.4).weight)
    vector = kernel_ridge(K, Y[..., 0], 0.4, intercept="free")
    assert vector.weight.shape == (2, 1, 5)
    assert vector.intercept.shape == (2, 1)
    assert vector.predict(K).shape == (2, 1, 5)
    empty = kernel_ridge(K[:0], Y[:0])
    assert empty.weight.shape == (0, 1, 5, 2)
    assert empty.info.status.shape == (0, 1)


def test_refuses_what_is_no_gram_matrix():
    _, K, Y = problem()
    with pytest.raises(ShapeError, match=r"gram has shape \(6, 5\)"):
        kernel_ridge(K[:, :5], Y)
    with pytest.raises(ShapeError, match=r"labels has shape \(5, 2\) and gram \(6, 6\)"):
        kernel_ridge(K, Y[:5])
    with pytest.raises(ShapeError, match="no columns"):
        kernel_ridge(K, Y[:, :0])
    with pytest.raises(ShapeError, match="sample_weight"):
        kernel_ridge(K, Y, sample_weight=weights(5))
    skew = K.clone()
    skew[0, 1] += 0.1
    with pytest.raises(ParameterRangeError, match="gram is not symmetric"):
        kernel_ridge(skew, Y)
    with pytest.raises(NonFiniteInputError, match=r"gram\[0, 0\]"):
        kernel_ridge(K.index_fill(0, torch.tensor(0), float("nan")), Y)
    with pytest.raises(ParameterRangeError, match="lam"):
        kernel_ridge(K, Y, -1.0)
    with pytest.raises(ParameterRangeError, match="sample_weight sums to 0"):
        kernel_ridge(K, Y, sample_weight=torch.zeros(6, dtype=torch.float64), intercept="free")
    with pytest.raises(UnknownNameError, match="'eigh'"):
        kernel_ridge(K, Y, method="svd")


def test_a_backend_without_a_solver_is_refused():
    pytest.importorskip("cvxpylayers")
    _, K, Y = problem()
    with pytest.raises(UnsupportedError, match=r"KernelRidgeProblem.* use one of 'torch'"):
        kernel_ridge(K, Y, backend="cvxpylayers")
    with pytest.raises(UnsupportedError, match="KernelRidgeProblem"):
        KernelRidge(backend="cvxpylayers")


@pytest.mark.parametrize("on_failure", ["raise", "warn"])
def test_an_indefinite_matrix_is_refused_and_its_eigenvalue_told(on_failure):
    _, K, Y = problem()
    K = K - 2 * torch.eye(6, dtype=torch.float64)
    smallest = float(torch.linalg.eigvalsh(K)[0]) + 1e-3
    with pytest.raises(ParameterRangeError, match=f"for 1 of 1 .* eigenvalue is {smallest:.3g}"):
        kernel_ridge(K, Y, 1e-3, on_failure=on_failure)


def test_failed_elements_become_nan_and_leave_the_others_alone():
    _, K, Y = problem(5, n=4)
    eye = torch.eye(4, dtype=torch.float64)
    K[1] = torch.diag(torch.tensor([1.0, 2.0, -3.0, 1.0], dtype=torch.float64))
    K[2, 0, 1] += 1.0
    K[3, 0, 0] = float("inf")
    K[4] = 0.0
    lam = torch.tensor([[0.1], [0.1], [0.1], [0.1], [0.0]], dtype=torch.float64)
    K.requires_grad_()
    fit = kernel_ridge(K, Y, lam, on_failure="nan")
    expected = [
        Status.OPTIMAL,
        Status.INVALID_INPUT,
        Status.INVALID_INPUT,
        Status.NONFINITE_INPUT,
        Status.SINGULAR,
    ]
    assert fit.info.status.tolist() == [int(code) for code in expected]
    assert fit.weight[1:].isnan().all()
    torch.testing.assert_close(fit.weight[0], torch.linalg.solve(K[0] + 0.1 * eye, Y[0]))
    fit.weight[0].sum().backward()
    assert K.grad[0].isfinite().all()


def test_a_singular_system_is_named():
    _, _, Y = problem()
    ones = torch.ones(6, 6, dtype=torch.float64)
    with pytest.raises(SingularSystemError, match="singular"):
        kernel_ridge(ones, Y, 0.0)
    with pytest.warns(NumericalWarning, match="singular"):
        kernel_ridge(ones, Y, 0.0, on_failure="warn")
    assert kernel_ridge(ones, Y, 1e-6).info.ok


def test_float32_answers_are_those_of_a_float64_solve():
    _, K, Y = problem()
    K, Y = K.float().requires_grad_(), Y.float()
    fit = kernel_ridge(K, Y, 0.01, intercept="free")
    assert fit.weight.dtype == fit.intercept.dtype == torch.float32
    expected = kernel_ridge(K.detach().double(), Y.double(), 0.01, intercept="free").weight
    assert torch.equal(fit.weight, expected.float())
    fit.weight.sum().backward()
    assert K.grad.dtype == torch.float32


def test_the_module_learns_lam():
    _, K, Y = problem()
    layer = KernelRidge(0.5, learn_lam=True, intercept="penalized")
    torch.testing.assert_close(layer(K, Y).weight, kernel_ridge(K, Y, 0.5, intercept="penalized").weight)
    layer(K, Y).weight.square().sum().backward()
    assert layer.log_lam.grad < 0  # more λ, smaller coefficients
    assert repr(layer) == "KernelRidge(lam=0.5, learn_lam=True, intercept='penalized')"


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 7), st.floats(-6, 4), st.booleans())
def test_the_answer_solves_the_normal_equations(seed, n, exponent, weighted):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(n, 2, dtype=torch.float64, generator=generator)
    Y = torch.randn(n, 2, dtype=torch.float64, generator=generator)
    s = torch.rand(n, dtype=torch.float64, generator=generator) if weighted else torch.ones(n).double()
    K, lam = rbf(points, points), 10.0**exponent
    fit = kernel_ridge(K, Y, lam, sample_weight=s if weighted else None)
    error = s[:, None] * (Y - K @ fit.weight) - lam * fit.weight
    assert error.norm() <= 1e-12 * ((K.norm() + lam) * fit.weight.norm() + Y.norm())
