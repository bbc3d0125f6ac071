# ruff: noqa: E501  (one row of the table, one line)
"""Wrong arguments of any layer raise a typed error; no error of torch or Python comes through."""

from __future__ import annotations

import pytest
import torch

from convexdistill import errors as e
from convexdistill import layers
from convexdistill.layers.backends import register_backend

X, Y = torch.randn(6, 4), torch.randn(6, 2)
P = Y.softmax(-1)
K = X @ X.T + torch.eye(6)
META_X, META_Y = X.to("meta"), Y.to("meta")
# Every layer with weights and λ: features, labels, options.
WEIGHTED = {
    "ridge": lambda x=X, y=Y, **o: layers.ridge(x, y, **o),
    "ridge_in_chunks": lambda x=X, y=Y, **o: layers.ridge_in_chunks(x, y, **o),
    "factorize": lambda x=X, y=Y, **o: layers.factorize(x, **o),
    "logistic_regression": lambda x=X, y=P, **o: layers.logistic_regression(x, y, **o),
    "linear_svm": lambda x=X, y=P, **o: layers.linear_svm(x, y, **o),
    "constrained_ridge": lambda x=X, y=Y, **o: layers.constrained_ridge(x, y, **o),
    "kernel_ridge": lambda x=K, y=Y, **o: layers.kernel_ridge(x, y, **o),
    "loo_residuals": lambda x=X, y=Y, **o: layers.loo_residuals(x, y, **o),
}
PRIORS = {name: WEIGHTED[name] for name in ("ridge", "constrained_ridge")}


@pytest.mark.parametrize("name", WEIGHTED)
def test_lam_and_weights_of_other_types(name):
    layer = WEIGHTED[name]
    with pytest.raises(e.DtypeError, match=r"^lam must be a number or a torch.Tensor, got NoneType"):
        layer(lam=None)
    for wrong in ([1.0] * 6, 1.0, "x"):
        with pytest.raises(e.DtypeError, match=r"^sample_weight must be a torch.Tensor, got builtins"):
            layer(sample_weight=wrong)
    with pytest.raises(e.DtypeError, match=r"^sample_weight must be a floating-point tensor"):
        layer(sample_weight=torch.ones(6, dtype=torch.long))


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("argument", ["prior", "penalty"])
def test_priors_and_penalties_are_tensors(name, argument):
    for wrong in (1.0, [1.0] * 4):
        with pytest.raises(e.DtypeError, match=rf"^{argument} must be a torch.Tensor"):
            PRIORS[name](**{argument: wrong})


@pytest.mark.parametrize("name", [*WEIGHTED, "least_squares", "ridge_matrix_free", "ridge in float64"])
def test_tensors_without_values(name):
    others = {
        "least_squares": layers.least_squares,
        "ridge_matrix_free": layers.ridge_matrix_free,
        "ridge in float64": lambda x, y: layers.ridge(x.double(), y.double(), 0.5),
    }
    x = K.to("meta") if name == "kernel_ridge" else META_X
    with pytest.raises(e.DeviceError, match="is on the meta device, which holds no values"):
        (WEIGHTED | others)[name](x, META_Y)


TABLE = [
    ("lams words", e.DtypeError, "lams must be a list of numbers", lambda: layers.select_lam(X, Y, ["a"])),
    ("lams number", e.DtypeError, "lams must be a list of numbers", lambda: layers.RidgeCV(3.0)),
    ("max_steps word", e.DtypeError, "max_steps must be a whole number, got str", lambda: layers.ridge_matrix_free(X, Y, max_steps="x")),
    ("max_steps half", e.DtypeError, "max_steps must be a whole number, got float", lambda: layers.ridge_matrix_free(X, Y, max_steps=1.5)),
    ("rtol word", e.DtypeError, "rtol must be a number, got str", lambda: layers.ridge_matrix_free(X, Y, rtol="x")),
    ("lam of an operator", e.DtypeError, "lam must be a number or a torch.Tensor, got NoneType", lambda: layers.ridge_matrix_free(X, Y, None)),
    ("rcond word", e.DtypeError, "rcond must be a number, got str", lambda: layers.least_squares(X, Y, rcond="x")),
    ("weights of least squares", e.DtypeError, "sample_weight must be a torch.Tensor", lambda: layers.least_squares(X, Y, sample_weight=[1.0] * 6)),
    ("a bound", e.DtypeError, "lower must be a number or a torch.Tensor", lambda: layers.constrained_ridge(X, Y, lower="0")),
    ("no backend", e.DtypeError, "backend must be a Backend, got str", lambda: register_backend("x")),
    ("backend list", e.UnknownNameError, "backend=['torch'] is not known", lambda: layers.ridge(X, Y, backend=["torch"])),
    ("module word", e.DtypeError, "lam must be a number, got str", lambda: layers.Ridge("1")),
    ("module None", e.DtypeError, "lam must be a number, got NoneType", lambda: layers.LogisticRegression(None)),
    ("module list", e.DtypeError, "lam must be a number, got list", lambda: layers.KernelRidge([1.0])),
    ("module integers", e.DtypeError, "lam must be a floating-point tensor", lambda: layers.Ridge(torch.tensor([1, 2]))),
    ("module matrix", e.ShapeError, "lam has shape (1, 2)", lambda: layers.Ridge(torch.ones(1, 2))),
    ("module negative", e.ParameterRangeError, "lam[1] is -1.0", lambda: layers.Ridge(torch.tensor([1.0, -1.0]))),
    ("module infinite", e.ParameterRangeError, "lam must be finite", lambda: layers.Ridge(torch.tensor([1.0, float("inf")]))),
    ("module zero learnt", e.ParameterRangeError, "learn_lam=True", lambda: layers.Ridge(torch.tensor([1.0, 0.0]), learn_lam=True)),
    ("module zero svm", e.ParameterRangeError, "lam > 0", lambda: layers.LinearSVM(torch.tensor([1.0, 0.0]))),
    ("module columns", e.ShapeError, "must be 1 or C = 2", lambda: layers.Ridge(torch.ones(3))(X, Y)),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "fragment", "call"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_wrong_arguments_raise_their_own_error(kind, fragment, call):
    with pytest.raises(e.ConvexDistillError) as caught:
        call()
    assert type(caught.value) is kind
    assert fragment in str(caught.value)
