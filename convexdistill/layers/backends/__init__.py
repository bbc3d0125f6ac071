"""The registry of backends: a plain dict from name to :class:`Backend`.

Nothing heavy is imported here; cvxpy loads with the first solve that needs it.
"""

from __future__ import annotations

from dataclasses import dataclass

from convexdistill.errors import (
    BackendUnavailableError,
    ParameterRangeError,
    UnknownNameError,
    UnsupportedError,
)
from convexdistill.layers.backends import cvxpylayers_backend, torch_backend
from convexdistill.layers.backends.base import Backend, Solved, SolveOptions, Solver

__all__ = [
    "Backend",
    "BackendReport",
    "SolveOptions",
    "Solved",
    "Solver",
    "backends",
    "register_backend",
    "select",
]

_REGISTRY: dict[str, Backend] = {
    torch_backend.BACKEND.name: torch_backend.BACKEND,
    cvxpylayers_backend.BACKEND.name: cvxpylayers_backend.BACKEND,
}


@dataclass(frozen=True)
class BackendReport:
    """What :func:`backends` says of one backend.

    Attributes:
        name: the word for ``backend=``.
        available: whether it can run here.
        reason: why not, and how to mend it; empty when it can.
        summary: one sentence about it.
        problems: the problems it solves, such as ``("ridge",)``.
        double_backward: whether gradients of gradients are supported.
        transforms: whether it runs under ``torch.func`` transforms and ``torch.compile``.
    """

    name: str
    available: bool
    reason: str
    summary: str
    problems: tuple[str, ...]
    double_backward: bool
    transforms: bool


def backends() -> dict[str, BackendReport]:
    """List every registered backend: whether it is available, and if not why not.

    Example:
        >>> from convexdistill.layers import backends
        >>> backends()["torch"].available, backends()["torch"].double_backward
        (True, True)
    """
    return {name: _report(backend) for name, backend in _REGISTRY.items()}


def register_backend(backend: Backend, *, overwrite: bool = False) -> None:
    """Add a backend to the registry, under ``backend.name``.

    Args:
        backend: what to add; see :class:`~convexdistill.layers.backends.base.Backend`.
        overwrite: whether it may take the place of one with the same name.

    Raises:
        ParameterRangeError: the name is taken, or is the reserved word ``"auto"``.
    """
    if backend.name == "auto":
        raise ParameterRangeError('a backend cannot be called "auto"; choose another name.')
    if backend.name in _REGISTRY and not overwrite:
        raise ParameterRangeError(
            f"a backend called {backend.name!r} is registered already; "
            "choose another name, or pass overwrite=True."
        )
    _REGISTRY[backend.name] = backend


def select(name: str, problem: type) -> Backend:
    """The backend that ``backend=name`` means for a class of problem.

    Raises:
        UnknownNameError: no backend of that name is registered.
        BackendUnavailableError: it is registered, but cannot run here.
        UnsupportedError: it has no solver for this problem.
    """
    if name == "auto":
        for candidate in sorted(_REGISTRY.values(), key=lambda b: -b.priority):
            if problem in candidate.solvers and candidate.unavailable() is None:
                return candidate
        raise UnsupportedError(f"no available backend solves a {problem.__name__}.")
    if name not in _REGISTRY:
        known = ", ".join(repr(word) for word in ("auto", *_REGISTRY))
        raise UnknownNameError(f"backend={name!r} is not known; use one of {known}.")
    backend = _REGISTRY[name]
    if (reason := backend.unavailable()) is not None:
        raise BackendUnavailableError(f"backend={name!r} cannot run here: {reason}")
    if problem not in backend.solvers:
        others = ", ".join(repr(b.name) for b in _REGISTRY.values() if problem in b.solvers)
        raise UnsupportedError(f"backend={name!r} does not solve a {problem.__name__}; use one of {others}.")
    return backend


def _report(backend: Backend) -> BackendReport:
    reason = backend.unavailable()
    return BackendReport(
        name=backend.name,
        available=reason is None,
        reason=reason or "",
        summary=backend.summary,
        problems=tuple(p.__name__.removesuffix("Problem").lower() for p in backend.solvers),
        double_backward=backend.double_backward,
        transforms=backend.transforms,
    )
