"""What a backend says that it cannot do raises UnsupportedError, and names one that can."""

from __future__ import annotations

import pytest
import torch
from layers_helpers import data
from torch.autograd import forward_ad

from convexdistill import layers
from convexdistill.errors import UnsupportedError
from convexdistill.layers import explain, ridge, ridge_in_chunks
from convexdistill.layers.backends import _REGISTRY, Backend, Solved, use_backend
from convexdistill.layers.problems.ridge import RidgeProblem


class _Plain(torch.autograd.Function):
    """A user's function in the old style, which torch.func refuses with words of its own."""

    @staticmethod
    def forward(ctx, answer):
        return answer.clone()

    @staticmethod
    def backward(ctx, cotangent):
        return cotangent.detach().clone()


@pytest.fixture
def plain(monkeypatch):
    def solve(problem, options):
        solved = _REGISTRY["torch"].solvers[RidgeProblem](problem, options)
        return Solved(_Plain.apply(solved.answer), solved.form, "plain")

    monkeypatch.setitem(_REGISTRY, "plain", Backend("plain", {RidgeProblem: solve}))
    return "plain"


def cvxpylayers_layers():
    conic = {"backend": "cvxpylayers"}
    return {
        "ridge": lambda X, Y: ridge(X, Y, 0.5, **conic).weight,
        "logistic": lambda X, Y: layers.logistic_regression(X, Y.softmax(-1), 0.5, **conic).weight,
        "constrained": lambda X, Y: layers.constrained_ridge(X, Y, 0.5, **conic).weight,
        "svm": lambda X, Y: layers.linear_svm(X, Y.softmax(-1), 0.5, **conic).weight,
    }


def transforms(layer, X, Y):
    """Every way in which values are hidden, as a call."""
    yield lambda: torch.func.vmap(layer)(X.expand(2, *X.shape), Y.expand(2, *Y.shape))
    yield lambda: torch.func.jacrev(layer, argnums=1)(X, Y)
    yield lambda: torch.func.jvp(lambda y: layer(X, y), (Y,), (Y,))
    yield lambda: torch.compile(layer, backend="eager", fullgraph=False)(X, Y)

    def dual():
        with forward_ad.dual_level():
            layer(X, forward_ad.make_dual(Y, Y))

    yield dual


@pytest.mark.parametrize("name", cvxpylayers_layers())
def test_cvxpylayers_refuses_every_transform(name):
    X, Y = data(6, 3)
    for call in list(transforms(cvxpylayers_layers()[name], X, Y)):
        with pytest.raises(UnsupportedError, match=r"'cvxpylayers' does not run under .*; use backend='torch'"):
            call()


def test_batched_gradients_are_refused_where_they_would_fail(plain):
    X, Y = data(6, 3, grad=True)
    many = torch.eye(6, dtype=X.dtype).reshape(6, 3, 2)
    for backend in (plain, "cvxpylayers"):
        weight = ridge(X, Y, 0.5, backend=backend).weight
        with pytest.raises(UnsupportedError, match="batched gradients; use backend='torch'"):
            torch.autograd.grad(weight, Y, many, is_grads_batched=True)
    (expected,) = torch.autograd.grad(ridge(X, Y, 0.5).weight, Y, many[0])
    (found,) = torch.autograd.grad(ridge(X, Y, 0.5, backend=plain).weight, Y, many[0])
    torch.testing.assert_close(found, expected)


def test_a_backend_of_a_user_is_refused_in_our_words(plain):
    X, Y = data(6, 3)
    for call in list(transforms(lambda x, y: ridge(x, y, 0.5, backend=plain).weight, X, Y)):
        with pytest.raises(UnsupportedError, match="'plain' does not run under"):
            call()


def test_chunks_refuse_forward_mode_and_batched_gradients():
    X, Y = data(6, 3, grad=True)
    with forward_ad.dual_level(), pytest.raises(UnsupportedError, match="forward mode"):
        ridge_in_chunks(X, forward_ad.make_dual(Y.detach(), Y.detach()), 0.5)
    weight = ridge_in_chunks(X, Y, 0.5).weight
    with pytest.raises(UnsupportedError, match="batched gradients"):
        torch.autograd.grad(weight, Y, torch.eye(6, dtype=X.dtype).reshape(6, 3, 2), is_grads_batched=True)


def test_a_block_that_asks_for_another_backend_is_not_ignored():
    X, Y = data(6, 3)
    with use_backend("cvxpylayers"):
        with pytest.raises(UnsupportedError, match="ridge_in_chunks runs in the torch backend only"):
            ridge_in_chunks(X, Y, 0.5)
        with pytest.raises(UnsupportedError, match="factorize runs in the torch backend only"):
            layers.factorize(X, 0.5)
        assert layers.RidgeCV([0.1, 1.0])(X, Y).info.backend == "cvxpylayers"
    with use_backend("torch"):
        assert ridge_in_chunks(X, Y, 0.5).info.ok
        assert layers.factorize(X, 0.5).solve(Y).info.ok


def test_explain_says_what_every_layer_would_run():
    X, Y = data(9, 4)
    P = Y.softmax(-1)
    cases = [
        (explain(ridge, X, Y, backend="cvxpylayers"), "primal", "9 >= d=4"),
        (explain(layers.logistic_regression, X, P, backend="cvxpylayers"), "primal", "18 exponential cones"),
        (explain(layers.constrained_ridge, X, Y, backend="cvxpylayers"), "primal", "4 variables"),
        (explain(ridge_in_chunks, X, Y, memory="2KiB"), "primal", "of 9 rows"),
        (explain(layers.factorize, X), "primal", "n=9 >= d=4"),
        (explain(layers.loo_residuals, X, Y), "primal", "left out in closed form"),
        (explain(layers.gcv_score, X[:3], Y[:3]), "dual", "left out in closed form"),
        (explain(layers.select_lam, X, Y, [0.1, 1.0]), "primal", "all 2 lams"),
        (explain(layers.RidgeCV([0.1, 1.0]), X, Y), "primal", "all 2 lams"),
    ]
    for told, form, why in cases:
        assert told.form == form, told
        assert why in told.why, told
    for told, *_ in cases[:3]:
        assert told.backend == "cvxpylayers"
        assert told.methods in (("moreau",), ("diffcp",))
        assert "MOREAU is" in told.why
    info = ridge_in_chunks(X, Y, memory="2KiB").info
    assert info.method in cases[3][0].methods
    assert layers.loo_residuals(X, Y).shape == Y.shape  # and nothing stays switched on


def test_explain_knows_convex_layers():
    cp = pytest.importorskip("cvxpy")
    b, x = cp.Parameter(3), cp.Variable(3)
    layer = layers.ConvexLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - b)), [x >= 0]), [b], [x])
    told = explain(layer, torch.ones(3))
    assert (told.problem, told.form) == ("ConvexLayer", "conic")
    assert told.methods
    assert set(told.methods) <= {"moreau", "clarabel", "scs"}
