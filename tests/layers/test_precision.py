"""Error budgets on ill-conditioned families, against arithmetic of 60 digits."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch

from convexdistill.errors import NumericalWarning, SolveError
from convexdistill.layers import ridge

N, D, C = 12, 6, 2


def exact(X, Y, lam):
    """(XᵀX + λI)⁻¹XᵀY in 60 digits, rounded once at the end."""
    with mpmath.workdps(60):
        M, T = mpmath.matrix(X.double().tolist()), mpmath.matrix(Y.double().tolist())
        S = M.T * M + mpmath.mpf(lam) * mpmath.eye(X.shape[1])
        right = M.T * T
        columns = [mpmath.lu_solve(S, right[:, c]) for c in range(right.cols)]
        return torch.tensor(
            [[float(column[i]) for column in columns] for i in range(X.shape[1])], dtype=torch.float64
        )


def with_condition(condition):
    """Features whose singular values fall evenly, on a logarithmic scale, from 1 to 1/condition."""
    U = torch.linalg.qr(torch.randn(N, D, dtype=torch.float64)).Q
    V = torch.linalg.qr(torch.randn(D, D, dtype=torch.float64)).Q
    return U * torch.logspace(0, -math.log10(condition), D, dtype=torch.float64) @ V.T


def hilbert():
    i = torch.arange(N, dtype=torch.float64)[:, None]
    return 1 / (i + torch.arange(D) + 1)


def duplicated():
    X = torch.randn(N, D, dtype=torch.float64)
    X[:, -1] = X[:, 0] + 1e-7 * torch.randn(N, dtype=torch.float64)
    return X


FAMILIES = {f"1e{k}": (lambda k=k: with_condition(10.0**k)) for k in range(2, 13, 2)}
FAMILIES |= {"hilbert": hilbert, "duplicated columns": duplicated}


def condition_of(X, lam):
    """κ of [X; √λ I], the number that governs the least-squares problem."""
    sigma = torch.linalg.svdvals(X.double())
    return float(((sigma[0] ** 2 + lam) / (sigma[-1] ** 2 + lam)).sqrt())


@pytest.mark.parametrize("lam", [1e-2, 1e-8, 1e-14])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_error_is_within_its_budget_or_it_says_so(family, lam):
    """100·eps·κ for consistent labels (QR and SVD never square κ), or a typed error."""
    X = FAMILIES[family]()
    Y = X @ torch.randn(D, C, dtype=torch.float64)
    kappa = condition_of(X, lam)
    try:
        fit = ridge(X, Y, lam)
    except SolveError:
        assert kappa > 1e6  # giving up is allowed only where the problem is hard
        return
    reference = exact(X, Y, lam)
    error = float((fit.weight - reference).norm() / reference.norm())
    assert error <= 100 * 2.2e-16 * kappa


@pytest.mark.parametrize("family", ["1e4", "1e6", "hilbert"])
def test_the_error_is_within_its_budget_under_transforms(family):
    """Values are hidden there, so Cholesky's answer is refined in any case."""
    X, lam = FAMILIES[family](), 1e-14
    Y = X @ torch.randn(D, C, dtype=torch.float64)
    weight = torch.func.vmap(lambda x, y: ridge(x, y, lam).weight)(X[None], Y[None])[0]
    reference = exact(X, Y, lam)
    kappa = condition_of(X, lam)
    error = float((weight - reference).norm() / reference.norm())
    assert error <= 100 * 2.2e-16 * kappa * (1 + kappa * 1e-8)


@pytest.mark.parametrize("lam", [1e-2, 1e-6])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_to_the_labels_is_within_its_budget(family, lam):
    """∂⟨G, W⟩/∂Y = X S⁻¹ G, whose exact value is the answer for labels that give XᵀY = G."""
    X = FAMILIES[family]()
    Y = torch.randn(N, C, dtype=torch.float64, requires_grad=True)
    G = X.T @ torch.randn(N, C, dtype=torch.float64)
    (found,) = torch.autograd.grad(ridge(X, Y, lam).weight, Y, G)
    with mpmath.workdps(60):
        M = mpmath.matrix(X.tolist())
        S = M.T * M + mpmath.mpf(lam) * mpmath.eye(D)
        expected = [M * mpmath.lu_solve(S, mpmath.matrix(G[:, c].tolist())) for c in range(C)]
    expected = torch.tensor([[float(column[i]) for column in expected] for i in range(N)], dtype=torch.float64)
    kappa = condition_of(X, lam)
    assert float((found - expected).norm() / expected.norm()) <= 100 * 2.2e-16 * kappa**2


@pytest.mark.parametrize("family", list(FAMILIES))
def test_float32_loses_no_more_than_its_inputs_did(family):
    """float32 inputs are solved in float64: against the exact answer for the rounded inputs, 10·eps₃₂."""
    X = FAMILIES[family]().float()
    Y = (X.double() @ torch.randn(D, C, dtype=torch.float64)).float()
    lam = 1e-6
    fit = ridge(X, Y, lam)
    reference = exact(X, Y, lam)
    error = float((fit.weight.double() - reference).norm() / reference.norm())
    assert fit.weight.dtype == torch.float32
    assert error <= 10 * 1.2e-7


def test_cholesky_alone_is_refused_where_it_would_be_wrong():
    X = with_condition(1e9)
    Y = X @ torch.randn(D, C, dtype=torch.float64)
    with pytest.raises(SolveError):
        ridge(X, Y, 0.0, method="cholesky")
    with pytest.warns(NumericalWarning):
        ridge(X, Y, 0.0, method="cholesky", on_failure="warn")
    assert ridge(X, Y, 0.0).info.method in ("qr", "svd")
