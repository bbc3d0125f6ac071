"""The plug through which cvxpylayers hands its canonical programs to us, and gets verified answers back.

cvxpylayers compiles a ``cvxpy.Problem`` once: the canonical P, q, A, b are linear in the parameters, and it
evaluates those linear maps for a whole batch, forward and backward. What happens between (solve, verify, refine,
differentiate) is its ``SolverInterface``, of which this is one. Importing this file imports cvxpylayers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from cvxpy.reductions.solvers.conic_solvers.scs_conif import dims_to_solver_dict
from cvxpylayers.interfaces.base import SolverInterface

from convexdistill.errors import UnsupportedError
from convexdistill.layers.conic import solvers
from convexdistill.layers.conic.cones import Cones
from convexdistill.layers.conic.curved import Array
from convexdistill.layers.conic.program import (
    Point,
    Program,
    adjoint,
    infeasible,
    measure,
    refine,
    unbounded,
)
from convexdistill.layers.status import Status


@dataclass(eq=False)
class Outcome:
    """What became of one element: its program and point where there is one, and the record."""

    status: Status
    program: Program | None = None
    point: Point | None = None
    residual: float = float("nan")
    steps: int = 0
    solver: str = "none"

    @property
    def answer(self) -> tuple[Array, Array] | None:
        """x and y, or None where the element has no answer at all."""
        hopeless = self.status in (Status.INFEASIBLE, Status.UNBOUNDED)
        return None if hopeless or self.point is None else (self.point.x, self.point.y)


@dataclass(eq=False)
class Batch:
    """What the backward pass needs, and what it finds: the residual of every element's adjoint."""

    outcomes: list[Outcome]
    errors: Array = field(default_factory=lambda: np.zeros(0))


class Conic(SolverInterface):
    """Solve canonical programs one by one or all at once, verified; see ``program`` for the mathematics.

    Args:
        solver: a name, or ``"auto"``; see :func:`convexdistill.layers.conic.solvers.chain`.
        options: settings of that solver.
        accept_below: the residual up to which an answer is accepted.
    """

    canon_solver = "SCS"  # whose order of rows ``cones`` describes
    supports_quad_obj = True

    def __init__(self, solver: str, options: Mapping[str, Any], accept_below: float) -> None:
        self.solver, self.options, self.accept_below = solver, options, accept_below
        self.last: Batch | None = None

    def setup(self, ctx: Any) -> None:
        """Take the sparsity of the canonical matrices; called once, by cvxpylayers."""
        self.cones = cones_of(ctx.cone_dims)
        self.columns = int(ctx.q.shape[0]) - 1
        none = np.zeros(0, dtype=np.int64), np.zeros(self.columns + 2, dtype=np.int64), (0, self.columns + 1)
        self.A_structure = ctx.reduced_A.problem_data_index or none
        self.P_structure = ctx.reduced_P.problem_data_index
        self.names = solvers.chain(self.solver, self.cones)

    def solve_torch_batch(self, P: Any, q: Any, A: Any, dims: Any, solver_args: Any, needs_grad: bool) -> Any:
        """Canonical values (batch, entries) -> x (batch, n), y (batch, m), and the record of what became of each.

        ``solver_args["skip"]`` is a (batch,) mask of elements that are not to be solved.
        """
        programs = self._programs(P, q, A)
        skip = np.asarray(solver_args.get("skip", np.zeros(len(programs), dtype=bool)))
        batch = Batch(self._solve(programs, skip))
        primal, dual = (
            np.full((len(programs), self.columns), np.nan),
            np.full((len(programs), self.cones.rows), np.nan),
        )
        for i, outcome in enumerate(batch.outcomes):
            if (answer := outcome.answer) is not None:
                primal[i], dual[i] = answer
            if not needs_grad and outcome.point is not None:
                outcome.point.factor = None
        self.last = batch
        return torch.from_numpy(primal), torch.from_numpy(dual), batch

    def derivative_torch_batch(self, dprimal: Any, ddual: Any, saved_state: Batch) -> Any:
        """Cotangents of x and y -> those of the canonical values; NaN for elements without an answer.

        An element whose cotangent is zero contributes nothing, also when it has no answer: so one that is
        masked out of a loss does not spoil the gradient of what it shares with the others.
        """
        x_bars, y_bars = dprimal.numpy(), ddual.numpy()
        n, m, batch = x_bars.shape[1], y_bars.shape[1], len(x_bars)
        A_rows, A_columns, b_rows = self._places()
        P_rows, P_columns = self._places_of_quadratic()
        P_bar, q_bar = np.zeros((batch, len(P_rows))), np.zeros((batch, n + 1))
        A_bar = np.zeros((batch, len(A_rows) + len(b_rows)))
        saved_state.errors = np.zeros(batch)
        for i, outcome in enumerate(saved_state.outcomes):
            if not (x_bars[i].any() or y_bars[i].any()):
                continue
            if outcome.answer is None or outcome.program is None or outcome.point is None:
                P_bar[i] = q_bar[i] = A_bar[i] = np.nan
                continue
            point = outcome.point
            w1, w2, saved_state.errors[i] = adjoint(outcome.program, point, x_bars[i], y_bars[i])
            # cvxpy writes Ax + b in the cone where ``program`` writes b − Ax, so the sign of A turns.
            q_bar[i, :n] = -w1
            P_bar[i] = -0.5 * (w1[P_rows] * point.x[P_columns] + point.x[P_rows] * w1[P_columns])
            A_bar[i, : len(A_rows)] = point.y[A_rows] * w1[A_columns] + w2[A_rows] * point.x[A_columns]
            A_bar[i, len(A_rows) :] = w2[b_rows]
        assert m == self.cones.rows
        found = torch.from_numpy(P_bar) if self.P_structure is not None else None
        return found, torch.from_numpy(q_bar), torch.from_numpy(A_bar)

    def _solve(self, programs: Sequence[Program], skip: Any) -> list[Outcome]:
        outcomes = [
            Outcome(Status.NONFINITE_INPUT, program) if out or not program.finite else None
            for program, out in zip(programs, skip, strict=True)
        ]
        for name, scale in product(self.names, (True, False)):
            todo = [i for i, done in enumerate(outcomes) if done is None or _open(done)]
            if not todo:
                break
            answers = _ask(name, [programs[i] for i in todo], self.options, scale)
            for i, answer in zip(todo, answers, strict=True):
                outcome, before = self._judge(programs[i], answer, name), outcomes[i]
                if before is None or not _open(outcome) or outcome.residual < before.residual:
                    outcomes[i] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    def _judge(self, program: Program, answer: solvers.Answer, name: str) -> Outcome:
        """Verify an answer: the solver's verdict counts only where its certificate proves it."""
        found = Outcome(Status.INACCURATE, program, None, float("inf"), answer.steps, name)
        finite = all(np.isfinite(part).all() for part in (answer.x, answer.y, answer.s))
        if answer.verdict == "infeasible" and infeasible(program, answer.y):
            found.status = Status.INFEASIBLE
        elif answer.verdict == "unbounded" and unbounded(program, answer.x, answer.s):
            found.status = Status.UNBOUNDED
        elif finite:
            point = refine(program, measure(program, answer.x, answer.y - answer.s, answer.s))
            if not np.isnan(point.residual):
                found.point, found.residual = point, point.residual
            if point.residual <= self.accept_below:
                found.status = Status.OPTIMAL
            elif answer.verdict == "limit":
                found.status = Status.MAX_STEPS
        return found

    def _programs(self, P: Any, q: Any, A: Any) -> list[Program]:
        """The programs of a batch; cvxpy's constraint is Ax + b in the cone, with b the last column."""
        rows, pointers, (m, columns) = self.A_structure
        n, entries = int(columns) - 1, int(pointers[-2])
        programs = []
        for i in range(len(q)):
            values = A[i].numpy()
            matrix = sp.csc_array((-values[:entries], rows[:entries], pointers[:-1]), shape=(int(m), n))
            b = np.zeros(int(m))
            b[rows[entries:]] = values[entries:]
            if P is None or self.P_structure is None:
                quadratic = sp.csc_array((n, n))
            else:
                place, starts, _ = self.P_structure
                quadratic = sp.csc_array((P[i].numpy(), place, starts), shape=(n, n))
                quadratic = sp.csc_array(0.5 * (quadratic + quadratic.T))
            programs.append(Program(quadratic, q[i, :-1].numpy().copy(), matrix, b, self.cones))
        return programs

    def _places(self) -> tuple[Any, Any, Any]:
        """Row and column of every stored entry of A, and the rows of the stored entries of b."""
        rows, pointers, (_, columns) = self.A_structure
        entries = int(pointers[-2])
        return rows[:entries], np.repeat(np.arange(int(columns) - 1), np.diff(pointers[:-1])), rows[entries:]

    def _places_of_quadratic(self) -> tuple[Any, Any]:
        if self.P_structure is None:
            return np.zeros(0, dtype=int), np.zeros(0, dtype=int)
        rows, pointers, (_, columns) = self.P_structure
        return rows, np.repeat(np.arange(int(columns)), np.diff(pointers))


def cones_of(dims: Any) -> Cones:
    """Our description of cvxpy's cone dimensions.

    Raises:
        UnsupportedError: there is a cone we do not know.
    """
    sizes: dict[str, Any] = dims_to_solver_dict(dims)  # type: ignore[no-untyped-call]
    if sizes.get("pnd"):
        raise UnsupportedError(
            "the problem has power cones of more than three dimensions (cp.PowConeND); write them with "
            "cp.PowCone3D or cp.geo_mean(..., approx=True)."
        )
    return Cones(
        int(sizes.get("z", 0)),
        int(sizes.get("l", 0)),
        tuple(int(size) for size in sizes.get("q", [])),
        tuple(int(side) for side in sizes.get("s", [])),
        int(sizes.get("ep", 0)),
        tuple(float(alpha) for alpha in sizes.get("p", [])),
    )


def _ask(name: str, programs: list[Program], options: Mapping[str, Any], scale: bool) -> list[solvers.Answer]:
    """A solver's answers, to the programs in units of their own or as they are."""
    units = [program.scaled() if scale else (program, 1.0, 1.0) for program in programs]
    with np.errstate(all="ignore"):
        answers = _try(name, [program for program, _, _ in units], options)
        return [
            answer._replace(x=answer.x * of_x, s=answer.s * of_x, y=answer.y * of_y)
            for answer, (_, of_x, of_y) in zip(answers, units, strict=True)
        ]


def _try(name: str, programs: list[Program], options: Mapping[str, Any]) -> list[solvers.Answer]:
    """A solver's answers; one program that makes it raise does not spoil the others."""
    try:
        return solvers.SOLVERS[name](programs, options)
    except (ArithmeticError, RuntimeError, ValueError):
        if len(programs) > 1:
            return [answer for program in programs for answer in _try(name, [program], options)]
        m, n = programs[0].A.shape
        return [solvers.Answer(np.full(n, np.nan), np.full(m, np.nan), np.full(m, np.nan), "failed", 0)]


def _open(outcome: Outcome) -> bool:
    """Whether another solver may still do better."""
    return outcome.status in (Status.INACCURATE, Status.MAX_STEPS)
