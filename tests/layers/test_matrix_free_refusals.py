"""What ``ridge_matrix_free`` refuses instead of answering wrongly: forward mode, and a transpose that is none."""

from __future__ import annotations

import pytest
import torch
from layers_helpers import data
from torch.autograd import forward_ad

from convexdistill.errors import InvalidInputError, UnsupportedError
from convexdistill.layers import LinearOperator, pipeline, ridge_matrix_free


@pytest.mark.parametrize("what", ["labels", "lam", "features", "inside the operator"])
def test_forward_mode_is_refused_and_not_a_derivative_of_zero(what):
    X, Y = data(9, 4)
    lam = torch.tensor(0.5, dtype=torch.float64)
    with forward_ad.dual_level():

        def dual(tensor):
            return forward_ad.make_dual(tensor, torch.ones_like(tensor))

        Y, lam = (dual(Y) if what == "labels" else Y), (dual(lam) if what == "lam" else lam)
        A = dual(X) if what == "features" else X
        if what == "inside the operator":
            hidden = dual(X)
            A = LinearOperator((9, 4), lambda x: hidden @ x, lambda y: hidden.mT @ y)
        with pytest.raises(UnsupportedError, match="no forward-mode derivatives"):
            ridge_matrix_free(A, Y, lam)
        with torch.no_grad(), pytest.raises(UnsupportedError, match="no forward-mode derivatives"):
            ridge_matrix_free(A, Y, lam)
        assert ridge_matrix_free(X, data(9, 4)[1], 0.5).info.ok  # a level alone does no harm


def test_nan_works_where_values_may_not_be_looked_at(monkeypatch):
    monkeypatch.setattr(pipeline, "may_look", lambda *_: False)  # as on a device that is not the CPU
    X, Y = data(2, 9, 4)
    Y[1, 0, 0] = float("nan")
    fit = ridge_matrix_free(X, Y, 0.5, on_failure="nan")
    assert fit.info.status.tolist() == [0, 3]
    torch.testing.assert_close(fit.weight[0], ridge_matrix_free(X[0], Y[0], 0.5).weight)


class Pair:
    """What another library may offer: ``@`` and a transpose of its own."""

    def __init__(self, A, At):
        self.A, self.At, self.shape = A, At, A.shape

    def __matmul__(self, x):
        return self.A @ x

    @property
    def mT(self):  # noqa: N802
        return Pair(self.At, self.A)


@pytest.mark.parametrize("batch", [(), (3,)])
def test_a_wrong_transpose_is_refused(batch):
    X, Y = data(*batch, 20, 6)
    wrong = X + 0.1 * torch.randn_like(X)
    options = {"lam": 0.5}
    for transpose in (wrong, X + 1e-5 * torch.randn_like(X)):
        with pytest.raises(InvalidInputError, match="not adjoint"):
            ridge_matrix_free(LinearOperator(X.shape, X.__matmul__, transpose.mT.__matmul__), Y, **options)
        with pytest.raises(InvalidInputError, match="not adjoint"):
            ridge_matrix_free(Pair(X, transpose.mT), Y, **options)
    expected = ridge_matrix_free(X, Y, **options).weight
    for right in (LinearOperator(X.shape, X.__matmul__, X.mT.__matmul__), Pair(X, X.mT)):
        torch.testing.assert_close(ridge_matrix_free(right, Y, **options).weight, expected)


def test_operators_of_any_scale_pass_the_test_of_their_transpose():
    X, Y = data(20, 6)
    for scale in (1e-120, 1e120, 0.0):
        A = LinearOperator(X.shape, (scale * X).__matmul__, (scale * X).mT.__matmul__)
        assert ridge_matrix_free(A, Y, scale**2 or 1.0, on_failure="warn").weight.isfinite().all()
