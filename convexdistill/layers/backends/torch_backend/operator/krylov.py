r"""Conjugate gradients for S x = Aᵀ E + B with S = AᵀA + λI, which is never formed: CGLS, preconditioned.

Hestenes & Stiefel 1952, in the least-squares form of Björck, Elfving & Strakoš 1998: beside x it carries
r = E − A x, and forms the residual of the normal equations as s = Aᵀ r + B − λ x in every step. That is more
exact than a recurrence for s, and the curvature ‖A p‖² + λ‖p‖² is never negative. After k steps the error is
at most 2((√κ − 1)/(√κ + 1))ᵏ of what it was, in the norm of S, where κ is the condition of P⁻¹S.

Every column of every batch element is a system of its own: it has its own step lengths, and rests once it has
converged. The true residual is formed again at the end, and the method starts anew from there if rounding has
made the recurrence forget it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from convexdistill.layers.operators import Products

RESTARTS = 5
DIVERGED = 1e6  # a residual norm that has grown so far above its smallest will not come back
EPSILON = torch.finfo(torch.float64).eps

Apply = Callable[[Tensor], Tensor]


class Krylov(NamedTuple):
    """What an iterative solver found.

    Attributes:
        x: (*B, d, C).
        steps: (*B, C) int64, how many steps each column took.
        open: (*B, C) bool, which columns had not converged when the steps ran out.
    """

    x: Tensor
    steps: Tensor
    open: Tensor


class System(NamedTuple):
    """S x = AᵀE + B, one of E and B at a time.

    Attributes:
        A: the products with A.
        size: (*B, 1), about ‖A‖.
        lam: (*B, 1, 1) or (*B, 1, C).
        E: (*B, n, C) or None for zero.
        B: (*B, d, C) or None for zero.
    """

    A: Products
    size: Tensor
    lam: Tensor
    E: Tensor | None
    B: Tensor | None

    def start(self) -> Tensor:
        """AᵀE + B, (*B, d, C)."""
        if self.E is None:
            assert self.B is not None
            return self.B
        right = self.A.rmatmul(self.E)
        return right if self.B is None else right + self.B

    def goal(self, rtol: float) -> Callable[[Tensor], Tensor]:
        """x -> (*B, C), the residual norm at which columns of x are done.

        That is ``rtol`` times the norm of the right-hand side, or what rounding leaves of the residual's terms.
        """
        right = norm(self.start())
        wanted = rtol * right
        terms = right if self.E is None else self.size * norm(self.E)
        S = self.size.square() + self.lam.squeeze(-2)
        return lambda x: torch.maximum(wanted, 4 * EPSILON * (terms + S * norm(x)))

    def residual(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """E − A x, and AᵀE + B − S x, from products with A itself."""
        r = self.A.matmul(-x)
        if self.E is not None:
            r = self.E + r
        return r, self.normal_residual(r, x)

    def normal_residual(self, r: Tensor, x: Tensor) -> Tensor:
        """Aᵀr + B − λx."""
        s = self.A.rmatmul(r) - self.lam * x
        return s if self.B is None else s + self.B


def conjugate_gradients(system: System, rtol: float, max_steps: int, precondition: Apply | None = None) -> Krylov:
    """Solve S x = AᵀE + B to a relative residual of ``rtol`` in every column, or as far as the steps last.

    Args:
        system: what to solve.
        rtol: see :meth:`System.goal`.
        max_steps: at most this many steps, restarts counted in.
        precondition: r -> P⁻¹ r, (*B, d, C), symmetric and positive definite; None for r itself.
    """
    b, goal = system.start(), system.goal(rtol)
    x = torch.zeros_like(b)
    steps = torch.zeros(b.shape[:-2] + b.shape[-1:], dtype=torch.int64, device=b.device)
    r, s = system.residual(x)
    size = norm(s)
    active = size > goal(x)
    taken = 0
    for _ in range(RESTARTS):
        if taken >= max_steps or not bool(active.any()):
            break
        x_before, size_before = x, size
        p, gamma, smallest = None, torch.zeros_like(size), size
        running = active
        while taken < max_steps and bool(running.any()):
            z = s if precondition is None else precondition(s)
            new = (s * z).sum(-2)
            p = z if p is None else z + divide(new, gamma).unsqueeze(-2) * p
            gamma = new
            q = system.A.matmul(p)
            curvature = (q * q).sum(-2) + (system.lam * p * p).sum(-2)
            alpha = torch.where(running, divide(gamma, curvature), 0.0).unsqueeze(-2)
            x, r = x + alpha * p, r - alpha * q
            s = system.normal_residual(r, x)
            taken += 1
            steps += running
            size = norm(s)
            smallest = torch.minimum(smallest, size)
            running = running & (size > goal(x)) & (size < DIVERGED * smallest)
        r, s = system.residual(x)
        size = norm(s)
        x = torch.where((size > size_before).unsqueeze(-2), x_before, x)
        # A restart that no longer helps has met the limit of the arithmetic.
        active = (size > goal(x)) & (size < 0.5 * size_before)
    return Krylov(x, steps, (norm(system.residual(x)[1]) > goal(x)) & (steps >= max_steps))


def norm(values: Tensor) -> Tensor:
    """Euclidean norm of every column, (*B, C)."""
    length: Tensor = torch.linalg.vector_norm(values, dim=-2)
    return length


def divide(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b is 0: what is left there is exact already."""
    return torch.where(b == 0, 0.0, a / torch.where(b == 0, 1.0, b))
