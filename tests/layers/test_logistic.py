"""Logistic regression: against scikit-learn, finite differences, and its own promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layers_helpers import data, relative
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression

from convexdistill.errors import ParameterRangeError, ShapeError, SolveError
from convexdistill.layers import LogisticRegression, logistic_regression


def soft(*shape, columns=3, grad=False):
    X, Y = data(*shape, columns=columns)
    return X.requires_grad_(grad), Y.softmax(-1).requires_grad_(grad)


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("shape", [(60, 5), (12, 20)])
def test_hard_labels_give_scikit_learns_model(shape, free):
    X, Y = soft(*shape)
    classes = Y.argmax(-1)
    classes[:3] = torch.arange(3)
    hard = torch.nn.functional.one_hot(classes, 3).double()
    s = torch.rand(shape[0], dtype=X.dtype) + 0.5
    fit = logistic_regression(X, hard, 0.7, sample_weight=s, intercept="free" if free else "none")
    peer = SklearnLogisticRegression(C=1 / 0.7, fit_intercept=free, tol=1e-12, max_iter=10_000)
    peer.fit(X.numpy(), classes.numpy(), sample_weight=s.numpy())
    np.testing.assert_allclose(fit.weight.T, peer.coef_, atol=1e-5)
    np.testing.assert_allclose(fit.predict(X).softmax(-1), peer.predict_proba(X.numpy()), atol=1e-5)


def test_vectors_are_the_binary_model():
    X, Y = soft(40, 4, columns=2)
    classes = Y.argmax(-1)
    fit = logistic_regression(X, classes.double(), 0.5)
    peer = SklearnLogisticRegression(C=2.0, fit_intercept=False, tol=1e-12).fit(X.numpy(), classes.numpy())
    np.testing.assert_allclose(fit.weight, peer.coef_[0], atol=1e-5)


@pytest.mark.parametrize("form", ["primal", "dual"])
@pytest.mark.parametrize("intercept", ["none", "free", "penalized"])
def test_derivatives_of_both_orders_match_finite_differences(form, intercept):
    X, Y = soft(6, 3, grad=True)
    lam = torch.tensor(0.8, dtype=X.dtype, requires_grad=True)
    s = (torch.rand(6, dtype=X.dtype) + 0.5).requires_grad_()

    def solve(X, Y, lam, s):
        fit = logistic_regression(X, Y, lam, sample_weight=s, intercept=intercept, form=form)
        return fit.weight if fit.intercept is None else (fit.weight, fit.intercept)

    assert torch.autograd.gradcheck(solve, (X, Y, lam, s), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(solve, (X, Y, lam, s))


def test_forms_and_methods_agree_and_the_gradient_vanishes():
    X, Y = soft(7, 9)
    expected = logistic_regression(X, Y, 0.3)
    assert expected.info.steps is not None
    for options in ({"form": "primal"}, {"form": "dual"}, {"method": "newton-cg"}):
        assert relative(logistic_regression(X, Y, 0.3, **options).weight, expected.weight) < 1e-9
    W = expected.weight
    assert (X.T @ ((X @ W).softmax(-1) - Y) + 0.3 * W).abs().max() < 1e-10


def test_a_soft_label_is_weighted_copies_of_hard_ones():
    X, Y = soft(8, 3)
    copies, hard = X.repeat_interleave(3, 0), torch.eye(3, dtype=X.dtype).repeat(8, 1)
    expected = logistic_regression(copies, hard, 0.4, sample_weight=Y.reshape(-1)).weight
    assert relative(logistic_regression(X, Y, 0.4).weight, expected) < 1e-9


def test_transforms_and_rotations():
    X, Y = soft(4, 7, 3)
    expected = logistic_regression(X, Y, 0.5).weight
    torch.testing.assert_close(torch.func.vmap(lambda x, y: logistic_regression(x, y, 0.5).weight)(X, Y), expected)
    Q = torch.linalg.qr(torch.randn(3, 3, dtype=X.dtype)).Q
    torch.testing.assert_close(logistic_regression(X @ Q, Y, 0.5).weight, Q.T @ expected)


def test_separable_classes_without_penalty_have_no_minimum():
    X = torch.tensor([[1.0], [2.0], [-1.0], [-2.0]], dtype=torch.float64)
    Y = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]], dtype=torch.float64)
    with pytest.raises(SolveError):
        logistic_regression(X, Y, 0.0)
    fit = logistic_regression(X, Y, 0.0, on_failure="nan")
    assert fit.info.status != 0
    assert fit.weight.isnan().all()


def test_wrong_labels_are_refused():
    X, Y = soft(6, 3)
    with pytest.raises(ShapeError, match="one column"):
        logistic_regression(X, Y[:, :1])
    with pytest.raises(ParameterRangeError, match="sums to less than 0"):
        logistic_regression(X, -Y)
    with pytest.raises(ParameterRangeError, match="probabilities of the second"):
        logistic_regression(X, 2 * torch.ones(6, dtype=X.dtype))


def test_the_module_learns_lam():
    X, Y = soft(9, 4)
    layer = LogisticRegression(0.5, learn_lam=True, intercept="free").double()
    layer(X, Y).weight.square().sum().backward()
    assert layer.log_lam.grad < 0  # more penalty, smaller weights


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 12), d=st.integers(1, 8), columns=st.integers(2, 5))
@settings(max_examples=25, deadline=None)
def test_any_problem_meets_its_optimality_condition(seed, n, d, columns):
    torch.manual_seed(seed)
    X, Y = soft(n, d, columns=columns)
    lam = 10.0 ** (4 * torch.rand(columns, dtype=X.dtype) - 3)
    s = torch.rand(n, dtype=X.dtype)
    W = logistic_regression(X, Y, lam, sample_weight=s).weight
    gradient = X.T @ (s[:, None] * ((X @ W).softmax(-1) - Y)) + lam * W
    assert gradient.abs().max() <= 1e-9 * max(1.0, float(X.abs().sum()))


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_classes_and_examples_have_no_order(seed):
    torch.manual_seed(seed)
    X, Y = soft(9, 4)
    rows, columns = torch.randperm(9), torch.randperm(3)
    for intercept in ("none", "free"):
        expected = logistic_regression(X, Y, 0.2, intercept=intercept).weight[:, columns]
        moved = logistic_regression(X[rows], Y[rows][:, columns], 0.2, intercept=intercept).weight
        torch.testing.assert_close(moved, expected, rtol=1e-8, atol=1e-9)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_a_large_penalty_leaves_the_slope_at_zero(seed):
    """λ → ∞: W → Xᵀ(Y − m/C)/λ, one gradient step from W = 0."""
    torch.manual_seed(seed)
    X, Y = soft(9, 4)
    first_step = X.T @ (Y - 1 / 3) / 1e8
    torch.testing.assert_close(logistic_regression(X, Y, 1e8).weight, first_step, rtol=1e-5, atol=1e-13)
