"""Derivatives of ``ridge``: finite differences, formulas, transforms, and sums over what is shared."""

from __future__ import annotations

import pytest
import torch
from layers_helpers import data, relative
from torch.autograd import gradcheck, gradgradcheck

from convexdistill.layers import ridge


def inputs(n, d, weighted=True, per_target=True):
    X, Y = data(n, d, grad=True)
    lam = torch.tensor([0.7, 0.3] if per_target else 0.5, dtype=torch.float64, requires_grad=True)
    s = (torch.rand(n, dtype=torch.float64) + 0.5).requires_grad_() if weighted else None
    return [t for t in (X, Y, lam, s) if t is not None]


def fitted(**options):
    def function(X, Y, lam, s=None):
        fit = ridge(X, Y, lam, sample_weight=s, **options)
        return (fit.weight,) if fit.intercept is None else (fit.weight, fit.intercept)

    return function


@pytest.mark.parametrize("intercept", ["none", "free", "penalized"])
@pytest.mark.parametrize("form", ["primal", "dual"])
@pytest.mark.parametrize("shape", [(5, 3), (3, 4)])
def test_first_and_second_derivatives_match_finite_differences(shape, form, intercept):
    function = fitted(form=form, intercept=intercept)
    assert gradcheck(function, inputs(*shape), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, inputs(*shape))


@pytest.mark.parametrize("method", ["cholesky", "qr", "svd"])
@pytest.mark.parametrize("form", ["primal", "dual"])
def test_derivatives_without_weights_for_every_method(method, form):
    function = fitted(form=form, method=method)
    arguments = inputs(4, 3, weighted=False, per_target=False)
    assert gradcheck(function, arguments, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, arguments)


def test_repeated_singular_values_have_finite_gradients():
    X = torch.eye(4, dtype=torch.float64, requires_grad=True)
    Y = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    lam = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    assert gradcheck(fitted(method="svd"), (X, Y, lam))


def test_vjp_is_the_formula_of_the_design():
    for shape in ((8, 3), (3, 8)):
        X, Y = data(*shape, grad=True)
        lam = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
        W = ridge(X, Y, lam).weight
        G = torch.randn_like(W)
        dX, dY, dlam = torch.autograd.grad(W, (X, Y, lam), G)
        V = torch.linalg.solve(X.T @ X + lam * torch.eye(shape[1], dtype=torch.float64), G)
        torch.testing.assert_close(dY, X @ V)
        torch.testing.assert_close(dX, (Y - X @ W) @ V.T - X @ V @ W.T)
        torch.testing.assert_close(dlam, -(V * W).sum())


@pytest.mark.parametrize("intercept", ["none", "free"])
def test_weights_of_zero_have_their_gradient(intercept):
    X, Y = data(5, 7)
    s = torch.tensor([0.0, 1.0, 0.5, 0.0, 2.0], dtype=torch.float64, requires_grad=True)

    def loss(s):
        return ridge(X, Y, 0.5, sample_weight=s, intercept=intercept).weight.pow(2).sum()

    (gradient,) = torch.autograd.grad(loss(s), s)
    h = 1e-6
    for i in (0, 3):
        e = torch.zeros(5, dtype=torch.float64)
        e[i] = h
        with torch.no_grad():  # one-sided, second order: weights must not be negative
            slope = (-3 * loss(s) + 4 * loss(s + e) - loss(s + 2 * e)) / (2 * h)
        assert float(gradient[i]) == pytest.approx(float(slope), rel=1e-5)


def test_gradients_of_shared_features_are_summed(backend):
    X, _ = data(6, 4, grad=True)
    Ys = torch.randn(3, 6, 2, dtype=torch.float64)
    G = torch.randn(3, 4, 2, dtype=torch.float64)
    (shared,) = torch.autograd.grad(ridge(X, Ys, 0.5, backend=backend).weight, X, G)
    one_by_one = sum(
        torch.autograd.grad(ridge(X, Ys[b], 0.5, backend=backend).weight, X, G[b])[0] for b in range(3)
    )
    assert relative(shared, one_by_one) <= 1e-7


def test_gradients_of_shared_labels_and_lam_are_summed(backend):
    Xs, _ = data(3, 6, 4)
    Y = torch.randn(1, 6, 2, dtype=torch.float64, requires_grad=True)
    lam = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    G = torch.randn(3, 4, 2, dtype=torch.float64)
    dY, dlam = torch.autograd.grad(ridge(Xs, Y, lam, backend=backend).weight, (Y, lam), G)
    parts = [
        torch.autograd.grad(ridge(Xs[b], Y[0], lam, backend=backend).weight, (Y, lam), G[b]) for b in range(3)
    ]
    assert relative(dY[0], sum(p[0] for p in parts)) <= 1e-7
    assert relative(dlam, sum(p[1] for p in parts)) <= 1e-6


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_cotangents_of_any_size_keep_their_gradient(backend, scale):
    X, Y = data(6, 4, grad=True)
    W = ridge(X, Y, 0.5, backend=backend).weight
    G = torch.randn_like(W)
    exact = torch.autograd.grad(ridge(X, Y, 0.5).weight, (X, Y), G)
    found = torch.autograd.grad(W, (X, Y), G * scale)
    for f, e in zip(found, exact, strict=True):
        assert relative(f / scale, e) <= 1e-6


def test_gradients_have_the_dtype_of_the_inputs(backend):
    X, Y = (t.detach().float().requires_grad_() for t in data(6, 4))
    ridge(X, Y, 0.5, backend=backend).weight.sum().backward()
    assert X.grad.dtype == Y.grad.dtype == torch.float32


def test_no_graph_is_kept_when_nothing_requires_grad(backend):
    X, Y = data(6, 4)
    assert not ridge(X, Y, 0.5, backend=backend).weight.requires_grad


def test_gradients_stay_right_for_tiny_lam_and_more_features_than_examples():
    # Woodbury's formula for the adjoint would lose every digit here.
    X, Y = data(6, 40, grad=True)
    lam = 1e-10
    G = torch.randn(40, 2, dtype=torch.float64)
    (dY,) = torch.autograd.grad(ridge(X, Y, lam).weight, Y, G)
    exact = torch.linalg.solve(X @ X.T, X @ G)
    assert relative(dY, exact) <= 1e-9


class TestTransforms:
    def test_vmap_equals_loop(self):
        X, Y = data(5, 6, 3)
        fit = torch.func.vmap(lambda x, y: ridge(x, y, 0.3, intercept="free"))(X, Y)
        looped = ridge(X, Y, 0.3, intercept="free")
        torch.testing.assert_close(fit.weight, looped.weight)
        torch.testing.assert_close(fit.intercept, looped.intercept)
        assert fit.info.status.tolist() == [0] * 5
        query = torch.randn(5, 2, 3, dtype=torch.float64)
        torch.testing.assert_close(fit.predict(query), looped.predict(query))

    @pytest.mark.parametrize("shape", [(6, 3), (3, 6)])
    def test_forward_and_reverse_jacobians_agree(self, shape):
        X, Y = data(*shape)
        for argument in (0, 1):
            backward = torch.func.jacrev(lambda x, y: ridge(x, y, 0.3).weight, argument)(X, Y)
            forward = torch.func.jacfwd(lambda x, y: ridge(x, y, 0.3).weight, argument)(X, Y)
            torch.testing.assert_close(backward, forward)

    def test_hessian_equals_double_backward(self):
        X, Y = data(4, 3)

        def loss(x):
            return ridge(x, Y, 0.3).weight.pow(3).sum()

        torch.testing.assert_close(torch.func.hessian(loss)(X), torch.autograd.functional.hessian(loss, X))

    def test_nothing_raises_on_values_inside_a_transform(self):
        X, Y = data(3, 6, 3)
        Y[1, 2, 0] = float("nan")
        fit = torch.func.vmap(lambda x, y: ridge(x, y, 0.3))(X, Y)
        assert fit.weight[1].isnan().all()
        assert fit.weight[[0, 2]].isfinite().all()
        assert fit.info.status.tolist() == [0, 3, 0]

    @pytest.mark.parametrize("shape", [(6, 3), (3, 6)])
    @pytest.mark.parametrize("method", ["auto", "qr", "svd"])
    def test_compiles_to_one_graph(self, shape, method):
        X, Y = data(*shape, grad=True)
        compiled = torch.compile(
            lambda x, y: ridge(x, y, 0.3, intercept="free", method=method).weight,
            backend="aot_eager",
            fullgraph=True,
        )
        found, exact = compiled(X, Y), ridge(X, Y, 0.3, intercept="free").weight
        torch.testing.assert_close(found, exact)
        G = torch.randn_like(exact)
        for f, e in zip(torch.autograd.grad(found, (X, Y), G), torch.autograd.grad(exact, (X, Y), G), strict=True):
            torch.testing.assert_close(f, e)
