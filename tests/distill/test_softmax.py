"""The label solve under cross-entropy: against cvxpy, autograd and its own dual."""

import cvxpy as cp
import pytest
import torch
from torch import nn

from convexdistill.distill import softmax
from convexdistill.distill.responses import Response
from convexdistill.distill.softmax import SoftmaxProblem, solve_softmax
from convexdistill.errors import NotConvergedError

N, n, C, K = 30, 5, 3, 2
DRAW = torch.Generator().manual_seed(0)
MATRICES = [torch.randn(N, n, generator=DRAW, dtype=torch.float64) for _ in range(K)]
CLASSES = torch.randint(0, C, (N,), generator=DRAW)
HOT = nn.functional.one_hot(CLASSES, C).double()
PRIOR = torch.randn(n, C, generator=DRAW, dtype=torch.float64)
PROBLEM = SoftmaxProblem([Response(A) for A in MATRICES], CLASSES, C)
GAMMA = 0.1


def loss(labels):
    return torch.stack([nn.functional.cross_entropy(A @ labels, CLASSES) for A in MATRICES]).mean()


def test_value_and_gradient_are_those_of_autograd():
    labels = PRIOR.clone().requires_grad_()
    expected = loss(labels)
    expected.backward()
    value, gradient = PROBLEM.loss(PRIOR)
    assert value == pytest.approx(float(expected.detach()), rel=1e-14)
    torch.testing.assert_close(gradient, labels.grad, rtol=0, atol=1e-14)


def test_the_gradient_passes_gradcheck():
    class Value(torch.autograd.Function):
        @staticmethod
        def forward(ctx, labels):
            value, ctx.gradient = PROBLEM.loss(labels.detach())
            return labels.new_tensor(value)

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.gradient

    assert torch.autograd.gradcheck(Value.apply, [PRIOR.clone().requires_grad_()])


def test_the_curvature_is_the_hessian_of_the_loss():
    hessian = torch.autograd.functional.hessian(loss, PRIOR)
    direction = torch.randn(n, C, generator=DRAW, dtype=torch.float64)
    expected = (hessian * direction).sum((2, 3))
    torch.testing.assert_close(PROBLEM.curvature(PRIOR)(direction), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("prior", [None, PRIOR], ids=["zero", "given"])
def test_the_same_labels_as_cvxpy(prior):
    labels, certificate = solve_softmax(PROBLEM, GAMMA, prior)
    centre = torch.zeros(n, C).double() if prior is None else prior
    Y = cp.Variable((n, C))
    logits = [A.numpy() @ Y for A in MATRICES]
    losses = [cp.sum(cp.log_sum_exp(Z, axis=1)) - cp.sum(cp.multiply(HOT.numpy(), Z)) for Z in logits]
    weight = PROBLEM.absolute(GAMMA)
    value = cp.sum(losses) / (N * K) + weight / 2 * cp.sum_squares(Y - centre.numpy())
    cp.Problem(cp.Minimize(value)).solve(solver=cp.CLARABEL)
    torch.testing.assert_close(labels, torch.from_numpy(Y.value), rtol=0, atol=1e-5)
    assert certificate["objective"] == pytest.approx(float(value.value), abs=1e-8)
    assert certificate["residual"] < softmax.TOLERANCE


@pytest.mark.parametrize("labels", [PRIOR, 3 * PRIOR.flip(0)], ids=["at the prior", "elsewhere"])
def test_the_duality_gap_is_the_primal_less_the_dual(labels):
    weight = PROBLEM.absolute(GAMMA)
    certificate = PROBLEM.certificate(labels, weight, PRIOR)
    probabilities = [(A @ labels).softmax(1) for A in MATRICES]
    entropy = -sum((p * p.log()).sum() for p in probabilities) / (N * K)
    g = sum(A.T @ (p - HOT) for A, p in zip(MATRICES, probabilities, strict=True)) / (N * K)
    dual = float((g * PRIOR).sum() - g.square().sum() / (2 * weight) + entropy)
    assert certificate["duality_gap"] == pytest.approx(certificate["objective"] - dual, rel=1e-9)
    best, optimum = solve_softmax(PROBLEM, GAMMA, PRIOR)
    assert dual <= optimum["objective"] <= certificate["objective"]  # weak duality
    assert float((labels - best).norm()) <= certificate["gradient_norm"] / weight


def test_labels_stay_centred_and_a_warm_start_changes_nothing():
    labels, cold = solve_softmax(PROBLEM, GAMMA)
    torch.testing.assert_close(labels.sum(1), torch.zeros(n).double(), rtol=0, atol=1e-9)
    again, warm = solve_softmax(PROBLEM, GAMMA, start=labels)
    torch.testing.assert_close(again, labels, rtol=0, atol=1e-7)
    assert warm["iterations"] < cold["iterations"]


def test_a_factorised_response_gives_the_same():
    left, right = torch.randn(N, 3, generator=DRAW).double(), torch.randn(3, n, generator=DRAW).double()
    factored, product = Response.of(left, right), Response(left @ right)
    assert factored.right is not None  # n > d: fewer columns than the product has
    assert Response.of(left, right[:, :2]).right is None
    for response in (factored, product):
        assert (response.images, response.inputs) == (N, n)
    errors = torch.randn(N, C, generator=DRAW).double()
    torch.testing.assert_close(factored.logits(PRIOR), product.logits(PRIOR))
    torch.testing.assert_close(factored.pull(errors), product.pull(errors))
    torch.testing.assert_close(factored.gram(), product.gram())


def test_too_few_steps_are_an_error(monkeypatch):
    monkeypatch.setattr(softmax, "STEPS", 3)
    monkeypatch.setattr(softmax, "NEWTON_STEPS", 0)
    with pytest.raises(NotConvergedError, match="after 3 iterations and 0 Newton steps"):
        solve_softmax(PROBLEM, 1e-4)


def test_responses_of_zero_give_the_prior():
    nothing = SoftmaxProblem([Response(torch.zeros(N, n).double())], CLASSES, C)
    labels, certificate = solve_softmax(nothing, GAMMA, PRIOR)
    torch.testing.assert_close(labels, PRIOR, rtol=0, atol=1e-12)
    assert certificate["duality_gap"] < 1e-12
