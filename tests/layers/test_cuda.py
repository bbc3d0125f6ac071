"""The layers on a CUDA device; without one these tests are skipped."""

from __future__ import annotations

import pytest
import torch
from layers_helpers import data, relative

from convexdistill.layers import ridge

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (3, 2, 9, 4)])
def test_answers_and_gradients_are_those_of_the_cpu(shape, dtype, backend):
    X, Y = (t.to(dtype) for t in data(*shape))
    results = []
    for device in ("cpu", "cuda"):
        x, y = X.to(device).requires_grad_(), Y.to(device).requires_grad_()
        fit = ridge(x, y, 0.5, intercept="free", backend=backend)
        assert fit.weight.device.type == fit.info.residual.device.type == device
        fit.weight.square().sum().backward()
        results.append([t.detach().cpu() for t in (fit.weight, x.grad, y.grad)])
    for a, b in zip(*results, strict=True):
        assert relative(b, a) < (1e-5 if dtype == torch.float32 else 1e-6)


def test_on_failure_nan_never_waits_for_the_device():
    X, Y = (t.cuda() for t in data(4, 9, 4))
    Y.requires_grad_()
    ridge(X, Y, 0.5, on_failure="nan").weight.sum().backward()  # libraries load on the first call
    torch.cuda.set_sync_debug_mode("error")
    try:
        ridge(X, Y, 0.5, on_failure="nan").weight.sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_large_base_set():
    """50,000 base examples of 4,096 features."""
    X = torch.randn(50_000, 4096, device="cuda")
    Y = torch.randn(50_000, 10, device="cuda", requires_grad=True)
    fit = ridge(X, Y, 10.0)
    fit.weight.square().sum().backward()
    assert fit.info.residual <= 1e-8
    assert Y.grad.isfinite().all()
