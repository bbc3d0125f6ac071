"""``factorize``: the answers and derivatives of ``ridge``, from one factorisation."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from layers_helpers import data
from torch.autograd import gradcheck, gradgradcheck

from convexdistill.errors import (
    DtypeError,
    NonFiniteInputError,
    NotConvergedError,
    NumericalWarning,
    ParameterRangeError,
    ShapeError,
    SingularSystemError,
    UnknownNameError,
    UnsupportedError,
)
from convexdistill.layers import Ridge, Status, factorize, ridge


def double(*shape):
    return torch.rand(shape, dtype=torch.float64) + 0.2


@pytest.mark.parametrize("intercept", ["none", "free", "penalized"])
@pytest.mark.parametrize("form", ["primal", "dual"])
@pytest.mark.parametrize("method", ["cholesky", "qr", "svd"])
def test_the_answer_is_that_of_ridge(method, form, intercept):
    X, Y = data(7, 4)
    s, lam = double(7), double(2)
    options = {"sample_weight": s, "intercept": intercept, "form": form, "method": method}
    found, expected = factorize(X, lam, **options).solve(Y), ridge(X, Y, lam, **options)
    torch.testing.assert_close(found.weight, expected.weight)
    if intercept != "none":
        torch.testing.assert_close(found.intercept, expected.intercept)
    assert (found.info.form, found.info.method) == (form, method)


SHAPES = [  # features, labels, lam
    ((7, 4), (7, 3), ()),
    ((7, 4), (5, 7, 3), ()),
    ((7, 4), (5, 6, 7, 3), (3,)),
    ((6, 7, 4), (1, 7, 3), ()),
    ((6, 7, 4), (5, 6, 7, 3), (6, 3)),
    ((6, 1, 7, 4), (1, 2, 7, 3), (2, 3)),
    ((1, 7, 4), (5, 7, 3), (5, 1)),
    ((1, 7, 4), (5, 7, 3), (1, 3)),
    ((7, 4), (7,), ()),
    ((2, 7, 4), (2, 7), (2, 1)),
    ((0, 7, 4), (0, 7, 3), ()),
    ((2, 7, 4), (0, 2, 7, 3), (2, 3)),
]


@pytest.mark.parametrize("form", ["primal", "dual"])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_every_way_of_broadcasting_labels_against_systems(shapes, form):
    X, Y = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes[:2])
    lam = double(*shapes[2]).requires_grad_()
    s = double(7)
    found = factorize(X, lam, sample_weight=s, form=form).solve(Y)
    expected = ridge(X, Y, lam, sample_weight=s, form=form)
    torch.testing.assert_close(found.weight, expected.weight)
    assert found.info.condition.shape == found.info.status.shape == expected.info.status.shape
    G = torch.randn_like(expected.weight)
    a = torch.autograd.grad(found.weight, (X, Y, lam), G)
    b = torch.autograd.grad(expected.weight, (X, Y, lam), G)
    for mine, theirs in zip(a, b, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("form", ["primal", "dual"])
def test_first_and_second_derivatives(form):
    X, Y = data(5, 3, grad=True)
    lam, s = double(2).requires_grad_(), double(5).requires_grad_()

    def function(X, Y, lam, s):
        fit = factorize(X, lam, sample_weight=s, intercept="free", form=form).solve(Y)
        return fit.weight, fit.intercept

    assert gradcheck(function, (X, Y, lam, s), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, (X, Y, lam, s))


def test_transforms_and_compile():
    X, Y = data(3, 7, 4)
    expected = ridge(X, Y, 0.5).weight
    vmapped = torch.func.vmap(lambda x, y: factorize(x, 0.5).solve(y).weight)(X, Y)
    torch.testing.assert_close(vmapped, expected)
    outer = factorize(X, 0.5)
    compiled = torch.compile(lambda y: outer.solve(y).weight, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(Y), expected)
    jacobian = torch.func.jacrev(lambda y: factorize(X[0], 0.5).solve(y).weight)(Y[0])
    torch.testing.assert_close(jacobian, torch.func.jacrev(lambda y: ridge(X[0], y, 0.5).weight)(Y[0]))


def test_one_factorisation_serves_every_solve(monkeypatch):
    X, Y = data(9, 4, grad=True)
    factorized = factorize(X, 0.3)

    def refuse(*arguments, **options):
        raise AssertionError("factored again")

    for name in ("cholesky_ex", "qr", "svd"):
        monkeypatch.setattr(torch.linalg, name, refuse)
    for _ in range(3):  # each with a graph of its own
        factorized.solve(Y).weight.sum().backward()
    monkeypatch.undo()
    expected = torch.autograd.grad(ridge(X, Y, 0.3).weight.sum(), X)[0]
    torch.testing.assert_close(X.grad, 3 * expected)


def test_the_condition_picks_the_method():
    X = torch.randn(20, 4, dtype=torch.float64)
    Y = torch.randn(20, 2, dtype=torch.float64)
    assert factorize(X, 0.1).solve(Y).info.method == "cholesky"
    X[:, 1] = X[:, 0] + 1e-6 * X[:, 1]
    fit = factorize(X, 0.0).solve(Y)
    assert fit.info.method == "qr"
    torch.testing.assert_close(fit.weight, torch.linalg.lstsq(X, Y).solution, rtol=1e-7, atol=1e-7)


def test_float32_and_module_and_copies():
    X, Y = (t.float() for t in data(9, 4))
    layer = Ridge(lam=0.3, learn_lam=True, intercept="free")
    factorized = layer.factorize(X)
    fit = factorized.solve(Y)
    assert fit.weight.dtype == torch.float32
    torch.testing.assert_close(fit.weight, layer(X, Y).weight)
    fit.weight.sum().backward()
    assert layer.log_lam.grad is not None
    plain = factorize(X, 0.3)
    for copied in (copy.deepcopy(plain), pickle.loads(pickle.dumps(plain))):
        assert torch.equal(copied.solve(Y).weight, plain.solve(Y).weight)
    with pytest.raises(UnsupportedError, match="keeps no factors; use backend='torch'"):
        Ridge(backend="cvxpylayers").factorize(X)


def test_features_that_change_after_the_factorisation_are_found_out():
    X, Y = data(9, 4)
    factorized = factorize(X, 0.3)
    X.mul_(2)
    with pytest.raises(NotConvergedError, match="residual"):
        factorized.solve(Y)


def test_a_singular_element_is_told_apart():
    X = torch.stack([torch.randn(6, 3), torch.ones(6, 3)]).double()
    Y = torch.randn(4, 2, 6, 1, dtype=torch.float64)
    factorized = factorize(X, 0.0)
    with pytest.raises(SingularSystemError, match="singular"):
        factorized.solve(Y)
    fit = factorize(X, 0.0, on_failure="nan").solve(Y)
    assert fit.info.status.tolist() == [[0, int(Status.SINGULAR)]] * 4
    assert fit.weight[:, 0].isfinite().all()
    assert fit.weight[:, 1].isnan().all()
    with pytest.warns(NumericalWarning):
        factorize(X, 0.0, on_failure="warn").solve(Y)


def test_wrong_inputs_are_refused_where_they_come_in():
    X, Y = data(6, 3)
    with pytest.raises(NonFiniteInputError, match=r"features\[0, 0\] is nan"):
        factorize(X * torch.nan, 1.0)
    with pytest.raises(ParameterRangeError, match=r"lam is -1\.0"):
        factorize(X, -1.0)
    with pytest.raises(UnknownNameError, match="'cholesky', 'qr', 'svd'"):
        factorize(X, method="lu")
    with pytest.raises(UnknownNameError, match="'primal', 'dual'"):
        factorize(X, form="both")
    with pytest.raises(ShapeError, match="features must have shape"):
        factorize(X[0])
    factorized = factorize(X)
    with pytest.raises(ShapeError, match="labels has shape"):
        factorized.solve(Y[:4])
    with pytest.raises(DtypeError, match=r"labels is torch\.float32 but features is torch\.float64"):
        factorized.solve(Y.float())
    with pytest.raises(NonFiniteInputError, match=r"labels\[0, 0\]"):
        factorized.solve(Y * torch.nan)
    fit = factorize(torch.stack([X, X * torch.nan]), on_failure="nan").solve(Y.expand(2, 6, 2))
    assert fit.info.status.tolist() == [0, int(Status.NONFINITE_INPUT)]
