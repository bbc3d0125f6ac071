"""Projections onto exponential and power cones, and their derivatives; many three-dimensional cones at once.

Each cone is K = cl{s : g(s) ≤ 0} with a convex g that is smooth where it matters:

    exponential   g(x, y, z) = y exp(x/y) − z,          y > 0
    power α       g(x, y, z) = |z| − x^α y^(1−α),       x, y > 0

The projection s of p is p itself (p in K), 0 (−p in the dual cone), a point of a flat face (exponential cone,
p_x ≤ 0 and p_y ≤ 0: there s = (p_x, 0, p_z⁺)), or a point of the curved boundary, where

    s − p + μ ∇g(s) = 0,     g(s) = 0,     μ > 0.

These four equations are solved by Newton's method from the solver's own point, which is near; where that
fails, from the best of many points of the boundary (exponential), or from a bisection (power).
Differentiating them gives the derivative of the projection, the upper left 3×3 block of

    [I + μ ∇²g   ∇g]⁻¹
    [ ∇gᵀ         0]

Where Newton's method fails the result is NaN, which no test of accuracy lets pass. Faces of the power cone are
left out (they are met only by p with p_z = 0 exactly) and give NaN as well.

Source: Friberg 2023, "Projection onto the exponential cone: a univariate root-finding problem"; Hien 2015,
"Differential properties of Euclidean projections onto power cone".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Curve = Callable[[Array], tuple[Array, Array, Array]]

STEPS = 50
CONVERGED = 1e-13


def project_exp(p: Array, near: Array) -> tuple[Array, Array]:
    """Project rows p (k, 3) onto the exponential cone; ``near`` is where Newton's method starts.

    Returns:
        The projections (k, 3) and their derivatives (k, 3, 3).
    """
    x, y, z = p.T
    with np.errstate(all="ignore"):
        inside = ((y > 0) & (y * np.exp(x / y) <= z)) | ((y == 0) & (x <= 0) & (z >= 0))
        # −p in the dual cone cl{(u, v, w) : u < 0, −u exp(v/u) ≤ e w}
        polar = ((x > 0) & (x * np.exp(y / x) <= -np.e * z)) | ((x == 0) & (y <= 0) & (z <= 0))
    face = ~inside & ~polar & (x <= 0) & (y <= 0)
    s, D = _boundary(p, near, _exponential, ~(inside | polar | face), (1,), _scan)
    s[inside], D[inside] = p[inside], np.eye(3)
    s[polar], D[polar] = 0.0, 0.0
    s[face] = np.stack([x, np.zeros_like(x), np.maximum(z, 0.0)], -1)[face]
    D[face] = 0.0
    D[face, 0, 0], D[face, 2, 2] = 1.0, (z > 0)[face]
    return s, D


def project_power(p: Array, alpha: Array, near: Array) -> tuple[Array, Array]:
    """Project rows p (k, 3) onto the power cones of exponents alpha (k,); otherwise as :func:`project_exp`."""
    x, y, z = p.T
    with np.errstate(all="ignore"):
        inside = (x >= 0) & (y >= 0) & (x**alpha * y ** (1 - alpha) >= np.abs(z))
        bound = (-x / alpha) ** alpha * (-y / (1 - alpha)) ** (1 - alpha)
        polar = (x <= 0) & (y <= 0) & (bound >= np.abs(z))
    rest = ~(inside | polar) & (z != 0)

    def curve(s: Array) -> tuple[Array, Array, Array]:
        return _power(s, alpha[rest])

    def start(p: Array) -> Array:
        return _bisect(p, alpha[rest])

    s, D = _boundary(p, near, curve, rest, (0, 1), start)
    s[inside], D[inside] = p[inside], np.eye(3)
    s[polar], D[polar] = 0.0, 0.0
    return s, D


def _boundary(
    p: Array,
    near: Array,
    curve: Curve,
    chosen: NDArray[np.bool_],
    held: tuple[int, ...],
    start: Callable[[Array], Array],
) -> tuple[Array, Array]:
    """Newton's method for the four equations of the chosen rows; NaN in every other row, and where it fails.

    ``held`` are the coordinates that the curve needs to be > 0; ``start`` gives the second point to start from.
    """
    s_all, D_all = np.full_like(p, np.nan), np.full((len(p), 3, 3), np.nan)
    if not chosen.any():
        return s_all, D_all
    p, near = p[chosen], near[chosen]
    with np.errstate(all="ignore"):
        s, mu = _newton(p, np.where(np.isfinite(near), near, p), curve, held)
        if np.isnan(s).any():
            again, mu_again = _newton(p, start(p), curve, held)
            failed = np.isnan(s[:, 0])
            s, mu = np.where(failed[:, None], again, s), np.where(failed, mu_again, mu)
        _, gradient, hessian = curve(s)
        inverse = _solve(_bordered(gradient, hessian, mu), np.broadcast_to(np.eye(4), (len(p), 4, 4)))
    s_all[chosen], D_all[chosen] = s, inverse[:, :3, :3]
    return s_all, D_all


def _newton(p: Array, s: Array, curve: Curve, held: tuple[int, ...]) -> tuple[Array, Array]:
    """s and μ of rows p from a start s; NaN where it does not converge to one with μ ≥ 0."""
    size, s = np.abs(p).max(-1), s.copy()
    for i in held:
        s[:, i] = np.maximum(s[:, i], 1e-8 * size)
    mu = np.linalg.norm(p - s, axis=-1) / np.linalg.norm(curve(s)[1], axis=-1)
    before = np.full(len(p), np.inf)
    for _ in range(STEPS):
        g, gradient, hessian = curve(s)
        rest = np.concatenate([s - p + mu[:, None] * gradient, g[:, None]], -1)
        error = np.abs(rest).max(-1) / size
        if ((error <= 1e-15) | ((error <= CONVERGED) & (error >= 0.5 * before))).all():
            break  # what is left is rounding
        before = error
        step = _solve(_bordered(gradient, hessian, mu), rest[..., None])[..., 0]
        length = np.ones(len(p))
        for i in held:  # stay where the curve is defined
            shortest = 0.9 * s[:, i] / step[:, i]
            length = np.where(step[:, i] > 0.9 * s[:, i], np.minimum(length, shortest), length)
        s, mu = s - length[:, None] * step[:, :3], mu - length * step[:, 3]
    g, gradient, _ = curve(s)
    rest = np.concatenate([s - p + mu[:, None] * gradient, g[:, None]], -1)
    good = (np.abs(rest).max(-1) <= CONVERGED * size) & (mu >= 0)
    return np.where(good[:, None], s, np.nan), np.where(good, mu, np.nan)


def _scan(p: Array) -> Array:
    """Start for the exponential cone: the boundary ray (r, 1, eʳ) whose normal plane comes nearest to p.

    At the projection p = τ a + μ b with a = (r, 1, eʳ), b = ∇g(a), τ > 0, μ > 0, so p·(a × b) = 0.
    """
    r = np.linspace(-20.0, 20.0, 1601)
    e = np.exp(r)
    a = np.stack([r, np.ones_like(r), e], -1)
    b = np.stack([e, (1 - r) * e, -np.ones_like(r)], -1)
    a /= np.linalg.norm(a, axis=-1, keepdims=True)
    b /= np.linalg.norm(b, axis=-1, keepdims=True)
    along, across = p @ a.T, np.abs(p @ np.cross(a, b).T)
    best = np.where((along > 0) & (p @ b.T > 0), across, np.inf).argmin(-1)
    start: Array = along[np.arange(len(p)), best, None] * a[best]
    return start


def _bisect(p: Array, alpha: Array) -> Array:
    """Start for the power cone: (x, y, ±r) with r the root of x(r)^α y(r)^(1−α) − r in (0, |z|) (Hien 2015)."""
    size = np.abs(p[:, 2])
    low, high = np.zeros_like(size), size.copy()
    for _ in range(60):
        r = 0.5 * (low + high)
        x = 0.5 * (p[:, 0] + np.sqrt(p[:, 0] ** 2 + 4 * alpha * r * (size - r)))
        y = 0.5 * (p[:, 1] + np.sqrt(p[:, 1] ** 2 + 4 * (1 - alpha) * r * (size - r)))
        above = x**alpha * y ** (1 - alpha) >= r
        low, high = np.where(above, r, low), np.where(above, high, r)
    return np.stack([x, y, np.sign(p[:, 2]) * r], -1)


def _bordered(gradient: Array, hessian: Array, mu: Array) -> Array:
    system = np.zeros((len(mu), 4, 4))
    system[:, :3, :3] = np.eye(3) + mu[:, None, None] * hessian
    system[:, :3, 3] = system[:, 3, :3] = gradient
    return system


def _solve(systems: Array, right: Array) -> Array:
    """Solve many small systems; NaN for those that are singular or hold NaN."""
    good = np.isfinite(systems).all((-2, -1)) & np.isfinite(right).all((-2, -1))
    out = np.full(right.shape, np.nan)
    try:
        out[good] = np.linalg.solve(systems[good], right[good])
    except np.linalg.LinAlgError:  # one singular system raises for all
        for i in np.flatnonzero(good):
            if np.linalg.cond(systems[i]) < 1e15:
                out[i] = np.linalg.solve(systems[i], right[i])
    return out


def _exponential(s: Array) -> tuple[Array, Array, Array]:
    """g, ∇g, ∇²g of y exp(x/y) − z; the Hessian is (e^r / y) u uᵀ with r = x/y and u = (1, −r, 0)."""
    x, y, z = s.T
    r = x / y
    e = np.exp(r)
    gradient = np.stack([e, e * (1 - r), -np.ones_like(e)], -1)
    u = np.stack([np.ones_like(r), -r, np.zeros_like(r)], -1)
    return y * e - z, gradient, (e / y)[:, None, None] * u[:, :, None] * u[:, None, :]


def _power(s: Array, alpha: Array) -> tuple[Array, Array, Array]:
    """g, ∇g, ∇²g of |z| − f, f = x^α y^(1−α); ∇²f = −α(1−α) f u uᵀ with u = (1/x, −1/y, 0)."""
    x, y, z = s.T
    f = x**alpha * y ** (1 - alpha)
    gradient = np.stack([-alpha * f / x, -(1 - alpha) * f / y, np.sign(z)], -1)
    u = np.stack([1 / x, -1 / y, np.zeros_like(x)], -1)
    return np.abs(z) - f, gradient, (alpha * (1 - alpha) * f)[:, None, None] * u[:, :, None] * u[:, None, :]
