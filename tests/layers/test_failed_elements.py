"""Under ``on_failure="nan"`` an element that failed leaves every gradient of the others as it is."""

from __future__ import annotations

import pytest
import torch
from layers_helpers import data

from convexdistill.layers import (
    constrained_ridge,
    factorize,
    kernel_ridge,
    least_squares,
    linear_svm,
    logistic_regression,
    ridge,
    ridge_in_chunks,
    ridge_matrix_free,
)

LAYERS = {
    "ridge": ridge,
    "cholesky": lambda X, Y, lam, **k: ridge(X, Y, lam, method="cholesky", **k),
    "qr": lambda X, Y, lam, **k: ridge(X, Y, lam, method="qr", **k),
    "svd": lambda X, Y, lam, **k: ridge(X, Y, lam, method="svd", **k),
    "dual": lambda X, Y, lam, **k: ridge(X[..., :4, :], Y[..., :4, :], lam, form="dual", **k),
    "free": lambda X, Y, lam, **k: ridge(X, Y, lam, intercept="free", **k),
    "factorized": lambda X, Y, lam, **k: factorize(X, lam, **k).solve(Y),
    "chunks": ridge_in_chunks,
    "chunks, qr": lambda X, Y, lam, **k: ridge_in_chunks(X, Y, lam, method="qr", intercept="free", **k),
    "least squares": lambda X, Y, lam, **k: least_squares(X, Y, method="qr", **k),
    "kernel": lambda X, Y, lam, **k: kernel_ridge(X[..., :4, :] @ X[..., :4, :].mT, Y[..., :4, :], lam, **k),
    "matrix free": lambda X, Y, lam, **k: ridge_matrix_free(X, Y, lam + 1.0, **k),
    "constrained": lambda X, Y, lam, **k: constrained_ridge(X, Y, lam, **k),
    "logistic": lambda X, Y, lam, **k: logistic_regression(X, Y.softmax(-1), lam + 0.1, **k),
    "svm": lambda X, Y, lam, **k: linear_svm(X, Y.softmax(-1), lam + 0.1, **k),
}


@pytest.mark.parametrize("kind", ["singular", "nan", "negative lam"])
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_what_is_shared_keeps_its_gradient(layer, kind):
    features, labels = data(12, 4)
    start = 0.0 if kind == "singular" else 0.5
    bad = torch.ones_like(features) if kind == "singular" else features
    hole = torch.tensor([kind == "nan", False])[:, None, None]

    def gradients(alone):
        extractor = torch.eye(4, dtype=torch.float64, requires_grad=True)
        shared = labels.clone().requires_grad_()
        lam = torch.full((1,), start, dtype=torch.float64, requires_grad=True)
        inputs = (features if alone else torch.stack([bad, features])) @ extractor
        inputs = inputs if alone else inputs.masked_fill(hole, float("nan"))
        sign = torch.tensor([[-2.0 if kind == "negative lam" else 1.0], [1.0]], dtype=torch.float64)
        strength = lam if alone else lam * sign
        targets = shared if alone else shared.unsqueeze(0)
        fit = layer(inputs, targets, strength, on_failure="raise" if alone else "nan")
        weight = fit.weight if alone else fit.weight[1]
        found = torch.autograd.grad(weight.square().sum(), (extractor, shared, lam), allow_unused=True)
        return [g for g in found if g is not None], fit.info.status

    (expected, _), (found, status) = gradients(True), gradients(False)
    assert status[1] == 0
    for gradient, right in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, right, rtol=1e-6, atol=1e-9)
