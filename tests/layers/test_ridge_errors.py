# ruff: noqa: E501  (one row of the table, one line)
"""Every wrong input has its own exception, and a message that says what, where and what to do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from layers_helpers import data

from convexdistill import errors as e
from convexdistill.layers import Ridge, ridge

X, Y = torch.randn(6, 4), torch.randn(6, 2)
NAN, INF = float("nan"), float("inf")


def with_value(tensor, index, value):
    copy = tensor.clone()
    copy[index] = value
    return copy


TABLE = [
    ("numpy features", e.DtypeError, "features must be a torch.Tensor, got numpy", (X.numpy(), Y), {}),
    ("list of labels", e.DtypeError, "labels must be a torch.Tensor, got builtins.list", (X, [1]), {}),
    ("class indices", e.DtypeError, "one_hot", (X, torch.zeros(6, dtype=torch.long)), {}),
    ("complex", e.DtypeError, "floating-point", (X.to(torch.complex64), Y), {}),
    ("mixed dtypes", e.DtypeError, "labels is torch.float64 but features is torch.float32", (X, Y.double()), {}),
    ("lam dtype", e.DtypeError, "lam is torch.float16", (X, Y, torch.tensor(1.0).half()), {}),
    ("lam word", e.DtypeError, "lam must be a number", (X, Y, "1"), {}),
    ("lam bool", e.DtypeError, "lam must be a number", (X, Y, True), {}),
    ("mixed devices", e.DeviceError, "labels is on meta but features is on cpu", (X, Y.to("meta")), {}),
    ("vector features", e.ShapeError, "features must have shape (*B, n, d), got (6,)", (X[:, 0], Y), {}),
    ("row counts", e.ShapeError, "labels has shape (5, 2) and features (6, 4)", (X, Y[:5]), {}),
    ("scalar labels", e.ShapeError, "labels has shape ()", (X, torch.tensor(1.0)), {}),
    ("shared labels", e.ShapeError, "labels.unsqueeze(0)", (X.expand(3, 6, 4), Y), {}),
    ("batches", e.ShapeError, "features (3,), labels (2,)", (X.expand(3, 6, 4), Y.expand(2, 6, 2)), {}),
    ("no rows", e.ShapeError, "no examples", (X[:0], Y[:0]), {}),
    ("no features", e.ShapeError, "no features", (X[:, :0], Y), {}),
    ("no columns", e.ShapeError, "no columns", (X, Y[:, :0]), {}),
    ("lam shape", e.ShapeError, "must be 1 or C = 2", (X, Y, torch.ones(3)), {}),
    ("weight shape", e.ShapeError, "sample_weight has shape (5,)", (X, Y), {"sample_weight": torch.ones(5)}),
    ("nan features", e.NonFiniteInputError, "features[2, 1] is nan (1 of 24", (with_value(X, (2, 1), NAN), Y), {}),
    ("inf labels", e.NonFiniteInputError, "labels[0, 1] is inf", (X, with_value(Y, (0, 1), INF)), {}),
    ("nan lam", e.NonFiniteInputError, "lam is nan", (X, Y, NAN), {}),
    ("inf weight", e.NonFiniteInputError, "sample_weight[3] is -inf", (X, Y), {"sample_weight": with_value(torch.ones(6), 3, -INF)}),
    ("negative lam", e.ParameterRangeError, "lam is -0.5", (X, Y, -0.5), {}),
    ("negative lams", e.ParameterRangeError, "lam[1] is -2.0", (X, Y, torch.tensor([1.0, -2.0])), {}),
    ("negative weight", e.ParameterRangeError, "sample_weight[5] is -1.0", (X, Y), {"sample_weight": with_value(torch.ones(6), 5, -1.0)}),
    ("weights of zero", e.ParameterRangeError, "sums to 0", (X, Y), {"sample_weight": torch.zeros(6), "intercept": "free"}),
    ("intercept word", e.UnknownNameError, "intercept='yes' is not known; use one of 'none', 'free'", (X, Y), {"intercept": "yes"}),
    ("form word", e.UnknownNameError, "form='both'", (X, Y), {"form": "both"}),
    ("method word", e.UnknownNameError, "method='lu'", (X, Y), {"method": "lu"}),
    ("backend word", e.UnknownNameError, "'torch', 'cvxpylayers'", (X, Y), {"backend": "jax"}),
    ("policy word", e.UnknownNameError, "on_failure='ignore'", (X, Y), {"on_failure": "ignore"}),
    ("singular", e.SingularSystemError, "raise lam", (torch.ones(6, 4), Y, 0.0), {}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "fragment", "arguments", "options"),
    [row[1:] for row in TABLE],
    ids=[row[0] for row in TABLE],
)
def test_wrong_input_raises_its_own_error(kind, fragment, arguments, options):
    with pytest.raises(e.ConvexDistillError) as caught:
        ridge(*arguments, **options)
    assert type(caught.value) is kind
    assert fragment in str(caught.value)


@pytest.mark.parametrize("form", ["primal", "dual"])
@pytest.mark.parametrize("method", ["auto", "cholesky", "qr", "svd"])
def test_singular_elements_are_named(form, method):
    features, labels = data(3, 6, 4)
    features[1] = 1.0
    with pytest.raises(e.SingularSystemError) as caught:
        ridge(features, labels, 0.0 if form == "primal" else 1e-300, form=form, method=method)
    assert 1 in caught.value.batch_indices
    assert caught.value.info.status[1] != 0


def test_warn_returns_the_answer_with_a_warning():
    with pytest.warns(e.NumericalWarning, match="singular"):
        fit = ridge(torch.ones(6, 4), Y, 0.0, on_failure="warn")
    assert fit.info.status == 2


def test_nan_marks_only_the_elements_that_failed():
    features, labels = data(4, 6, 3)
    lam = torch.tensor([[0.5], [-1.0], [0.5], [0.0]], dtype=torch.float64)
    features[2, 0, 0] = INF
    features[3] = 1.0
    fit = ridge(features, labels, lam, intercept="penalized", on_failure="nan")
    assert fit.info.status.tolist() == [0, 4, 3, 2]
    assert fit.weight[0].isfinite().all()
    assert fit.intercept[0].isfinite().all()
    assert fit.weight[1:].isnan().all()
    assert fit.intercept[1:].isnan().all()
    clean = ridge(features[0], labels[0], 0.5, intercept="penalized")
    torch.testing.assert_close(fit.weight[0], clean.weight)


def test_failed_elements_do_not_spoil_the_gradients_of_the_others():
    features, labels = data(2, 6, 3)
    features[1, 0, 0] = NAN
    labels.requires_grad_()
    fit = ridge(features, labels, 0.5, on_failure="nan")
    fit.weight[0].sum().backward()
    assert labels.grad.isfinite().all()
    assert labels.grad[0].abs().max() > 0


@pytest.mark.parametrize(
    ("kind", "fragment", "options"),
    [
        (e.ParameterRangeError, "lam is -1.0", {"lam": -1.0}),
        (e.ParameterRangeError, "lam is nan", {"lam": NAN}),
        (e.ParameterRangeError, "learn_lam=True", {"lam": 0.0, "learn_lam": True}),
        (e.UnknownNameError, "intercept='yes'", {"intercept": "yes"}),
        (e.UnknownNameError, "backend='jax'", {"backend": "jax"}),
    ],
)
def test_the_module_refuses_bad_options_when_it_is_built(kind, fragment, options):
    with pytest.raises(kind) as caught:
        Ridge(**options)
    assert fragment in str(caught.value)


def test_numpy_numbers_are_numbers():
    a, b = ridge(X, Y, np.float32(0.5)), ridge(X, Y, 0.5)
    assert torch.equal(a.weight, b.weight)
