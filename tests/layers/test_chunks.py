"""ridge_in_chunks: the answers and gradients of ridge, under a ceiling that is kept."""

from __future__ import annotations

import pytest
import torch
from layers_helpers import data, relative
from memory_meter import peak_bytes

from convexdistill.errors import ConvexDistillError, UnsupportedError
from convexdistill.layers import ridge, ridge_in_chunks


@pytest.mark.parametrize("intercept", ["none", "free", "penalized"])
@pytest.mark.parametrize("shape", [(60, 8), (8, 60), (3, 30, 6), (2, 2, 6, 30)])
def test_answers_and_gradients_are_those_of_ridge(shape, intercept):
    X, Y = data(*shape, columns=5, grad=True)
    s = (torch.rand(shape[:-1], dtype=X.dtype) + 0.5).requires_grad_()
    lam = torch.tensor(0.7, dtype=X.dtype, requires_grad=True)
    inputs = (X, Y, s, lam)
    results = []
    for fit in (
        ridge(X, Y, lam, sample_weight=s, intercept=intercept),
        ridge_in_chunks(X, Y, lam, sample_weight=s, intercept=intercept, memory="100KiB"),
    ):
        value = fit.weight.square().sum() + (0 if fit.intercept is None else fit.intercept.sum())
        results.append([fit.weight, *torch.autograd.grad(value, inputs)])
        assert fit.info.ok.all()
    for expected, found in zip(*results, strict=True):
        assert relative(found, expected) < 1e-8


def test_the_ceiling_is_kept_where_a_float64_copy_would_break_it():
    """20,000 × 128 in float32: a float64 copy alone would take 20 MB."""
    X, Y = torch.randn(20_000, 128), torch.randn(20_000, 10)
    ceiling = 4 * 2**20
    fits = []
    peak = peak_bytes(lambda: fits.append(ridge_in_chunks(X, Y, 1.0, memory=ceiling)))
    assert peak <= ceiling
    assert peak_bytes(lambda: ridge(X, Y, 1.0)) > 4 * ceiling
    assert relative(fits[0].weight, ridge(X, Y, 1.0).weight) < 1e-5


def test_the_ceiling_holds_for_gradients_as_well():
    X, Y = torch.randn(5_000, 64), torch.randn(5_000, 10, requires_grad=True)
    ceiling = 2 * 2**20

    def run():
        ridge_in_chunks(X, Y, 1.0, memory=ceiling).weight.square().sum().backward()

    assert peak_bytes(run) <= ceiling + Y.numel() * 4  # the gradient itself is an output
    found = Y.grad
    Y.grad = None
    ridge(X, Y, 1.0).weight.square().sum().backward()
    assert relative(found, Y.grad) < 1e-4


def test_a_ceiling_that_nothing_fits_under_is_refused_with_the_bytes_needed():
    X, Y = data(200, 100)
    with pytest.raises(ConvexDistillError, match="memory"):
        ridge_in_chunks(X, Y, 1.0, memory=1000)
    with pytest.raises(ConvexDistillError, match="memory"):
        ridge_in_chunks(X, Y, 1.0, memory="much")


def test_gradients_of_gradients_are_refused():
    X, Y = data(9, 4, grad=True)
    (first,) = torch.autograd.grad(
        ridge_in_chunks(X, Y, 1.0, memory="1MiB").weight.square().sum(), X, create_graph=True
    )
    with pytest.raises(UnsupportedError, match=r"layers\.ridge"):
        first.sum().backward()
