"""``on_failure`` of the leave-one-out scores, of ``select_lam`` and of ``RidgeCV``."""

from __future__ import annotations

import pytest
import torch
from layers_helpers import data

from convexdistill.errors import NonFiniteInputError, NumericalWarning, SingularSystemError, UnknownNameError
from convexdistill.layers import RidgeCV, gcv_score, loo_residuals, loo_score, ridge, select_lam

GRID = [0.1, 1.0, 10.0]
SCORES = [loo_residuals, loo_score, gcv_score]


def spoilt():
    """Three elements: sound, NaN features, and one with a feature that a single example has."""
    X, Y = data(3, 6, 3)
    X[1, 0, 0] = float("nan")
    X[2, :, 0] = torch.tensor([1.0, 0, 0, 0, 0, 0])
    return X, Y


@pytest.mark.parametrize("score", SCORES)
def test_scores_are_nan_where_there_is_none(score):
    X, Y = spoilt()
    found = score(X, Y, 0.0, on_failure="nan")
    torch.testing.assert_close(found[0], score(X[0], Y[0], 0.0))
    assert found[1:].isnan().all()
    with pytest.raises(NonFiniteInputError):
        score(X, Y, 0.0)
    with pytest.raises(SingularSystemError, match="without example 0"):
        score(X[2], Y[2], 0.0)
    with pytest.warns(NumericalWarning, match="without example 0"):
        assert score(X[2], Y[2], 0.0, on_failure="warn").shape == score(X[0], Y[0], 0.5).shape
    with pytest.raises(UnknownNameError, match="on_failure"):
        score(X[0], Y[0], 0.5, on_failure="ignore")


@pytest.mark.parametrize("per_target", [False, True])
def test_ridge_cv_keeps_its_policy(per_target):
    X, Y = spoilt()
    chosen = select_lam(X, Y, GRID, per_target=per_target, on_failure="nan")
    alone = select_lam(X[0], Y[0], GRID, per_target=per_target)
    torch.testing.assert_close(chosen.lam[0], alone.lam)
    assert chosen.lam[1].isnan().all()
    layer = RidgeCV(GRID, per_target=per_target, on_failure="nan")
    fit = layer(X, Y)
    assert fit.info.status.tolist() == [0, 3, 0]
    assert fit.weight[1].isnan().all()
    torch.testing.assert_close(fit.weight[0], ridge(X[0], Y[0], alone.lam).weight)
    with pytest.raises(NonFiniteInputError):
        RidgeCV(GRID, per_target=per_target)(X, Y)


def test_a_grid_without_a_score():
    X, Y = data(2, 1, 3)  # a single example with a free intercept: nothing is left without it
    with pytest.raises(SingularSystemError, match="no lam of the grid"):
        RidgeCV(GRID, intercept="free")(X, Y)
    with pytest.warns(NumericalWarning, match="no lam of the grid"):
        assert RidgeCV(GRID, intercept="free", on_failure="warn")(X, Y).weight.isfinite().all()
    with pytest.warns(NumericalWarning, match="no lam of the grid"):
        assert select_lam(X, Y, GRID, intercept="free", on_failure="warn").lam.tolist() == [[10.0], [10.0]]
    fit = RidgeCV(GRID, intercept="free", on_failure="nan")(X, Y)
    assert fit.info.status.tolist() == [2, 2]
    assert fit.weight.isnan().all()
