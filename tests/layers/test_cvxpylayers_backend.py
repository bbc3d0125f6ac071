"""The cvxpylayers backend agrees with the closed form, and is never wrong in silence."""

from __future__ import annotations

import threading

import pytest
import torch
from layers_helpers import data, relative

from convexdistill.errors import (
    BackendUnavailableError,
    NonFiniteInputError,
    NotConvergedError,
    UnsupportedError,
)
from convexdistill.layers import ridge
from convexdistill.layers.backends.cvxpylayers_backend import guard
from convexdistill.layers.backends.cvxpylayers_backend import ridge as cvxpylayers_ridge


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (7, 7), (2, 9, 4)])
@pytest.mark.parametrize("lam", [1e-3, 1.0])
def test_values_and_gradients_agree_with_the_closed_form(conic, shape, lam):
    X, Y = data(*shape, columns=3, grad=True)
    lam = torch.tensor(lam, dtype=torch.float64, requires_grad=True)
    closed, conic_fit = ridge(X, Y, lam), ridge(X, Y, lam, **conic)
    assert conic_fit.info.method == conic["method"]
    assert relative(conic_fit.weight, closed.weight) <= 1e-6
    G = torch.randn_like(closed.weight)
    exact = torch.autograd.grad(closed.weight, (X, Y, lam), G)
    found = torch.autograd.grad(conic_fit.weight, (X, Y, lam), G)
    for f, e, tolerance in zip(found, exact, (1e-4, 1e-6, 1e-5), strict=True):
        assert relative(f, e) <= tolerance


@pytest.mark.parametrize("intercept", ["none", "free", "penalized"])
def test_weights_and_intercepts_agree_with_the_closed_form(conic, intercept):
    X, Y = data(9, 4, grad=True)
    s = (torch.rand(9, dtype=torch.float64) + 0.1).requires_grad_()
    lam = torch.tensor([0.5, 2.0], dtype=torch.float64)
    both = [ridge(X, Y, lam, sample_weight=s, intercept=intercept, **options) for options in ({}, conic)]
    assert relative(both[1].weight, both[0].weight) <= 1e-6
    G = torch.randn_like(both[0].weight)
    exact, found = (torch.autograd.grad(fit.weight, (X, Y, s), G) for fit in both)
    for f, e in zip(found, exact, strict=True):
        assert relative(f, e) <= 1e-5


def test_label_gradients_do_not_decay_with_lam(conic):
    # MOREAU's own derivative of the primal program was measured 60 % wrong here.
    X, Y = data(10, 40, grad=True)
    G = torch.randn(40, 2, dtype=torch.float64)
    for lam in (1e-3, 1e-6):
        (exact,) = torch.autograd.grad(ridge(X, Y, lam).weight, Y, G)
        (found,) = torch.autograd.grad(ridge(X, Y, lam, **conic).weight, Y, G)
        assert relative(found, exact) <= 1e-6


def test_a_second_layer_of_the_same_shape_is_right(conic):
    # Two CvxpyLayers from one cp.Problem: the second answers wrongly, with status Solved.
    X, Y = data(8, 3)
    for _ in range(2):
        cvxpylayers_ridge.CACHE.clear()
        assert relative(ridge(X, Y, 0.5, **conic).weight, ridge(X, Y, 0.5).weight) <= 1e-6


def test_layers_are_cached_by_shape(conic):
    cvxpylayers_ridge.CACHE.clear()
    X, Y = data(8, 3)
    for columns in (1, 2):
        ridge(X, Y[:, :columns], 0.5, **conic)
    assert len(cvxpylayers_ridge.CACHE) == 1
    ridge(X[:7], Y[:7], 0.5, **conic)
    assert len(cvxpylayers_ridge.CACHE) == 2


def test_the_cache_forgets_what_was_used_longest_ago():
    cache = guard.Cache(size=2)
    for key in ("a", "b", "a", "c"):
        cache.get(key, lambda: object())
    built = []
    for key in ("a", "c", "b"):
        cache.get(key, lambda key=key: built.append(key))
    assert built == ["b"]


def test_a_later_solve_does_not_spoil_the_gradient_of_an_earlier_one(conic):
    X, Y = data(6, 4, grad=True)
    other, _ = data(6, 4)
    W = ridge(X, Y, 0.5, **conic).weight
    ridge(other, Y.detach().repeat(1, 3), 2.0, **conic)
    G = torch.randn_like(W)
    (first,) = torch.autograd.grad(W, Y, G, retain_graph=True)
    (again,) = torch.autograd.grad(W, Y, G)
    (exact,) = torch.autograd.grad(ridge(X, Y, 0.5).weight, Y, G)
    assert relative(first, exact) <= 1e-6
    assert relative(again, exact) <= 1e-6


@pytest.mark.parametrize("argument", [0, 1, 2])
def test_double_backward_raises_and_names_the_backend_that_can(conic, argument):
    X, Y = data(6, 4, grad=True)
    lam = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    parts = (X, Y, lam)
    W = ridge(*parts, **conic).weight
    (gradient,) = torch.autograd.grad(W.sum(), parts[argument], create_graph=True)
    # another path to the inputs, by which a missing second-order term would go unnoticed
    loss = gradient.sum() + (X**2).sum() + (Y**2).sum()
    with pytest.raises(UnsupportedError, match='backend="torch"'):
        torch.autograd.grad(loss, (X, Y))


def test_first_derivatives_are_right_with_create_graph(conic):
    X, Y = data(6, 4, grad=True)
    (found,) = torch.autograd.grad(ridge(X, Y, 0.5, **conic).weight.sum(), Y, create_graph=True)
    (exact,) = torch.autograd.grad(ridge(X, Y, 0.5).weight.sum(), Y)
    assert relative(found, exact) <= 1e-6


def test_columns_of_cotangents_of_very_different_size_keep_their_gradients(conic):
    X, Y = data(6, 4, grad=True)
    G = torch.randn(4, 2, dtype=torch.float64) * torch.tensor([1.0, 1e-11])
    (found,) = torch.autograd.grad(ridge(X, Y, 0.5, **conic).weight, Y, G)
    (exact,) = torch.autograd.grad(ridge(X, Y, 0.5).weight, Y, G)
    for c in range(2):
        assert relative(found[:, c], exact[:, c]) <= 1e-6


def test_nan_labels_are_refused_or_marked(conic):
    X, Y = data(2, 6, 4)
    Y[1, 3, 0] = float("nan")
    with pytest.raises(NonFiniteInputError, match=r"labels\[1, 3, 0\] is nan"):
        ridge(X, Y, 0.5, **conic)
    fit = ridge(X, Y, 0.5, on_failure="nan", **conic)
    assert fit.weight[1].isnan().all()
    assert fit.info.status.tolist() == [0, 3]
    assert relative(fit.weight[0], ridge(X[0], Y[0], 0.5).weight) <= 1e-6


def test_a_solver_that_stops_early_is_found_out(monkeypatch):
    pytest.importorskip("cvxpylayers")
    early = {"solve_method": "SCS", "eps": 1e-10, "max_iters": 2}
    monkeypatch.setattr(guard, "call_arguments", lambda solver, data: early)
    monkeypatch.setattr(guard, "MAX_REFINEMENTS", 0)
    monkeypatch.setattr(cvxpylayers_ridge, "CACHE", guard.Cache())
    X, Y = data(6, 4)
    with pytest.raises(NotConvergedError, match="optimality residual"):
        ridge(X, Y, 0.5, backend="cvxpylayers", method="diffcp")


def test_diffcp_keeps_its_promise_on_features_that_share_a_large_mean():
    pytest.importorskip("cvxpylayers")
    draw = torch.Generator().manual_seed(0)
    # As behind a ReLU: positive, nearly parallel rows, a spectrum over many orders of magnitude.
    X = torch.rand(40, 60, generator=draw, dtype=torch.float64) * 0.1 + 1
    Y = torch.randn(40, 3, generator=draw, dtype=torch.float64, requires_grad=True)
    lam = 1e-5 * float(X.square().sum()) / 40
    closed, conic_fit = ridge(X, Y, lam), ridge(X, Y, lam, backend="cvxpylayers", method="diffcp")
    assert float(conic_fit.info.residual.max()) <= 1e-10
    assert relative(conic_fit.weight, closed.weight) <= 1e-8
    G = torch.randn_like(closed.weight)
    exact, found = (torch.autograd.grad(fit.weight, Y, G)[0] for fit in (closed, conic_fit))
    assert relative(found, exact) <= 1e-6


def test_an_inaccurate_derivative_is_found_out(conic, monkeypatch):
    X, Y = data(6, 4, grad=True)
    W = ridge(X, Y, 0.5, **conic).weight
    true_system = cvxpylayers_ridge._apply_system
    layer = cvxpylayers_ridge.CACHE.get((6, 4, conic["method"]), lambda: pytest.fail("not cached"))
    object.__setattr__(layer, "system", lambda p, U: 3 * true_system(p, U))
    try:
        with pytest.raises(NotConvergedError, match="gradient"):
            W.sum().backward()
    finally:
        object.__setattr__(layer, "system", true_system)


def test_the_larger_system_is_refused(conic):
    X, Y = data(9, 4)
    with pytest.raises(UnsupportedError, match="larger system"):
        ridge(X, Y, 0.5, form="dual", **conic)


def test_without_moreau_diffcp_solves(monkeypatch):
    pytest.importorskip("cvxpylayers")
    monkeypatch.setattr(guard, "find_spec", lambda name: None)
    X, Y = data(6, 4)
    assert ridge(X, Y, 0.5, backend="cvxpylayers").info.method == "diffcp"
    with pytest.raises(BackendUnavailableError, match="pip install moreau"):
        ridge(X, Y, 0.5, backend="cvxpylayers", method="moreau")


def test_transforms_are_refused(conic):
    X, Y = data(2, 6, 4)
    with pytest.raises(UnsupportedError, match=r"torch\.func"):
        torch.func.vmap(lambda x, y: ridge(x, y, 0.5, **conic).weight)(X, Y)


def test_threads_share_layers_safely(conic):
    problems = [data(6, 4, grad=True) for _ in range(4)]
    errors: list[float] = []

    def work(X, Y):
        for _ in range(3):
            (found,) = torch.autograd.grad(ridge(X, Y, 0.5, **conic).weight.sum(), Y)
            (exact,) = torch.autograd.grad(ridge(X, Y, 0.5).weight.sum(), Y)
            errors.append(relative(found, exact))

    threads = [threading.Thread(target=work, args=problem) for problem in problems]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 12
    assert max(errors) <= 1e-6


@pytest.mark.parametrize("method", ["moreau", "diffcp"])
@pytest.mark.parametrize("lam", [1e-3, 1e-6])
def test_gradients_to_the_features_are_as_exact_as_the_closed_form(method, lam):
    if method == "moreau":
        pytest.importorskip("moreau")
    U, _, V = torch.linalg.svd(torch.randn(20, 6, dtype=torch.float64), full_matrices=False)
    features = U @ torch.diag(torch.logspace(0, -2, 6, dtype=torch.float64)) @ V
    labels, cotangent = torch.randn(20, 2, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)

    def gradients(**options):
        X, Y = features.clone().requires_grad_(), labels.clone().requires_grad_()
        strength = torch.tensor(lam, dtype=torch.float64, requires_grad=True)
        weight = ridge(X, Y, strength, **options).weight
        return torch.autograd.grad(weight, (X, Y, strength), cotangent)

    for found, right in zip(gradients(backend="cvxpylayers", method=method), gradients(), strict=True):
        assert float((found - right).norm() / right.norm()) <= 1e-9
