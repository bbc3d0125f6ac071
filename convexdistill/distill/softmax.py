r"""The label solve under softmax cross-entropy: convex, solved to a certified distance from the optimum.

With the responses A_k (:mod:`convexdistill.distill.responses`), a_r the M = KN rows of all A_k, t_r the one-hot
class of the image behind row r, and lse(z) = log Σ_c exp z_c, minimise over Y (n×C)::

    P(Y) = 1/M Σ_r [ lse(a_r Y) − ⟨t_r, a_r Y⟩ ] + γ/2 ‖Y − Y₀‖²

A sum of convex functions of linear functions, so convex; γ makes it strongly convex. With p_r = softmax(a_r Y)::

    ∇P(Y) = 1/M Σ_r a_rᵀ (p_r − t_r) + γ (Y − Y₀)

**Duality gap.** The conjugate of lse is the negative entropy on the simplex Δ, that is lse(z) = max over p ∈ Δ of
⟨p, z⟩ + h(p), h(p) = −Σ_c p_c log p_c, with the maximum at softmax(z) (Boyd and Vandenberghe 2004, example 3.25).
Put into P, and the minimum over Y taken inside, this gives the dual function, with g(p) = 1/M Σ_r a_rᵀ(p_r −
t_r)::

    D(p) = min_Y { ⟨g(p), Y⟩ + γ/2 ‖Y − Y₀‖² } + 1/M Σ_r h(p_r)
         = ⟨g(p), Y₀⟩ − ‖g(p)‖² / 2γ + 1/M Σ_r h(p_r)   ≤   min P      for every p

At any Y, take p_r = softmax(a_r Y). There ⟨p_r, a_r Y⟩ + h(p_r) = lse(a_r Y), so P(Y) = ⟨g, Y⟩ + 1/M Σ h(p_r) +
γ/2 ‖Y − Y₀‖², and what is left of the difference is a square::

    P(Y) − D(p) = ⟨g, Y − Y₀⟩ + γ/2 ‖Y − Y₀‖² + ‖g‖²/2γ = ‖ g + γ(Y − Y₀) ‖² / 2γ = ‖∇P(Y)‖² / 2γ

So the gradient that the descent computes anyway bounds both the objective and, by strong convexity, the labels:
P(Y) − P(Y*) ≤ ‖∇P‖²/2γ and ‖Y − Y*‖ ≤ ‖∇P‖/γ.

**Descent.** L-BFGS in the variables Z = Lᵀ(Y − Y₀), LLᵀ = AᵀA/CM + γI: the Hessian of P where nothing is known yet
(p = 1/C) without its factor I − 11ᵀ/C, so that a step of length one is about right from the start. Böhning (1992)
uses the same matrix, with 1/2 for 1/C, as an upper bound of the Hessian everywhere. L-BFGS compares values of P,
which say nothing any more once they differ by less than rounding, at about the root of it in Y. The last steps are
Newton's, H D = −∇P by conjugate gradients in the same variables, and look at the gradient alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor

from convexdistill import progress
from convexdistill.distill.responses import Response, mean_gram
from convexdistill.errors import NotConvergedError

# Relative distance to the optimal labels at which the descent stops: below what float32 labels keep.
TOLERANCE = 1e-8
STEPS = 2000  # of L-BFGS, at most
NEWTON_STEPS = 20

Flat = np.ndarray[Any, np.dtype[np.float64]]


class SoftmaxProblem:
    """P of the module's docstring.

    Args:
        responses: one for each extractor, all of the same N target images and n base examples.
        classes: ``(N,)`` int64, the classes of the target images.
        num_classes: C.
    """

    def __init__(self, responses: Sequence[Response], classes: Tensor, num_classes: int) -> None:
        self.responses = list(responses)
        self.classes = classes
        self.num_classes = num_classes
        self.gram = mean_gram(self.responses)

    def absolute(self, gamma: float) -> float:
        """γ of the objective for γ relative to tr(H)/n, H = AᵀA/CM."""
        return gamma * float(self.gram.diagonal().mean()) / self.num_classes

    def loss(self, labels: Tensor) -> tuple[float, Tensor]:
        """The mean cross-entropy and its gradient ``(n, C)``: P without its last term."""
        value, gradient = 0.0, torch.zeros_like(labels)
        weight = 1 / (len(self.responses) * len(self.classes))
        index = self.classes[:, None]
        for response in self.responses:
            logs = response.logits(labels).log_softmax(1)
            value -= weight * float(logs.gather(1, index).sum())
            errors = logs.exp_()
            errors.scatter_add_(1, index, -torch.ones_like(index, dtype=errors.dtype))
            gradient += response.pull(errors) * weight
        return value, gradient

    def curvature(self, labels: Tensor) -> Callable[[Tensor], Tensor]:
        """The Hessian of the mean cross-entropy at ``labels``, as a function of a direction ``(n, C)``.

        1/M Σ_r a_rᵀ (diag p_r − p_r p_rᵀ) a_r V: keeps the M×C probabilities.
        """
        weight = 1 / (len(self.responses) * len(self.classes))
        probabilities = [response.logits(labels).softmax(1) for response in self.responses]

        def times(direction: Tensor) -> Tensor:
            total = torch.zeros_like(direction)
            for response, p in zip(self.responses, probabilities, strict=True):
                moved = response.logits(direction).mul_(p)
                total += response.pull(moved - p * moved.sum(1, keepdim=True))
            return total * weight

        return times

    def certificate(self, labels: Tensor, weight: float, prior: Tensor) -> dict[str, float]:
        """How good the labels are and how nearly optimal, from the labels alone; see the module's docstring.

        Args:
            labels: Y, ``(n, C)``.
            weight: γ, absolute.
            prior: Y₀, ``(n, C)``.
        """
        value, gradient = self.loss(labels)
        apart = labels - prior
        norm = float((gradient + weight * apart).norm())
        return {
            "outer_loss": value,
            "objective": value + weight / 2 * float(apart.square().sum()),
            "gradient_norm": norm,
            "duality_gap": norm**2 / (2 * weight),
            "residual": norm / weight / (float(labels.norm()) or 1.0),  # bounds ‖Y − Y*‖ / ‖Y‖
            "largest_label": float(labels.abs().max()),
        }


def solve_softmax(
    problem: SoftmaxProblem,
    gamma: float,
    prior: Tensor | None = None,
    start: Tensor | None = None,
    *,
    tolerance: float = TOLERANCE,
) -> tuple[Tensor, dict[str, Any]]:
    """The minimiser ``(n, C)`` of P, and its certificate.

    Args:
        problem: the pooled outer problem.
        gamma: γ relative to tr(H)/n; see :meth:`SoftmaxProblem.absolute`.
        prior: Y₀, ``(n, C)``; ``None`` for zero.
        start: where to start, for example the labels of another γ; ``None``: the prior.
        tolerance: relative distance to the optimal labels, certified, at which to stop.

    Raises:
        NotConvergedError: the labels may still be farther off.

    Example:
        >>> import torch
        >>> A = torch.eye(2, dtype=torch.float64)
        >>> problem = SoftmaxProblem([Response(A)], torch.tensor([0, 1]), 2)
        >>> labels, certificate = solve_softmax(problem, gamma=0.1)
        >>> bool((labels.argmax(1) == torch.tensor([0, 1])).all()), certificate["duality_gap"] < 1e-12
        (True, True)
    """
    n, C = problem.responses[0].inputs, problem.num_classes
    prior = torch.zeros(n, C, dtype=torch.float64) if prior is None else prior
    # Where every response is zero there is nothing to learn, and nothing to divide by.
    weight = problem.absolute(gamma) or 1.0
    root = torch.linalg.cholesky(problem.gram / C + weight * torch.eye(n, dtype=torch.float64))

    def away(flat: Flat) -> Tensor:
        apart: Tensor = torch.linalg.solve_triangular(root.T, torch.from_numpy(flat).view(n, C), upper=True)
        return apart

    def whitened(gradient: Tensor) -> Flat:
        values: Flat = torch.linalg.solve_triangular(root, gradient, upper=False).flatten().numpy()
        return values

    def objective(flat: Flat) -> tuple[float, Flat]:
        apart = away(flat)
        value, gradient = problem.loss(prior + apart)
        return value + weight / 2 * float(apart.square().sum()), whitened(gradient + weight * apart)

    def newton(flat: Flat) -> Flat:
        times = problem.curvature(prior + away(flat))

        def product(direction: Flat) -> Flat:
            step = away(direction)
            return whitened(times(step) + weight * step)

        operator = LinearOperator((n * C, n * C), matvec=product, dtype=np.float64)
        step: Flat = cg(operator, objective(flat)[1], rtol=1e-3, maxiter=200)[0]
        return np.subtract(flat, step)

    flat = (root.T @ ((prior if start is None else start) - prior)).flatten().numpy()
    with progress.task("descend cross-entropy", total=STEPS) as advance:
        found = minimize(
            objective,
            flat,
            jac=True,
            method="L-BFGS-B",
            callback=lambda _: advance(1),
            options={"maxcor": 30, "maxiter": STEPS, "maxfun": 2 * STEPS, "gtol": 1e-4, "ftol": 0.0},
        )
        advance(STEPS - int(found.nit))
    flat = found.x
    best = problem.certificate(prior + away(flat), weight, prior)
    steps = 0
    while best["residual"] > tolerance and steps < NEWTON_STEPS:
        further = newton(flat)
        certificate = problem.certificate(prior + away(further), weight, prior)
        if certificate["residual"] >= best["residual"]:
            break
        flat, best, steps = further, certificate, steps + 1
    if best["residual"] > tolerance:
        raise NotConvergedError(
            f"the cross-entropy descent stopped after {found.nit} iterations and {steps} Newton steps with labels "
            f"that may be {best['residual']:.1e} (relative) off, above {tolerance:.0e}; a larger gamma makes the "
            "problem easier"
        )
    facts = {"condition": None, "solver": "l-bfgs, newton-cg", "iterations": int(found.nit), "newton_steps": steps}
    return prior + away(flat), {**best, **facts}
