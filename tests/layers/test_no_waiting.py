"""``on_failure="nan"`` never asks a device for a value."""

from __future__ import annotations

import pytest
import torch
from layers_helpers import data
from torch.utils._python_dispatch import TorchDispatchMode

from convexdistill.layers import pipeline, ridge


class NoWaiting(TorchDispatchMode):
    """Refuses every operation that would make a GPU's user wait for a value."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("intercept", ["none", "free", "penalized"])
@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (3, 9, 4)])
def test_forward_and_backward_look_at_nothing(shape, intercept, monkeypatch):
    monkeypatch.setattr(pipeline, "may_look", lambda *_: False)  # as on a device that is not the CPU
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


def test_the_test_can_fail():
    X, Y = data(9, 4)
    with NoWaiting(), pytest.raises(AssertionError, match="waits for the device"):
        ridge(X, Y, 0.5)
