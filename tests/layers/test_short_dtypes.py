"""float16, bfloat16 and float32: solved in float64, judged after the cast back; λ is never rounded."""

from __future__ import annotations

import cvxpy as cp
import pytest
import torch
from layers_helpers import data, relative

from convexdistill.errors import DtypeError, NotConvergedError, NumericalWarning
from convexdistill.layers import (
    ConvexLayer,
    GramAccumulator,
    KernelRidge,
    Ridge,
    RidgeCV,
    Status,
    factorize,
    gcv_score,
    kernel_ridge,
    least_squares,
    logistic_regression,
    loo_score,
    ridge,
    ridge_in_chunks,
    ridge_matrix_free,
    select_lam,
)

LAYERS = {
    "ridge": ridge,
    "free": lambda X, Y, lam, **k: ridge(X, Y, lam, intercept="free", **k),
    "factorized": lambda X, Y, lam, **k: factorize(X, lam, **k).solve(Y),
    "chunks": ridge_in_chunks,
    "least squares": lambda X, Y, lam, **k: least_squares(X, Y, **k),
    "matrix free": ridge_matrix_free,
    "kernel": lambda X, Y, lam, **k: kernel_ridge(X[:4] @ X[:4].mT, Y[:4], lam, **k),
}


@pytest.mark.parametrize(("dtype", "x", "y"), [(torch.float16, 1e-3, 500.0), (torch.float32, 1e-15, 1e30)])
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_an_answer_that_the_dtype_cannot_hold_is_no_answer(layer, dtype, x, y):
    features, labels = data(12, 4)
    features, labels = (features * x).to(dtype), (labels * y).to(dtype)
    with pytest.raises(NotConvergedError, match="too large for the dtype"):
        layer(features, labels, 0.0)
    with pytest.warns(NumericalWarning, match="too large for the dtype"):
        fit = layer(features, labels, 0.0, on_failure="warn")
    assert fit.info.status == Status.OVERFLOW
    fit = layer(features, labels, 0.0, on_failure="nan")
    assert fit.info.status == Status.OVERFLOW
    assert fit.weight.isnan().all()
    assert layer(features.double(), labels.double(), 0.0).info.ok


def test_only_the_element_that_overflows_fails():
    features, labels = data(2, 12, 4)
    features = (features * torch.tensor([1e-30, 1.0])[:, None, None]).float()
    fit = ridge(features, (labels * 1e20).float(), 0.0, on_failure="nan")
    assert fit.info.status.tolist() == [Status.OVERFLOW, 0]
    assert fit.weight[1].isfinite().all()


def test_what_was_accumulated_refuses_as_well():
    features, labels = data(12, 3)
    seen = GramAccumulator()
    seen.update((1e-3 * features).half(), (500 * labels).half())
    with pytest.raises(NotConvergedError, match="too large for the dtype"):
        seen.fit(0.0)
    assert seen.fit(0.0, on_failure="nan").weight.isnan().all()


def test_scores_and_convex_layers_refuse_as_well():
    features, labels = data(12, 3)
    for score in (loo_score, gcv_score):
        with pytest.raises(NotConvergedError, match="too large for the dtype"):
            score(features.half(), (1000 * labels).half(), 1.0)
    x, a = cp.Variable(2), cp.Parameter(2)
    layer = ConvexLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - 1000 * a))), [a], [x])
    with pytest.raises(NotConvergedError, match="too large for the dtype"):
        layer(torch.full((2,), 1000.0).half())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_lam_is_not_rounded(dtype):
    features, labels = (t.to(dtype) for t in data(6, 8))
    lams = torch.tensor([1e-9, 3e-8, 1.1e6], dtype=torch.float64)
    chosen = select_lam(features, labels, lams)
    assert chosen.lam.dtype == torch.float64
    assert chosen.lam in lams
    tensor = torch.tensor(1.1e6, dtype=torch.float64)
    assert torch.equal(ridge(features, labels, tensor).weight, ridge(features, labels, 1.1e6).weight)
    assert torch.equal(RidgeCV([1.1e6])(features, labels).weight, ridge(features, labels, 1.1e6).weight)
    learnt, fixed = Ridge(1.1e6, learn_lam=True)(features, labels), ridge(features, labels, 1.1e6)
    assert (
        relative(learnt.weight.double(), fixed.weight.double()) <= 2 * torch.finfo(dtype).eps + 1e-6
    )  # log_lam is float32
    (ridge(features, labels, Ridge(0.5, learn_lam=True).current_lam())).weight.sum().backward()
    assert KernelRidge(1.1e6, learn_lam=True)(torch.eye(6, dtype=dtype), labels).info.ok


def test_a_float64_lam_has_a_float64_gradient():
    features, labels = (t.float() for t in data(6, 3))
    lam = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    for layer in (ridge, ridge_in_chunks):
        (found,) = torch.autograd.grad(layer(features, labels, lam).weight.sum(), lam)
        (right,) = torch.autograd.grad(ridge(features.double(), labels.double(), lam).weight.sum(), lam)
        torch.testing.assert_close(found, right, rtol=1e-6, atol=0)
    with pytest.raises(DtypeError, match=r"lam is torch\.float16"):
        ridge(features, labels, lam.half())
    assert logistic_regression(features, labels.softmax(-1), lam).info.ok
