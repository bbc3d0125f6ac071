"""The contract between layers and backends.

A backend is a name, a few facts, and a plain dict from the class of a problem to the function that
solves it. To teach a backend a new problem, write that function in a file of its own and add it to the
dict; to add a backend, build a :class:`Backend` and hand it to
:func:`convexdistill.layers.register_backend`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from convexdistill.errors import UnknownNameError

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class SolveOptions:
    """What the caller asked of the solver.

    Attributes:
        form: ``"auto"``, ``"primal"`` or ``"dual"``.
        method: ``"auto"`` or a method that the backend knows.
        on_failure: what becomes of a gradient that is not accurate: ``"nan"`` fills it with NaN, everything
            else raises. (Answers are judged by the layer, not by the backend.)
        data_dependent: whether the solver may look at values, to escalate for example; false under
            ``torch.func`` transforms and ``torch.compile``.
    """

    form: str = "auto"
    method: str = "auto"
    on_failure: str = "raise"
    data_dependent: bool = True


@dataclass(frozen=True, eq=False)
class Solved:
    """A backend's answer: differentiable, and with the record of what really ran.

    Attributes:
        answer: the problem's unknown, (*B, d, C) for ridge; float64, on the device of the problem.
        form: what ran, ``"primal"`` or ``"dual"``.
        method: what ran, after any escalation.
        condition: (*B,) estimate of the condition number, or None.
        reported: (*B,) int8, the :class:`~convexdistill.layers.Status` of elements that the solver itself
            knows to have failed (singular, infeasible, …) and 0 elsewhere; None when there is none.
        dual: the certificate that ``problem.residual`` needs beside the answer, or None.
        residual: (*B,) ``problem.residual(answer, dual)``, where the solver had to work it out anyway.
        steps: (*B,) or () number of iterations, or None for a direct solver.
    """

    answer: Tensor
    form: str
    method: str
    condition: Tensor | None = None
    reported: Tensor | None = None
    dual: Tensor | None = None
    residual: Tensor | None = None
    steps: Tensor | None = None


@dataclass(frozen=True)
class Plan:
    """What a solver would run, and why: the answer of ``layers.explain``.

    Attributes:
        form: ``"primal"``, ``"dual"``, or what the backend calls its own.
        methods: the methods in the order in which they are tried.
        why: one clause that gives the reason.
    """

    form: str
    methods: tuple[str, ...]
    why: str


Solver = Callable[[Any, SolveOptions], Solved]
Planner = Callable[[Any, SolveOptions], Plan]


@dataclass(frozen=True, eq=False)
class Backend:
    """One way to solve the problems of the layers.

    Attributes:
        name: the word for ``backend=``.
        solvers: class of problem -> function ``(problem, options) -> Solved``.
        plans: class of problem -> function ``(problem, options) -> Plan``, for ``explain``; optional.
        summary: one sentence for ``backends()``.
        devices: kinds of device that its solves run on; inputs elsewhere are copied there and back.
        double_backward: whether gradients of gradients are right. A backend that says no must raise
            :class:`~convexdistill.errors.UnsupportedError` there, never drop a term.
        transforms: whether it runs under ``torch.func.vmap``, ``jacrev`` and ``torch.compile``.
        priority: ``backend="auto"`` takes the available backend of highest priority that solves the
            problem; a closed form is 100, a general solver 0.
        unavailable: returns why the backend cannot run here, or None when it can.
    """

    name: str
    solvers: Mapping[type, Solver] = field(default_factory=dict)
    plans: Mapping[type, Planner] = field(default_factory=dict)
    summary: str = ""
    devices: tuple[str, ...] = ("cpu",)
    double_backward: bool = False
    transforms: bool = False
    priority: int = 0
    unavailable: Callable[[], str | None] = lambda: None


def pick(argument: str, value: str, known: tuple[str, ...], owner: str = "") -> str:
    """Return ``value`` if it is one of ``known``, else raise an error that lists them.

    Raises:
        UnknownNameError: ``value`` is not known.
    """
    if value not in known:
        where = f" {owner}" if owner else ""
        words = ", ".join(repr(word) for word in known)
        raise UnknownNameError(f"{argument}={value!r} is not known{where}; use one of {words}.")
    return value


def inside_transform(*tensors: Tensor) -> bool:
    """Whether a ``torch.func`` transform or ``torch.compile`` is running, where values are hidden.

    Args:
        tensors: cotangents to look at: those of ``torch.autograd.grad(..., is_grads_batched=True)`` hide their
            values without any transform that could be seen.
    """
    if torch.compiler.is_compiling():
        return True
    if any(torch._C._functorch.is_legacy_batchedtensor(t) for t in tensors):
        return True
    return torch._C._functorch.peek_interpreter_stack() is not None


def never_compiled(function: Callable[P, R]) -> Callable[P, R]:
    """``torch.compiler.disable`` at the first call, not at once: it imports torch._dynamo, which takes seconds."""

    disabled: list[Callable[P, R]] = []  # once wrapped; a functools.cache is what Dynamo warns of

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if not disabled:
            disabled.append(torch.compiler.disable(function))
        return disabled[0](*args, **kwargs)

    return call


def inside_dual_level() -> bool:
    """Whether a ``torch.autograd.forward_ad.dual_level`` is open: tensors may carry forward-mode derivatives."""
    return forward_ad._current_level >= 0


def has_tangent(*tensors: Any) -> bool:
    """Whether any of the tensors carries a forward-mode derivative; other values carry none."""
    return inside_dual_level() and any(
        forward_ad.unpack_dual(t).tangent is not None for t in tensors if isinstance(t, Tensor)
    )
