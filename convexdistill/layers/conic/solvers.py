"""Call MOREAU, Clarabel or SCS on cone programs, and bring what they say to one form.

Nothing here is believed: ``program`` measures every answer. Power and exponential cones, and quadratic
objectives, go to all three as they are; semidefinite cones not to MOREAU, and to Clarabel with the rows of
their triangles in its own order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from convexdistill.errors import BackendUnavailableError, ParameterRangeError
from convexdistill.layers.backends.base import pick
from convexdistill.layers.conic.cones import Cones
from convexdistill.layers.conic.curved import Array
from convexdistill.layers.conic.program import Program


class Answer(NamedTuple):
    """What a solver says: x, y, s (a certificate when the verdict is one), its verdict, and its steps.

    The verdict is ``"solved"``, ``"infeasible"``, ``"unbounded"``, ``"limit"`` (of steps or time) or ``"failed"``.
    """

    x: Array
    y: Array
    s: Array
    verdict: str
    steps: int


Solve = Callable[[Sequence[Program], Mapping[str, Any]], list[Answer]]


def chain(solver: str, cones: Cones) -> tuple[str, ...]:
    """The solvers to try in turn: one by its name, or for ``"auto"`` all that can.

    Raises:
        BackendUnavailableError: the solver is not installed.
        ParameterRangeError: it cannot solve a program with these cones.
        UnknownNameError: ``solver`` is not known.
    """
    pick("solver", solver, ("auto", *SOLVERS))
    if solver == "auto":
        return tuple(name for name in SOLVERS if find_spec(name) is not None and not _refusal(name, cones))
    if find_spec(solver) is None:
        raise BackendUnavailableError(
            f'solver="{solver}" cannot run here: {solver} is not installed; pip install {solver}, '
            'or use solver="auto".'
        )
    if reason := _refusal(solver, cones):
        raise ParameterRangeError(f'solver="{solver}" {reason}; use solver="auto".')
    return (solver,)


def check_options(solver: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a solver, after a look whether it has them.

    Raises:
        BackendUnavailableError: the solver is not installed.
        ParameterRangeError: it has no such setting, or settings are given without the name of a solver.
        UnknownNameError: ``solver`` is not known.
    """
    chain(solver, Cones(nonneg=1))
    if not options:
        return {}
    if solver == "auto":
        raise ParameterRangeError("solver_options are settings of one solver; name it, by solver=.")
    try:
        if solver == "moreau":
            unknown = set(options) - set(import_module("moreau").Settings.model_fields)
            _moreau_settings({name: value for name, value in options.items() if name not in unknown}, 1)
        elif solver == "clarabel":
            known = dir(import_module("clarabel").DefaultSettings())
            unknown = {name for name in options if name not in known}
            _clarabel_settings({name: value for name, value in options.items() if name not in unknown})
        else:
            one = sp.csc_matrix(np.ones((1, 1)))
            import_module("scs").SCS(
                {"A": one, "b": np.ones(1), "c": np.ones(1)}, {"l": 1}, verbose=False, **options
            )
            unknown = set()
    except (TypeError, ValueError) as error:
        raise ParameterRangeError(f"solver_options do not suit {solver}: {error}") from error
    if unknown:
        words = ", ".join(map(repr, sorted(unknown)))
        raise ParameterRangeError(f"solver_options: {words} is no setting of {solver}.")
    return dict(options)


def moreau(programs: Sequence[Program], options: Mapping[str, Any]) -> list[Answer]:
    """MOREAU's interior-point method, the whole batch in one call.

    Source: the library's ``CompiledSolver``. A solver object is made for every call: it is quick, and no two
    threads share one.
    """
    library: Any = import_module("moreau")
    first, batch = programs[0], len(programs)
    P, A = _rows(first.P), _rows(first.A)
    cones = library.Cones(
        num_zero_cones=first.cones.zero,
        num_nonneg_cones=first.cones.nonneg,
        so_cone_dims=list(first.cones.soc),
        num_exp_cones=first.cones.exp,
        power_alphas=list(first.cones.power),
    )
    settings = _moreau_settings(options, batch)
    solver = library.CompiledSolver(
        n=P.shape[0],
        m=A.shape[0],
        P_row_offsets=P.indptr,
        P_col_indices=P.indices,
        A_row_offsets=A.indptr,
        A_col_indices=A.indices,
        cones=cones,
        settings=settings,
    )
    solver.setup(np.stack([_rows(p.P).data for p in programs]), np.stack([_rows(p.A).data for p in programs]))
    found = solver.solve(np.stack([p.q for p in programs]), np.stack([p.b for p in programs]))
    names, steps = [status.name for status in solver.info.status], list(solver.info.iterations)
    x, z, s = (np.asarray(part).reshape(batch, -1) for part in (found.x, found.z, found.s))
    return [Answer(x[i], z[i], s[i], _verdict(names[i]), int(steps[i])) for i in range(batch)]


def clarabel(programs: Sequence[Program], options: Mapping[str, Any]) -> list[Answer]:
    """Clarabel, one program after another (Goulart and Chen 2024, arXiv 2405.12762)."""
    library: Any = import_module("clarabel")
    cones, order = programs[0].cones, _upper_by_columns(programs[0].cones)
    kinds = [library.ZeroConeT(cones.zero)] if cones.zero else []
    kinds += [library.NonnegativeConeT(cones.nonneg)] if cones.nonneg else []
    kinds += [library.SecondOrderConeT(size) for size in cones.soc]
    kinds += [library.PSDTriangleConeT(side) for side in cones.psd]
    kinds += [library.ExponentialConeT() for _ in range(cones.exp)]
    kinds += [library.PowerConeT(alpha) for alpha in cones.power]
    settings = _clarabel_settings(options)
    answers = []
    for program in programs:
        P, A = _triangle(program.P), sp.csc_matrix(_rows(program.A)[order])
        found = library.DefaultSolver(P, program.q, A, program.b[order], kinds, settings).solve()
        y, s = np.empty(len(order)), np.empty(len(order))
        y[order], s[order] = found.z, found.s
        answers.append(Answer(np.asarray(found.x), y, s, _verdict(str(found.status)), int(found.iterations)))
    return answers


def scs(programs: Sequence[Program], options: Mapping[str, Any]) -> list[Answer]:
    """SCS, one program after another (O'Donoghue 2021, arXiv 2004.02177)."""
    library: Any = import_module("scs")
    cones = programs[0].cones
    sizes = {
        "z": cones.zero,
        "l": cones.nonneg,
        "q": list(cones.soc),
        "s": list(cones.psd),
        "ep": cones.exp,
        "p": list(cones.power),
    }
    settings = {"verbose": False, "eps_abs": 1e-9, "eps_rel": 1e-9, "max_iters": 100_000, **options}
    verdicts = {1: "solved", -1: "unbounded", -2: "infeasible", 2: "limit", -6: "limit", -7: "limit"}
    answers = []
    for program in programs:
        data = {"P": _triangle(program.P), "A": sp.csc_matrix(program.A), "b": program.b, "c": program.q}
        found = library.SCS(data, sizes, **settings).solve()
        info = found["info"]
        verdict = verdicts.get(info["status_val"], "failed")
        answers.append(Answer(found["x"], found["y"], found["s"], verdict, int(info["iter"])))
    return answers


# In the order in which "auto" tries them.
SOLVERS: Mapping[str, Solve] = {"moreau": moreau, "clarabel": clarabel, "scs": scs}


def _refusal(solver: str, cones: Cones) -> str:
    """Why a solver cannot take these cones, or nothing."""
    if solver == "moreau" and (cones.psd or min(cones.soc, default=2) < 2):
        return "takes no semidefinite cones, nor second-order ones of dimension 1"
    return "takes no problems without constraints" if solver == "scs" and not cones.rows else ""


def _moreau_settings(options: Mapping[str, Any], batch: int) -> Any:
    library: Any = import_module("moreau")
    return library.Settings(**{"solver": "ipm", "device": "cpu", **options, "batch_size": batch})


def _clarabel_settings(options: Mapping[str, Any]) -> Any:
    settings = import_module("clarabel").DefaultSettings()
    # Presolve drops rows with bounds of 1e20 and more, and their duals with them. Threads do not pay at the size
    # of a batch element.
    for name, value in {"verbose": False, "presolve_enable": False, "max_threads": 1, **options}.items():
        setattr(settings, name, value)
    return settings


def _verdict(status: str) -> str:
    """The word for a status of Clarabel, whose names MOREAU shares."""
    words = {"PrimalInfeasible": "infeasible", "DualInfeasible": "unbounded", "Solved": "solved"}
    plain = status.removeprefix("Almost")
    return words.get(plain, "limit" if plain.startswith("Max") else "failed")


def _rows(matrix: Any) -> Any:
    return sp.csr_array(matrix)


def _triangle(P: Any) -> Any:
    return sp.csc_matrix(sp.triu(P))


def _upper_by_columns(cones: Cones) -> Any:
    """Which of our rows each of Clarabel's is: it stores upper triangles by columns, where we store lower ones."""
    start = cones.zero + cones.nonneg + sum(cones.soc)
    order = list(range(start))
    for side in cones.psd:
        place: dict[tuple[int, int], int] = {}
        for j in range(side):
            for i in range(j, side):
                place[i, j] = start + len(place)
        order += [place[j, i] for j in range(side) for i in range(j + 1)]
        start += len(place)
    return np.array(order + list(range(start, cones.rows)), dtype=np.int64)
