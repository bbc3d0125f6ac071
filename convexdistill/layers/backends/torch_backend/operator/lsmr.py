r"""LSMR of Fong & Saunders 2011 (SIAM J. Sci. Comput. 33): least squares by products, at the condition of A.

Golub–Kahan bidiagonalisation of Ã = [A; √λ I], and two QR factorisations by rotations, minimise ‖Ãᵀr‖ over the
Krylov space; ‖Ãᵀr‖ comes free as |ζ̄|. It never works with S = AᵀA + λI, whose condition is that of A squared,
and for λ = 0 it finds the least-squares answer of minimum norm.

The systems of a backward pass, S U = V̄ with any V̄, are two least-squares problems with the same Ã: Z = (Ãᵀ)⁺ V̄,
then U = Ã⁺ Z, since S⁻¹ = Ã⁺(Ãᵀ)⁺. So gradients, too, never see the squared condition within a step.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from convexdistill.layers.backends.torch_backend.operator.krylov import RESTARTS, Krylov, System, divide, norm

Product = Callable[[Tensor], Tensor]


def lsmr(system: System, rtol: float, max_steps: int) -> Krylov:
    """Solve S x = AᵀE + B to a relative residual of ``rtol`` in every column, or as far as the steps last.

    Args:
        system: what to solve.
        rtol: see :meth:`System.goal`; also how far one run reduces the residual of a problem on the way.
        max_steps: at most this many steps, restarts counted in.
    """
    A, root = system.A, system.lam.sqrt()
    n = A.shape[-2]

    def matmul(x: Tensor) -> Tensor:
        return torch.cat([A.matmul(x), root * x], dim=-2)

    def rmatmul(y: Tensor) -> Tensor:
        return A.rmatmul(y[..., :n, :]) + root * y[..., n:, :]

    b, goal = system.start(), system.goal(rtol)
    x = torch.zeros_like(b)
    steps = torch.zeros(b.shape[:-2] + b.shape[-1:], dtype=torch.int64, device=b.device)
    r, s = system.residual(x)
    before = None
    for _ in range(RESTARTS):
        size, target = norm(s), goal(x)
        active = size > target
        if before is not None:
            active &= size < 0.5 * before
        before = size
        left = max_steps - int(steps.max()) if steps.numel() else 0
        if left <= 0 or not bool(active.any()):
            break
        if system.B is None:
            correction, taken = _bidiagonalise(
                matmul, rmatmul, torch.cat([r, -root * x], dim=-2), torch.where(active, target, torch.inf), left
            )
        else:
            limit = torch.where(active, rtol * norm(matmul(s)), torch.inf)
            Z, first = _bidiagonalise(rmatmul, matmul, s, limit, left)
            limit = torch.where(active, torch.minimum(target, rtol * size), torch.inf)
            correction, second = _bidiagonalise(matmul, rmatmul, Z, limit, left)
            taken = torch.maximum(first, second)
        x, steps = x + correction, steps + taken
        r, s = system.residual(x)
    return Krylov(x, steps, (norm(s) > goal(x)) & (steps >= max_steps))


def _bidiagonalise(
    matmul: Product, rmatmul: Product, b: Tensor, target: Tensor, max_steps: int
) -> tuple[Tensor, Tensor]:
    """argmin ‖A x − b‖ of minimum norm, until ‖Aᵀr‖ ≤ ``target``; also the steps of every column.

    The letters are those of the paper's section 2.
    """
    u, beta = _unit(b)
    v, alpha = _unit(rmatmul(u))
    alpha_bar, zeta_bar = alpha, alpha * beta
    rho = rho_bar = c_bar = torch.ones_like(alpha)
    s_bar = torch.zeros_like(alpha)
    h, h_bar, x = v, torch.zeros_like(v), torch.zeros_like(v)
    steps = torch.zeros(alpha.shape, dtype=torch.int64, device=alpha.device)
    for _ in range(max_steps):
        active = zeta_bar.abs() > target
        if not bool(active.any()):
            break
        steps = steps + active
        u, beta = _unit(matmul(v) - alpha.unsqueeze(-2) * u)
        v, alpha = _unit(rmatmul(u) - beta.unsqueeze(-2) * v)
        # The rotation that removes β, and the one that removes θ from the factor of the factor.
        rho_old, rho = rho, torch.hypot(alpha_bar, beta)
        c, s = divide(alpha_bar, rho), divide(beta, rho)
        theta, alpha_bar = s * alpha, c * alpha
        rho_bar_old, theta_bar = rho_bar, s_bar * rho
        rho_bar = torch.hypot(c_bar * rho, theta)
        c_bar, s_bar = divide(c_bar * rho, rho_bar), divide(theta, rho_bar)
        zeta, zeta_bar = c_bar * zeta_bar, -s_bar * zeta_bar
        h_bar = h - divide(theta_bar * rho, rho_old * rho_bar_old).unsqueeze(-2) * h_bar
        x = x + torch.where(active, divide(zeta, rho * rho_bar), 0.0).unsqueeze(-2) * h_bar
        h = v - divide(theta, rho).unsqueeze(-2) * h
    return x, steps


def _unit(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Columns of length 1, and the lengths that they had."""
    length = norm(vectors)
    return divide(vectors, length.unsqueeze(-2)), length
