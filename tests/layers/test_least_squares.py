"""``least_squares``: against NumPy, scikit-learn and exact arithmetic; its rank, its derivatives, its refusals."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layers_helpers import data, relative
from sklearn.linear_model import LinearRegression
from torch.autograd import gradcheck, gradgradcheck

from convexdistill.errors import (
    DtypeError,
    NonFiniteInputError,
    NumericalWarning,
    ParameterRangeError,
    ShapeError,
    SingularSystemError,
    UnknownNameError,
    UnsupportedError,
)
from convexdistill.layers import Status, explain, ridge
from convexdistill.layers.least_squares import least_squares
from convexdistill.layers.problems.least_squares import LeastSquaresProblem

SHAPES = [(7, 3), (3, 7), (4, 4)]
small = settings(max_examples=25, deadline=None)


def of_rank(n, d, rank, grad=False):
    """Two factors, whose product has the rank, and labels."""
    A, B = torch.randn(n, rank).double(), torch.randn(rank, d).double()
    Y = torch.randn(n, 2).double()
    return [t.requires_grad_(grad) for t in (A, B, Y)]


def spectrum(n, d, sigma):
    """A matrix with given singular values."""
    k = len(sigma)
    U, V = (torch.linalg.qr(torch.randn(m, k).double()).Q for m in (n, d))
    return U * torch.as_tensor(sigma, dtype=torch.float64) @ V.mT


class TestValues:
    @pytest.mark.parametrize("method", ["auto", "qr", "svd"])
    @pytest.mark.parametrize("shape", SHAPES)
    def test_it_is_the_pseudo_inverse_times_the_labels(self, shape, method):
        X, Y = data(*shape)
        fit = least_squares(X, Y, method=method)
        assert fit.info.method == ("svd" if method == "svd" else "qr")
        torch.testing.assert_close(fit.weight, torch.tensor(np.linalg.pinv(X.numpy()) @ Y.numpy()))
        assert float(fit.info.residual) < 1e-14

    @pytest.mark.parametrize("shape", [(8, 5, 2), (5, 8, 3), (6, 6, 1)])
    def test_dependent_features_get_the_weight_of_smallest_norm(self, shape):
        A, B, Y = of_rank(*shape)
        fit = least_squares(A @ B, Y)
        assert fit.info.method == "svd"
        expected = np.linalg.lstsq((A @ B).numpy(), Y.numpy(), rcond=None)[0]
        assert relative(fit.weight, torch.tensor(expected)) < 1e-12
        sigma = torch.linalg.svdvals(A @ B)
        torch.testing.assert_close(fit.info.condition, sigma[0] / sigma[shape[2] - 1])

    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("shape", SHAPES)
    def test_a_free_intercept_agrees_with_scikit_learn(self, shape, weighted):
        X, Y = data(*shape)
        s = torch.rand(shape[0]).double() + 0.1 if weighted else None
        oracle = LinearRegression().fit(X.numpy(), Y.numpy(), sample_weight=None if s is None else s.numpy())
        fit = least_squares(X, Y, sample_weight=s, intercept="free")
        torch.testing.assert_close(fit.weight.mT, torch.tensor(oracle.coef_))
        torch.testing.assert_close(fit.intercept, torch.tensor(oracle.intercept_))

    def test_it_is_the_limit_of_ridge(self):
        A, B, Y = of_rank(7, 5, 3)
        assert relative(ridge(A @ B, Y, 1e-6).weight, least_squares(A @ B, Y).weight) < 1e-5

    def test_no_features_at_all_have_the_weight_zero(self):
        fit = least_squares(torch.zeros(4, 3).double(), torch.randn(4, 2).double())
        assert torch.equal(fit.weight, torch.zeros(3, 2).double())
        assert fit.info.ok.all()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_dtypes_are_kept_and_the_solve_runs_in_float64(self, dtype):
        X, Y = (t.to(dtype) for t in data(9, 4))
        fit = least_squares(X, Y, intercept="free")
        assert fit.weight.dtype == fit.intercept.dtype == dtype
        exact = least_squares(X.double(), Y.double(), intercept="free").weight
        assert relative(fit.weight.double(), exact) <= 2 * torch.finfo(dtype).eps

    def test_rounding_of_float32_features_is_no_information(self):
        A, B, Y = (t.float() for t in of_rank(30, 20, 6))
        X = A @ B  # of rank 6 up to float32 rounding
        fit = least_squares(X, Y)
        exact = torch.linalg.pinv(A.double() @ B.double()) @ Y.double()
        assert relative(fit.weight.double(), exact) < 1e-5
        explicit = least_squares(X.double(), Y.double(), rcond=30 * torch.finfo(torch.float32).eps)
        assert relative(fit.weight.double(), explicit.weight) < 1e-6

    def test_rounding_of_the_centring_is_no_information(self):
        # In float64 the third feature is the sum of the others, but only up to the rounding of numbers near 1e6.
        X = torch.randn(40, 2).double() + 1e6
        X = torch.cat([X, X.sum(1, keepdim=True) / 3], 1)
        Y = torch.randn(40, 1).double()
        fit = least_squares(X, Y, intercept="free")
        assert fit.info.method == "svd"
        assert float(fit.weight.norm()) < 10
        assert float(torch.linalg.lstsq(X - X.mean(0), Y).solution.norm()) > 1e6  # the same without such care

    def test_rcond_leaves_out_small_singular_values(self):
        X = spectrum(8, 5, [3.0, 2.0, 1.0, 1e-3, 1e-4])
        Y = torch.randn(8, 2).double()
        fit = least_squares(X, Y, rcond=0.02)
        torch.testing.assert_close(fit.weight, torch.linalg.pinv(X, rtol=0.02) @ Y)
        assert fit.info.ok.all()
        assert float(fit.info.condition) == pytest.approx(3.0)
        torch.testing.assert_close(least_squares(X, Y).weight, torch.linalg.pinv(X) @ Y)

    @pytest.mark.parametrize("condition", [1e2, 1e5, 1e8, 1e11])
    @pytest.mark.parametrize("shape", [(12, 4), (4, 12)])
    def test_errors_stay_within_their_budget(self, shape, condition):
        X = spectrum(*shape, torch.logspace(0, -np.log10(condition), 4, dtype=torch.float64))
        Y = torch.randn(shape[0], 1).double()
        fit = least_squares(X, Y)
        assert fit.info.method == ("qr" if condition < 1e8 else "svd")
        with mpmath.workdps(60):
            M, b = mpmath.matrix(X.tolist()), mpmath.matrix(Y.tolist())
            gram = M.T * M if shape[0] > shape[1] else M * M.T
            exact = gram**-1 * (M.T * b) if shape[0] > shape[1] else M.T * (gram**-1 * b)
        exact = torch.tensor([[float(v)] for v in exact], dtype=torch.float64)
        R = Y - X @ exact
        # Wedin's bound (Higham, Accuracy and Stability of Numerical Algorithms, 20.1) with a constant of 30
        growth = condition + condition**2 * float(R.norm() / (X.norm() * exact.norm()))
        assert relative(fit.weight, exact) <= 30 * 2.2e-16 * growth

    def test_labels_of_any_batch_share_one_factorisation(self):
        X = torch.randn(6, 4).double()
        Y = torch.randn(2, 3, 6, 2).double()
        fit = least_squares(X, Y)
        assert fit.weight.shape == (2, 3, 4, 2)
        assert fit.info.residual.shape == fit.info.condition.shape == (2, 3)
        torch.testing.assert_close(fit.weight, torch.linalg.pinv(X) @ Y)

    @pytest.mark.parametrize("intercept", ["none", "free"])
    def test_a_batch_is_a_loop_also_where_ranks_differ(self, intercept):
        X = torch.stack([A @ B for A, B, _ in (of_rank(7, 5, r) for r in (5, 2, 4, 1))]).reshape(2, 2, 7, 5)
        Y, s = torch.randn(2, 1, 7, 3).double(), torch.rand(2, 7).double() + 0.2
        fit = least_squares(X, Y, sample_weight=s, intercept=intercept)
        for i in range(2):
            for j in range(2):
                alone = least_squares(X[i, j], Y[i, 0], sample_weight=s[j], intercept=intercept)
                torch.testing.assert_close(fit.weight[i, j], alone.weight)

    def test_vector_labels_layouts_and_empty_batches(self):
        X, Y = data(3, 6, 4, columns=1)
        copy = X.clone()
        strided = X.mT.contiguous().mT
        vector = least_squares(strided, Y[..., 0])
        assert vector.weight.shape == (3, 4)
        torch.testing.assert_close(vector.weight, least_squares(X, Y).weight[..., 0])
        torch.testing.assert_close(vector.predict(X), (X @ least_squares(X, Y).weight)[..., 0])
        expanded = least_squares(X[:1].expand(5, 6, 4), Y[:1].expand(5, 6, 1))
        torch.testing.assert_close(expanded.weight[4], least_squares(X[0], Y[0]).weight)
        assert torch.equal(X, copy)
        X, Y = data(0, 6, 4, grad=True)
        fit = least_squares(X, Y, intercept="free")
        fit.weight.sum().backward()
        assert fit.weight.shape == (0, 4, 2)
        assert X.grad.shape == X.shape


class TestProperties:
    @small
    @given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**31))
    def test_optimal_and_of_smallest_norm(self, n, d, rank, seed):
        torch.manual_seed(seed)
        Y = torch.randn(n, 2).double()
        X = spectrum(n, d, torch.rand(min(rank, n, d)).double() + 0.5)
        W = least_squares(X, Y, rcond=1e-8).weight
        assert float((X.mT @ (X @ W - Y)).abs().max()) < 1e-12
        V = torch.linalg.svd(X).Vh[min(rank, n, d) :]
        assert float((V @ W).abs().max() if len(V) else 0.0) < 1e-12

    @small
    @given(st.integers(0, 2**31))
    def test_linear_in_the_labels_and_turned_with_the_features(self, seed):
        torch.manual_seed(seed)
        X, Z = spectrum(6, 4, [2.0, 1.0, 0.5]), torch.randn(6, 2).double()
        Y = torch.randn(6, 2).double()
        W = least_squares(X, Y, rcond=1e-8).weight
        both = least_squares(X, 2 * Y - 3 * Z, rcond=1e-8).weight
        torch.testing.assert_close(both, 2 * W - 3 * least_squares(X, Z, rcond=1e-8).weight)
        Q = torch.linalg.qr(torch.randn(4, 4).double()).Q
        torch.testing.assert_close(least_squares(X @ Q, Y, rcond=1e-8).weight, Q.mT @ W)
        torch.testing.assert_close(least_squares(100 * X, Y, rcond=1e-8).weight, W / 100)

    @small
    @given(st.integers(0, 2**31), st.sampled_from(["none", "free"]))
    def test_a_repeated_row_is_a_weight_of_two(self, seed, intercept):
        torch.manual_seed(seed)
        X, Y = data(7, 3)
        s = torch.ones(7).double()
        s[0] = 2
        twice = least_squares(torch.cat([X, X[:1]]), torch.cat([Y, Y[:1]]), intercept=intercept)
        found = least_squares(X, Y, sample_weight=s, intercept=intercept)
        torch.testing.assert_close(found.weight, twice.weight, rtol=1e-8, atol=1e-8)


class TestDerivatives:
    @pytest.mark.parametrize("method", ["qr", "svd"])
    @pytest.mark.parametrize("shape", SHAPES)
    def test_full_rank(self, shape, method):
        def function(X, Y):
            return least_squares(X, Y, method=method).weight

        inputs = data(*shape, grad=True)
        assert gradcheck(function, inputs, check_forward_ad=True, check_batched_grad=True)
        assert gradgradcheck(function, inputs)

    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("intercept", ["none", "free"])
    @pytest.mark.parametrize("shape", [(6, 4, 2), (4, 6, 2)])
    def test_dependent_features(self, shape, intercept, weighted):
        def function(A, B, Y, s=None):
            fit = least_squares(A @ B, Y, sample_weight=s, intercept=intercept)
            return fit.weight if fit.intercept is None else (fit.weight, fit.intercept)

        inputs = of_rank(*shape, grad=True)
        if weighted:
            inputs.append((torch.rand(shape[0]).double() + 0.5).requires_grad_())
        assert gradcheck(function, inputs, check_forward_ad=True, check_batched_grad=True)
        assert gradgradcheck(function, inputs)

    def test_repeated_singular_values_are_harmless(self):
        X = torch.cat([torch.eye(3), torch.zeros(2, 3)]).double().requires_grad_()
        Y = torch.randn(5, 2).double().requires_grad_()
        assert gradcheck(lambda X, Y: least_squares(X, Y, method="svd").weight, (X, Y))

    def test_the_formula_of_golub_and_pereyra(self):
        A, B, Y = of_rank(7, 5, 3)
        X, dX, dY = A @ B, torch.randn(7, 5).double(), torch.randn(7, 2).double()
        # a direction that keeps the rank
        P = torch.linalg.pinv(X)
        dX = dX - (torch.eye(7).double() - X @ P) @ dX @ (torch.eye(5).double() - P @ X)
        _, found = torch.func.jvp(lambda X, Y: least_squares(X, Y).weight, (X, Y), (dX, dY))
        W = P @ Y
        inverse = torch.linalg.pinv(X.mT @ X)
        expected = P @ (dY - dX @ W) + inverse @ dX.mT @ (Y - X @ W)
        expected = expected + (torch.eye(5).double() - P @ X) @ dX.mT @ P.mT @ W
        torch.testing.assert_close(found, expected)

    def test_where_small_values_count_as_zero_it_is_that_of_the_smaller_rank(self):
        near = spectrum(7, 4, [2.0, 1.0, 1e-6])
        U, sigma, Vh = torch.linalg.svd(near, full_matrices=False)
        exact = (U[:, :2] * sigma[:2] @ Vh[:2]).requires_grad_()
        near.requires_grad_()
        Y, G = torch.randn(7, 2).double(), torch.randn(4, 2).double()
        found, expected = (
            torch.autograd.grad(least_squares(X, Y, rcond=1e-3).weight, X, G)[0] for X in (near, exact)
        )
        assert relative(found, expected) < 1e-12

    def test_shared_inputs_get_the_sum(self):
        X = torch.randn(5, 3).double().requires_grad_()
        Y, G = torch.randn(4, 5, 2).double(), torch.randn(4, 3, 2).double()
        (found,) = torch.autograd.grad(least_squares(X, Y).weight, X, G)
        parts = [torch.autograd.grad(least_squares(X, Y[i]).weight, X, G[i])[0] for i in range(4)]
        torch.testing.assert_close(found, torch.stack(parts).sum(0))

    def test_only_what_is_wanted_is_worked_out(self):
        X, Y = data(6, 3)
        Y.requires_grad_()
        W = least_squares(X, Y).weight
        (found,) = torch.autograd.grad(W, Y, torch.ones_like(W))
        torch.testing.assert_close(found, torch.linalg.pinv(X).mT @ torch.ones_like(W))
        assert not least_squares(X, Y.detach()).weight.requires_grad

    @pytest.mark.parametrize("scale", [1e-12, 1e12])
    def test_cotangents_of_any_size(self, scale):
        X, Y = data(6, 3, grad=True)
        W = least_squares(X, Y).weight
        G = torch.randn_like(W)
        expected = torch.autograd.grad(W, (X, Y), G, retain_graph=True)
        for f, e in zip(torch.autograd.grad(W, (X, Y), G * scale), expected, strict=True):
            assert relative(f / scale, e) < 1e-12

    def test_float32_gradients(self):
        X, Y = (t.detach().float().requires_grad_() for t in data(6, 3))
        least_squares(X, Y, intercept="free").weight.sum().backward()
        assert X.grad.dtype == Y.grad.dtype == torch.float32


class TestTransforms:
    def test_vmap_is_a_loop_also_where_ranks_differ(self):
        X = torch.stack([A @ B for A, B, _ in (of_rank(6, 4, r) for r in (4, 2, 1))])
        Y = torch.randn(3, 6, 2).double()

        def weight(x, y):
            return least_squares(x, y).weight

        torch.testing.assert_close(torch.func.vmap(weight)(X, Y), least_squares(X, Y).weight)
        jacobians = torch.func.vmap(torch.func.jacrev(weight, 1))(X, Y)
        alone = torch.stack([torch.func.jacrev(weight, 1)(x, y) for x, y in zip(X, Y, strict=True)])
        torch.testing.assert_close(jacobians, alone)

    @pytest.mark.parametrize("shape", SHAPES)
    def test_jacobians_and_hessians_agree(self, shape):
        X, Y = data(*shape)

        def weight(X):
            return least_squares(X, Y).weight

        torch.testing.assert_close(torch.func.jacrev(weight)(X), torch.func.jacfwd(weight)(X))
        torch.testing.assert_close(
            torch.func.hessian(lambda X: weight(X).square().sum())(X),
            torch.autograd.functional.hessian(lambda X: weight(X).square().sum(), X),
        )

    @pytest.mark.parametrize("method", ["auto", "qr"])
    def test_it_compiles_whole_with_its_gradient(self, method):
        def weight(X, Y):
            return least_squares(X, Y, intercept="free", method=method).weight

        X, Y = data(7, 3, grad=True)
        compiled = torch.compile(weight, backend="aot_eager", fullgraph=True)
        found, expected = compiled(X, Y), weight(X, Y)
        torch.testing.assert_close(found, expected)
        G = torch.randn_like(expected)
        for f, e in zip(
            torch.autograd.grad(found, (X, Y), G), torch.autograd.grad(expected, (X, Y), G), strict=True
        ):
            torch.testing.assert_close(f, e)


class TestTheRank:
    def test_a_rank_that_is_a_matter_of_luck_is_said(self):
        X = spectrum(8, 4, [1.0, 0.5, 0.2, 3e-4])
        Y = torch.randn(8, 1).double()
        for rcond in (1e-4, 1e-3):
            with pytest.warns(NumericalWarning, match=r"rank .* matter of luck for batch elements \[0\].*rcond"):
                fit = least_squares(X, Y, rcond=rcond)
            torch.testing.assert_close(fit.weight, torch.linalg.pinv(X, rtol=rcond) @ Y)
        fit = least_squares(X, Y, rcond=1e-4, on_failure="nan")  # nothing may look, so the condition tells
        assert float(fit.info.condition) * 1e-4 > 0.1
        for rcond in (1e-2, 1e-6):
            assert least_squares(X, Y, rcond=rcond).info.ok.all()

    def test_hilbert_matrices_are_warned_of(self):
        i = torch.arange(12).double()
        with pytest.warns(NumericalWarning, match="gap of the singular values"):
            least_squares(1 / (i + i[:, None] + 1), torch.ones(12, 1).double())

    def test_qr_by_name_refuses_dependent_features(self):
        A, B, Y = of_rank(7, 5, 3)
        with pytest.raises(SingularSystemError, match="singular"):
            least_squares(A @ B, Y, method="qr")
        X = torch.stack([A @ B, torch.randn(7, 5).double()])
        fit = least_squares(X, Y.expand(2, 7, 2), method="qr", on_failure="nan")
        assert fit.info.status.tolist() == [int(Status.SINGULAR), 0]
        assert fit.weight[0].isnan().all()
        assert fit.weight[1].isfinite().all()

    def test_a_hidden_singular_qr_is_marked(self):
        A, B, Y = of_rank(7, 5, 3)
        X = torch.stack([A @ B, torch.randn(7, 5).double()])
        fit = torch.func.vmap(lambda x: least_squares(x, Y, method="qr"))(X)
        assert fit.info.status.tolist() == [int(Status.SINGULAR), 0]

    def test_explain_says_why(self):
        X, Y = data(6, 3)
        assert "SVD runs where QR cannot" in explain(least_squares, X, Y).why
        assert explain(least_squares, X, Y, method="svd").methods == ("svd",)


class TestTheResidual:
    def test_it_sees_what_is_not_optimal_and_what_is_not_of_smallest_norm(self):
        A, B, Y = of_rank(7, 5, 3)
        problem = LeastSquaresProblem(A @ B, Y, 1e-12)
        W = torch.linalg.pinv(A @ B) @ Y
        assert float(problem.residual(W)) < 1e-14
        other = W + torch.linalg.svd(A @ B).Vh[-1:].mT  # as good a fit, but longer
        assert float(problem.residual(other)) > 0.1
        assert float(problem.residual(1.01 * W)) > 1e-4
        assert float(problem.residual(0 * W)) > 0.1
        Z = torch.linalg.pinv(A @ B).mT @ W
        assert float(problem.residual(W, Z)) < 1e-14
        assert float(problem.residual(other, Z)) > 1e-2


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"features": np.zeros((6, 3))}, DtypeError, "features must be a torch.Tensor"),
            ({"features": torch.zeros(6, 3).float()}, DtypeError, "labels is torch.float64 but features is"),
            ({"labels": torch.zeros(5, 2).double()}, ShapeError, "n = 6"),
            ({"features": torch.zeros(6, 0).double()}, ShapeError, "no features"),
            ({"sample_weight": torch.ones(4).double()}, ShapeError, "sample_weight has shape"),
            ({"sample_weight": -torch.ones(6).double()}, ParameterRangeError, r"sample_weight\[0\] is -1"),
            ({"rcond": -0.1}, ParameterRangeError, "rcond is -0.1"),
            ({"rcond": float("nan")}, ParameterRangeError, "rcond is nan"),
            ({"rcond": 1}, ParameterRangeError, "rcond is 1"),
            ({"intercept": "penalized"}, UnknownNameError, "'none', 'free'"),
            ({"method": "cholesky"}, UnknownNameError, "'auto', 'qr', 'svd'"),
            ({"on_failure": "ignore"}, UnknownNameError, "on_failure"),
            ({"backend": "cvxpylayers"}, UnsupportedError, "use one of 'torch'"),
        ],
    )
    def test_a_wrong_argument_is_named(self, change, error, message):
        X, Y = data(6, 3)
        if "backend" in change:
            pytest.importorskip("cvxpylayers")
        with pytest.raises(error, match=message):
            least_squares(**({"features": X, "labels": Y} | change))

    @pytest.mark.parametrize("name", ["features", "labels", "sample_weight"])
    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_values_that_are_none_are_refused_or_marked(self, name, value):
        X, Y = data(2, 6, 3)
        inputs = {"features": X, "labels": Y, "sample_weight": torch.ones(2, 6).double()}
        inputs[name][1].view(-1)[2] = value
        with pytest.raises(NonFiniteInputError, match=rf"{name}\[1, "):
            least_squares(**inputs)
        fit = least_squares(**inputs, on_failure="nan")
        assert fit.info.status.tolist() == [0, int(Status.NONFINITE_INPUT)]
        assert fit.weight[1].isnan().all()
        assert fit.weight[0].isfinite().all()

    def test_a_free_intercept_needs_a_weight(self):
        X, Y = data(6, 3)
        with pytest.raises(ParameterRangeError, match="sums to 0"):
            least_squares(X, Y, sample_weight=torch.zeros(6).double(), intercept="free")


def test_the_gradient_to_a_weight_of_zero_is_nan():
    features, labels = data(12, 4)
    weight = torch.rand(12, dtype=torch.float64)
    weight[3] = 0.0
    weight.requires_grad_()
    (found,) = torch.autograd.grad(least_squares(features, labels, sample_weight=weight).weight.sum(), weight)
    assert found.isnan().tolist() == [i == 3 for i in range(12)]
