"""λ of the modules: a number or one for each column, fixed or learnt, read and assigned."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from layers_helpers import data

from convexdistill.errors import ParameterRangeError, UnsupportedError
from convexdistill.layers import ConstrainedRidge, KernelRidge, LinearSVM, LogisticRegression, Ridge, ridge

LAMS = torch.tensor([0.1, 2.0], dtype=torch.float64)


def test_lam_for_each_column_is_learnt():
    X, Y = data(9, 4)
    layer = Ridge(LAMS, learn_lam=True, intercept="free")
    assert layer.log_lam.shape == (2,)
    torch.testing.assert_close(layer(X, Y).weight, ridge(X, Y, LAMS, intercept="free").weight)
    layer(X, Y).weight.square().sum().backward()
    lam = LAMS.clone().requires_grad_()
    ridge(X, Y, lam, intercept="free").weight.square().sum().backward()
    torch.testing.assert_close(layer.log_lam.grad, lam.grad * LAMS)
    with torch.no_grad():
        layer.log_lam.add_(1.0)
    torch.testing.assert_close(layer.lam, LAMS * math.e)
    assert repr(layer) == "Ridge(lam=[0.271828, 5.43656], learn_lam=True, intercept='free')"


@pytest.mark.parametrize("module", [Ridge, LogisticRegression, ConstrainedRidge, LinearSVM, KernelRidge])
@pytest.mark.parametrize("learn_lam", [False, True])
def test_every_module_takes_one_for_each_column(module, learn_lam):
    X, Y = data(6, 4)
    given = (X @ X.mT, Y) if module is KernelRidge else (X, Y.softmax(-1))
    options = {"kind": "one-vs-rest"} if module is LinearSVM else {}
    layer = module(LAMS, learn_lam=learn_lam, **options)
    expected = module(1.0, **options)(*given, lam=LAMS).weight
    for one in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(one(*given).weight, expected)
    other = module(10 * LAMS, learn_lam=learn_lam, **options)
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other(*given).weight, expected)


def test_a_fixed_lam_may_be_assigned_and_a_learnt_one_says_what_to_do():
    X, Y = data(9, 4)
    layer = Ridge(0.5)
    for lam in (2.0, LAMS, 0.0):
        layer.lam = lam
        torch.testing.assert_close(layer(X, Y).weight, ridge(X, Y, lam).weight)
    with pytest.raises(ParameterRangeError, match=r"lam is -1\.0"):
        layer.lam = -1.0
    learnt = Ridge(0.5, learn_lam=True)
    with pytest.raises(UnsupportedError, match=r"log_lam\.fill_"):
        learnt.lam = 100.0
    assert learnt.lam == pytest.approx(0.5)
    with torch.no_grad():
        learnt.log_lam.fill_(math.log(100.0))
    assert learnt.lam == pytest.approx(100.0)
