"""The road that every layer takes: check, reduce to a plain problem, solve, verify, hand back.

A layer says what its arguments are and how they become a problem; :func:`run` does the rest, so that every
layer and every backend has the same checks, the same policy for failures, and the same record of what ran.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from convexdistill.errors import UnsupportedError
from convexdistill.layers import arguments as args
from convexdistill.layers import failure
from convexdistill.layers.arguments import Argument, Rule, Values
from convexdistill.layers.backends import capabilities, select, torch_backend
from convexdistill.layers.backends.base import Backend, Plan, Solved, SolveOptions, inside_transform, pick
from convexdistill.layers.problems.base import Problem
from convexdistill.layers.solution import LinearFit, SolveInfo

FORMS = ("auto", "primal", "dual")

Recover = Callable[[Tensor], tuple[Tensor, Tensor | None]]
Build = Callable[[Values], tuple[Problem, Recover]]


@dataclass(frozen=True, eq=False)
class Announcement:
    """What a layer is about to solve: what ``explain`` looks at.

    Attributes:
        problem: what it is called.
        backend: who solves it.
        plan: () -> how.
        instance: the problem itself, where a registered solver is to solve it.
        options: what that solver is asked for.
    """

    problem: str
    backend: str
    plan: Callable[[], Plan]
    instance: Problem | None = None
    options: SolveOptions | None = None


# explain() listens here, and stops the road before the solve.
LISTENER: ContextVar[Callable[[Announcement], None] | None] = ContextVar("listener", default=None)


def announce(
    problem: str,
    backend: str,
    plan: Callable[[], Plan],
    instance: Problem | None = None,
    options: SolveOptions | None = None,
) -> None:
    """Say what would be solved now, if anybody listens; every layer does so right before its solve."""
    if (listener := LISTENER.get()) is not None:
        listener(Announcement(problem, backend, plan, instance, options))


def run(
    problem_class: type,
    arguments: Sequence[Argument],
    build: Build,
    *,
    backend: str,
    form: str,
    method: str,
    on_failure: str,
    vector_labels: bool = False,
    rules: Sequence[Rule] = (),
) -> LinearFit:
    """Solve a layer's problem for every batch element, and verify every answer.

    Args:
        problem_class: what ``build`` returns, by which the backend is chosen.
        arguments: the user's arguments; the first is a tensor, whose dtype and device the answer will have.
        build: float64 values by name -> the problem, and the function from its answer to (weight, intercept).
        backend: a name, or ``"auto"``.
        form: one of ``FORMS``.
        method: ``"auto"``, or one that the backend knows.
        on_failure: ``"raise"``, ``"warn"`` or ``"nan"``; acts as ``"nan"`` under transforms, where values are
            hidden.
        vector_labels: whether ``labels`` were vectors (*B, n); they become one column, and the answer a vector.
        rules: conditions on values.

    Raises:
        InvalidInputError: an argument is wrong; see :mod:`convexdistill.layers.arguments`.
        UnknownNameError: a word is not known.
        SolveError: an element was not solved, and ``on_failure="raise"``.
        UnsupportedError: a transform, ``torch.compile`` or forward mode runs, and the backend cannot.
    """
    pick("form", form, FORMS)
    pick("on_failure", on_failure, failure.POLICIES)
    solver = select(backend, problem_class)
    if not solver.transforms:
        capabilities.refuse_transforms(solver, problem_class, *(a.value for a in arguments))
    if vector_labels:
        arguments = [
            a._replace(value=a.value.unsqueeze(-1)) if a.name == "labels" and isinstance(a.value, Tensor) else a
            for a in arguments
        ]
    values = args.convert(arguments)
    hidden = inside_transform()
    if hidden:
        on_failure = "nan"
    nonfinite = invalid = None
    if on_failure == "nan":
        values, nonfinite, invalid = args.sanitise(arguments, values, rules)
    else:
        if _not_finite(values):
            args.check_finite(arguments)
        args.check_signs(arguments, values, rules)
    problem, recover = build(values)
    options = SolveOptions(form, method, on_failure, data_dependent=not hidden and may_look(on_failure, values))
    if not hidden:
        plan = partial(plan_of, solver, problem, options)
        announce(problem_class.__name__, solver.name, plan, problem, options)
    solved = solver.solvers[problem_class](problem, options)
    if not solver.transforms:
        solved = capabilities.guard_gradient(solver, problem_class, solved)
    info = verify(solver, problem, solved, nonfinite, invalid)

    weight, bias = recover(solved.answer)
    first = arguments[0].value
    if isinstance(first, Tensor) and first.dtype != weight.dtype:
        weight, bias = weight.to(first.dtype), None if bias is None else bias.to(first.dtype)
        info = failure.mark_overflow(info, weight, bias)
    failure.enforce(info, on_failure)
    if on_failure == "nan":
        failed = (info.status != 0)[..., None]
        weight = weight.masked_fill(failed[..., None], float("nan"))
        bias = None if bias is None else bias.masked_fill(failed, float("nan"))
    if vector_labels:
        weight, bias = weight.squeeze(-1), None if bias is None else bias.squeeze(-1)
    return LinearFit(weight, bias, info, vector_labels)


def plan_of(backend: Backend, problem: Problem, options: SolveOptions) -> Plan:
    """What a backend says that it would run, or that it does not say."""
    planner = backend.plans.get(type(problem))
    if planner is None:
        return Plan(options.form, (options.method,), "the backend does not say more")
    return planner(problem, options)


def may_look(on_failure: str, values: Values) -> bool:
    """Whether a solver may look at values, to escalate for example.

    ``"nan"`` promises not to wait for a device, so there what Cholesky cannot solve becomes NaN at once. The CPU
    has nothing to wait for.
    """
    return on_failure != "nan" or all(v.device.type == "cpu" for v in values.values() if v is not None)


def verify(
    backend: Backend,
    problem: Problem,
    solved: Solved,
    nonfinite: Tensor | None = None,
    invalid: Tensor | None = None,
) -> SolveInfo:
    """Judge a backend's answer by the optimality residual, which only the package's own solvers may bring along.

    Raises:
        UnsupportedError: another backend's answer has the wrong shape.
    """
    residual = solved.residual
    if backend is not torch_backend.BACKEND:
        residual = None
        if solved.answer.shape != problem.answer_shape:
            raise UnsupportedError(
                f"backend {backend.name!r} returned an answer of shape {tuple(solved.answer.shape)} to a "
                f"{type(problem).__name__}; it must return {tuple(problem.answer_shape)}."
            )
    if residual is None:
        residual = problem.residual(solved.answer, solved.dual)
    status = failure.judge(residual, solved.reported, nonfinite, invalid)
    return SolveInfo(backend.name, solved.form, solved.method, status, residual, solved.condition, solved.steps)


def _not_finite(values: Values) -> bool:
    """Whether a value may be NaN or infinite; a sum keeps both, and is cheap where ``isfinite`` is not."""
    total = sum(v.detach().sum() for v in values.values() if v is not None)
    return not bool(torch.isfinite(torch.as_tensor(total)))
