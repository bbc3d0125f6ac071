"""Our closed form as a solver for cvxpylayers: the other way round.

A user who already has a ``cvxpylayers.torch.CvxpyLayer`` whose program is a quadratic with nothing but equality
constraints (ridge, least squares, equality-constrained QP) passes ``solver=ClosedForm()`` to it, and nothing else
changes. cvxpylayers hands over P, q, A, b of

    minimise ½ xᵀPx + qᵀx   subject to  Ax = b,

(least squares arrive with their residuals as variables, and equalities that define them), whose answer is one
symmetric system, factorised once for the whole batch, and used again for the gradient:

    [P  Aᵀ] [x]   [−q]                   [P  Aᵀ] [w₁]   [x̄]
    [A  0 ] [y] = [ b]                   [A  0 ] [w₂] = [ȳ]

    q̄ = −w₁,   b̄ = w₂,   P̄ = −½(w₁xᵀ + xw₁ᵀ),   Ā = −(y w₁ᵀ + w₂ xᵀ).

x̄ and ȳ are the cotangents of x and of the dual y. Both solves take a step of iterative refinement, and the
residual of both is checked for every batch element. Answers are float64, on the device of the inputs.

First derivatives only: cvxpylayers marks its backward pass so. Double backward through it raises, or, where the
loss depends on the parameters by another path as well, loses terms without an error, out of our reach. For more,
use :func:`convexdistill.layers.ridge` itself.

Importing this file imports cvxpylayers. Source: Boyd and Vandenberghe 2004, Convex Optimization, section 10.1.1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from cvxpy.reductions.solvers.conic_solvers.scs_conif import dims_to_solver_dict
from cvxpylayers.interfaces.base import SolverInterface
from torch import Tensor

from convexdistill.errors import (
    NonFiniteInputError,
    NotConvergedError,
    ParameterRangeError,
    SingularSystemError,
    UnsupportedError,
)

ACCEPT_BELOW = 1e-8
SINGULAR_BELOW = 1e-15
EQUALITIES_ONLY = (
    "ClosedForm solves quadratic programs with equality constraints only; this program has {found}. "
    "Give the layer another solver, or use convexdistill.layers.ConvexLayer, which takes every cone."
)
NAMES = {
    "l": "inequalities",
    "q": "second-order cones",
    "s": "semidefinite cones",
    "ep": "exponential cones",
    "p": "power cones",
    "pnd": "power cones",
}


class Structure(NamedTuple):
    """Where the entries of the canonical values go.

    Attributes:
        n: number of variables.
        m: number of equalities.
        P: rows and columns of the entries of P.
        A: rows and columns of the entries of A.
        b: rows of the entries of b.
    """

    n: int
    m: int
    P: tuple[Tensor, Tensor]
    A: tuple[Tensor, Tensor]
    b: Tensor


class Solved(NamedTuple):
    """What the backward pass needs: the system (batch, n + m, n + m), its factors, x and y."""

    system: Tensor
    factors: tuple[Tensor, Tensor]
    x: Tensor
    y: Tensor


class ClosedForm(SolverInterface):
    """Solve equality-constrained quadratic programs inside a ``CvxpyLayer`` in closed form.

    Raises:
        UnsupportedError: from the layer's constructor, when its program has other constraints.
        ParameterRangeError: from a call: the objective of a batch element is not convex.
        SingularSystemError: from a call: the minimiser of a batch element is not unique, or there is none.
        NotConvergedError: from a call or its backward pass: a residual is above 1e-8.
        NonFiniteInputError: from a call: an input is NaN or infinite.

    Example:
        >>> import cvxpy as cp, torch
        >>> from cvxpylayers.torch import CvxpyLayer
        >>> from convexdistill.layers.solver_interface import ClosedForm
        >>> X, y, w = cp.Parameter((6, 2)), cp.Parameter(6), cp.Variable(2)
        >>> ridge = cp.Problem(cp.Minimize(cp.sum_squares(X @ w - y) + 0.1 * cp.sum_squares(w)))
        >>> layer = CvxpyLayer(ridge, [X, y], [w], solver=ClosedForm())
        >>> (weight,) = layer(torch.ones(6, 2, dtype=torch.float64), torch.ones(6, dtype=torch.float64))
        >>> [round(entry, 4) for entry in weight.tolist()]
        [0.4959, 0.4959]
    """

    canon_solver = "SCS"
    supports_quad_obj = True
    structure: Structure | None = None

    def setup(self, ctx: Any) -> None:
        """Take the sparsity of the canonical form; called once, by cvxpylayers.

        Raises:
            UnsupportedError: there are constraints other than equalities, or another layer has this object.
        """
        if self.structure is not None:
            raise UnsupportedError(
                "a ClosedForm object belongs to one layer; give every layer its own ClosedForm()."
            )
        sizes: dict[str, Any] = dims_to_solver_dict(ctx.cone_dims)  # type: ignore[no-untyped-call]
        found = [NAMES.get(kind, kind) for kind, size in sizes.items() if kind != "z" and size]
        if found:
            raise UnsupportedError(EQUALITIES_ONLY.format(found=" and ".join(sorted(set(found)))))
        n, m = int(ctx.q.shape[0]) - 1, int(sizes.get("z", 0))
        rows, columns = _entries(ctx.reduced_A.problem_data_index)
        in_A = columns < n
        self.structure = Structure(
            n, m, _entries(ctx.reduced_P.problem_data_index), (rows[in_A], columns[in_A]), rows[~in_A]
        )

    def solve_torch_batch(self, P: Any, q: Any, A: Any, dims: Any, solver_args: Any, needs_grad: bool) -> Any:
        """Canonical values (batch, entries) -> x (batch, n), y (batch, m), and what the backward pass needs."""
        assert self.structure is not None
        n, m, in_P, in_A, in_b = self.structure
        values = [part.detach().double() for part in (q, A)] + ([] if P is None else [P.detach().double()])
        if not all(bool(torch.isfinite(part).all()) for part in values):
            raise NonFiniteInputError(
                "ClosedForm got canonical values that are NaN or infinite; look for the step that made them, "
                "upstream of the layer."
            )
        q, A, P = values[0][:, :n], values[1], values[2] if len(values) > 2 else None
        # Where only q and b differ (columns of labels as a batch, say) there is one system, factorised once.
        entries = len(in_A[0])
        one = bool((A[:, :entries] == A[:1, :entries]).all()) and (P is None or bool((P[:1] == P).all()))
        first = slice(0, 1) if one else slice(None)
        system = q.new_zeros(1 if one else len(q), n + m, n + m)
        if P is not None:
            rows, columns = (index.to(q.device) for index in in_P)
            system[:, rows, columns] += 0.5 * P[first]
            system[:, columns, rows] += 0.5 * P[first]
        # cvxpy writes Ax + b = 0: the sign of A turns, and b stays.
        rows, columns = (index.to(q.device) for index in in_A)
        system[:, n + rows, columns] = -A[first, :entries]
        system[:, columns, n + rows] = -A[first, :entries]
        right = torch.cat([-q, q.new_zeros(len(q), m)], -1)
        right[:, n + in_b.to(q.device)] = A[:, entries:]
        _require_convex(system[:, :n, :n], len(q))
        LU, pivots, info = torch.linalg.lu_factor_ex(system)
        pivot = LU.diagonal(dim1=-2, dim2=-1).abs()
        small = pivot.amin(-1) <= SINGULAR_BELOW * pivot.amax(-1) if n + m else info.bool()
        _refuse(((info != 0) | small).expand(len(q)))
        answer = _solve(system, (LU, pivots), right, "answer")
        x, y = answer[:, :n], answer[:, n:]
        return x, y, Solved(system, (LU, pivots), x, y) if needs_grad else None

    def derivative_torch_batch(self, dprimal: Any, ddual: Any, saved_state: Solved) -> Any:
        """Cotangents of x and y -> those of the canonical values."""
        assert self.structure is not None
        n, _, in_P, in_A, in_b = self.structure
        system, factors, x, y = saved_state
        device = x.device
        right = torch.cat([dprimal, ddual], -1).double()
        w = _solve(system, factors, right, "gradient")
        w1, w2 = w[:, :n], w[:, n:]
        rows, columns = (index.to(device) for index in in_P)
        P_bar = -0.5 * (w1[:, rows] * x[:, columns] + x[:, rows] * w1[:, columns])
        rows, columns = (index.to(device) for index in in_A)
        A_bar = y[:, rows] * w1[:, columns] + w2[:, rows] * x[:, columns]
        q_bar = torch.cat([-w1, w1.new_zeros(len(w1), 1)], -1)
        return P_bar if P_bar.shape[1] else None, q_bar, torch.cat([A_bar, w2[:, in_b.to(device)]], -1)


def _entries(structure: Any) -> tuple[Tensor, Tensor]:
    """Rows and columns of the stored entries of a matrix by columns; none where there is no matrix."""
    if structure is None:
        return torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    indices, pointers, _ = structure
    starts = torch.as_tensor(pointers, dtype=torch.long)
    columns = torch.repeat_interleave(torch.arange(len(starts) - 1), starts.diff())
    return torch.as_tensor(indices, dtype=torch.long), columns


def _solve(system: Tensor, factors: tuple[Tensor, Tensor], right: Tensor, what: str) -> Tensor:
    """Solve for one right-hand side (batch, n + m) an element, refine once, and check.

    Raises:
        NotConvergedError: an element's residual is above 1e-8.
    """
    LU, pivots = factors
    scale = right.abs().amax(-1, keepdim=True) if right.shape[-1] else right.new_ones(len(right), 1)
    scale = torch.where(scale > 0, scale, 1.0)  # a tiny cotangent is solved for as exactly as any other
    # One system for all: right-hand sides side by side.
    columns = (right / scale).mT.unsqueeze(0) if len(system) == 1 else (right / scale).unsqueeze(-1)
    found = torch.linalg.lu_solve(LU, pivots, columns)
    found = found + torch.linalg.lu_solve(LU, pivots, columns - system @ found)
    rest = torch.linalg.vector_norm(columns - system @ found, dim=-2).reshape(-1)
    size = torch.linalg.vector_norm(columns, dim=-2).reshape(-1)
    wrong = ~(rest <= ACCEPT_BELOW * size)
    if bool(wrong.any()):
        raise NotConvergedError(
            f"ClosedForm: the {what} is not accurate for batch elements {_first(wrong)} of {len(wrong)}, worst "
            f"relative residual {float((rest / size)[wrong].max()):.1e}; scale the inputs, or raise the quadratic "
            "term.",
            batch_indices=_indices(wrong),
        )
    answer: Tensor = scale * (found[0].mT if len(system) == 1 else found.squeeze(-1))
    return answer


def _require_convex(P: Tensor, batch: int) -> None:
    """Check that every P (batch, n, n) is positive semidefinite, up to rounding.

    Raises:
        ParameterRangeError: one is not, so that a stationary point is no minimum.
    """
    if not P.shape[-1]:
        return
    size = P.abs().amax((-2, -1)).clamp_min(1e-300)
    shift = 1e-11 * P.shape[-1] * size[:, None, None] * torch.eye(P.shape[-1], dtype=P.dtype, device=P.device)
    _, info = torch.linalg.cholesky_ex(P + shift)
    if bool((wrong := (info != 0).expand(batch)).any()):
        raise ParameterRangeError(
            f"ClosedForm: the objective is not convex for batch elements {_first(wrong)} of {len(wrong)}; look "
            "for a parameter that was declared nonneg or PSD and has a value that is not."
        )


def _refuse(wrong: Tensor) -> None:
    """Raise on systems that are singular to working precision.

    Raises:
        SingularSystemError: one is.
    """
    if bool(wrong.any()):
        raise SingularSystemError(
            f"ClosedForm: the system of batch elements {_first(wrong)} of {len(wrong)} is singular to working "
            "precision, so the solution is not unique or does not exist; add a quadratic term for every variable, "
            "and drop equalities that repeat others.",
            batch_indices=_indices(wrong),
        )


def _indices(wrong: Tensor) -> tuple[int, ...]:
    return tuple(torch.nonzero(wrong).reshape(-1).tolist())


def _first(wrong: Tensor) -> list[int]:
    return list(_indices(wrong)[:8])
