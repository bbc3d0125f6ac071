"""Projections onto exponential and power cones, and their derivatives; many three-dimensional cones at once.

Each cone is K = cl{s : g(s) ≤ 0} with a convex g that is smooth where it matters:

    exponential   g(x, y, z) = y exp(x/y) − z,          y > 0
    power α       g(x, y, z) = |z| − x^α y^(1−α),       x, y > 0

The projection s of p is p itself (p in K), 0 (−p in the dual cone), a point of a flat face (exponential cone,
p_x ≤ 0 and p_y ≤ 0: there s = (p_x, 0, p_z⁺)), or a point of the curved boundary, where

    s − p + μ ∇g(s) = 0,     g(s) = 0,     μ > 0.

These four equations are solved by Newton's method from the solver's own point, which is near; where that fails
(close to a face, mostly) by a search in one dimension: over the rays (r, 1, eʳ) of the exponential cone, over
r = |z| of the power cone. The surface is straight along the ray â = s/‖s‖ and bent only along ĉ ⟂ â, ∇g, so the
derivative of the projection is

    D = â âᵀ + ĉ ĉᵀ / (1 + μ ĉᵀ∇²g ĉ).

Where both fail the result is NaN, which no test of accuracy lets pass. Faces of the power cone are left out (they
are met only by p with p_z = 0 exactly) and give NaN as well.

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
FLAT = 300.0
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
        # Where |x/y| is so large that e to it is 0 or infinite, the cone is flat to the last digit.
        flat = ~inside & ~polar & (x < 0) & (y > 0) & (x / y < -FLAT)
        edge = ~inside & ~polar & (x > 0) & (z > 0) & (1 - y / x > FLAT)
    face = ~inside & ~polar & (x <= 0) & (y <= 0)
    s, D = _boundary(p, near, _exponential, ~(inside | polar | face | flat | edge), (1,), _search_exp)
    s[inside], D[inside] = p[inside], np.eye(3)
    s[polar], D[polar] = 0.0, 0.0
    s[face] = np.stack([x, np.zeros_like(x), np.maximum(z, 0.0)], -1)[face]
    D[face] = 0.0
    D[face, 0, 0], D[face, 2, 2] = 1.0, (z > 0)[face]
    s[flat] = np.stack([x, y, np.maximum(z, 0.0)], -1)[flat]
    D[flat] = np.diag([1.0, 1.0, 0.0])
    D[flat, 2, 2] = (z > 0)[flat]
    s[edge] = np.stack([0 * x, 0 * x, z], -1)[edge]
    D[edge] = np.diag([0.0, 0.0, 1.0])
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

    def search(p: Array) -> tuple[Array, Array]:
        return _search_power(p, alpha[rest])

    s, D = _boundary(p, near, curve, rest, (0, 1), search)
    s[inside], D[inside] = p[inside], np.eye(3)
    s[polar], D[polar] = 0.0, 0.0
    return s, D


def _boundary(
    p: Array,
    near: Array,
    curve: Curve,
    chosen: NDArray[np.bool_],
    held: tuple[int, ...],
    search: Callable[[Array], tuple[Array, Array]],
) -> tuple[Array, Array]:
    """Projections and derivatives of the chosen rows; NaN in every other row, and where both methods fail.

    ``held`` are the coordinates that the curve needs to be > 0; ``search`` is the method for where Newton's fails.
    """
    s_all, D_all = np.full_like(p, np.nan), np.full((len(p), 3, 3), np.nan)
    if not chosen.any():
        return s_all, D_all
    p, near = p[chosen], near[chosen]
    with np.errstate(all="ignore"):
        s, mu = _newton(p, np.where(np.isfinite(near), near, p), curve, held)
        failed = np.isnan(s[:, 0])
        if failed.any():
            slow, mu_slow = search(p)
            s, mu = np.where(failed[:, None], slow, s), np.where(failed, mu_slow, mu)
        _, gradient, hessian = curve(s)
        along = s / np.linalg.norm(s, axis=-1, keepdims=True)
        across = np.cross(along, gradient / np.linalg.norm(gradient, axis=-1, keepdims=True))
        across /= np.linalg.norm(across, axis=-1, keepdims=True)
        bend = mu * np.einsum("ki,kij,kj->k", across, hessian, across)
        D = along[:, :, None] * along[:, None, :]
        D += (across[:, :, None] * across[:, None, :]) / (1 + bend)[:, None, None]
    s_all[chosen], D_all[chosen] = s, D
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


def _search_exp(p: Array) -> tuple[Array, Array]:
    """s and μ for the exponential cone: the ray a(r) = (r, 1, eʳ) that comes nearest to p, by bisection.

    At the projection p = τa + μb with b = ∇g(a) = (eʳ, (1 − r)eʳ, −1), so that p·(a × b) = 0.
    """
    grid = np.sinh(np.linspace(-6.5, 6.5, 650))
    a, b = _rays(grid)
    down = p @ np.cross(a, b).T > 0  # whether p·a/‖a‖ falls
    near = (p @ a.T > 0) & (p @ b.T > 0)
    turns = ~down[:, :-1] & down[:, 1:] & (near[:, :-1] | near[:, 1:])
    first = turns.argmax(-1)
    low, high = grid[first], grid[first + 1]
    for _ in range(80):
        middle = 0.5 * (low + high)
        falls = np.einsum("ki,ki->k", p, np.cross(*_rays(middle))) > 0
        low, high = np.where(falls, low, middle), np.where(falls, middle, high)
    a, b = _rays(low)
    along, normal = np.einsum("ki,ki->k", p, a), np.einsum("ki,ki->k", p, b)
    found = turns.any(-1) & (along > 0) & (normal >= 0)
    s = np.where(found[:, None], along[:, None] * a, np.nan)
    return s, normal / np.linalg.norm(_exponential(s)[1], axis=-1)


def _rays(r: Array) -> tuple[Array, Array]:
    """a and b of rays r, as unit vectors; divided by eʳ where that is large."""
    down, up = np.exp(-np.maximum(r, 0)), np.exp(np.minimum(r, 0))
    a = np.stack([r * down, down, up], -1)
    b = np.stack([up, (1 - r) * up, -down], -1)
    return a / np.linalg.norm(a, axis=-1, keepdims=True), b / np.linalg.norm(b, axis=-1, keepdims=True)


def _search_power(p: Array, alpha: Array) -> tuple[Array, Array]:
    """s and μ for the power cone: s = (x, y, ±r) with r the root of x(r)^α y(r)^(1−α) − r in (0, |z|)."""
    size = np.abs(p[:, 2])
    low, high = np.full_like(size, -FLAT), np.full_like(size, FLAT)
    for _ in range(80):  # over w, with r = |z| / (1 + e⁻ʷ): exact for r near 0 and near |z|
        w = 0.5 * (low + high)
        r, mu = size / (1 + np.exp(-w)), size / (1 + np.exp(w))
        x, y = _root(p[:, 0], alpha * r * mu), _root(p[:, 1], (1 - alpha) * r * mu)
        above = x**alpha * y ** (1 - alpha) >= r
        low, high = np.where(above, w, low), np.where(above, high, w)
    return np.stack([x, y, np.sign(p[:, 2]) * r], -1), mu


def _root(p: Array, product: Array) -> Array:
    """The positive x with x(x − p) = product, without cancellation."""
    root = np.sqrt(p**2 + 4 * product)
    return np.where(p > 0, 0.5 * (p + root), 2 * product / (root - p))


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
