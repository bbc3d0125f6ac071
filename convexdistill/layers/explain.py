"""Say what a layer would run, and why, without running it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from convexdistill.errors import UnsupportedError
from convexdistill.layers.pipeline import LISTENER, Announcement


@dataclass(frozen=True)
class Explanation:
    """What would run.

    Attributes:
        problem: the class of problem that the layer reduces its arguments to, such as ``"RidgeProblem"``.
        backend: the backend that would solve it.
        form: ``"primal"``, ``"dual"``, or what the backend calls its own.
        methods: the methods, in the order in which they would be tried.
        why: the reason.
    """

    problem: str
    backend: str
    form: str
    methods: tuple[str, ...]
    why: str

    def __str__(self) -> str:
        return f"{self.backend}/{self.form}/{' then '.join(self.methods)} for a {self.problem}: {self.why}"


class _Stop(BaseException):
    """Leaves the road of a layer before its solve."""


def explain(layer: Callable[..., Any], *arguments: Any, **options: Any) -> Explanation:
    """Say what a layer would run for these arguments, and why; nothing is solved.

    Args:
        layer: a layer's function such as ``ridge``, or a module such as ``Ridge(...)``; also ``factorize``, the
            leave-one-out scores, ``select_lam``, and a ``ConvexLayer``. What makes several steps says the first.
        arguments: what it would be called with.
        options: likewise.

    Raises:
        InvalidInputError: the layer would refuse the arguments.
        UnsupportedError: ``layer`` announces nothing that it solves; it has run then.

    Example:
        >>> import torch
        >>> from convexdistill.layers import explain, ridge
        >>> print(explain(ridge, torch.randn(50, 85), torch.randn(50, 10)))
        torch/dual/cholesky then qr then svd for a RidgeProblem: n=50 < d=85, so a 50×50 system; the next \
method runs only where the last was not accurate
    """
    told = announced(layer, *arguments, **options)
    plan = told.plan()
    return Explanation(told.problem, told.backend, plan.form, plan.methods, plan.why)


def announced(layer: Callable[..., Any], *arguments: Any, **options: Any) -> Announcement:
    """What a layer announces right before its solve, where it is stopped.

    Raises:
        UnsupportedError: ``layer`` announces nothing; it has run then.
    """
    found: list[Announcement] = []

    def listen(announcement: Announcement) -> None:
        found.append(announcement)
        raise _Stop

    token = LISTENER.set(listen)
    try:
        layer(*arguments, **options)
    except _Stop:
        pass
    finally:
        LISTENER.reset(token)
    if not found:
        raise UnsupportedError(
            f"{layer!r} ran, and announced no convex problem that it solves; give a layer's function or module."
        )
    return found[0]
