"""Each way in which a plain ``CvxpyLayer`` (1.2) was found to be wrong or to break, beside ours, which is not.

Every test asserts what *ours* does. What upstream does is recorded with :func:`upstream`, which warns where a
pitfall is mended, so that we learn of it, and never fails: a better cvxpylayers must not break our tests.
The numbers are those of the list in the project's notes on cvxpylayers.
"""

import copy
import warnings

import cvxpy as cp
import pytest
import torch

from convexdistill.errors import (
    InfeasibleError,
    NonFiniteInputError,
    NotConvergedError,
    ParameterRangeError,
    UnsupportedError,
)
from convexdistill.layers import constrained_ridge
from convexdistill.layers.convex_layer import ConvexLayer

plain = pytest.importorskip("cvxpylayers.torch")
T = torch.float64
MOREAU = {"solver": "MOREAU", "solver_args": {"solver": "ipm"}}


class MendedUpstreamWarning(UserWarning):
    """A pitfall that this file describes is no more."""


def upstream(number: int, still: bool, what: str) -> None:
    """Say whether plain cvxpylayers still has a pitfall."""
    if not still:
        warnings.warn(f"pitfall {number} is mended upstream: {what}", MendedUpstreamWarning, stacklevel=2)


def outcome(call):
    """What a plain layer does: a value, or the exception it raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return call()
        except Exception as error:
            return error


def moreau():
    pytest.importorskip("moreau")
    return MOREAU


def ridge_program(n=6, d=3):
    X, y, lam, w = cp.Parameter((n, d)), cp.Parameter(n), cp.Parameter(nonneg=True), cp.Variable(d)
    return cp.Problem(cp.Minimize(cp.sum_squares(X @ w - y) + lam * cp.sum_squares(w))), [X, y, lam], [w]


def ridge_data(n=6, d=3):
    X, y, lam = torch.randn(n, d, dtype=T), torch.randn(n, dtype=T), torch.tensor(0.5, dtype=T)
    return (X, y, lam), torch.linalg.solve(X.mT @ X + lam * torch.eye(d, dtype=T), X.mT @ y)


def infeasible_program():
    x, p = cp.Variable(), cp.Parameter()
    return cp.Problem(cp.Minimize(cp.square(x)), [x >= 1, x <= p]), [p], [x]


def test_0_a_second_layer_of_the_same_problem():
    problem, data = ridge_program(), ridge_data()
    tensors, expected = data
    options = moreau()
    for _ in range(2):
        found = plain.CvxpyLayer(*problem, **options)(*tensors)[0].detach()
    upstream(0, float((found - expected).abs().max()) > 1e-3, "two MOREAU layers of one cp.Problem agree")
    for solver in ("moreau", "clarabel", "scs", "auto"):  # and after plain layers spoilt the problem's cache
        found = ConvexLayer(*problem, solver=solver)(*tensors)[0]
        assert (found - expected).abs().max() < 1e-12


def test_1_tiny_cotangents():
    problem, (tensors, _) = ridge_program(), ridge_data()
    y = tensors[1].requires_grad_()

    def slope(layer, scale):
        (w,) = layer(*tensors)
        return torch.autograd.grad(scale * w.sum(), y)[0] / scale

    theirs = plain.CvxpyLayer(*problem)
    upstream(1, not slope(theirs, 1e-10).any(), "DIFFCP keeps gradients of size 1e-10")
    ours = ConvexLayer(*problem)
    for scale in (1e-10, 1e-30, 1e-200):
        assert (slope(ours, scale) - slope(ours, 1.0)).abs().max() < 1e-13


def test_2_infeasible_and_stopped_early_without_a_word():
    p = torch.tensor(0.0, dtype=T)
    theirs = outcome(lambda: plain.CvxpyLayer(*infeasible_program())(p, solver_args={"solve_method": "CLARABEL"}))
    upstream(2, isinstance(theirs, tuple), "DIFFCP with Clarabel raises on an infeasible problem")
    options = moreau()
    theirs = outcome(lambda: plain.CvxpyLayer(*infeasible_program(), **options)(p))
    upstream(2, isinstance(theirs, tuple), "MOREAU raises on an infeasible problem")
    for solver in ("moreau", "clarabel", "scs", "auto"):
        with pytest.raises(InfeasibleError):
            ConvexLayer(*infeasible_program(), solver=solver)(p)

    problem, (tensors, expected) = ridge_program(), ridge_data()
    stop = {"solve_method": "CLARABEL", "max_iter": 1}
    theirs = outcome(lambda: plain.CvxpyLayer(*problem)(*tensors, solver_args=stop)[0])
    wrong = isinstance(theirs, torch.Tensor) and float((theirs - expected).abs().max()) > 1e-3
    upstream(2, wrong, "DIFFCP with Clarabel says when its steps were used up")
    (found,) = ConvexLayer(*problem, solver="clarabel", solver_options={"max_iter": 1})(*tensors)
    assert (found - expected).abs().max() < 1e-12  # Newton's method finishes what Clarabel began


def test_3_one_infeasible_element_and_inaccurate_answers():
    p = torch.tensor([2.0, 0.0, 3.0], dtype=T)
    theirs = outcome(lambda: plain.CvxpyLayer(*infeasible_program())(p))
    upstream(3, isinstance(theirs, Exception), "DIFFCP solves what it can of a batch")
    (x,) = ConvexLayer(*infeasible_program(), on_failure="nan")(p)
    assert x.isnan().tolist() == [False, True, False]
    assert (x[[0, 2]] - 1).abs().max() < 1e-12

    problem, (tensors, expected) = ridge_program(), ridge_data()
    stop = {"solve_method": "SCS", "max_iters": 2}
    theirs = outcome(lambda: plain.CvxpyLayer(*problem)(*tensors, solver_args=stop)[0])
    wrong = isinstance(theirs, torch.Tensor) and float((theirs - expected).abs().max()) > 1e-3
    upstream(3, wrong, "DIFFCP with SCS raises on an inaccurate answer")


def test_4_nan():
    problem, (tensors, _) = ridge_program(), ridge_data()
    X, y, lam = tensors
    y = y.index_fill(0, torch.tensor([2]), torch.nan)
    options = moreau()
    theirs = outcome(lambda: plain.CvxpyLayer(*problem, **options)(X, y, lam)[0])
    upstream(4, isinstance(theirs, torch.Tensor) and bool(theirs.isfinite().all()), "MOREAU passes NaN labels on")
    named = problem[1][1].name()
    with pytest.raises(NonFiniteInputError, match=rf"{named}\[2\] is nan \(1 of 6"):
        ConvexLayer(*problem)(X, y, lam)
    assert ConvexLayer(*problem, on_failure="nan")(X, y, lam)[0].isnan().all()


def test_5_double_backward_drops_a_term():
    problem, (tensors, _) = ridge_program(), ridge_data()
    X, y, lam = tensors
    X.requires_grad_()

    def second(layer):
        (w,) = layer(X, y, lam)
        (g,) = torch.autograd.grad((w**2).sum() + (X**3).sum(), X, create_graph=True)
        return torch.autograd.grad(g.sum(), X)[0]

    theirs = outcome(lambda: second(plain.CvxpyLayer(*problem)))
    dropped = isinstance(theirs, torch.Tensor) and torch.allclose(theirs, 6 * X)
    upstream(5, dropped, "the second-order term of a layer is not dropped")
    with pytest.raises(UnsupportedError, match="gradients of gradients"):
        second(ConvexLayer(*problem))


def test_6_gradients_that_do_not_exist():
    x, p = cp.Variable(2), cp.Parameter()
    problem = cp.Problem(cp.Minimize(cp.sum(x)), [x >= 0, cp.sum(x) >= p]), [p], [x]
    one = torch.tensor(1.0, dtype=T, requires_grad=True)

    def slope(layer):
        return torch.autograd.grad(layer(one)[0][0], one)[0]

    theirs = outcome(lambda: slope(plain.CvxpyLayer(*problem)))
    upstream(6, isinstance(theirs, torch.Tensor), "DIFFCP refuses the gradient of an answer that is not unique")
    with pytest.raises(NotConvergedError, match="not unique"):
        slope(ConvexLayer(*problem))


def test_7_options_that_are_not_known():
    problem, (tensors, _) = ridge_program(), ridge_data()
    theirs = outcome(lambda: plain.CvxpyLayer(*problem)(*tensors, solver_args={"solver": cp.CLARABEL}))
    upstream(7, isinstance(theirs, TypeError), "solver_args={'solver': …} of the documentation works")
    with pytest.raises(ParameterRangeError, match="no setting of clarabel"):
        ConvexLayer(*problem, solver="clarabel", solver_options={"solver": cp.CLARABEL})


def test_8_the_dtype_changes():
    problem, (tensors, _) = ridge_program(), ridge_data()
    single = [t.float() for t in tensors]
    theirs = outcome(lambda: plain.CvxpyLayer(*problem)(*single)[0])
    upstream(8, getattr(theirs, "dtype", None) == T, "float32 in gives float32 out")
    assert ConvexLayer(*problem)(*single)[0].dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_9_cuda_tensors():
    problem, (tensors, expected) = ridge_program(), ridge_data()
    there = [t.cuda() for t in tensors]
    theirs = outcome(lambda: plain.CvxpyLayer(*problem)(*there))
    upstream(9, isinstance(theirs, Exception), "DIFFCP takes CUDA tensors")
    there[1].requires_grad_()
    (w,) = ConvexLayer(*problem)(*there)
    assert w.device.type == "cuda"
    assert (w.cpu() - expected).abs().max() < 1e-12
    w.sum().backward()
    assert there[1].grad.device.type == "cuda"


def test_11_copies_and_state():
    problem, (tensors, expected) = ridge_program(), ridge_data()
    theirs = plain.CvxpyLayer(*problem)
    upstream(11, isinstance(outcome(lambda: copy.deepcopy(theirs)), Exception), "layers can be copied")
    upstream(11, len(theirs.state_dict()) > 0, "state_dict holds no canonical matrices")
    ours = ConvexLayer(*problem)
    ours(*tensors)
    assert ours.state_dict() == {}
    assert (copy.deepcopy(ours)(*tensors)[0] - expected).abs().max() < 1e-12


def test_12_state_between_calls():
    """Ours takes a lock for a call; ``test_threads_share_a_layer`` in test_convex_layer.py shows that it works."""
    problem, (tensors, _) = ridge_program(), ridge_data()
    theirs = plain.CvxpyLayer(*problem)
    before = copy.copy(theirs.ctx.batch_sizes)
    outcome(lambda: theirs(*tensors))
    upstream(12, theirs.ctx.batch_sizes != before, "a call leaves no trace on the layer")
    ours = ConvexLayer(*problem)
    assert not any(isinstance(value, torch.Tensor) for value in vars(ours).values())


def test_13_batch_dimensions_and_empty_batches():
    problem, (tensors, expected) = ridge_program(), ridge_data()
    X, y, lam = tensors
    theirs = plain.CvxpyLayer(*problem)
    upstream(13, isinstance(outcome(lambda: theirs(X, y.expand(2, 3, 6), lam)), Exception), "two batch dimensions")
    upstream(13, isinstance(outcome(lambda: theirs(X, y.expand(0, 6), lam)), Exception), "empty batches")
    ours = ConvexLayer(*problem)
    assert (ours(X, y.expand(2, 3, 6), lam)[0] - expected).abs().max() < 1e-12
    assert ours(X, y.expand(0, 6), lam)[0].shape == (0, 3)
    with pytest.raises(UnsupportedError, match="leading batch dimensions instead of vmap"):
        torch.func.vmap(lambda b: ours(X, b, lam)[0])(y.expand(2, 6))


def test_14_parameters_that_break_their_promise():
    """Not in the list above: a negative value of a nonneg parameter makes a program that is not convex."""
    x, w = cp.Variable(), cp.Parameter(nonneg=True)
    problem = cp.Problem(cp.Minimize(w * cp.square(x) - x), [x <= 1, x >= -1]), [w], [x]
    bad = torch.tensor(-1.0, dtype=T)
    options = moreau()
    theirs = outcome(lambda: plain.CvxpyLayer(*problem, **options)(bad))
    upstream(14, isinstance(theirs, tuple), "attributes of parameters are checked")
    with pytest.raises(ParameterRangeError, match="must be >= 0"):
        ConvexLayer(*problem)(bad)


def test_15_bounds_that_moreau_does_not_see():
    """Not in the list above: with MOREAU a plain layer returns negative entries under ``w >= 0``."""
    X, y, w = cp.Parameter((6, 3)), cp.Parameter(6), cp.Variable(3)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X @ w - y) + cp.sum_squares(w)), [w >= 0]), [X, y], [w]
    features = torch.randn(6, 3, dtype=T)
    labels = features @ torch.tensor([1.0, -1.0, 1.0], dtype=T)
    options = moreau()
    theirs = outcome(lambda: plain.CvxpyLayer(*problem, **options)(features, labels)[0])
    upstream(15, isinstance(theirs, torch.Tensor) and float(theirs.min()) < -0.1, "MOREAU keeps bounds")
    expected = constrained_ridge(features, labels, 1.0).weight
    for solver in ("moreau", "clarabel", "scs", "auto"):
        assert (ConvexLayer(*problem, solver=solver)(features, labels)[0] - expected).abs().max() < 1e-10
