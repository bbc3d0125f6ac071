"""``LeastSquares``: the module beside the function."""

from __future__ import annotations

import pytest
import torch
from layers_helpers import data

from convexdistill.errors import UnknownNameError
from convexdistill.layers import LeastSquares, least_squares


def test_the_module_is_the_function_with_its_options():
    X, Y = data(2, 6, 4)
    X[..., 3] *= 1e-6  # a feature that rcond leaves out
    s = torch.rand(2, 6, dtype=torch.float64) + 0.1
    layer = LeastSquares(intercept="free", rcond=1e-3, method="svd")
    found = layer(X, Y, sample_weight=s)
    expected = least_squares(X, Y, sample_weight=s, intercept="free", rcond=1e-3, method="svd")
    assert torch.equal(found.weight, expected.weight)
    assert torch.equal(found.intercept, expected.intercept)
    assert not torch.allclose(found.weight, least_squares(X, Y, sample_weight=s, intercept="free").weight)
    assert repr(layer) == "LeastSquares(intercept='free', rcond=0.001, method='svd')"


def test_it_has_no_state_and_hands_gradients_through():
    layer = LeastSquares()
    assert not list(layer.parameters())
    assert not layer.state_dict()
    X, Y = data(6, 4, grad=True)
    layer(X, Y).weight.sum().backward()
    torch.testing.assert_close(Y.grad, torch.linalg.pinv(X.detach()).mT @ torch.ones(4, 2, dtype=torch.float64))


def test_words_are_checked_when_it_is_built():
    with pytest.raises(UnknownNameError, match="intercept='some'"):
        LeastSquares(intercept="some")
    with pytest.raises(UnknownNameError, match="on_failure"):
        LeastSquares(on_failure="ignore")
