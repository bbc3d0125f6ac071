"""Priors and penalties of single features, and the quick road beside the general one."""

from __future__ import annotations

import pytest
import torch
from layers_helpers import data, relative

from convexdistill.errors import NonFiniteInputError, ParameterRangeError, PerformanceWarning, ShapeError
from convexdistill.layers import Ridge, ridge


def by_hand(X, Y, lam, s, prior, penalty):
    """The normal equations of Σ s‖xW − y‖² + λ Σ_j p_j ‖W_j − W₀_j‖², as they stand."""
    S, P = torch.diag(s), torch.diag(penalty)
    return torch.linalg.solve(X.T @ S @ X + lam * P, X.T @ S @ Y + lam * P @ prior)


@pytest.mark.parametrize("shape", [(9, 4), (4, 9)])
def test_prior_and_penalty_solve_their_normal_equations(shape, backend):
    X, Y = data(*shape)
    s, penalty = torch.rand(shape[0], dtype=X.dtype) + 0.5, torch.rand(shape[1], dtype=X.dtype) + 0.5
    prior = torch.randn(shape[1], 2, dtype=X.dtype)
    fit = ridge(X, Y, 0.7, sample_weight=s, prior=prior, penalty=penalty, backend=backend)
    assert relative(fit.weight, by_hand(X, Y, 0.7, s, prior, penalty)) < 1e-7


@pytest.mark.parametrize("intercept", ["none", "free", "penalized"])
def test_they_are_differentiable_twice(intercept):
    X, Y = data(6, 3, grad=True)
    prior = torch.randn(3, 2, dtype=X.dtype, requires_grad=True)
    penalty = (torch.rand(3, dtype=X.dtype) + 0.5).requires_grad_()

    def solve(X, Y, prior, penalty):
        fit = ridge(X, Y, 0.7, prior=prior, penalty=penalty, intercept=intercept)
        return fit.weight if fit.intercept is None else (fit.weight, fit.intercept)

    inputs = (X, Y, prior, penalty)
    assert torch.autograd.gradcheck(solve, inputs, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(solve, inputs)


def test_an_infinite_pull_ends_at_the_prior_and_an_infinite_penalty_at_zero():
    X, Y = data(9, 3)
    prior = torch.randn(3, 2, dtype=X.dtype)
    assert relative(ridge(X, Y, 1e9, prior=prior).weight, prior) < 1e-6
    heavy = torch.tensor([1.0, 1e12, 1.0], dtype=X.dtype)
    weight = ridge(X, Y, 0.5, penalty=heavy).weight
    assert weight[1].abs().max() < 1e-10
    assert relative(weight[[0, 2]], ridge(X[:, [0, 2]], Y, 0.5).weight) < 1e-9


def test_a_free_intercept_goes_with_a_prior():
    X, Y = data(9, 3)
    prior = torch.randn(3, 2, dtype=X.dtype)
    fit = Ridge(0.5, intercept="free")(X, Y, prior=prior)
    residual = fit.predict(X) - Y
    assert residual.mean(0).abs().max() < 1e-12  # optimal in b
    assert (X.T @ residual + 0.5 * (fit.weight - prior)).abs().max() < 1e-12  # and in W


def test_vector_labels_take_a_vector_prior():
    X, Y = data(9, 3)
    prior = torch.randn(3, dtype=X.dtype)
    fit = ridge(X, Y[:, 0], 0.5, prior=prior)
    matrix = ridge(X, Y[:, :1], 0.5, prior=prior[:, None])
    assert fit.weight.shape == (3,)
    torch.testing.assert_close(fit.weight, matrix.weight[:, 0])


@pytest.mark.parametrize(
    ("kind", "fragment", "options"),
    [
        (ShapeError, "prior has shape (2, 3); it must be (*B, d, C) = (*B, 3, 2)", {"prior": torch.ones(2, 3)}),
        (ShapeError, "penalty has shape (2,); it must be (*B, d) with d = 3", {"penalty": torch.ones(2)}),
        (
            ParameterRangeError,
            "penalty[1] is 0.0, but penalty must be > 0",
            {"penalty": torch.eye(3)[0]},
        ),
        (NonFiniteInputError, "prior[0, 0] is inf", {"prior": torch.full((3, 2), float("inf"))}),
    ],
)
def test_wrong_ones_are_refused(kind, fragment, options):
    X, Y = data(9, 3)
    with pytest.raises(kind) as caught:
        ridge(X, Y, **{k: v.double() for k, v in options.items()})
    assert fragment in str(caught.value)


@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (5, 5)])
def test_the_quick_road_and_the_general_one_end_at_the_same_place(shape):
    """A λ of one element is a tensor, which the quick road leaves to the general one."""
    X, Y = data(*shape, grad=True)
    cotangent = torch.randn(shape[1], 2, dtype=X.dtype)
    quick, general = ridge(X, Y, 0.5), ridge(X, Y, torch.tensor(0.5, dtype=X.dtype))
    torch.testing.assert_close(quick.weight, general.weight, rtol=1e-12, atol=1e-13)
    assert (quick.info.form, quick.info.method) == (general.info.form, general.info.method)
    for a, b in zip(
        torch.autograd.grad(quick.weight, (X, Y), cotangent),
        torch.autograd.grad(general.weight, (X, Y), cotangent),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_the_quick_road_has_every_order_of_derivative():
    X, Y = data(5, 3, grad=True)
    assert torch.autograd.gradcheck(
        lambda X, Y: ridge(X, Y, 0.5).weight, (X, Y), check_forward_ad=True, check_batched_grad=True
    )
    assert torch.autograd.gradgradcheck(lambda X, Y: ridge(X, Y, 0.5).weight, (X, Y))


def test_a_gradient_of_nan_stays_nan():
    X, Y = data(5, 3)
    Y.requires_grad_()
    bad = torch.full((3, 2), float("nan"), dtype=X.dtype)
    (found,) = torch.autograd.grad(ridge(X, Y, 0.5).weight, Y, bad)
    assert found.isnan().all()


def test_the_larger_form_is_warned_of():
    X, Y = data(20, 600)
    with pytest.warns(PerformanceWarning, match="600×600 system where form='dual' would factor 20×20"):
        slow = ridge(X, Y, 1.0, form="primal")
    torch.testing.assert_close(slow.weight, ridge(X, Y, 1.0).weight)
