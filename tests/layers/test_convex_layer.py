"""ConvexLayer: the answers and gradients of cvxpy programs, of every kind of cone."""

import copy
import pickle
import threading

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from convexdistill.layers import ridge
from convexdistill.layers.convex_layer import ConvexLayer, ConvexSolution

SOLVERS = ["auto", "moreau", "clarabel", "scs"]
T = torch.float64


def need(solver):
    if solver != "auto":
        pytest.importorskip(solver)


def randn(*shape):
    return torch.randn(*shape, dtype=T)


def quadratic():
    x, Q, p = cp.Variable(3), cp.Parameter((3, 3), PSD=True, name="Q"), cp.Parameter(3, name="p")
    h, G = cp.Parameter(2, name="h"), cp.Parameter((2, 3), name="G")
    below, total = G @ x <= h, cp.sum(x) == 1
    problem = cp.Problem(cp.Minimize(cp.quad_form(x, Q) + p @ x), [below, total])
    M = randn(4, 3, 3)
    return (
        problem,
        [Q, p, h, G],
        [x, below.dual_variables[0], total.dual_variables[0]],
        (M @ M.mT + torch.eye(3, dtype=T), randn(4, 3), 0.3 * randn(2), randn(4, 2, 3)),
    )


def onto_nonnegative():
    x, p = cp.Variable(3), cp.Parameter(3)
    return cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0]), [p], [x], (randn(3, 3),)


def linear():
    x, c = cp.Variable(3), cp.Parameter(3)
    return cp.Problem(cp.Minimize(c @ x), [x >= 0, x <= 0.6, cp.sum(x) == 1]), [c], [x], (randn(3, 3),)


def second_order():
    x, p = cp.Variable(3), cp.Parameter(3)
    return cp.Problem(cp.Minimize(cp.norm(x - p) + cp.sum_squares(x))), [p], [x], (2 * randn(3, 3),)


def exponential():
    x, c = cp.Variable(4), cp.Parameter(4)
    cost = c @ x - cp.sum(cp.entr(x))
    return cp.Problem(cp.Minimize(cost), [cp.sum(x) == 1]), [c], [x], (randn(3, 4),)


def power():
    x, p = cp.Variable(3), cp.Parameter(3)
    mean = cp.geo_mean(x, [0.5, 0.3, 0.2], approx=False)
    return cp.Problem(cp.Maximize(mean), [p @ x <= 1]), [p], [x], (torch.rand(3, dtype=T) + 0.5,)


def semidefinite():
    X, S = cp.Variable((3, 3), PSD=True), cp.Parameter((3, 3), symmetric=True)
    M = randn(2, 3, 3)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - S)), [cp.trace(X) == 1])
    return problem, [S], [X], (M + M.mT,)


def geometric():
    q, u, v = cp.Parameter(pos=True), cp.Variable(pos=True), cp.Variable(pos=True)
    problem = cp.Problem(cp.Minimize(1 / (u * v)), [q * u + v <= 1])
    return problem, [q], [u, v], (torch.rand(3, dtype=T) + 0.5,)


def unconstrained():
    x, p = cp.Variable(3), cp.Parameter(3)
    return cp.Problem(cp.Minimize(cp.quad_form(x, np.diag([1.0, 2, 3])) + p @ x)), [p], [x], (randn(2, 3),)


EVERY = [
    quadratic, onto_nonnegative, linear, second_order, exponential, power, semidefinite, geometric, unconstrained
]  # fmt: skip
NOT_TAKEN = {("moreau", "semidefinite"), ("scs", "unconstrained")}


def build(make, solver="auto", **options):
    need(solver)
    if (solver, make.__name__) in NOT_TAKEN:
        pytest.skip("this solver does not take these cones, and says so")
    problem, parameters, variables, tensors = make()
    layer = ConvexLayer(problem, parameters, variables, solver=solver, gp=make is geometric, **options)
    return layer, tensors


@pytest.mark.parametrize("make", EVERY)
@pytest.mark.parametrize("solver", SOLVERS)
def test_answers_are_those_of_cvxpy_and_optimal_to_rounding(make, solver):
    layer, tensors = build(make, solver)
    solution = layer.solve(*tensors)
    assert isinstance(solution, ConvexSolution)
    assert solution.info.ok.all()
    assert float(solution.info.residual.max()) < 1e-11
    program = layer.program
    batch = solution.info.status.shape
    for i in range(batch.numel()):
        for parameter, tensor in zip(program.parameters, tensors, strict=True):
            core = len(parameter.shape)
            one = (
                tensor.expand(*batch, *parameter.shape).reshape(-1, *parameter.shape)[i]
                if core or batch
                else tensor
            )
            parameter.value = one.numpy()
        program.problem.solve(solver="CLARABEL", gp=program.gp, tol_gap_abs=1e-11, tol_gap_rel=1e-11)
        for variable, value in zip(program.variables, solution.values, strict=True):
            assert np.abs(variable.value - value.reshape(-1, *variable.shape)[i].numpy()).max() < 2e-5


@pytest.mark.parametrize("make", EVERY)
@pytest.mark.parametrize("solver", SOLVERS)
def test_gradients_are_those_of_finite_differences(make, solver):
    layer, tensors = build(make, solver)

    def run(*inputs):
        if make in (quadratic, semidefinite):  # whatever is asked for stays symmetric
            inputs = ((inputs[0] + inputs[0].mT) / 2, *inputs[1:])
        return layer(*inputs)

    assert gradcheck(run, [t.clone().requires_grad_() for t in tensors], atol=1e-6)


def test_all_leading_dimensions_broadcast_and_gradients_of_what_is_shared_are_summed():
    layer, (Q, p, h, G) = build(quadratic)
    p, G = p[:3], randn(2, 1, 2, 3)
    leaves = [t.clone().requires_grad_() for t in (Q[0], p, h, G)]
    values = layer(*leaves)
    assert [tuple(v.shape) for v in values] == [(2, 3, 3), (2, 3, 2), (2, 3)]
    weight = randn(2, 3, 3)
    grads = torch.autograd.grad((values[0] * weight).sum(), leaves)
    singles = [torch.zeros_like(t) for t in leaves]
    for i in range(2):
        for j in range(3):
            one = [t.detach().requires_grad_() for t in (Q[0], p[j], h, G[i, 0])]
            (x, *_) = layer(*one)
            assert torch.equal(x, values[0][i, j]) or (x - values[0][i, j]).abs().max() < 1e-13
            g = torch.autograd.grad((x * weight[i, j]).sum(), one)
            for total, part, place in zip(singles, g, ((), (j,), (), (i, 0)), strict=True):
                total[place] += part
    for found, expected in zip(grads, singles, strict=True):
        assert found.shape == expected.shape
        assert (found - expected).abs().max() < 1e-12


def test_empty_batches_have_shape_and_gradient():
    layer, _ = build(onto_nonnegative)
    p = torch.zeros(0, 2, 3, dtype=torch.float32, requires_grad=True)
    (x,) = layer(p)
    assert x.shape == (0, 2, 3)
    assert x.dtype == torch.float32
    x.sum().backward()
    assert p.grad.shape == p.shape
    assert layer.solve(p).info.status.shape == (0, 2)


def test_float32_in_and_out_with_the_accuracy_of_float64_inside():
    layer, (c,) = build(exponential)
    c32 = c.float().requires_grad_()
    (x,) = layer(c32)
    c64 = c32.detach().double().requires_grad_()
    (y,) = layer(c64)
    assert x.dtype == torch.float32
    assert torch.equal(x, y.float())
    x[:, 0].sum().backward()
    y[:, 0].sum().backward()
    assert c32.grad.dtype == torch.float32
    assert (c32.grad - c64.grad).abs().max() < 1e-7


def test_inputs_may_be_strided_or_expanded_and_are_not_changed():
    layer, _ = build(onto_nonnegative)
    base = randn(6, 4)
    before = base.clone()
    strided, expanded = base.mT[1:, ::2].mT, base[0, :3].expand(5, 3)
    assert torch.equal(layer(strided)[0], layer(strided.contiguous())[0])
    assert torch.equal(layer(expanded)[0], layer(expanded.clone())[0])
    assert torch.equal(base, before)


def test_the_answer_may_be_changed_in_place_before_the_backward_pass():
    layer, (q,) = build(geometric)  # recovered by exp, whose backward pass uses its output
    touched, untouched = q.clone().requires_grad_(), q.clone().requires_grad_()
    u, _ = layer(touched)
    with torch.no_grad():
        u.mul_(100)
    u.sum().backward()
    layer(untouched)[0].sum().backward()
    assert torch.equal(touched.grad, untouched.grad)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(-200, 200))
def test_scaling_the_data_scales_the_answer(seed, decade):
    """Projection onto a cone is homogeneous, at every size of number."""
    layer, _ = build(onto_nonnegative)
    p = torch.randn(3, dtype=T, generator=torch.Generator().manual_seed(seed))
    scale = 10.0**decade
    (x,) = layer(scale * p)
    assert (x / scale - p.clamp_min(0)).abs().max() < 1e-12


@pytest.mark.parametrize("scale", [1e-300, 1e-12, 1e12, 1e200])
@pytest.mark.parametrize("make", [quadratic, exponential, semidefinite])
def test_cotangents_of_any_size_keep_their_digits(make, scale):
    layer, tensors = build(make)
    leaves = [t.clone().requires_grad_() for t in tensors]
    (x, *_) = layer(*leaves)
    weight = torch.randn_like(x)
    plain = torch.autograd.grad(x, leaves, weight, retain_graph=True)
    scaled = torch.autograd.grad(x, leaves, scale * weight)
    for a, b in zip(plain, scaled, strict=True):
        assert (b / scale - a).abs().max() < 1e-12 * a.abs().max().clamp_min(1)


def test_ridge_as_a_program_has_the_answer_and_the_gradients_of_the_closed_form():
    X, Y, lam = cp.Parameter((8, 3)), cp.Parameter((8, 2)), cp.Parameter(nonneg=True)
    W = cp.Variable((3, 2))
    layer = ConvexLayer(
        cp.Problem(cp.Minimize(cp.sum_squares(X @ W - Y) + lam * cp.sum_squares(W))), [X, Y, lam], [W]
    )
    leaves = [t.requires_grad_() for t in (randn(4, 8, 3), randn(4, 8, 2), torch.rand(4, dtype=T) + 0.1)]
    (found,), expected = layer(*leaves), ridge(leaves[0], leaves[1], leaves[2].unsqueeze(-1)).weight
    assert (found - expected).abs().max() < 1e-13
    weight = torch.randn_like(expected)
    for a, b in zip(*(torch.autograd.grad(w, leaves, weight) for w in (found, expected)), strict=True):
        assert (a - b).abs().max() < 1e-12 * b.abs().max()


def test_gradients_of_symmetric_parameters_are_symmetric():
    layer, (S,) = build(semidefinite)
    S = S.clone().requires_grad_()
    (X,) = layer(S)
    (X[:, 0, 1]).sum().backward()
    assert torch.equal(S.grad, S.grad.mT)


def test_a_redundant_constraint_does_not_hurt_the_gradient():
    x, p = cp.Variable(3), cp.Parameter(3)
    twice = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [cp.sum(x) == 1, 2 * cp.sum(x) == 2])
    p0 = randn(3).requires_grad_()
    (found,) = torch.autograd.grad(ConvexLayer(twice, [p], [x])(p0)[0][0], p0)
    assert (found - torch.tensor([2 / 3, -1 / 3, -1 / 3], dtype=T)).abs().max() < 1e-12


def test_copies_pickles_and_state():
    layer, (p,) = build(onto_nonnegative)
    (expected,) = layer(p)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(p)[0], expected)
        assert twin.on_failure == layer.on_failure
    fresh, _ = build(onto_nonnegative)
    assert layer.state_dict() == {}
    fresh.load_state_dict(layer.state_dict())
    assert list(layer.parameters()) == []
    assert "(3,) -> " in repr(layer)
    holder = torch.nn.Sequential(torch.nn.Linear(2, 2), layer)
    assert set(copy.deepcopy(holder).state_dict()) == {"0.weight", "0.bias"}


def test_threads_share_a_layer():
    layer, _ = build(exponential)
    inputs = [randn(3, 4) for _ in range(8)]
    expected = [layer(c)[0] for c in inputs]
    found: list = [None] * len(inputs)

    def work(i):
        c = inputs[i].clone().requires_grad_()
        (x,) = layer(c)
        x.sum().backward()
        found[i] = x.detach()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_without_gradients_nothing_is_kept():
    layer, (p,) = build(onto_nonnegative)
    (x,) = layer(p)
    assert not x.requires_grad
    with torch.no_grad():
        assert not layer(p.clone().requires_grad_())[0].requires_grad


def test_compile_runs_it_eagerly():
    layer, (p,) = build(onto_nonnegative)
    compiled = torch.compile(lambda q: layer(2 * q)[0] + 1, backend="aot_eager")
    assert torch.equal(compiled(p), layer(2 * p)[0] + 1)


def test_programs_too_large_for_dense_matrices():
    """Onto the simplex: x = max(p − τ, 0), with the derivative I − 11ᵀ/k on the support of x."""
    n = 200
    x, p = cp.Variable(n), cp.Parameter(n)
    layer = ConvexLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0, cp.sum(x) == 1]), [p], [x])
    p0 = (0.1 * randn(2, n)).requires_grad_()
    (found,) = layer(p0)
    weight = randn(2, n)
    (grad,) = torch.autograd.grad(found, p0, weight)
    for i in range(2):
        support = found[i] > 0
        threshold = (p0[i][support].sum() - 1) / support.sum()
        assert (found[i] - (p0[i] - threshold).clamp_min(0)).abs().max() < 1e-12
        expected = torch.where(support, weight[i] - weight[i][support].mean(), 0.0)
        assert (grad[i] - expected).abs().max() < 1e-12
    assert layer.program.compile().ctx.solver.cones.rows > 200
