"""What ConvexLayer refuses, and with which words; what becomes of elements that have no answer."""

import subprocess
import sys

import cvxpy as cp
import numpy as np
import pytest
import torch

from convexdistill.errors import (
    BackendUnavailableError,
    DtypeError,
    InfeasibleError,
    InvalidInputError,
    NonFiniteInputError,
    NotConvergedError,
    NumericalWarning,
    ParameterRangeError,
    ShapeError,
    UnboundedError,
    UnknownNameError,
    UnsupportedError,
)
from convexdistill.layers import Status
from convexdistill.layers.convex_layer import ConvexLayer

T = torch.float64
SOLVERS = ["auto", "moreau", "clarabel", "scs"]


def at_least_one(**options):
    """min ‖x‖² with x ≥ 1 and Σx ≤ p: infeasible where p < 3."""
    x, p = cp.Variable(3), cp.Parameter(name="p")
    return ConvexLayer(cp.Problem(cp.Minimize(cp.sum_squares(x)), [x >= 1, cp.sum(x) <= p]), [p], [x], **options)


def free_fall(**options):
    """min cᵀx with x ≥ 0: unbounded where an entry of c is negative."""
    x, c = cp.Variable(3), cp.Parameter(3, name="c")
    return ConvexLayer(cp.Problem(cp.Minimize(c @ x), [x >= 0]), [c], [x], **options)


def tensor(*values):
    return torch.tensor(values, dtype=T)


# -- the problem ------------------------------------------------------------------------------------


def refused(error, match, objective, constraints=(), parameters=None, variables=None, **options):
    problem = cp.Problem(cp.Minimize(objective), list(constraints))
    parameters = problem.parameters() if parameters is None else parameters
    with pytest.raises(error, match=match):
        ConvexLayer(problem, parameters, problem.variables() if variables is None else variables, **options)


def test_problems_that_cannot_be_layers_are_refused_with_the_reason():
    x, y = cp.Variable(2, name="x"), cp.Variable(2, name="y", integer=True)
    a, b = cp.Parameter(nonneg=True, name="a"), cp.Parameter(nonneg=True, name="b")
    refused(InvalidInputError, r"not DPP: the objective has `a \* b", a * b * cp.sum_squares(x))
    refused(InvalidInputError, r"constraint 1 has `.*a \* b", cp.sum(x), [x >= a, a * b * x[0] <= 1])
    refused(InvalidInputError, r"does not follow the rules of DCP either", cp.sqrt(a) * cp.sum(cp.sqrt(x)))
    refused(UnsupportedError, "integer variables", cp.sum(y) + a)
    refused(UnsupportedError, "complex", cp.norm(cp.Variable(2, complex=True) - a))
    refused(UnsupportedError, "no parameters", cp.sum_squares(x))
    refused(InvalidInputError, "b are missing", a * cp.sum_squares(x) + b * cp.sum(x), parameters=[a])
    refused(InvalidInputError, "b are not in the problem", a * cp.sum_squares(x), parameters=[a, b])
    refused(InvalidInputError, "a are there twice", a * cp.sum_squares(x), parameters=[a, a])
    refused(InvalidInputError, "y are not", a * cp.sum_squares(x), variables=[x, y])
    refused(InvalidInputError, "variables is empty", a * cp.sum_squares(x), variables=[])
    with pytest.raises(DtypeError, match=r"must be a cvxpy\.Problem, got Parameter"):
        ConvexLayer(a, [a], [x])


def test_parameters_that_cvxpylayers_does_not_take_are_refused():
    x, D = cp.Variable(2), cp.Parameter((2, 2), diag=True)
    layer = ConvexLayer(cp.Problem(cp.Minimize(cp.sum_squares(D @ x - 1))), [D], [x])
    with pytest.raises(UnsupportedError, match="cannot compile"):
        layer(torch.eye(2, dtype=T))


def test_options_are_refused_at_once():
    with pytest.raises(UnknownNameError, match="solver='newton' is not known"):
        at_least_one(solver="newton")
    with pytest.raises(UnknownNameError, match="on_failure='ignore'"):
        at_least_one(on_failure="ignore")
    with pytest.raises(ParameterRangeError, match="accept_below is 0"):
        at_least_one(accept_below=0)
    with pytest.raises(ParameterRangeError, match="name it"):
        at_least_one(solver_options={"max_iter": 3})
    for solver in ("clarabel", "scs", "moreau"):
        if solver == "moreau":
            pytest.importorskip("moreau")
        with pytest.raises(ParameterRangeError, match=r"no_such_thing|suit scs"):
            at_least_one(solver=solver, solver_options={"no_such_thing": 3})


def test_a_solver_that_is_not_installed_says_how_to_get_it():
    code = (
        "import sys; sys.modules['moreau'] = None\n"
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'moreau' else find(name, *a)\n"
        "from convexdistill.layers.conic import solvers\n"
        "from convexdistill.layers.conic.cones import Cones\n"
        "from convexdistill.errors import BackendUnavailableError\n"
        "assert solvers.chain('auto', Cones(nonneg=1)) == ('clarabel', 'scs')\n"
        "try:\n    solvers.chain('moreau', Cones(nonneg=1))\n"
        "except BackendUnavailableError as error:\n    print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install moreau" in run.stdout
    assert issubclass(BackendUnavailableError, ImportError)


def test_a_solver_is_refused_for_cones_that_it_does_not_take():
    pytest.importorskip("moreau")
    X, S = cp.Variable((2, 2), PSD=True), cp.Parameter((2, 2), symmetric=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - S)))
    with pytest.raises(ParameterRangeError, match="semidefinite"):
        ConvexLayer(problem, [S], [X], solver="moreau")(torch.eye(2, dtype=T))


# -- the tensors ------------------------------------------------------------------------------------


def test_tensors_are_checked_by_the_names_of_their_parameters():
    x, c, w = cp.Variable(3), cp.Parameter(3, name="c"), cp.Parameter(nonneg=True, name="w")
    layer = ConvexLayer(cp.Problem(cp.Minimize(w * cp.sum_squares(x) + c @ x)), [c, w], [x])
    good, one = torch.zeros(3, dtype=T), torch.tensor(1.0, dtype=T)
    cases = [
        (DtypeError, "c must be a torch.Tensor", (np.zeros(3), one)),
        (DtypeError, "c", (torch.zeros(3, dtype=torch.int64), one)),
        (DtypeError, "w", (good, one.float())),
        (ShapeError, r"c has shape \(2, 4\); it must be \(\*B, 3\)", (torch.zeros(2, 4, dtype=T), one)),
        (ShapeError, r"c has shape \(\); it must be", (one, one)),
        (ShapeError, r"got 1 tensors for 2 parameters \(c, w\)", (good,)),
        (ShapeError, r"do not broadcast: c \(2,\), w \(3,\)", (good.expand(2, 3), one.expand(3))),
        (NonFiniteInputError, r"c\[1, 2\] is nan", (torch.tensor([[0, 0, 0], [0, 0, torch.nan]], dtype=T), one)),
        (NonFiniteInputError, "w is inf", (good, one * torch.inf)),
        (ParameterRangeError, r"w must be >= 0.*\(batch element \[1\]; 1 of 2\)", (good, tensor(1.0, -1.0))),
    ]
    for error, match, tensors in cases:
        with pytest.raises(error, match=match):
            layer(*tensors)


@pytest.mark.parametrize(
    ("attribute", "bad"),
    [("pos", 0.0), ("nonpos", 1.0), ("neg", 0.0), ("nonneg", -1e-9)],
)
def test_signs_that_a_parameter_promises_are_checked(attribute, bad):
    x, p = cp.Variable(), cp.Parameter(name="p", **{attribute: True})
    layer = ConvexLayer(cp.Problem(cp.Minimize(cp.square(x - p))), [p], [x])
    with pytest.raises(ParameterRangeError, match="p must be"):
        layer(torch.tensor(bad, dtype=T))


def test_matrices_that_a_parameter_promises_are_checked():
    x, Q = cp.Variable(2), cp.Parameter((2, 2), PSD=True, name="Q")
    layer = ConvexLayer(cp.Problem(cp.Minimize(cp.quad_form(x, Q) - cp.sum(x)), [x <= 9]), [Q], [x])
    for bad in ([[1.0, 1.0], [0.0, 1.0]], [[1.0, 2.0], [2.0, 1.0]]):
        with pytest.raises(ParameterRangeError, match="Q must be a symmetric, positive semidefinite matrix"):
            layer(torch.tensor(bad, dtype=T))
    x, N = cp.Variable(2), cp.Parameter((2, 2), NSD=True, name="N")
    layer = ConvexLayer(cp.Problem(cp.Maximize(cp.quad_form(x, N) - cp.sum(x))), [N], [x])
    assert torch.allclose(layer(-torch.eye(2, dtype=T))[0], torch.full((2,), -0.5, dtype=T))
    with pytest.raises(ParameterRangeError, match="negative semidefinite"):
        layer(torch.eye(2, dtype=T))


# -- elements without an answer ---------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("scale", [1.0, 1e-7, 1e7])
def test_infeasible_and_unbounded_elements_are_proved_so_by_every_solver(solver, scale):
    if solver != "auto":
        pytest.importorskip(solver)
    with pytest.raises(UnboundedError, match=r"\[1\] of 2.*falls without end") as caught:
        free_fall(solver=solver)(scale * torch.tensor([[1.0, 1, 1], [1, -1, 1]], dtype=T))
    assert caught.value.batch_indices == (1,)
    assert caught.value.info.status.tolist() == [0, int(Status.UNBOUNDED)]
    x, p = cp.Variable(2), cp.Parameter(2)
    squeezed = cp.Problem(cp.Minimize(cp.sum_squares(x)), [x >= p[0], cp.sum(x) <= p[1]])
    with pytest.raises(InfeasibleError, match=r"\[0\] of 2.*No point") as caught:
        ConvexLayer(squeezed, [p], [x], solver=solver)(scale * torch.tensor([[1.0, 1.5], [1, 2.5]], dtype=T))
    assert caught.value.info.status.tolist() == [int(Status.INFEASIBLE), 0]


def test_one_hopeless_element_does_not_spoil_the_others():
    layer = at_least_one(on_failure="nan")
    p = tensor(1.0, 4.0, torch.nan, 5.0).requires_grad_()
    solution = layer.solve(p)
    (x,) = solution.values
    assert solution.info.status.tolist() == [int(Status.INFEASIBLE), 0, int(Status.NONFINITE_INPUT), 0]
    assert solution.info.ok.tolist() == [False, True, False, True]
    assert x.isnan().all(-1).tolist() == [True, False, True, False]
    assert (x[[1, 3]] - 1).abs().max() < 1e-12
    x[solution.info.ok].sum().backward()
    assert p.grad.tolist() == [0, 0, 0, 0]  # masked out of the loss, so nothing of NaN
    p.grad = None
    layer(p)[0].sum().backward()
    assert p.grad.isnan().tolist() == [True, False, True, False]


def test_shared_inputs_keep_their_gradient_when_failed_elements_are_masked_out():
    x, p, r = cp.Variable(3), cp.Parameter(3), cp.Parameter(name="r")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [cp.sum(x) <= r, x >= 0])
    layer = ConvexLayer(problem, [p, r], [x], on_failure="nan")
    p0 = torch.ones(3, dtype=T, requires_grad=True)
    solution = layer.solve(p0, tensor(1.5, -1.0))
    assert solution.info.status.tolist() == [0, int(Status.INFEASIBLE)]
    solution.values[0][solution.info.ok][:, 0].sum().backward()
    assert (p0.grad - tensor(2 / 3, -1 / 3, -1 / 3)).abs().max() < 1e-12


def test_wrong_signs_are_marked_under_nan():
    x, w = cp.Variable(), cp.Parameter(nonneg=True)
    layer = ConvexLayer(
        cp.Problem(cp.Minimize(w * cp.square(x) - x), [x <= 1, x >= -1]), [w], [x], on_failure="nan"
    )
    solution = layer.solve(tensor(1.0, -1.0))
    assert solution.info.status.tolist() == [0, int(Status.INVALID_INPUT)]
    assert solution.values[0].isnan().tolist() == [False, True]


def test_warn_warns_and_gives_what_there_is():
    layer = at_least_one(on_failure="warn")
    with pytest.warns(NumericalWarning, match="No point meets all constraints"):
        (x,) = layer(tensor(1.0, 4.0))
    assert x.isnan().all(-1).tolist() == [True, False]


@pytest.mark.parametrize("solver", ["moreau", "clarabel", "scs"])
def test_a_solver_that_is_stopped_early_is_found_out(solver):
    pytest.importorskip(solver)
    x, p, rng = cp.Variable(20), cp.Parameter(20), np.random.default_rng(0)
    A = rng.standard_normal((30, 20))
    problem = cp.Problem(cp.Minimize(cp.pnorm(A @ x - 1, 3) + cp.norm(x - p)), [cp.norm(x, 1) <= 0.3])
    stop = {"max_iters": 2} if solver == "scs" else {"max_iter": 1}
    layer = ConvexLayer(problem, [p], [x], solver=solver, solver_options=stop, on_failure="nan")
    solution = layer.solve(torch.ones(20, dtype=T))
    assert solution.info.status.item() == int(Status.MAX_STEPS)
    assert solution.values[0].isnan().all()
    layer.on_failure = "raise"
    with pytest.raises(NotConvergedError, match="used up its steps"):
        layer(torch.ones(20, dtype=T))
    assert ConvexLayer(problem, [p], [x], solver=solver).solve(torch.ones(20, dtype=T)).info.ok


def test_another_solver_takes_over_where_one_gives_up():
    """A bound of 1e20 is beyond interior-point methods; SCS does it, and no wrong answer passes for a right one.

    Relative to the norm of all data any x near 0 would look optimal here.
    """
    x, p, u = cp.Variable(3), cp.Parameter(3), cp.Parameter(3)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p) + cp.norm(x, 1)), [x <= u, x >= -1]), [p, u], [x]
    p0 = torch.tensor([[0.7, 2.0, -3.0], [3.0, -0.2, 5.0]], dtype=T)
    expected = torch.tensor([[0.2, 1.5, -1.0], [2.5, 0.0, 4.5]], dtype=T)
    for bound in (1e9, 1e15, 1e20, 1e30):
        high = torch.full((3,), bound, dtype=T)
        solution = ConvexLayer(*problem).solve(p0, high)
        assert (solution.values[0] - expected).abs().max() < 1e-9
        assert bound < 1e15 or "scs" in solution.info.method
        for solver in ("moreau", "clarabel"):
            pytest.importorskip(solver)
            solution = ConvexLayer(*problem, solver=solver, on_failure="nan").solve(p0, high)
            close = (solution.values[0] - expected).abs().amax(-1) < 1e-9
            assert (close | ~solution.info.ok).all()


def test_a_large_constraint_does_not_hide_a_broken_small_one():
    x, p = cp.Variable(2), cp.Parameter(2)
    rows = [1e6 * x[0] <= 1e6 * p[0], 1e-6 * x[1] >= 1e-6 * p[1]]
    layer = ConvexLayer(
        cp.Problem(cp.Minimize(1e3 * cp.square(x[0] - 5) + 1e-3 * cp.square(x[1])), rows), [p], [x]
    )
    assert (layer(tensor(2.0, 3.0))[0] - tensor(2.0, 3.0)).abs().max() < 1e-9


# -- gradients that do not exist --------------------------------------------------------------------


def test_a_gradient_of_what_is_not_unique_is_refused():
    x, p = cp.Variable(2), cp.Parameter()
    problem = cp.Problem(cp.Minimize(cp.sum(x)), [x >= 0, cp.sum(x) >= p])
    layer, one = ConvexLayer(problem, [p], [x]), torch.tensor(1.0, dtype=T, requires_grad=True)
    (value,) = layer(one)
    assert abs(float(value.sum().detach()) - 1) < 1e-12
    (slope,) = torch.autograd.grad(value.sum(), one, retain_graph=True)  # the sum is unique
    assert abs(float(slope) - 1) < 1e-9
    with pytest.raises(NotConvergedError, match="not unique"):
        value[0].backward()
    layer.on_failure = "nan"
    layer(one)[0][0].backward()
    assert one.grad.isnan()
    layer.on_failure = "warn"
    with pytest.warns(NumericalWarning, match="not unique"):
        layer(one)[0][0].backward()


def test_gradients_of_gradients_are_refused_also_beside_another_path():
    layer, p = free_quadratic()
    (x,) = layer(p)
    (g,) = torch.autograd.grad((x**2).sum(), p, create_graph=True)
    with pytest.raises(UnsupportedError, match="no gradients of gradients"):
        torch.autograd.grad(g.sum(), p)
    (x,) = layer(p)
    (g,) = torch.autograd.grad((x**2).sum() + (p**3).sum(), p, create_graph=True)
    with pytest.raises(UnsupportedError, match="torch backend"):
        (g**2).sum().backward()


def test_transforms_and_forward_mode_are_refused():
    layer, p = free_quadratic()
    for transform in (torch.func.vmap(lambda q: layer(q)[0]), torch.func.jacrev(lambda q: layer(q)[0])):
        with pytest.raises(UnsupportedError, match=r"torch\.func"):
            transform(p.detach().expand(2, 3))
    with torch.autograd.forward_ad.dual_level(), pytest.raises(UnsupportedError, match="forward-mode"):
        layer(torch.autograd.forward_ad.make_dual(p.detach(), torch.ones_like(p)))
    (x,) = layer(p)
    with pytest.raises(UnsupportedError, match=r"torch\.func"):
        torch.autograd.grad(x, p, torch.eye(3, dtype=T), is_grads_batched=True)


def free_quadratic():
    x, p = cp.Variable(3), cp.Parameter(3)
    layer = ConvexLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - p) + cp.sum(cp.abs(x))), [x >= -1]), [p], [x])
    return layer, torch.tensor([2.0, 1.0, -3.0], dtype=T, requires_grad=True)
