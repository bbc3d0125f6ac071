"""Leave-one-out and generalised cross-validation: against refits, scikit-learn and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from layers_helpers import data, relative
from sklearn.linear_model import RidgeCV as SklearnRidgeCV

from convexdistill.errors import ParameterRangeError, ShapeError, UnknownNameError
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
    assert abs(float(log_lam) - float(best.lam.log())) < 0.05


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
    assert single.lam.dtype == single.scores.dtype == torch.float32
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
