"""``ridge_matrix_free``: sparse, structured and own operators against dense ridge, scipy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layers_helpers import data, relative
from scipy.sparse import random as sparse_random
from scipy.sparse.linalg import LinearOperator as ScipyOperator
from scipy.sparse.linalg import cg, lsmr
from sklearn.linear_model import Ridge as SklearnRidge
from torch.autograd import gradcheck

from convexdistill.errors import (
    DeviceError,
    DtypeError,
    NonFiniteInputError,
    NotConvergedError,
    NumericalWarning,
    ParameterRangeError,
    ShapeError,
    UnknownNameError,
    UnsupportedError,
)
from convexdistill.layers import LinearOperator, Status, explain, ridge, ridge_matrix_free
from convexdistill.layers.backends.torch_backend.operator.krylov import System, conjugate_gradients
from convexdistill.layers.backends.torch_backend.operator.lsmr import lsmr as lsmr_solver
from convexdistill.layers.backends.torch_backend.operator.preconditioners import sketch
from convexdistill.layers.operators import products

TIGHT = {"rtol": 1e-13}
METHODS = [{"method": "cg"}, {"method": "lsmr"}, {"preconditioner": "jacobi"}, {"preconditioner": "nystrom"}]


class Transposable:
    """What other libraries offer: a shape, ``@`` and ``mT``, no more."""

    def __init__(self, matrix):
        self.matrix = matrix

    shape = property(lambda self: self.matrix.shape)
    mT = property(lambda self: Transposable(self.matrix.mT))  # noqa: N815

    def __matmul__(self, x):
        return self.matrix @ x


def decaying(n, d, condition, seed=0):
    """A matrix whose singular values fall evenly on a log scale from 1 to 1 / condition."""
    generator = torch.Generator().manual_seed(seed)
    U, V = (torch.randn(k, d, generator=generator, dtype=torch.float64) for k in (n, d))
    sigma = torch.logspace(0, -float(np.log10(condition)), d, dtype=torch.float64)
    return torch.linalg.qr(U).Q * sigma @ torch.linalg.qr(V).Q.mT


# -- values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", METHODS, ids=str)
@pytest.mark.parametrize("batch", [(), (3,), (2, 0), (2, 3)])
@pytest.mark.parametrize("shape", [(12, 5), (5, 12)])
def test_every_method_gives_the_dense_answer(shape, batch, options):
    X, Y = data(*batch, *shape)
    lam = torch.tensor([0.5, 2.0], dtype=torch.float64)
    fit = ridge_matrix_free(X, Y, lam, **TIGHT, **options)
    dense = ridge(X, Y, lam)
    assert fit.weight.shape == dense.weight.shape
    assert fit.info.residual.shape == fit.info.steps.shape == fit.info.status.shape == batch
    torch.testing.assert_close(fit.weight, dense.weight, rtol=1e-10, atol=1e-12)


def kinds(X):
    yield "dense", X
    yield "coo", X.to_sparse()
    yield "csr", X.to_sparse_csr()
    yield "csc", X.to_sparse_csc()
    yield "not contiguous", X.mT.contiguous().mT
    yield "mT", Transposable(X)
    yield "rmatmul", type("Scipy", (), {"shape": X.shape, "matmul": X.__matmul__, "rmatmul": X.mT.__matmul__})()
    yield "functions", LinearOperator(tuple(X.shape), X.__matmul__, X.mT.__matmul__)
    yield "one function", LinearOperator(tuple(X.shape), X.__matmul__)


def test_every_kind_of_operator_is_understood():
    X, Y = data(9, 4, columns=3)
    Y = Y.expand(2, 9, 3)  # label batches over one matrix
    expected = ridge(X, Y, 0.3).weight
    for name, operator in kinds(X):
        fit = ridge_matrix_free(operator, Y, 0.3, **TIGHT)
        torch.testing.assert_close(fit.weight, expected, rtol=1e-10, atol=1e-12, msg=name)


def test_broadcasting_vectors_and_prediction():
    X, Y = data(2, 1, 8, 3)[0], data(1, 5, 8, 3)[1]
    lam = torch.rand(2, 1, 1, dtype=torch.float64) + 0.1
    fit = ridge_matrix_free(X, Y, lam, **TIGHT)
    torch.testing.assert_close(fit.weight, ridge(X, Y, lam).weight)
    vector = ridge_matrix_free(X, Y[..., 0], lam, **TIGHT)
    assert vector.weight.shape == (2, 5, 3)
    torch.testing.assert_close(vector.weight, ridge(X, Y[..., :1], lam).weight[..., 0])
    assert vector.predict(X).shape == (2, 5, 8)


def test_batch_is_the_loop():
    X, Y = data(4, 10, 6)
    lam = torch.rand(4, 1, dtype=torch.float64)
    together = ridge_matrix_free(X, Y, lam, **TIGHT).weight
    for i in range(4):
        torch.testing.assert_close(together[i], ridge_matrix_free(X[i], Y[i], lam[i], **TIGHT).weight)


def test_float32_comes_back_as_float32_solved_in_float64():
    X, Y = (t.float() for t in data(30, 10))
    for operator in (X, X.to_sparse(), X.to_sparse_csr(), Transposable(X.double())):
        fit = ridge_matrix_free(operator, Y, 0.1)
        assert fit.weight.dtype == torch.float32
        assert relative(fit.weight.double(), ridge(X.double(), Y.double(), 0.1).weight) < 2e-7


def test_scikit_learn_and_scipy_agree_on_sparse_data():
    matrix = sparse_random(400, 120, density=0.05, format="csr", random_state=np.random.default_rng(0))
    labels = np.random.default_rng(1).standard_normal((400, 3))
    A = torch.sparse_csr_tensor(matrix.indptr, matrix.indices, matrix.data, matrix.shape, dtype=torch.float64)
    fit = ridge_matrix_free(A, torch.tensor(labels), 0.5, **TIGHT)
    for solver in ("lsqr", "sparse_cg"):
        sklearn = SklearnRidge(alpha=0.5, fit_intercept=False, solver=solver, tol=1e-13).fit(matrix, labels)
        np.testing.assert_allclose(fit.weight.mT.numpy(), sklearn.coef_, rtol=1e-9, atol=1e-11)
    for column in range(3):
        y = labels[:, column]
        ours = fit.weight[:, column].numpy()
        theirs = lsmr(matrix, y, damp=0.5**0.5, atol=1e-14, btol=1e-14)[0]
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-11)
        normal = ScipyOperator((120, 120), lambda v: matrix.T @ (matrix @ v) + 0.5 * v)
        theirs, failed = cg(normal, matrix.T @ y, rtol=1e-13)
        assert not failed
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-11)


def test_a_scipy_operator_goes_into_two_functions():
    matrix = sparse_random(50, 20, density=0.2, random_state=np.random.default_rng(0))
    operator = LinearOperator(
        matrix.shape,
        lambda x: torch.from_numpy(matrix @ x.numpy()),
        lambda y: torch.from_numpy(matrix.T @ y.numpy()),
    )
    Y = torch.randn(50, 2, dtype=torch.float64, requires_grad=True)
    fit = ridge_matrix_free(operator, Y.detach(), 1.0, **TIGHT)
    torch.testing.assert_close(fit.weight, ridge(torch.tensor(matrix.toarray()), Y.detach(), 1.0).weight)


@pytest.mark.parametrize("shape", [(20, 8), (8, 20)])
def test_without_penalty_the_answer_has_minimum_norm(shape):
    X = torch.randn(shape[0], 3, dtype=torch.float64) @ torch.randn(3, shape[1], dtype=torch.float64)
    Y = torch.randn(shape[0], 2, dtype=torch.float64)
    expected = torch.linalg.pinv(X) @ Y
    for method in ("cg", "lsmr", "auto"):
        fit = ridge_matrix_free(X, Y, 0.0, method=method, **TIGHT)
        torch.testing.assert_close(fit.weight, expected, rtol=1e-9, atol=1e-11)
    assert fit.info.method == "lsmr"


def test_lsmr_takes_as_many_steps_as_scipys():
    X, Y = decaying(200, 60, 1e3), torch.randn(200, 1, dtype=torch.float64)
    for lam in (0.0, 1e-4):
        reference = lsmr(X.numpy(), Y[:, 0].numpy(), damp=lam**0.5, atol=1e-11, btol=1e-14, conlim=0, maxiter=5000)
        fit = ridge_matrix_free(X, Y, lam, method="lsmr", rtol=1e-11)
        assert 0.7 < int(fit.info.steps) / reference[2] < 1.5
        assert relative(fit.weight[:, 0], torch.tensor(reference[0])) < 1e-5


def test_labels_of_zero_and_features_of_zero():
    X, Y = data(6, 3)
    assert ridge_matrix_free(X, 0 * Y, 1.0).weight.abs().max() == 0
    assert ridge_matrix_free(0 * X, Y, 1.0, preconditioner="nystrom").weight.abs().max() == 0
    assert ridge_matrix_free(0 * X, Y, 0.0).weight.abs().max() == 0


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 12),
    d=st.integers(1, 12),
    C=st.integers(1, 3),
    lam=st.floats(1e-3, 1e3),
    seed=st.integers(0, 99),
)
def test_every_shape_agrees_with_dense_ridge(n, d, C, lam, seed):
    generator = torch.Generator().manual_seed(seed)
    X, Y = (torch.randn(n, k, generator=generator, dtype=torch.float64) for k in (d, C))
    fit = ridge_matrix_free(X.to_sparse(), Y, lam, **TIGHT)
    torch.testing.assert_close(fit.weight, ridge(X, Y, lam).weight, rtol=1e-8, atol=1e-10)


# -- convergence -----------------------------------------------------------------------------------


def test_nystrom_takes_a_tenth_of_the_steps_where_the_spectrum_decays():
    X, Y = decaying(500, 400, 1e6), torch.randn(500, 4, dtype=torch.float64)
    lam = 1e-5
    plain = ridge_matrix_free(X, Y, lam, method="cg")
    better = ridge_matrix_free(X, Y, lam, preconditioner="nystrom")
    assert int(better.info.steps) * 10 < int(plain.info.steps)
    assert relative(better.weight, ridge(X, Y, lam).weight) < 1e-6


def test_jacobi_takes_a_fifth_of_the_steps_where_features_are_badly_scaled():
    X = torch.randn(300, 50, dtype=torch.float64) * torch.logspace(-2, 2, 50, dtype=torch.float64)
    Y = torch.randn(300, 2, dtype=torch.float64)
    for operator in (X, X.to_sparse()):
        plain = ridge_matrix_free(operator, Y, 1e-3, method="cg")
        better = ridge_matrix_free(operator, Y, 1e-3, preconditioner="jacobi")
        assert int(better.info.steps) * 5 < int(plain.info.steps)
    own = ridge_matrix_free(X, Y, 1e-3, preconditioner=lambda r: r / (X.square().sum(0)[:, None] + 1e-3))
    assert abs(int(own.info.steps) - int(better.info.steps)) <= 2


def test_the_sketch_is_an_approximation_from_below():
    X = decaying(60, 40, 1e8)
    U, eigenvalues = sketch(products(X), 20, X.device)
    error = X.mT @ X - U * eigenvalues[:, 0] @ U.mT
    torch.testing.assert_close(U.mT @ U, torch.eye(20, dtype=torch.float64))
    found = torch.linalg.eigvalsh(error)
    assert found.min() > -1e-14
    # The paper's Proposition 2.2 with p = 5, and a factor 10 for a draw above the mean.
    assert found.max() < 10 * (1 + 2 * 15 / 4) * 10 ** (-2 * 8 * 15 / 39)


def test_steps_are_counted_for_every_element_on_its_own():
    easy, hard = torch.eye(40, dtype=torch.float64), decaying(40, 40, 1e3)
    Y = torch.randn(40, 1, dtype=torch.float64)
    steps = ridge_matrix_free(torch.stack([easy, hard]), Y.expand(2, 40, 1), 1e-4, method="cg").info.steps
    assert steps[0] == 1
    assert steps[1] > 20


@pytest.mark.parametrize("solver", [conjugate_gradients, lsmr_solver])
def test_restarts_reach_the_limit_of_the_arithmetic(solver):
    X, Y = decaying(80, 40, 1e3), torch.randn(80, 2, dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    for E, B in ((Y, None), (None, X.mT @ Y)):
        system = System(products(X), one, 1e-6 * one[:, None], E, B)
        found = solver(system, 1e-20, 20_000)
        scale = 1.000001 * found.x.norm() + Y.norm()
        assert float(system.residual(found.x)[1].norm() / scale) < 2e-15


def test_explain_says_which_method_and_why():
    X, Y = data(6, 3)
    assert explain(ridge_matrix_free, X, Y, 0.0).methods == ("lsmr",)
    plan = explain(ridge_matrix_free, X, Y, 1.0)
    assert plan.problem == "OperatorProblem"
    assert plan.methods == ("cg", "lsmr")


def test_lsmr_takes_over_where_conjugate_gradients_run_out_of_steps():
    X, Y = decaying(60, 40, 3e3), torch.randn(60, 1, dtype=torch.float64)
    steps = int(ridge_matrix_free(X, Y, 1e-6, method="lsmr").info.steps)
    assert steps < int(ridge_matrix_free(X, Y, 1e-6, method="cg").info.steps)
    fit = ridge_matrix_free(X, Y, 1e-6, max_steps=steps)
    assert fit.info.method == "lsmr"


# -- derivatives -----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", METHODS, ids=str)
@pytest.mark.parametrize("batch", [(), (2,)])
def test_gradients_are_those_of_the_dense_layer(batch, options):
    X, Y = data(*batch, 9, 6, grad=True)
    lam = torch.tensor([0.5, 0.2], dtype=torch.float64, requires_grad=True)
    G = torch.randn(*batch, 6, 2, dtype=torch.float64)
    found = torch.autograd.grad(ridge_matrix_free(X, Y, lam, **TIGHT, **options).weight, (X, Y, lam), G)
    expected = torch.autograd.grad(ridge(X, Y, lam).weight, (X, Y, lam), G)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_what_is_shared_gets_the_sum_of_its_gradients():
    X, Y = data(4, 7, 3)[0], data(7, 3, grad=True)[1]
    lam = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    weights = ridge_matrix_free(X, Y[None], lam, **TIGHT).weight
    found = torch.autograd.grad(weights.square().sum(), (Y, lam))
    each = [torch.autograd.grad(ridge(X[i], Y, lam).weight.square().sum(), (Y, lam)) for i in range(4)]
    for i in range(2):
        torch.testing.assert_close(found[i], sum(g[i] for g in each))


def test_gradcheck_reaches_whatever_the_products_use():
    Y = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    lam = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    left, right = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((6, 2), (4, 2)))
    scale = torch.rand(6, dtype=torch.float64).add(0.5).requires_grad_()

    def low_rank(left, right, scale, Y, lam, transposed):
        def matmul(x):
            return scale[:, None] * (left @ (right.mT @ x))

        def rmatmul(y):
            return right @ (left.mT @ (scale[:, None] * y))

        A = LinearOperator((6, 4), matmul, rmatmul if transposed else None)
        return ridge_matrix_free(A, Y, lam, rtol=1e-14).weight

    for transposed in (True, False):
        assert gradcheck(low_rank, (left, right, scale, Y, lam, transposed))


def test_gradients_to_the_values_of_a_sparse_matrix():
    at = torch.tensor([[0, 0, 1, 2, 3, 3], [0, 2, 1, 1, 0, 2]])
    values = torch.randn(6, dtype=torch.float64, requires_grad=True)
    Y = torch.randn(4, 2, dtype=torch.float64)

    def function(values):
        A = torch.sparse_coo_tensor(at, values, (4, 3))
        return ridge_matrix_free(A, Y, 0.5, rtol=1e-14).weight

    assert gradcheck(function, (values,))


def test_gradients_in_float32_have_its_dtype():
    X, Y = (t.float().requires_grad_() for t in data(12, 5))
    ridge_matrix_free(X, Y, 0.5).weight.sum().backward()
    assert X.grad.dtype == Y.grad.dtype == torch.float32


def test_second_derivatives_raise_and_are_never_dropped():
    X, Y = data(7, 3, grad=True)
    weight = ridge_matrix_free(X, Y, 0.5).weight
    (gradient,) = torch.autograd.grad(weight.sum(), X, create_graph=True)  # a cotangent without any graph
    with pytest.raises(UnsupportedError, match=r"gradients of gradients; use the dense layer .*ridge"):
        gradient.sum().backward()
    (gradient,) = torch.autograd.grad(ridge_matrix_free(X, Y, 0.5).weight.square().sum(), Y, create_graph=True)
    with pytest.raises(UnsupportedError):
        torch.autograd.grad(gradient.sum(), Y)


def test_transforms_raise():
    X, Y = data(3, 7, 4)
    with pytest.raises(UnsupportedError, match="leading batch dimensions instead of vmap"):
        torch.func.vmap(lambda x, y: ridge_matrix_free(x, y).weight)(X, Y)
    Y = Y[0].clone().requires_grad_()
    weight = ridge_matrix_free(X[0], Y).weight
    with pytest.raises(UnsupportedError, match="leading batch dimensions"):
        torch.autograd.grad(weight, Y, torch.ones(2, *weight.shape, dtype=torch.float64), is_grads_batched=True)


def test_inputs_are_not_changed_and_no_graph_is_kept_without_need():
    X, Y = data(7, 3)
    before = X.clone(), Y.clone()
    fit = ridge_matrix_free(X, Y, 0.5)
    assert fit.weight.grad_fn is None
    assert torch.equal(X, before[0])
    assert torch.equal(Y, before[1])
    state = torch.get_rng_state()
    ridge_matrix_free(X, Y, 0.5, preconditioner="nystrom")
    assert torch.equal(state, torch.get_rng_state())


# -- failures --------------------------------------------------------------------------------------


def test_too_few_steps_raise_warn_or_fill_with_nan():
    X, Y = decaying(60, 40, 1e3), torch.randn(60, 2, dtype=torch.float64)
    both = torch.stack([torch.eye(60, 40, dtype=torch.float64), X])
    with pytest.raises(NotConvergedError, match=r"batch elements \[1\] of 2.*used up its steps") as caught:
        ridge_matrix_free(both, Y.expand(2, 60, 2), 1e-4, max_steps=5)
    assert caught.value.batch_indices == (1,)
    with pytest.warns(NumericalWarning, match="used up its steps"):
        fit = ridge_matrix_free(both, Y.expand(2, 60, 2), 1e-4, max_steps=5, on_failure="warn")
    assert fit.info.status.tolist() == [Status.OPTIMAL, Status.MAX_STEPS]
    assert fit.info.steps.tolist() == [1, 5]
    fit = ridge_matrix_free(both, Y.expand(2, 60, 2), 1e-4, max_steps=5, on_failure="nan")
    assert fit.weight[0].isfinite().all()
    assert fit.weight[1].isnan().all()


def test_gradients_that_do_not_converge_raise_warn_or_fill_with_nan():
    # The labels lie in an easy direction, the cotangent does not.
    X = torch.diag(torch.logspace(0, -3, 40, dtype=torch.float64))
    Y = torch.zeros(40, 1, dtype=torch.float64)
    Y[0] = 1
    Y.requires_grad_()
    G = torch.ones(40, 1, dtype=torch.float64)
    with pytest.raises(NotConvergedError, match="gradient of ridge_matrix_free did not converge in 5 steps"):
        ridge_matrix_free(X, Y, 1e-6, max_steps=5, method="cg").weight.backward(G)
    with pytest.warns(NumericalWarning, match="did not converge"):
        ridge_matrix_free(X, Y, 1e-6, max_steps=5, method="cg", on_failure="warn").weight.backward(G)
    Y.grad = None
    ridge_matrix_free(X, Y, 1e-6, max_steps=5, method="cg", on_failure="nan").weight.backward(G)
    assert Y.grad.isnan().any()


def test_a_singular_problem_has_an_answer_but_no_gradient():
    X = torch.ones(6, 3, dtype=torch.float64, requires_grad=True)
    fit = ridge_matrix_free(X, torch.randn(6, 1, dtype=torch.float64), 0.0)
    with pytest.raises(NotConvergedError, match="Raise lam"):
        fit.weight[0].sum().backward()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labels": torch.zeros(7, 2, dtype=torch.float64)}, ShapeError, r"labels has shape \(7, 2\)"),
        ({"labels": torch.zeros(6, 0, dtype=torch.float64)}, ShapeError, "no columns"),
        ({"labels": torch.zeros(6, 2)}, DtypeError, "operator is torch.float64 but labels is torch.float32"),
        ({"labels": torch.zeros(6, 2, dtype=torch.int64)}, DtypeError, "labels must be a floating-point"),
        (
            {"labels": torch.full((6, 2), torch.nan, dtype=torch.float64)},
            NonFiniteInputError,
            r"labels\[0, 0\] is nan",
        ),
        ({"operator": torch.full((6, 3), torch.inf, dtype=torch.float64)}, NonFiniteInputError, "operator"),
        (
            {"operator": torch.full((6, 3), torch.inf, dtype=torch.float64).to_sparse()},
            NonFiniteInputError,
            r"operator values\[0\] is inf",
        ),
        ({"operator": torch.zeros(2, 6, 3, dtype=torch.float64).to_sparse()}, ShapeError, "one .n, d. at a time"),
        ({"operator": torch.zeros(6, 0, dtype=torch.float64)}, ShapeError, "nothing to fit"),
        ({"operator": [1.0]}, ShapeError, r"operator is a list with .*LinearOperator\(shape, matmul\)"),
        ({"operator": type("Bare", (), {"shape": (6, 3)})()}, UnsupportedError, "neither matmul nor @"),
        ({"operator": Transposable(torch.zeros(6, 3))}, DtypeError, "does not take a float64 tensor"),
        (
            {"operator": LinearOperator((6, 3), lambda x: x)},
            ShapeError,
            r"gave shape \(3, 1\) .* must be \(6, 1\)",
        ),
        ({"operator": LinearOperator((6, 3), lambda x: x[:1].float())}, DtypeError, "gave torch.float32"),
        ({"operator": torch.zeros(3, 6, 3, dtype=torch.float64)}, ShapeError, "do not broadcast"),
        ({"lam": -1.0}, ParameterRangeError, "lam is -1.0"),
        ({"lam": torch.ones(3, dtype=torch.float64)}, ShapeError, "lam has shape"),
        ({"rtol": 1e-4}, ParameterRangeError, r"rtol must be in \(0, 1e-08\]"),
        ({"max_steps": 0}, ParameterRangeError, "max_steps must be >= 1"),
        ({"method": "gmres"}, UnknownNameError, "'cg', 'lsmr'"),
        ({"preconditioner": "ilu"}, UnknownNameError, "'jacobi', 'nystrom'"),
        ({"preconditioner": "nystrom", "method": "lsmr"}, UnsupportedError, "takes no preconditioner"),
        (
            {"preconditioner": "jacobi", "operator": LinearOperator((6, 3), lambda x: x.repeat(2, 1))},
            UnsupportedError,
            "use preconditioner='nystrom'",
        ),
    ],
)
def test_wrong_inputs_are_refused_by_name(change, error, message):
    X = torch.randn(6, 3, dtype=torch.float64)
    Y = torch.randn(2, 6, 2, dtype=torch.float64)
    arguments = {"operator": X, "labels": Y, "lam": 1.0, **change}
    operator, labels, lam = (arguments.pop(k) for k in ("operator", "labels", "lam"))
    with pytest.raises(error, match=message):
        ridge_matrix_free(operator, labels, lam, **arguments)


def test_products_that_are_not_finite_are_refused():
    A = LinearOperator((6, 3), lambda x: x.repeat(2, 1) * torch.nan)
    Y = torch.randn(6, 2, dtype=torch.float64)
    with pytest.raises(NonFiniteInputError, match="products of the operator"):
        ridge_matrix_free(A, Y)
    assert ridge_matrix_free(A, Y, on_failure="nan").info.status == Status.NONFINITE_INPUT


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu():
    X, Y = (t.cuda() for t in data(40, 20))
    for operator in (X, X.to_sparse(), LinearOperator((40, 20), X.__matmul__)):
        for options in ({}, {"method": "lsmr"}, {"preconditioner": "nystrom"}):
            fit = ridge_matrix_free(operator, Y.requires_grad_(), 0.1, **TIGHT, **options)
            torch.testing.assert_close(fit.weight, ridge(X, Y, 0.1).weight)
            fit.weight.sum().backward()
    with pytest.raises(DeviceError):
        ridge_matrix_free(X, Y.cpu())
