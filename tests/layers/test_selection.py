"""Leave-one-out and generalised cross-validation: against refits, scikit-learn and finite differences."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch
from layers_helpers import data, relative
from sklearn.linear_model import RidgeCV as SklearnRidgeCV

from convexdistill.errors import (
    NonFiniteInputError,
    ParameterRangeError,
    ShapeError,
    SingularSystemError,
    UnknownNameError,
)
from convexdistill.layers import RidgeCV, gcv_score, loo_residuals, loo_score, ridge, select_lam

LAMS = [1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0]


def refits(X, Y, lam, s, intercept):
    rows = []
    for i in range(len(X)):
        keep = torch.arange(len(X)) != i
        weights = None if s is None else s[keep]
        fit = ridge(X[keep], Y[keep], lam, sample_weight=weights, intercept=intercept)
        rows.append(Y[i] - fit.predict(X[i : i + 1])[0])
    return torch.stack(rows)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("intercept", ["none", "free", "penalized"])
@pytest.mark.parametrize("shape", [(9, 4), (5, 8), (6, 6)])
def test_they_are_what_refits_would_leave(shape, intercept, weighted):
    X, Y = data(*shape)
    s = torch.rand(shape[0], dtype=X.dtype) + 0.5 if weighted else None
    found = loo_residuals(X, Y, 0.3, sample_weight=s, intercept=intercept)
    assert relative(found, refits(X, Y, 0.3, s, intercept)) < 1e-11
    vector = loo_residuals(X, Y[:, 0], 0.3, sample_weight=s, intercept=intercept)
    torch.testing.assert_close(vector, found[:, 0])


@pytest.mark.parametrize("lam", [1e-6, 1e-10])
def test_a_tiny_lam_does_not_cancel_the_digits(lam):
    X, Y = data(5, 9)
    assert relative(loo_residuals(X, Y, lam), refits(X, Y, lam, None, "none")) < 1e-6


@pytest.mark.parametrize("intercept", ["none", "free"])
@pytest.mark.parametrize("shape", [(9, 4), (5, 8)])
def test_scikit_learn_chooses_the_same(shape, intercept):
    X, Y = data(*shape, columns=3)
    for per_target in (False, True):
        peer = SklearnRidgeCV(
            LAMS, fit_intercept=intercept == "free", alpha_per_target=per_target, store_cv_results=True
        ).fit(X.numpy(), Y.numpy())
        chosen = select_lam(X, Y, LAMS, per_target=per_target, intercept=intercept)
        np.testing.assert_allclose(chosen.lam.numpy().reshape(-1), np.reshape(peer.alpha_, -1))
        np.testing.assert_allclose(chosen.scores.numpy().T, peer.cv_results_.mean(0), rtol=1e-8)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("intercept", ["none", "free", "penalized"])
@pytest.mark.parametrize("criterion", ["loo", "gcv"])
def test_the_grid_has_the_scores_of_the_single_values(criterion, intercept, weighted):
    score = {"loo": loo_score, "gcv": gcv_score}[criterion]
    for shape in ((9, 4), (5, 8)):
        X, Y = data(2, *shape)
        s = torch.rand(shape[0], dtype=X.dtype) + 0.5 if weighted else None
        chosen = select_lam(X, Y, LAMS, criterion=criterion, sample_weight=s, intercept=intercept)
        assert chosen.scores.shape == (len(LAMS), 2, 2)
        for lam, found in zip(LAMS, chosen.scores, strict=True):
            expected = score(X, Y, lam, sample_weight=s, intercept=intercept)
            torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)


def test_gcv_is_its_formula():
    X, Y = data(9, 4)
    H = X @ torch.linalg.solve(X.T @ X + 0.3 * torch.eye(4, dtype=X.dtype), X.T)
    expected = (Y - H @ Y).square().mean(0) / (1 - H.trace() / 9) ** 2
    torch.testing.assert_close(gcv_score(X, Y, 0.3), expected)


@pytest.mark.parametrize("intercept", ["none", "free", "penalized"])
@pytest.mark.parametrize("shape", [(6, 3), (4, 5)])
def test_scores_are_differentiable_twice_in_everything(shape, intercept):
    X, Y = data(*shape, grad=True)
    lam = torch.tensor([0.4, 0.9], dtype=X.dtype, requires_grad=True)
    s = (torch.rand(shape[0], dtype=X.dtype) + 0.5).requires_grad_()

    def scores(X, Y, lam, s):
        options = {"sample_weight": s, "intercept": intercept}
        return loo_score(X, Y, lam, **options), gcv_score(X, Y, lam, **options)

    assert torch.autograd.gradcheck(scores, (X, Y, lam, s))
    assert torch.autograd.gradgradcheck(scores, (X, Y, lam, s))


def test_lam_can_be_learnt_by_descent():
    X, Y = data(30, 20)
    log_lam = torch.zeros((), dtype=X.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_lam], max_iter=50, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = loo_score(X, Y, log_lam.exp()).mean()
        value.backward()
        return value

    optimizer.step(loss)
    grid = torch.logspace(-4, 4, 400, dtype=X.dtype)
    best = select_lam(X, Y, grid)
    assert abs(float(log_lam.detach()) - float(best.lam.log())) < 0.05


def test_the_edge_of_the_grid_is_marked():
    X, Y = data(20, 5)
    assert bool(select_lam(X, torch.randn(20, 2, dtype=X.dtype), [1e-9, 1e-8]).at_edge)
    Y = X @ torch.randn(5, 2, dtype=X.dtype) + Y
    best = select_lam(X, Y, torch.logspace(-6, 9, 40, dtype=X.dtype))
    assert not bool(select_lam(X, Y, [1e-12, float(best.lam), 1e12]).at_edge)


def test_batches_targets_and_dtypes():
    X, Y = data(3, 9, 4, columns=5)
    chosen = select_lam(X, Y, LAMS, per_target=True)
    assert chosen.lam.shape == chosen.score.shape == (3, 5)
    alone = select_lam(X[1], Y[1], LAMS, per_target=True)
    torch.testing.assert_close(chosen.lam[1], alone.lam)
    single = select_lam(X.float(), Y.float(), LAMS)
    assert single.lam.dtype == single.scores.dtype == torch.float64  # λ must not be rounded
    assert ridge(X.float(), Y.float(), single.lam).weight.shape == (3, 4, 5)


def test_the_module_fits_at_the_best_lam():
    X, Y = data(12, 4)
    layer = RidgeCV(LAMS, per_target=True, intercept="free")
    lam = select_lam(X, Y, LAMS, per_target=True, intercept="free").lam
    torch.testing.assert_close(layer(X, Y).weight, ridge(X, Y, lam, intercept="free").weight)
    assert "criterion='loo', per_target=True, intercept='free'" in repr(layer)


@pytest.mark.parametrize(
    ("kind", "fragment", "arguments"),
    [
        (ParameterRangeError, "lams must be one or more positive numbers, got []", {"lams": []}),
        (ParameterRangeError, "got [1.0, 0.0]", {"lams": [1.0, 0.0]}),
        (UnknownNameError, "criterion='aic'", {"lams": [1.0], "criterion": "aic"}),
        (UnknownNameError, "intercept='yes'", {"lams": [1.0], "intercept": "yes"}),
    ],
)
def test_wrong_arguments_are_refused(kind, fragment, arguments):
    X, Y = data(6, 3)
    with pytest.raises(kind) as caught:
        select_lam(X, Y, **arguments)
    assert fragment in str(caught.value)
    with pytest.raises(ShapeError):
        loo_residuals(X, Y[:4], 1.0)


def refits_in_60_digits(X, Y, lam, free):
    """Leave-one-out residuals of one column, by brute force."""
    n, d = X.shape
    found = []
    with mpmath.workdps(60):
        for i in range(n):
            keep = [j for j in range(n) if j != i]
            A, b = mpmath.matrix(X[keep].tolist()), mpmath.matrix(Y[keep].tolist())
            x, y = mpmath.matrix(X[i : i + 1].tolist()), mpmath.mpf(float(Y[i, 0]))
            if free:
                for c in range(d):
                    mean = mpmath.fsum(A[:, c]) / (n - 1)
                    x[0, c] -= mean
                    for r in range(n - 1):
                        A[r, c] -= mean
                mean = mpmath.fsum(b) / (n - 1)
                y, b = y - mean, b - mpmath.matrix([[mean]] * (n - 1))
            w = mpmath.lu_solve(A.T * A + mpmath.mpf(lam) * mpmath.eye(d), A.T * b)
            found.append([float(y - (x * w)[0, 0])])
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("lam", [1e-2, 1e-6, 1e-12])
@pytest.mark.parametrize("intercept", ["none", "free"])
@pytest.mark.parametrize("shape", [(8, 4), (4, 8), (6, 6), (6, 5)])
def test_no_digits_cancel_in_any_form(shape, intercept, lam):
    # R and 1 − h_ii both vanish with λ where the model can interpolate; their quotient was measured 120 % wrong.
    X, Y = data(*shape, columns=1)
    exact = refits_in_60_digits(X, Y, lam, intercept == "free")
    assert relative(loo_residuals(X, Y, lam, intercept=intercept), exact) < 1e-11
    expected = exact.square().mean(0)
    torch.testing.assert_close(loo_score(X, Y, lam, intercept=intercept), expected, rtol=1e-10, atol=0)
    scores = select_lam(X, Y, [lam, 1.0], intercept=intercept).scores
    torch.testing.assert_close(scores[0], expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("lam", [1e-6, 1e-12])
def test_gradients_keep_their_digits_too(lam):
    X, Y = data(5, 9, grad=True)
    found = torch.autograd.grad(loo_score(X, Y, lam, intercept="free").sum(), (X, Y))
    limit = torch.autograd.grad(loo_score(X, Y, 1e-3 * lam, intercept="free").sum(), (X, Y))
    for f, e in zip(found, limit, strict=True):  # λ no longer matters here
        assert relative(f, e) < 1e3 * lam + 1e-10


@pytest.mark.parametrize("intercept", ["none", "free", "penalized"])
@pytest.mark.parametrize("shape", [(7, 3), (4, 6)])
def test_a_weight_of_zero_is_an_example_that_is_not_there(shape, intercept):
    X, Y = data(*shape)
    s = torch.rand(shape[0], dtype=X.dtype) + 0.5
    s[1] = 0
    keep = s > 0
    options = {"intercept": intercept}
    found = loo_residuals(X, Y, 0.3, sample_weight=s, **options)
    torch.testing.assert_close(found, refits(X, Y, 0.3, s, intercept))
    for score in (loo_score, gcv_score):
        expected = score(X[keep], Y[keep], 0.3, sample_weight=s[keep], **options)
        torch.testing.assert_close(score(X, Y, 0.3, sample_weight=s, **options), expected)
    for criterion in ("loo", "gcv"):
        chosen = select_lam(X, Y, LAMS, criterion=criterion, sample_weight=s, **options)
        expected = select_lam(X[keep], Y[keep], LAMS, criterion=criterion, sample_weight=s[keep], **options)
        torch.testing.assert_close(chosen.scores, expected.scores)


@pytest.mark.parametrize("shape", [(6, 3), (4, 6)])
def test_a_weight_of_zero_has_its_gradient(shape):
    X, Y = data(*shape)
    s = torch.ones(shape[0], dtype=X.dtype)
    s[2] = 0
    s.requires_grad_()

    def score(s):
        return loo_score(X, Y, 0.5, sample_weight=s, intercept="free").sum()

    (gradient,) = torch.autograd.grad(score(s), s)
    h = 1e-6
    ahead = [score(s.detach() + h * k * torch.eye(shape[0], dtype=X.dtype)[2]) for k in (0, 1, 2)]
    slope = (-3 * ahead[0] + 4 * ahead[1] - ahead[2]) / (2 * h)
    assert float(gradient[2]) == pytest.approx(float(slope), rel=1e-5)


def test_scikit_learn_has_the_same_weighted_residuals():
    X, Y = data(9, 4)
    s = torch.rand(9, dtype=X.dtype) + 0.2
    peer = SklearnRidgeCV(LAMS, store_cv_results=True).fit(X.numpy(), Y.numpy(), sample_weight=s.numpy())
    for i, lam in enumerate(LAMS):
        e = loo_residuals(X, Y, lam, sample_weight=s, intercept="free")
        ratio = torch.tensor(peer.cv_results_[:, :, i]) / e.square()
        weights = s[:, None].expand_as(ratio)  # scikit-learn's errors are those of rows scaled by √s
        torch.testing.assert_close(ratio / ratio[0, 0], weights / weights[0, 0])


@pytest.mark.parametrize("shape", [(6, 3), (4, 6)])
def test_transforms_and_compilation(shape):
    X, Y = data(3, *shape)
    s = torch.rand(3, shape[0], dtype=X.dtype) + 0.5

    def residuals(x, y, s):
        return loo_residuals(x, y, 0.3, sample_weight=s, intercept="free")

    torch.testing.assert_close(torch.func.vmap(residuals)(X, Y, s), residuals(X, Y, s))

    def score(log_lam):
        return loo_score(X[0], Y[0], log_lam.exp()).sum()

    at = torch.zeros((), dtype=X.dtype)
    torch.testing.assert_close(torch.func.hessian(score)(at), torch.autograd.functional.hessian(score, at))
    torch.testing.assert_close(torch.func.jacfwd(score)(at), torch.func.jacrev(score)(at))
    compiled = torch.compile(residuals, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(X, Y, s), residuals(X, Y, s))

    def best(x, y):
        return select_lam(x, y, LAMS).lam

    torch.testing.assert_close(torch.func.vmap(best)(X, Y), best(X, Y))


@pytest.mark.parametrize("shape", [(6, 3), (4, 6)])
def test_all_orders_in_forward_and_reverse_mode(shape):
    X, Y = data(*shape, grad=True)
    lam = torch.tensor(0.4, dtype=X.dtype, requires_grad=True)

    def residuals(X, Y, lam):
        return loo_residuals(X, Y, lam, intercept="free")

    assert torch.autograd.gradcheck(residuals, (X, Y, lam), check_forward_ad=True, check_batched_grad=True)


def test_leading_dimensions_broadcast_and_may_be_empty():
    X, Y = torch.randn(6, 4).double(), torch.randn(2, 3, 6, 2).double()
    lam = torch.rand(3, 2).double() + 0.1
    for strength in (0.5, lam):
        found = loo_residuals(X, Y, strength, intercept="free")
        for i in range(2):
            for j in range(3):
                at = strength if isinstance(strength, float) else strength[j]
                torch.testing.assert_close(found[i, j], loo_residuals(X, Y[i, j], at, intercept="free"))
    assert loo_residuals(X.expand(0, 6, 4), Y[:0, 0], 0.5).shape == (0, 6, 2)
    assert select_lam(X.expand(0, 6, 4), Y[:0, 0], LAMS, per_target=True).lam.shape == (0, 2)


def test_examples_that_alone_hold_a_direction_are_named():
    X, Y = torch.eye(5, 3).double(), torch.randn(5, 2).double()
    with pytest.raises(SingularSystemError, match="without example 0 the model is not determined"):
        loo_residuals(X, Y, 0.0)
    with pytest.raises(SingularSystemError, match="without example 1 of batch element \\[1\\]"):
        loo_residuals(torch.stack([torch.randn(5, 3).double(), X[[3, 0, 1, 2, 4]]]), Y.expand(2, 5, 2), 0.0)
    with pytest.raises(SingularSystemError, match="give larger ones"):
        select_lam(X[:1], Y[:1], LAMS, intercept="free")
    hidden = torch.func.vmap(lambda x: loo_residuals(x, Y, 0.0))(torch.stack([X, torch.randn(5, 3).double()]))
    assert hidden[0].isnan().all()
    assert hidden[1].isfinite().all()
    # values too small to hold the direction have no score; the others are chosen from
    chosen = select_lam(X, Y, [1e-14, 1.0, 2.0])
    assert chosen.scores[0].isinf().all()
    assert float(chosen.lam) >= 1.0


def test_singular_models_and_wrong_values_are_refused():
    X = torch.ones(6, 3).double()
    Y = torch.randn(6, 2).double()
    with pytest.raises(SingularSystemError):
        loo_residuals(X, Y, 0.0)
    Y[2, 1] = float("nan")
    with pytest.raises(NonFiniteInputError, match=r"labels\[2, 1\] is nan"):
        select_lam(X, Y, LAMS)
    with pytest.raises(ParameterRangeError, match="sums to 0"):
        loo_score(X, Y.nan_to_num(), 1.0, sample_weight=torch.zeros(6).double(), intercept="free")
    with pytest.raises(ParameterRangeError, match="positive numbers"):
        RidgeCV([1.0, -1.0])


def test_ties_go_to_the_larger_lam_whatever_the_order():
    X = torch.randn(6, 3).double()
    for lams in (LAMS, LAMS[::-1]):
        assert float(select_lam(X, torch.zeros(6, 1).double(), lams).lam) == max(LAMS)


def test_the_choice_differentiates_nothing_and_the_fit_everything():
    X, Y = data(12, 4, grad=True)
    assert not select_lam(X, Y, LAMS).score.requires_grad
    fit = RidgeCV(LAMS)(X, Y)
    lam = select_lam(X, Y, LAMS).lam
    G = torch.randn_like(fit.weight)
    for f, e in zip(
        torch.autograd.grad(fit.weight, (X, Y), G),
        torch.autograd.grad(ridge(X, Y, lam).weight, (X, Y), G),
        strict=True,
    ):
        torch.testing.assert_close(f, e)
