"""The registry of backends: a plain dict from name to :class:`Backend`.

Nothing heavy is imported here; cvxpy loads with the first solve that needs it. Other packages offer a
backend by an entry point of the group ``convexdistill.backends`` whose object is a :class:`Backend`; it is
loaded with the first look at the registry.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.metadata import entry_points

import torch

from convexdistill.errors import (
    BackendUnavailableError,
    DtypeError,
    ParameterRangeError,
    UnknownNameError,
    UnsupportedError,
)
from convexdistill.layers.backends import cvxpylayers_backend, torch_backend
from convexdistill.layers.backends.base import Backend, Plan, Solved, SolveOptions, Solver

__all__ = [
    "Backend",
    "BackendReport",
    "Plan",
    "SolveOptions",
    "Solved",
    "Solver",
    "backends",
    "register_backend",
    "registered",
    "select",
    "use_backend",
]

ENTRY_POINTS = "convexdistill.backends"

_REGISTRY: dict[str, Backend] = {
    torch_backend.BACKEND.name: torch_backend.BACKEND,
    cvxpylayers_backend.BACKEND.name: cvxpylayers_backend.BACKEND,
}
_AUTO: dict[type, Backend] = {}  # what "auto" means, worked out once for each class of problem
_CHOSEN: ContextVar[str | None] = ContextVar("backend", default=None)
_loaded = _loading = False
_LOADING = threading.RLock()  # one thread looks for packages, the others wait for what it finds


@dataclass(frozen=True)
class BackendReport:
    """What :func:`backends` says of one backend.

    Attributes:
        name: the word for ``backend=``.
        available: whether it can run here.
        reason: why not, and how to mend it; empty when it can.
        summary: one sentence about it.
        problems: the problems it solves, such as ``("ridge", "kernel ridge")``.
        double_backward: whether gradients of gradients are supported.
        transforms: whether it runs under ``torch.func`` transforms (``vmap``, forward mode) and ``torch.compile``.
        devices: kinds of device that its solves run on; inputs elsewhere are copied there and back.
        dtypes: of the inputs; every solve runs in float64, and the answer has the inputs' dtype.
    """

    name: str
    available: bool
    reason: str
    summary: str
    problems: tuple[str, ...]
    double_backward: bool
    transforms: bool
    devices: tuple[str, ...]
    dtypes: tuple[str, ...] = ("float16", "bfloat16", "float32", "float64")


def backends() -> dict[str, BackendReport]:
    """List every registered backend: whether it is available, and if not why not.

    Example:
        >>> from convexdistill.layers import backends
        >>> backends()["torch"].available, backends()["torch"].double_backward
        (True, True)
    """
    return {name: _report(backend) for name, backend in _registry().items()}


def register_backend(backend: Backend, *, overwrite: bool = False) -> None:
    """Add a backend to the registry, under ``backend.name``.

    Args:
        backend: what to add; see :class:`~convexdistill.layers.backends.base.Backend`.
        overwrite: whether it may take the place of one with the same name.

    Raises:
        DtypeError: it is no :class:`Backend`.
        ParameterRangeError: the name is taken, or is the reserved word ``"auto"``.
    """
    if not isinstance(backend, Backend):
        raise DtypeError(f"backend must be a Backend, got {type(backend).__qualname__}; see docs/layers.md.")
    if backend.name == "auto":
        raise ParameterRangeError('a backend cannot be called "auto"; choose another name.')
    if backend.name in _registry() and not overwrite:
        raise ParameterRangeError(
            f"a backend called {backend.name!r} is registered already; "
            "choose another name, or pass overwrite=True."
        )
    _REGISTRY[backend.name] = backend
    _AUTO.clear()


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Let ``backend="auto"`` mean one backend inside a ``with`` block, in this thread or task.

    A ``backend=`` that is given by name wins over it. ``ridge_in_chunks`` and ``factorize``, which only the
    torch backend has, raise in a block that asks for another. What chooses λ (``select_lam`` and the
    leave-one-out scores) is always computed in PyTorch.

    Args:
        name: a registered backend, or ``"auto"`` for the usual choice.

    Raises:
        UnknownNameError: no backend of that name is registered.
        UnsupportedError: at a solve inside the block: the backend has no solver for the problem, or the layer is
            the torch backend's alone.

    Example:
        >>> import torch
        >>> from convexdistill.layers import ridge, use_backend
        >>> with use_backend("torch"):
        ...     ridge(torch.eye(2), torch.eye(2)).info.backend
        'torch'
    """
    _named(name)
    token = _CHOSEN.set(None if name == "auto" else name)
    try:
        yield
    finally:
        _CHOSEN.reset(token)


def _registry() -> dict[str, Backend]:
    """The registry, with the backends of other packages."""
    if not _loaded and not torch.compiler.is_compiling():  # torch.compile cannot trace a search for packages
        _load()
    return _REGISTRY


def _load() -> None:
    """Add the backends of other packages, once."""
    global _loaded, _loading
    with _LOADING:
        if _loaded or _loading:  # another thread was quicker, or a package asks for backends while it is imported
            return
        _loading = True
        try:
            for point in entry_points(group=ENTRY_POINTS):
                try:
                    backend = point.load()
                    if not isinstance(backend, Backend):
                        raise TypeError(f"it is a {type(backend).__qualname__}, not a Backend")
                    register_backend(backend)
                except Exception as error:  # a broken plug-in must not take the layers with it
                    message = f"the backend {point.name!r} of {point.value} was left out: {error}"
                    warnings.warn(message, stacklevel=4)
        finally:
            _loading = False
        _loaded = True


def _named(name: str) -> Backend | None:
    """The backend of a name, None for ``"auto"``.

    Raises:
        UnknownNameError: no backend of that name is registered.
    """
    if name == "auto":
        return None
    if not isinstance(name, str) or name not in _registry():
        known = ", ".join(repr(word) for word in ("auto", *_REGISTRY))
        raise UnknownNameError(f"backend={name!r} is not known; use one of {known}.")
    return _REGISTRY[name]


def registered(name: str) -> Backend:
    """The backend of a name, whether or not it can run here.

    Raises:
        UnknownNameError: no backend of that name is registered.
    """
    if (backend := _named(name)) is None:
        raise UnknownNameError('"auto" is no backend but a choice among them; give a name of backends().')
    return backend


def select(name: str, problem: type) -> Backend:
    """The backend that ``backend=name`` means for a class of problem.

    Raises:
        UnknownNameError: no backend of that name is registered.
        BackendUnavailableError: it is registered, but cannot run here.
        UnsupportedError: it has no solver for this problem.
    """
    backend = _named(_CHOSEN.get() or "auto" if name == "auto" else name)
    if backend is None:
        return _AUTO[problem] if problem in _AUTO else _best(problem)
    name = backend.name
    if (reason := backend.unavailable()) is not None:
        raise BackendUnavailableError(f"backend={name!r} cannot run here: {reason}")
    if problem not in backend.solvers:
        others = ", ".join(repr(b.name) for b in _REGISTRY.values() if problem in b.solvers)
        raise UnsupportedError(f"backend={name!r} does not solve a {problem.__name__}; use one of {others}.")
    return backend


def capable(problem: type) -> tuple[str, ...]:
    """The names of the backends that solve a class of problem here, under every transform."""
    able = (b for b in _registry().values() if problem in b.solvers and b.transforms)
    return tuple(b.name for b in able if b.unavailable() is None)


def require_torch(layer: str) -> None:
    """Refuse ``use_backend`` around a layer that only the torch backend has.

    Raises:
        UnsupportedError: another backend was chosen for this block.
    """
    chosen = _CHOSEN.get()
    if chosen not in (None, "torch"):
        raise UnsupportedError(
            f"{layer} runs in the torch backend only, and use_backend({chosen!r}) asks for another; "
            f'call it outside of the block, or inside use_backend("torch").'
        )


def _best(problem: type) -> Backend:
    """The available backend of highest priority that solves a class of problem.

    Raises:
        UnsupportedError: there is none.
    """
    for candidate in sorted(_registry().values(), key=lambda b: -b.priority):
        if problem in candidate.solvers and candidate.unavailable() is None:
            _AUTO[problem] = candidate
            return candidate
    raise UnsupportedError(f"no available backend solves a {problem.__name__}.")


def problem_name(problem: type) -> str:
    """What a class of problem is called in ``backends()``: ``"kernel ridge"`` for ``KernelRidgeProblem``."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", problem.__name__.removesuffix("Problem")).lower()


def _report(backend: Backend) -> BackendReport:
    reason = backend.unavailable()
    return BackendReport(
        name=backend.name,
        available=reason is None,
        reason=reason or "",
        summary=backend.summary,
        problems=tuple(map(problem_name, backend.solvers)),
        double_backward=backend.double_backward,
        transforms=backend.transforms,
        devices=backend.devices,
    )
