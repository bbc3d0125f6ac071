"""The contract between layers and backends.

A backend is a name, a few facts, and a plain dict from the class of a problem to the function that
solves it. To teach a backend a new problem, write that function in a file of its own and add it to the
dict; to add a backend, build a :class:`Backend` and hand it to
:func:`convexdistill.layers.register_backend`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from convexdistill.errors import UnknownNameError


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
        weight: (*B, d, C) float64, on the device of the problem.
        form: what ran, ``"primal"`` or ``"dual"``.
        method: what ran, after any escalation.
        condition: (*B,) estimate of the condition number, or None.
        singular: (*B,) bool, where the system is singular to working precision, or None.
    """

    weight: Tensor
    form: str
    method: str
    condition: Tensor | None = None
    singular: Tensor | None = None


Solver = Callable[[Any, SolveOptions], Solved]


@dataclass(frozen=True, eq=False)
class Backend:
    """One way to solve the problems of the layers.

    Attributes:
        name: the word for ``backend=``.
        solvers: class of problem -> function ``(problem, options) -> Solved``.
        summary: one sentence for ``backends()``.
        double_backward: whether gradients of gradients are right. A backend that says no must raise
            :class:`~convexdistill.errors.UnsupportedError` there, never drop a term.
        transforms: whether it runs under ``torch.func.vmap``, ``jacrev`` and ``torch.compile``.
        priority: ``backend="auto"`` takes the available backend of highest priority that solves the
            problem; a closed form is 100, a general solver 0.
        unavailable: returns why the backend cannot run here, or None when it can.
    """

    name: str
    solvers: Mapping[type, Solver] = field(default_factory=dict)
    summary: str = ""
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


def inside_transform() -> bool:
    """Whether a ``torch.func`` transform or ``torch.compile`` is running, where values are hidden."""
    if torch.compiler.is_compiling():
        return True
    return torch._C._functorch.peek_interpreter_stack() is not None
