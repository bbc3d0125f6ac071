"""Ridge from sums over the examples, and K-fold scores: both against ridge itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layers_helpers import data, relative
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.model_selection import KFold

from convexdistill.errors import ParameterRangeError, ShapeError, UnknownNameError
from convexdistill.layers import GramAccumulator, kfold_score, loo_score, ridge, ridge_from_gram


@pytest.mark.parametrize("intercept", ["none", "free", "penalized"])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_a_stream_gives_what_ridge_gives_for_all_of_it(intercept, batch):
    X, Y = data(*batch, 40, 5)
    X = X + 100.0  # far from zero: nothing may cancel
    s = torch.rand(*batch, 40, dtype=X.dtype)
    lam = torch.tensor([0.5, 2.0], dtype=X.dtype)
    seen = GramAccumulator()
    for part in torch.arange(40).split(7):
        seen.update(X[..., part, :], Y[..., part, :], s[..., part])
    found, expected = (
        seen.fit(lam, intercept=intercept),
        ridge(X, Y, lam, sample_weight=s, intercept=intercept),
    )
    assert relative(found.weight, expected.weight) < 1e-8
    assert found.info.form == "gram"
    assert relative(found.predict(X), expected.predict(X)) < 1e-8


@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(1, 19))
@settings(max_examples=20, deadline=None)
def test_parts_merge_to_the_whole_in_any_order(seed, cut):
    torch.manual_seed(seed)
    X, Y = data(20, 4)
    a, b = (GramAccumulator().update(X[part], Y[part]) for part in (slice(cut), slice(cut, None)))
    a2, b2 = (GramAccumulator().update(X[part], Y[part]) for part in (slice(cut), slice(cut, None)))
    for one, other in zip(a.merge(b).moments("free"), b2.merge(a2).moments("free"), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(a.moments()[0], X.T @ X, rtol=1e-12, atol=1e-12)


def test_what_was_added_is_differentiable_and_keeps_its_dtype():
    X, Y = data(12, 3, grad=True)
    fit = GramAccumulator().update(X[:5], Y[:5]).update(X[5:], Y[5:]).fit(0.3)
    expected = ridge(X, Y, 0.3)
    G = torch.randn_like(fit.weight)
    for found, wanted in zip(
        torch.autograd.grad(fit.weight, (X, Y), G), torch.autograd.grad(expected.weight, (X, Y), G), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-10)
    assert GramAccumulator().update(X.detach().float(), Y.detach().float()).fit(0.3).weight.dtype == torch.float32


def test_derivatives_of_both_orders_through_the_gram_matrix():
    X, Y = data(9, 3)
    G, R = (X.T @ X).requires_grad_(), (X.T @ Y).requires_grad_()
    lam = torch.tensor(0.7, dtype=X.dtype, requires_grad=True)

    def solve(G, R, lam):
        return ridge_from_gram((G + G.T) / 2, R, lam).weight

    assert torch.autograd.gradcheck(solve, (G, R, lam))
    assert torch.autograd.gradgradcheck(solve, (G, R, lam))


def test_wrong_use_of_an_accumulator_is_said():
    X, Y = data(6, 3)
    with pytest.raises(ParameterRangeError, match="call update first"):
        GramAccumulator().fit(1.0)
    with pytest.raises(ShapeError, match="3 features and 2 labels, now come 2 and 2"):
        GramAccumulator().update(X, Y).update(X[:, :2], Y)
    with pytest.raises(UnknownNameError, match="intercept"):
        GramAccumulator().update(X, Y).fit(1.0, intercept="some")


@pytest.mark.parametrize("intercept", ["none", "free"])
def test_folds_score_like_refits_by_scikit_learn(intercept):
    X, Y = data(17, 4)
    ids = torch.empty(17, dtype=torch.int64)
    total = np.zeros(2)
    for k, (train, test) in enumerate(KFold(4).split(X)):
        ids[torch.from_numpy(test)] = k
        model = SklearnRidge(0.3, fit_intercept=intercept == "free", solver="svd").fit(X[train], Y[train])
        total += ((Y[test].numpy() - model.predict(X[test].numpy())) ** 2).sum(0)
    found = kfold_score(X, Y, 0.3, folds=ids, intercept=intercept)
    np.testing.assert_allclose(found, total / 17, rtol=1e-9)


def test_one_example_a_fold_is_leave_one_out_and_differentiates_alike():
    X, Y = data(8, 3)
    lam = torch.tensor([0.2, 3.0], dtype=X.dtype, requires_grad=True)
    scores = kfold_score(X, Y, lam, folds=8), loo_score(X, Y, lam)
    torch.testing.assert_close(*scores)
    torch.testing.assert_close(*(torch.autograd.grad(s.sum(), lam)[0] for s in scores))


def test_shuffles_follow_the_seed_and_batches_are_loops():
    X, Y = data(3, 12, 4)
    lam = torch.tensor([[0.1], [1.0], [10.0]], dtype=X.dtype)
    together = kfold_score(X, Y, lam, folds=3, seed=1)
    for i in range(3):
        torch.testing.assert_close(together[i], kfold_score(X[i], Y[i], lam[i], folds=3, seed=1))
    assert not torch.equal(together, kfold_score(X, Y, lam, folds=3, seed=2))
    assert kfold_score(X, Y[..., 0], 0.1).shape == (3,)


@pytest.mark.parametrize("folds", [1, 13, torch.zeros(12, dtype=torch.int64), torch.arange(12) * 2])
def test_folds_that_are_none_are_refused(folds):
    X, Y = data(12, 4)
    with pytest.raises(ParameterRangeError, match="folds"):
        kfold_score(X, Y, folds=folds)
    with pytest.raises(ShapeError, match="folds must be"):
        kfold_score(X, Y, folds=torch.zeros(5, dtype=torch.int64))
