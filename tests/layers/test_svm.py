from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layers_helpers import relative
from sklearn.svm import SVC, LinearSVC
from torch import Tensor

from convexdistill.errors import (
    ParameterRangeError,
    ShapeError,
    SingularSystemError,
    UnknownNameError,
    UnsupportedError,
)
from convexdistill.layers import LinearFit, LinearSVM, Status, linear_svm

KINDS = ["crammer-singer", "one-vs-rest"]
FORMS = ["primal", "dual"]
INTERCEPTS = ["none", "free", "penalized"]


def blobs(n: int = 30, d: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Features, one-hot labels and classes of three overlapping clouds."""
    classes = torch.arange(n) % 3
    X = torch.randn(n, d, dtype=torch.float64) + torch.eye(d, dtype=torch.float64)[classes]
    return X, torch.eye(3, dtype=torch.float64)[classes], classes


def soft(*shape: int, columns: int = 3) -> tuple[Tensor, Tensor]:
    """Features (*B, n, d) and soft labels."""
    X = torch.randn(*shape, dtype=torch.float64)
    return X, (2 * torch.randn(*shape[:-1], columns, dtype=torch.float64)).softmax(-1)


def stacked(fit: LinearFit) -> Tensor:
    return fit.weight if fit.intercept is None else torch.cat([fit.weight, fit.intercept.unsqueeze(-2)], -2)


def objective(X: Tensor, Y: Tensor, lam: float, kind: str, W: Tensor, s: Tensor) -> Tensor:
    z = X @ W
    if kind == "crammer-singer":
        loss = (z - Y).amax(-1) - (Y * (z - Y)).sum(-1)
    else:
        loss = (Y * (1 - z).clamp_min(0) + (1 - Y) * (1 + z).clamp_min(0)).sum(-1)
    return (s * loss).sum(-1) + lam / 2 * W.square().sum((-2, -1))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("intercept", ["none", "penalized"])
def test_hard_labels_give_liblinear(kind, intercept):
    X, Y, classes = blobs()
    multi_class = "crammer_singer" if kind == "crammer-singer" else "ovr"
    other = LinearSVC(
        loss="hinge",
        multi_class=multi_class,
        C=1 / 0.7,
        fit_intercept=intercept != "none",
        tol=1e-10,
        max_iter=10**6,
        random_state=0,
    ).fit(X, classes)
    fit = linear_svm(X, Y, 0.7, kind=kind, intercept=intercept)
    assert np.abs(other.coef_.T - fit.weight.numpy()).max() < 1e-6
    if intercept != "none":
        assert np.abs(other.intercept_ - fit.intercept.numpy()).max() < 1e-6


def test_a_free_intercept_is_that_of_libsvm():
    X, _, classes = blobs()
    weights = 0.5 + torch.rand(30, dtype=torch.float64)
    other = SVC(kernel="linear", C=1 / 0.7, tol=1e-10).fit(X, classes == 0, sample_weight=weights)
    fit = linear_svm(X, (classes == 0).double(), 0.7, kind="one-vs-rest", intercept="free", sample_weight=weights)
    assert fit.weight.shape == (4,)
    assert np.abs(other.coef_[0] - fit.weight.numpy()).max() < 1e-5
    assert abs(other.intercept_[0] - float(fit.intercept)) < 1e-5


@pytest.mark.parametrize("intercept", INTERCEPTS)
@pytest.mark.parametrize("kind", KINDS)
def test_soft_labels_give_cvxpy(kind, intercept):
    X, Y = soft(8, 4)
    s = 0.2 + torch.rand(8, dtype=torch.float64)
    fit = linear_svm(X, Y, 0.5, kind=kind, sample_weight=s, intercept=intercept)
    W, b = cp.Variable((4, 3)), cp.Variable((1, 3))
    z = X.numpy() @ W + np.ones((8, 1)) @ b
    if kind == "crammer-singer":
        gap = z - Y.numpy()
        loss = cp.max(gap, axis=1) - cp.sum(cp.multiply(Y.numpy(), gap), axis=1)
    else:
        parts = cp.multiply(Y.numpy(), cp.pos(1 - z)) + cp.multiply(1 - Y.numpy(), cp.pos(1 + z))
        loss = cp.sum(parts, axis=1)
    cost = s.numpy() @ loss + 0.25 * cp.sum_squares(W)
    cost += 0.25 * cp.sum_squares(b) if intercept == "penalized" else 0
    limits = {"none": [b == 0], "free": [cp.sum(b) == 0] if kind == "crammer-singer" else [], "penalized": []}
    tight = {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12}
    cp.Problem(cp.Minimize(cost), limits[intercept]).solve(solver="CLARABEL", **tight)
    assert np.abs(W.value - fit.weight.numpy()).max() < 1e-6
    if intercept != "none":
        assert np.abs(b.value[0] - fit.intercept.numpy()).max() < 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("intercept", INTERCEPTS)
def test_both_forms_agree(kind, intercept):
    X, Y = soft(2, 6, 9)
    lam = torch.tensor([0.3, 0.5, 0.9], dtype=torch.float64)
    options = {"kind": kind, "intercept": intercept, "sample_weight": torch.rand(6, dtype=torch.float64)}
    primal = linear_svm(X, Y, lam, form="primal", **options)
    dual = linear_svm(X, Y, lam, form="dual", **options)
    assert (primal.info.form, dual.info.form) == ("primal", "dual")
    assert linear_svm(X, Y, lam, **options).info.form == "dual"
    assert relative(stacked(dual), stacked(primal)) < 1e-11


def test_examples_that_repeat_go_to_the_primal_form():
    X, Y = soft(5, 9)
    X, Y = torch.cat([X, X]), torch.cat([Y, Y]).requires_grad_()
    X = torch.cat([X, torch.zeros(10, 3, dtype=torch.float64)], -1)
    fit = linear_svm(X, Y, 0.5)
    assert fit.info.form == "primal"
    assert relative(fit.weight, linear_svm(X[:5], Y[:5], 0.25).weight) < 1e-10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("intercept", ["none", "free"])
def test_derivatives_of_every_mode_and_order(kind, form, intercept):
    X, Y = soft(6, 8 if form == "dual" else 3)
    lam = torch.tensor([0.3, 0.4, 0.5], dtype=torch.float64, requires_grad=True)
    s = (0.2 + torch.rand(6, dtype=torch.float64)).requires_grad_()

    def solve(X, Y, lam, s):
        return stacked(linear_svm(X, Y, lam, sample_weight=s, kind=kind, form=form, intercept=intercept))

    inputs = (X.requires_grad_(), Y.requires_grad_(), lam, s)
    assert torch.autograd.gradcheck(solve, inputs, fast_mode=True, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(solve, inputs, fast_mode=True)


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_to_hard_labels_are_those_of_the_inner_side(kind):
    X, Y, _ = blobs(9, 3)
    Y.requires_grad_()
    cotangent = torch.randn(3, 3, dtype=torch.float64)
    inward = torch.randn(9, 3, dtype=torch.float64).softmax(-1) - Y.detach()

    def solve(Y):
        return (linear_svm(X, Y, 0.7, kind=kind).weight * cotangent).sum()

    (gradient,) = torch.autograd.grad(solve(Y), Y)
    step = 1e-6
    difference = (solve(Y.detach() + step * inward) - solve(Y.detach())) / step
    assert abs((gradient * inward).sum() - difference) < 1e-4 * max(1.0, abs(difference))


@pytest.mark.parametrize("kind", KINDS)
def test_an_example_without_weight_changes_nothing(kind):
    X, Y = soft(7, 3)
    s = torch.ones(7, dtype=torch.float64)
    s[2] = 0
    keep = s > 0
    found = linear_svm(X, Y, 0.5, kind=kind, sample_weight=s).weight
    assert relative(found, linear_svm(X[keep], Y[keep], 0.5, kind=kind).weight) < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_functional_transforms_agree_with_loops(kind):
    X, Y = soft(3, 6, 3)

    def solve(X, Y):
        return linear_svm(X, Y, 0.5, kind=kind).weight

    assert relative(torch.func.vmap(solve)(X, Y), solve(X, Y)) < 1e-12
    reverse = torch.func.jacrev(solve, argnums=1)(X[0], Y[0])
    assert relative(torch.func.jacfwd(solve, argnums=1)(X[0], Y[0]), reverse) < 1e-11
    second = torch.func.hessian(lambda X: solve(X, Y[0]).square().sum())(X[0])
    twice = torch.autograd.functional.hessian(lambda X: solve(X, Y[0]).square().sum(), X[0])
    assert relative(second, twice) < 1e-8


def test_it_compiles_without_breaks():
    X, Y = soft(6, 3)
    compiled = torch.compile(lambda X, Y: linear_svm(X, Y, 0.5).weight, fullgraph=True, backend="aot_eager")
    assert relative(compiled(X, Y), linear_svm(X, Y, 0.5).weight) < 1e-12


def test_dtypes_batches_and_empty_batches():
    X, Y = soft(2, 1, 6, 3)
    fit = linear_svm(X, Y[:1], 0.5)
    assert fit.weight.shape == (2, 1, 3, 3)
    assert relative(fit.weight[1, 0], linear_svm(X[1, 0], Y[0, 0], 0.5).weight) < 1e-12
    single = linear_svm(X.float(), Y.float(), 0.5, kind="one-vs-rest", intercept="penalized")
    assert single.weight.dtype == single.intercept.dtype == torch.float32
    assert linear_svm(X.bfloat16(), Y.bfloat16()).weight.dtype == torch.bfloat16
    assert linear_svm(X[:0], Y[:0], 0.5).weight.shape == (0, 1, 3, 3)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(KINDS), st.integers(1, 6), st.booleans(), st.floats(-3.0, 3.0))
def test_no_other_weight_is_better(seed, kind, d, hard, exponent):
    generator = torch.Generator().manual_seed(seed)
    X = 10.0**exponent * torch.randn(5, d, dtype=torch.float64, generator=generator)
    scores = torch.randn(5, 3, dtype=torch.float64, generator=generator)
    Y = torch.eye(3, dtype=torch.float64)[scores.argmax(-1)] if hard else scores.softmax(-1)
    lam = 0.3 * 100.0**exponent
    W = linear_svm(X, Y, lam, kind=kind).weight
    other = W + 10.0**-exponent * torch.logspace(-6, 0, 20, dtype=torch.float64).reshape(-1, 1, 1) * torch.randn(
        20, d, 3, dtype=torch.float64, generator=generator
    )
    s = torch.ones(5, dtype=torch.float64)
    best = objective(X, Y, lam, kind, W, s)
    assert (objective(X, Y, lam, kind, other, s) >= best - 1e-10 * (1 + best.abs())).all()


def test_failures_are_told_by_name():
    X, Y = soft(6, 3)
    with pytest.raises(UnknownNameError, match="kind='hinge'"):
        linear_svm(X, Y, kind="hinge")
    with pytest.raises(ParameterRangeError, match=r"labels must lie in \[0, 1\]"):
        linear_svm(X, 2 * Y - 1, kind="one-vs-rest")
    with pytest.raises(ParameterRangeError, match="labels must sum to 1"):
        linear_svm(X, Y / 2)
    with pytest.raises(ParameterRangeError, match="lam"):
        linear_svm(X, Y, 0.0)
    with pytest.raises(ShapeError, match="needs at least two"):
        linear_svm(X, Y[:, 0])
    with pytest.raises(UnsupportedError, match="6 examples for 3 features"):
        linear_svm(X, Y, form="dual")


def test_an_intercept_that_is_not_unique_is_singular():
    X = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    labels = torch.tensor([1.0, 0.0], dtype=torch.float64)
    with pytest.raises(SingularSystemError, match="not unique"):
        linear_svm(X, labels, 100.0, kind="one-vs-rest", intercept="free")


def test_lost_elements_alone_are_nan():
    X, Y = soft(3, 6, 3)
    Y[1, 0] = 0.5
    Y[2, 0, 0] = float("nan")
    fit = linear_svm(X, Y, on_failure="nan")
    assert fit.info.status.tolist() == [Status.OPTIMAL, Status.INVALID_INPUT, Status.NONFINITE_INPUT]
    assert fit.weight[0].isfinite().all()
    assert fit.weight[1:].isnan().all()


def test_the_module_is_the_function():
    X, Y = soft(6, 3)
    layer = LinearSVM(0.5, learn_lam=True, intercept="penalized").double()
    fit = layer(X, Y)
    assert relative(stacked(fit), stacked(linear_svm(X, Y, 0.5, intercept="penalized"))) < 1e-6
    stacked(fit).square().sum().backward()
    assert layer.log_lam.grad.isfinite()
    assert "intercept='penalized'" in repr(layer)
    with pytest.raises(UnknownNameError, match="kind"):
        LinearSVM(kind="hinge")
    with pytest.raises(ParameterRangeError, match="lam > 0"):
        LinearSVM(0.0)
