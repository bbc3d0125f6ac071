"""ClosedForm inside a CvxpyLayer: the closed form's answers and gradients, and a refusal for everything else."""

import subprocess
import sys

import cvxpy as cp
import pytest
import torch
from torch.autograd import gradcheck

from convexdistill.errors import (
    NonFiniteInputError,
    ParameterRangeError,
    SingularSystemError,
    UnsupportedError,
)
from convexdistill.layers import ridge

CvxpyLayer = pytest.importorskip("cvxpylayers.torch").CvxpyLayer
from convexdistill.layers.solver_interface import ClosedForm  # noqa: E402

T = torch.float64


def ridge_program(n=8, d=3, C=2):
    X, Y, lam, W = cp.Parameter((n, d)), cp.Parameter((n, C)), cp.Parameter(nonneg=True), cp.Variable((d, C))
    return cp.Problem(cp.Minimize(cp.sum_squares(X @ W - Y) + lam * cp.sum_squares(W))), [X, Y, lam], [W]


def ridge_data(*batch, n=8, d=3, C=2):
    X, Y, lam = torch.randn(*batch, n, d, dtype=T), torch.randn(*batch, n, C, dtype=T), torch.rand(batch, dtype=T)
    return X.requires_grad_(), Y.requires_grad_(), (lam + 0.1).requires_grad_()


def reference(X, Y, lam):
    return ridge(X, Y, lam.unsqueeze(-1)).weight


@pytest.mark.parametrize("batch", [(), (1,), (5,)])
@pytest.mark.parametrize("scale", [1e-300, 1e-12, 1.0, 1e12])
def test_ridge_is_that_of_the_closed_form_to_rounding_with_cotangents_of_any_size(batch, scale):
    leaves = ridge_data(*batch)
    (found,), expected = CvxpyLayer(*ridge_program(), solver=ClosedForm())(*leaves), reference(*leaves)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-14 * expected.abs().max().clamp_min(1)
    weight = torch.randn_like(expected)
    theirs = torch.autograd.grad(found, leaves, scale * weight)
    for a, b in zip(theirs, torch.autograd.grad(expected, leaves, weight), strict=True):
        assert (a / scale - b).abs().max() < 1e-13 * b.abs().max().clamp_min(1)


@pytest.mark.parametrize("solver", ["MOREAU", "DIFFCP"])
def test_the_solvers_of_cvxpylayers_agree(solver):
    if solver == "MOREAU":
        pytest.importorskip("moreau")
    leaves = ridge_data(3)
    mine = CvxpyLayer(*ridge_program(), solver=ClosedForm())(*leaves)[0]
    arguments = {"eps": 1e-11, "mode": "dense"} if solver == "DIFFCP" else {"solver": "ipm"}
    other = CvxpyLayer(*ridge_program(), solver=solver)(*leaves, solver_args=arguments)[0]
    assert (mine - other).abs().max() < 1e-9
    weight = torch.randn_like(mine)
    # MOREAU's own derivative is regularised, and good to about 1e-7.
    tolerance = 1e-9 if solver == "DIFFCP" else 1e-6
    for a, b in zip(*(torch.autograd.grad(w, leaves, weight) for w in (mine, other)), strict=True):
        assert (a - b).abs().max() < tolerance * b.abs().max().clamp_min(1)


def equality_program():
    x, Q, q = cp.Variable(4), cp.Parameter((4, 4), PSD=True), cp.Parameter(4)
    A, b = cp.Parameter((2, 4)), cp.Parameter(2)
    equal = A @ x == b
    problem = cp.Problem(cp.Minimize(0.5 * cp.quad_form(x, Q) + q @ x), [equal])
    return problem, [Q, q, A, b], [x, equal.dual_variables[0]]


def test_gradcheck_of_ridge_and_of_an_equality_constrained_program_with_its_duals():
    layer = CvxpyLayer(*ridge_program(), solver=ClosedForm())
    assert gradcheck(lambda *t: layer(*t), ridge_data(2))
    layer = CvxpyLayer(*equality_program(), solver=ClosedForm())
    M = torch.randn(2, 4, 4, dtype=T, requires_grad=True)
    q, A, b = (torch.randn(*s, dtype=T, requires_grad=True) for s in ((2, 4), (2, 4), (2, 2)))
    assert gradcheck(lambda M, *t: layer(M @ M.mT + torch.eye(4, dtype=T), *t), (M, q, A, b))


def test_the_answer_solves_the_kkt_system():
    M, (q, A, b) = torch.randn(3, 4, 4, dtype=T), (torch.randn(*s, dtype=T) for s in ((3, 4), (2, 4), (3, 2)))
    Q = M @ M.mT + torch.eye(4, dtype=T)
    x, y = CvxpyLayer(*equality_program(), solver=ClosedForm())(Q, q, A, b)
    assert ((Q @ x.unsqueeze(-1)).squeeze(-1) + q + y @ A).abs().max() < 1e-12
    assert (x @ A.mT - b).abs().max() < 1e-12


def test_a_batch_with_one_system_is_a_loop():
    X, Y, lam = (t.detach() for t in ridge_data())
    labels = torch.randn(5, *Y.shape, dtype=T, requires_grad=True)
    layer = CvxpyLayer(*ridge_program(), solver=ClosedForm())
    (together,) = layer(X, labels, lam)
    for i in range(5):
        assert (layer(X, labels[i], lam)[0] - together[i]).abs().max() < 1e-14
    (grad,) = torch.autograd.grad(together.sum(), labels)
    expected = torch.autograd.grad(ridge(X, labels, lam).weight.sum(), labels)[0]
    assert (grad - expected).abs().max() < 1e-14


def test_a_program_without_constraints():
    x, q = cp.Variable(3), cp.Parameter(3)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x) + q @ x)), [q], [x], solver=ClosedForm())
    q0 = torch.randn(3, dtype=T, requires_grad=True)
    (value,) = layer(q0)
    assert (value + q0 / 2).abs().max() < 1e-15
    assert torch.allclose(torch.autograd.grad(value.sum(), q0)[0], torch.full((3,), -0.5, dtype=T))


def test_what_it_does_not_solve_is_refused_with_the_reason():
    x, p = cp.Variable(3), cp.Parameter(3)
    cones = {
        "inequalities": [x >= 0],
        "second-order cones": [cp.norm(x) <= 1],
        "exponential cones": [cp.exp(x) <= 2],
        "semidefinite cones": [cp.diag(x) >> 0],
    }
    for name, constraints in cones.items():
        problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), constraints)
        with pytest.raises(UnsupportedError, match=f"this program has .*{name}"):
            CvxpyLayer(problem, [p], [x], solver=ClosedForm())
    shared = ClosedForm()
    CvxpyLayer(*ridge_program(), solver=shared)
    with pytest.raises(UnsupportedError, match="its own ClosedForm"):
        CvxpyLayer(*ridge_program(), solver=shared)


def test_bad_values_are_refused():
    layer = CvxpyLayer(*ridge_program(), solver=ClosedForm())
    X, Y, lam = (t.detach() for t in ridge_data(2))
    with pytest.raises(NonFiniteInputError, match="NaN or infinite"):
        layer(X, Y * torch.nan, lam)
    with pytest.raises(ParameterRangeError, match=r"not convex for batch elements \[1\] of 2"):
        layer(X, Y, lam * torch.tensor([1.0, -100.0], dtype=T))
    with pytest.raises(SingularSystemError, match=r"\[0, 1\] of 2 is singular"):
        layer(torch.ones_like(X), Y, 0 * lam)


def test_second_derivatives_are_as_documented():
    """cvxpylayers marks its backward pass: alone it raises, beside another path it loses a term."""
    layer = CvxpyLayer(*ridge_program(), solver=ClosedForm())
    leaves = ridge_data()
    (g,) = torch.autograd.grad((layer(*leaves)[0] ** 2).sum(), leaves[1], create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(g.sum(), leaves[1])
    loss = (layer(*leaves)[0] ** 3).sum() + (leaves[1] ** 3).sum()
    (g,) = torch.autograd.grad(loss, leaves[1], create_graph=True)
    (second,) = torch.autograd.grad(g.sum(), leaves[1])
    torch.testing.assert_close(second, 6 * leaves[1])  # the term through the layer is lost


def test_the_package_imports_without_cvxpylayers():
    code = (
        "import sys, convexdistill, convexdistill.layers.convex_layer\n"
        "heavy = {'cvxpy', 'cvxpylayers', 'diffcp', 'moreau', 'clarabel', 'scs'}\n"
        "print(sorted(heavy & {m.split('.')[0] for m in sys.modules}))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
