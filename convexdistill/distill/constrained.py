r"""Label solves under constraints on every row: a quadratic program with a projection.

The pooled outer problem (:mod:`convexdistill.distill.solve`) with rows of Y held in a convex set S::

    min f(Y) = ‖D Y − B‖² + γ ‖Y − Y₀‖²    subject to    y_i + 1/C ∈ S for every base example i

D is the design and B what is wanted, L and μ ≥ 2γ the largest and smallest eigenvalue of ∇²f = 2(DᵀD + γI). Labels
are centred, so S speaks of y + 1/C, the coordinates in which a one-hot label is 0 and 1.

Every S here has an exact Euclidean projection Π, so Nesterov's accelerated method applies (2004, "Introductory
Lectures on Convex Optimization", scheme 2.2.22: momentum (1 − √q)/(1 + √q), q = μ/L), with an error that falls
like (1 − √q)^k. A quadratic program of nC unknowns (:func:`convexdistill.layers.constrained_ridge`) would
factorise nC×nC matrices; this needs products with one n×n matrix. The tests compare both.

**Certificate.** For any point V, its step Y = Π(V − ∇f(V)/L) and G = L(V − Y), every feasible X has (loc. cit.,
corollary 2.2.3)::

    f(X) ≥ f(Y) + ⟨G, X − V⟩ + ‖G‖²/2L + μ/2 ‖X − V‖²

The right side is least at X = V − G/μ, whence a lower bound of the minimum, that is a duality gap, and, as f(Y) −
min f ≥ μ/2 ‖Y − Y*‖², a bound on the labels themselves::

    f(Y) − min f ≤ ‖G‖²/2 · (1/μ − 1/L)        ‖Y − Y*‖ ≤ ‖G‖ / μ
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from convexdistill.distill.solve import LabelSystem, solve_labels
from convexdistill.errors import NotConvergedError, ParameterRangeError, UnknownNameError

Projection = Callable[[Tensor], Tensor]

CONSTRAINTS = ("none", "simplex", "nonnegative", "row-sum", "box")
TOLERANCE = 1e-8
STEPS = 100_000
CHECK_EVERY = 20


def onto_simplex(rows: Tensor) -> Tensor:
    """The nearest probability vector to each row of ``(n, C)`` (Held, Wolfe and Crowder 1974).

    Example:
        >>> import torch
        >>> onto_simplex(torch.tensor([[0.9, 0.9, -3.0]]))
        tensor([[0.5000, 0.5000, 0.0000]])
    """
    ordered = rows.sort(1, descending=True).values
    excess = (ordered.cumsum(1) - 1) / torch.arange(1, rows.shape[1] + 1, dtype=rows.dtype)
    # The positive entries are those above the excess that they share out; the first one always is.
    support = (ordered > excess).sum(1, keepdim=True)
    return (rows - excess.gather(1, support - 1)).clamp_min(0)


def onto_sum(rows: Tensor) -> Tensor:
    """The nearest row of sum 1."""
    return rows - (rows.sum(1, keepdim=True) - 1) / rows.shape[1]


def projection(constraint: str, bounds: tuple[float, float]) -> Projection:
    """Π on rows y + 1/C.

    Raises:
        UnknownNameError: no such constraint.
        ParameterRangeError: the bounds are not in order.
    """
    if constraint not in CONSTRAINTS:
        raise UnknownNameError(f"unknown constraint {constraint!r}; known are {', '.join(CONSTRAINTS)}")
    low, high = bounds
    if not low < high:
        raise ParameterRangeError(f"bounds must be a lower and a higher number, found {low} and {high}")
    known: dict[str, Projection] = {
        "none": lambda rows: rows,
        "simplex": onto_simplex,
        "nonnegative": partial(torch.clamp, min=0),
        "row-sum": onto_sum,
        "box": partial(torch.clamp, min=low, max=high),
    }
    return known[constraint]


def solve_constrained(
    system: LabelSystem,
    gamma: float,
    prior: Tensor,
    constraint: str = "simplex",
    bounds: tuple[float, float] = (0.0, 1.0),
) -> tuple[Tensor, dict[str, Any]]:
    """The exact minimiser ``(n, C)`` under a constraint, centred, and its certificate.

    Args:
        system: see :func:`convexdistill.distill.solve.label_system`.
        gamma: γ relative to tr(H)/n.
        prior: Y₀, ``(n, C)``, centred.
        constraint: ``"none"``; ``"simplex"``: probabilities; ``"nonnegative"``; ``"row-sum"``: rows of sum 1;
            ``"box"``: entries within ``bounds``.
        bounds: of a box, in the coordinates where a one-hot label is 0 and 1.

    Raises:
        UnknownNameError: no such constraint.
        ParameterRangeError: the bounds are not in order.
        NotConvergedError: the labels may still be more than a relative 1e-8 off after 100,000 steps.
    """
    project = projection(constraint, bounds)
    if constraint == "none":
        return solve_labels(system, gamma, prior)
    weight, share = system.absolute(gamma), 1 / prior.shape[1]
    hessian = 2 * (system.design.T @ system.design + weight * torch.eye(len(prior), dtype=torch.float64))
    pull = 2 * (system.design.T @ system.wanted + weight * prior)
    values = torch.linalg.eigvalsh(hessian)
    low, high = float(values[0]), float(values[-1])
    if high == 0:  # every feature is zero: the prior's projection, in one step
        low = high = 1.0
    root = (low / high) ** 0.5
    momentum = (1 - root) / (1 + root)

    def step(point: Tensor) -> Tensor:
        return project(point - (hessian @ point - pull) / high + share) - share

    labels = ahead = project(prior + share) - share
    distance, steps = float("inf"), 0
    while distance > TOLERANCE and steps < STEPS:
        for _ in range(CHECK_EVERY):
            last, labels = labels, step(ahead)
            ahead = labels + momentum * (labels - last)
        steps += CHECK_EVERY
        # The certificate is that of a plain step from where the descent stands.
        here, labels = labels, step(labels)
        mapping = high * float((here - labels).norm())
        distance = mapping / low / (float(labels.norm()) or 1.0)
        ahead = labels + momentum * (labels - here)
    if distance > TOLERANCE:
        raise NotConvergedError(
            f"the label solve under {constraint!r} stopped after {steps} steps with labels that may be "
            f"{distance:.1e} (relative) off, above {TOLERANCE:.0e}; a larger gamma makes the problem easier"
        )
    certificate = {
        **system.certificate(labels, gamma, prior),
        "residual": distance,
        "duality_gap": mapping**2 / 2 * (1 / low - 1 / high),
        "condition": high / low,
    }
    return labels, {**certificate, "solver": f"accelerated projection/{constraint}", "iterations": steps}
