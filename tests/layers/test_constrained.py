from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layers_helpers import data, relative
from scipy.optimize import lsq_linear, nnls
from sklearn.linear_model import Ridge as SklearnRidge
from torch import Tensor

from convexdistill.errors import (
    InfeasibleError,
    NonFiniteInputError,
    ParameterRangeError,
    ShapeError,
    SingularSystemError,
    UnknownNameError,
)
from convexdistill.layers import ConstrainedRidge, LinearFit, Status, constrained_ridge, explain, ridge

BOX = {"lower": -0.2, "upper": 0.1}
ALL = [("nonnegative", {}), ("simplex", {}), ("box", BOX)]


def stacked(fit: LinearFit) -> Tensor:
    return fit.weight if fit.intercept is None else torch.cat([fit.weight, fit.intercept.unsqueeze(-2)], -2)


def augmented(X: Tensor, y: Tensor, lam: float) -> tuple[np.ndarray, np.ndarray]:
    d = X.shape[-1]
    return np.vstack([X.numpy(), lam**0.5 * np.eye(d)]), np.concatenate([y.numpy(), np.zeros(d)])


@pytest.mark.parametrize("lam", [0.0, 0.3])
def test_nonnegative_weights_are_those_of_nnls(lam):
    X, Y = data(3, 12, 5)
    fit = constrained_ridge(X, Y, lam)
    assert (fit.weight == 0).any()
    assert (fit.weight >= 0).all()
    for i, c in [(0, 0), (1, 1), (2, 0)]:
        expected, _ = nnls(*augmented(X[i], Y[i, :, c], lam))
        assert relative(fit.weight[i, :, c], torch.from_numpy(expected)) < 1e-11


def test_nonnegative_weights_are_those_of_scikit_learn():
    X, Y = data(40, 5)
    weights = torch.rand(40, dtype=torch.float64)
    fit = constrained_ridge(X, Y[:, 0], 0.7, sample_weight=weights, intercept="free")
    other = SklearnRidge(alpha=0.7, positive=True, tol=1e-14).fit(X, Y[:, 0], sample_weight=weights)
    assert fit.weight.shape == (5,)
    assert np.abs(other.coef_ - fit.weight.numpy()).max() < 1e-5
    assert abs(other.intercept_ - fit.intercept) < 1e-5


def test_a_box_is_that_of_lsq_linear():
    X, Y = data(12, 5)
    upper = torch.linspace(0.0, 0.4, 5, dtype=torch.float64).unsqueeze(-1)
    fit = constrained_ridge(X, Y, 0.3, constraint="box", lower=-0.1, upper=upper)
    for c in range(2):
        A, y = augmented(X, Y[:, c], 0.3)
        expected = lsq_linear(A, y, (np.full(5, -0.1), upper[:, 0].numpy()), method="bvls", tol=1e-14).x
        assert np.abs(expected - fit.weight[:, c].numpy()).max() < 1e-12


@pytest.mark.parametrize("intercept", ["none", "free", "penalized"])
def test_the_simplex_is_that_of_cvxpy(intercept):
    X, Y = data(9, 4, columns=3)
    lam, s = torch.tensor([0.3, 0.6, 0.9], dtype=torch.float64), torch.rand(9, dtype=torch.float64)
    prior, penalty = torch.randn(4, 3, dtype=torch.float64), 0.5 + torch.rand(4, dtype=torch.float64)
    options = {"prior": prior, "penalty": penalty, "sample_weight": s, "intercept": intercept}
    fit = constrained_ridge(X, Y, lam, constraint="simplex", **options)
    W, b = cp.Variable((4, 3)), cp.Variable((1, 3))
    error = X.numpy() @ W + np.ones((9, 1)) @ b - Y.numpy()
    scale = torch.sqrt(penalty.unsqueeze(-1) * lam).numpy()
    cost = cp.sum_squares(cp.multiply(s.sqrt().unsqueeze(-1).expand(9, 3).numpy(), error))
    cost += cp.sum_squares(cp.multiply(scale, W - prior.numpy()))
    if intercept == "penalized":
        cost += cp.sum_squares(cp.multiply(lam.sqrt().numpy()[None], b))
    limits = [W >= 0, cp.sum(W, axis=1) == 1] + ([b == 0] if intercept == "none" else [])
    tight = {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12}
    cp.Problem(cp.Minimize(cost), limits).solve(solver="CLARABEL", **tight)
    assert np.abs(W.value - fit.weight.numpy()).max() < 1e-6
    if intercept != "none":
        assert np.abs(b.value[0] - fit.intercept.numpy()).max() < 1e-6
    assert (fit.weight.sum(-1) - 1).abs().max() < 1e-12


def test_bounds_that_do_not_bind_leave_ridge():
    X, Y = data(12, 5)
    options = {"sample_weight": torch.rand(12, dtype=torch.float64), "prior": torch.randn(5, 2).double()}
    for intercept in ("none", "free", "penalized"):
        plain = ridge(X, Y, 0.3, intercept=intercept, **options)
        infinite = torch.full((5, 2), float("inf"), dtype=torch.float64)
        fit = constrained_ridge(
            X, Y, 0.3, constraint="box", lower=-infinite, upper=infinite, intercept=intercept, **options
        )
        assert relative(stacked(fit), stacked(plain)) < 1e-12


def test_a_box_without_room_is_a_point():
    X, Y = data(12, 5)
    at = torch.full((5, 1), 0.25, dtype=torch.float64)
    assert torch.equal(constrained_ridge(X, Y, constraint="box", lower=at, upper=at).weight, at.expand(5, 2))


@pytest.mark.parametrize(("constraint", "bounds"), ALL)
@pytest.mark.parametrize("intercept", ["none", "free"])
def test_derivatives_of_every_mode_and_order(constraint, bounds, intercept):
    X, Y = data(8, 3, columns=2, grad=True)
    lam = torch.tensor([0.4, 0.7], dtype=torch.float64, requires_grad=True)
    s = (0.5 + torch.rand(8, dtype=torch.float64)).requires_grad_()

    def solve(X, Y, lam, s):
        options = {"sample_weight": s, "constraint": constraint, "intercept": intercept}
        return stacked(constrained_ridge(X, Y, lam, **options, **bounds))

    inputs = (X, Y, lam, s)
    assert torch.autograd.gradcheck(solve, inputs, fast_mode=True, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(solve, inputs, fast_mode=True)


def test_derivatives_to_bounds_prior_and_penalty():
    X, Y = data(8, 3)
    lower = torch.full((3, 2), -0.1, dtype=torch.float64, requires_grad=True)
    upper = torch.full((3, 1), 0.1, dtype=torch.float64, requires_grad=True)
    prior = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    penalty = (0.5 + torch.rand(3, dtype=torch.float64)).requires_grad_()

    def solve(lower, upper, prior, penalty):
        bounds = {"lower": lower, "upper": upper}
        return constrained_ridge(X, Y, 0.5, constraint="box", prior=prior, penalty=penalty, **bounds).weight

    assert torch.autograd.gradcheck(solve, (lower, upper, prior, penalty), check_forward_ad=True)
    fit = solve(lower, upper, prior, penalty)
    held = (fit == lower).double()
    assert held.any()
    (found,) = torch.autograd.grad((held * fit).sum(), lower)  # a weight on its bound moves with it
    assert torch.allclose(found, held, atol=1e-12)


def test_functional_transforms_agree_with_loops():
    X, Y = data(3, 8, 3)

    def solve(X, Y):
        return constrained_ridge(X, Y, 0.5, constraint="simplex").weight

    assert relative(torch.func.vmap(solve)(X, Y), solve(X, Y)) < 1e-12
    reverse = torch.func.jacrev(solve, argnums=1)(X[0], Y[0])
    forward = torch.func.jacfwd(solve, argnums=1)(X[0], Y[0])
    assert relative(forward, reverse) < 1e-12
    many = torch.func.vmap(torch.func.jacrev(solve, argnums=1))(X, Y)
    assert relative(many[0], reverse) < 1e-12
    second = torch.func.hessian(lambda X: solve(X, Y[0]).square().sum())(X[0])
    twice = torch.autograd.functional.hessian(lambda X: solve(X, Y[0]).square().sum(), X[0])
    assert relative(second, twice) < 1e-9


def test_it_compiles_without_breaks():
    X, Y = data(8, 3)
    compiled = torch.compile(lambda X, Y: constrained_ridge(X, Y, 0.5).weight, fullgraph=True, backend="aot_eager")
    assert relative(compiled(X, Y), constrained_ridge(X, Y, 0.5).weight) < 1e-12


def test_dtypes_batches_and_empty_batches():
    X, Y = data(2, 1, 8, 3)
    fit = constrained_ridge(X, Y[:1], 0.5)
    assert fit.weight.shape == (2, 1, 3, 2)
    assert relative(fit.weight[1, 0], constrained_ridge(X[1, 0], Y[0, 0], 0.5).weight) < 1e-12
    single = constrained_ridge(X.float(), Y.float(), 0.5)
    assert single.weight.dtype == torch.float32
    assert (single.weight >= 0).all()
    assert constrained_ridge(X[:0], Y[:0], constraint="simplex").weight.shape == (0, 1, 3, 2)


def test_roots_of_weights_on_the_bound_are_no_nan():
    X, Y = data(6, 20, 5)
    assert constrained_ridge(X, Y).weight.sqrt().isfinite().all()
    assert constrained_ridge(X, Y, constraint="simplex").weight.sqrt().isfinite().all()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["nonnegative", "simplex"]), st.integers(1, 5), st.floats(-4.0, 4.0))
def test_no_feasible_point_is_better(seed, constraint, d, exponent):
    generator = torch.Generator().manual_seed(seed)
    X = 10.0**exponent * torch.randn(7, d, dtype=torch.float64, generator=generator)
    Y = torch.randn(7, 3, dtype=torch.float64, generator=generator)
    lam = 0.1 * 100.0**exponent
    W = constrained_ridge(X, Y, lam, constraint=constraint).weight
    other = torch.rand(20, d, 3, dtype=torch.float64, generator=generator)
    other = other / other.sum(-1, keepdim=True)
    mixed = W + torch.rand(20, 1, 1, dtype=torch.float64, generator=generator) * (other - W)

    def cost(W):
        return (X @ W - Y).square().sum((-2, -1)) + lam * W.square().sum((-2, -1))

    assert (cost(mixed) >= cost(W) * (1 - 1e-12)).all()


def test_failures_are_told_by_name():
    X, Y = data(8, 3)
    with pytest.raises(UnknownNameError, match="constraint='positive'"):
        constrained_ridge(X, Y, constraint="positive")
    with pytest.raises(ParameterRangeError, match="needs bounds"):
        constrained_ridge(X, Y, constraint="box")
    with pytest.raises(ParameterRangeError, match="lower exceeds upper"):
        constrained_ridge(X, Y, constraint="box", lower=1.0, upper=0.0)
    with pytest.raises(ParameterRangeError, match="lower is inf"):
        constrained_ridge(X, Y, constraint="box", lower=float("inf"))
    with pytest.raises(ParameterRangeError, match="lower exceeds upper"):
        constrained_ridge(X, Y, constraint="box", upper=-float("inf"))
    with pytest.raises(ShapeError, match=r"upper has shape \(2, 3\)"):
        constrained_ridge(X, Y, constraint="box", upper=torch.ones(2, 3, dtype=torch.float64))
    with pytest.raises(NonFiniteInputError, match="lower"):
        constrained_ridge(X, Y, constraint="box", lower=float("nan"))
    with pytest.raises(InfeasibleError, match="No point meets"):
        constrained_ridge(X, Y, constraint="simplex", upper=0.4)
    with pytest.raises(SingularSystemError, match="not unique"):
        constrained_ridge(torch.cat([X, X], -1).abs(), Y.abs(), 0.0)


def test_lost_elements_alone_are_nan():
    X, Y = data(2, 8, 3)
    upper = torch.tensor([1.0, 0.4], dtype=torch.float64).reshape(2, 1, 1)
    fit = constrained_ridge(X, Y, constraint="simplex", upper=upper, on_failure="nan")
    assert fit.info.status.tolist() == [Status.OPTIMAL, Status.INFEASIBLE]
    assert fit.weight[0].isfinite().all()
    assert fit.weight[1].isnan().all()
    crossed = torch.tensor([-1.0, 2.0], dtype=torch.float64).reshape(2, 1, 1)
    fit = constrained_ridge(X, Y, constraint="box", lower=crossed, upper=1.0, on_failure="nan")
    assert fit.info.status.tolist() == [Status.OPTIMAL, Status.INVALID_INPUT]


def test_the_module_is_the_function():
    X, Y = data(8, 3)
    layer = ConstrainedRidge(0.5, learn_lam=True, constraint="box", intercept="free").double()
    fit = layer(X, Y, **BOX)
    expected = constrained_ridge(X, Y, 0.5, constraint="box", intercept="free", **BOX)
    assert relative(stacked(fit), stacked(expected)) < 1e-6
    stacked(fit).sum().backward()
    assert layer.log_lam.grad.isfinite()
    assert "constraint='box'" in repr(layer)
    with pytest.raises(UnknownNameError, match="constraint"):
        ConstrainedRidge(constraint="cone")
    assert "4 variables" in str(explain(constrained_ridge, *data(8, 4)))


@pytest.mark.parametrize("scale", [3e3, 1e4, 2e4])
def test_badly_conditioned_problems_with_lam_are_solved_and_not_called_singular(scale):
    generator = torch.Generator().manual_seed(0)
    X, Y = (scale * torch.randn(1, k, dtype=torch.float64, generator=generator) for k in (8, 2))
    fit = constrained_ridge(X, Y, 1e-2, constraint="box", lower=-0.5, upper=0.5)  # condition up to 4e11
    rows = np.vstack([X.numpy(), 0.1 * np.eye(8)])
    columns = [
        lsq_linear(rows, np.concatenate([y.numpy(), np.zeros(8)]), (-0.5, 0.5), method="bvls", tol=1e-15).x
        for y in Y.mT
    ]
    expected = torch.tensor(np.stack(columns, 1))
    assert fit.info.ok
    assert relative(fit.weight, expected) < 1e-3  # rounding in XᵀX times the condition
    wide = constrained_ridge(X, Y, 1e-2, constraint="box", lower=-1e9)
    assert relative(wide.weight, ridge(X, Y, 1e-2).weight) < 1e-3
    with pytest.raises(SingularSystemError):
        constrained_ridge(X, Y, 0.0, constraint="box", lower=-0.5, upper=0.5)
