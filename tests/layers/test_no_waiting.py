"""``on_failure="nan"`` never asks a device for a value, but in the layers that the docs name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from layers_helpers import data
from torch.utils._python_dispatch import TorchDispatchMode

from convexdistill import layers
from convexdistill.layers import pipeline, ridge

DOCS = Path(__file__).parents[2] / "docs" / "layers.md"


class NoWaiting(TorchDispatchMode):
    """Refuses every operation that would make a GPU's user wait for a value."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def _no_look(monkeypatch):
    """As on a device that is not the CPU."""
    monkeypatch.setattr(pipeline, "may_look", lambda policy, _: policy != "nan")


@pytest.mark.parametrize("intercept", ["none", "free", "penalized"])
@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (3, 9, 4)])
def test_forward_and_backward_look_at_nothing(shape, intercept):
    X, Y = data(*shape, grad=True)
    s = torch.ones(shape[:-1], dtype=X.dtype)
    lam = torch.tensor([0.5, 0.7], dtype=X.dtype, requires_grad=True)
    expected = ridge(X, Y, lam, sample_weight=s, intercept=intercept)
    with NoWaiting():
        fit = ridge(X, Y, lam, sample_weight=s, intercept=intercept, on_failure="nan")
        grads = torch.autograd.grad(fit.weight.square().sum(), (X, Y, lam))
    torch.testing.assert_close(fit.weight, expected.weight)
    for found, wanted in zip(grads, torch.autograd.grad(expected.weight.square().sum(), (X, Y, lam)), strict=True):
        torch.testing.assert_close(found, wanted)


def kernel(X, Y, **options):
    eye = torch.eye(X.shape[-2], dtype=X.dtype)
    return layers.kernel_ridge(X @ X.mT + eye, Y, 0.5, **options).weight


# Every layer: features, labels, policy -> something with a gradient.
LAYERS = {
    "ridge": lambda X, Y, **o: ridge(X, Y, 0.5, **o).weight,
    "least_squares": lambda X, Y, **o: layers.least_squares(X, Y, intercept="free", **o).weight,
    "kernel_ridge": kernel,
    "factorize": lambda X, Y, **o: layers.factorize(X, 0.5, **o).solve(Y).weight,
    "loo_residuals": lambda X, Y, **o: layers.loo_residuals(X, Y, 0.5, **o),
    "loo_score": lambda X, Y, **o: layers.loo_score(X, Y, 0.5, intercept="free", **o),
    "gcv_score": lambda X, Y, **o: layers.gcv_score(X, Y, 0.5, **o),
    "select_lam": lambda X, Y, **o: X[..., :1, :1] * layers.select_lam(X, Y, [0.1, 1.0], **o).lam.unsqueeze(-1),
    "RidgeCV": lambda X, Y, **o: layers.RidgeCV([0.1, 1.0], **o)(X, Y).weight,
}
# These look whether they are done, or call a library on the CPU: docs/layers.md names them.
WAITING = {
    "logistic_regression": lambda X, Y, **o: layers.logistic_regression(X, Y.softmax(-1), 0.5, **o).weight,
    "linear_svm": lambda X, Y, **o: layers.linear_svm(X, Y.softmax(-1), 0.5, **o).weight,
    "constrained_ridge": lambda X, Y, **o: layers.constrained_ridge(X, Y, 0.5, **o).weight,
    "ridge_matrix_free": lambda X, Y, **o: layers.ridge_matrix_free(X, Y, 0.5, **o).weight,
    "ridge_in_chunks": lambda X, Y, **o: layers.ridge_in_chunks(X, Y, 0.5, **o).weight,
    'backend="cvxpylayers"': lambda X, Y, **o: ridge(X, Y, 0.5, backend="cvxpylayers", **o).weight,
}


@pytest.mark.parametrize("shape", [(9, 4), (3, 4, 9)])
@pytest.mark.parametrize("name", LAYERS)
def test_no_layer_waits(name, shape):
    X, Y = data(*shape, grad=True)
    if name == "least_squares" and shape[-2] < shape[-1]:
        pytest.skip("its rank is that of the other shape")
    with NoWaiting():
        found = LAYERS[name](X, Y, on_failure="nan")
        grads = torch.autograd.grad(found.square().sum(), (X, Y), allow_unused=True)
    expected = LAYERS[name](X, Y, on_failure="raise")
    torch.testing.assert_close(found, expected)
    wanted = torch.autograd.grad(expected.square().sum(), (X, Y), allow_unused=True)
    for one, other in zip(grads, wanted, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", WAITING)
def test_what_waits_works_and_is_named_in_the_docs(name):
    X, Y = data(9, 4)
    with NoWaiting(), pytest.raises(AssertionError, match="waits for the device"):
        WAITING[name](X, Y, on_failure="nan")
    torch.testing.assert_close(WAITING[name](X, Y, on_failure="nan"), WAITING[name](X, Y, on_failure="raise"))
    named = DOCS.read_text("utf-8").split("These wait")[1].split("\n\n")[0]
    assert name in named


def test_the_test_can_fail():
    X, Y = data(9, 4)
    with NoWaiting(), pytest.raises(AssertionError, match="waits for the device"):
        ridge(X, Y, 0.5)
