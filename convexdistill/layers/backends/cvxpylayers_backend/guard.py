"""Call a compiled cvxpylayers layer so that it cannot be wrong in silence.

cvxpylayers 1.2 was measured to return wrong numbers without a word in several situations; this is the one
place where each is guarded, for every program:

- a second layer built from the same ``cp.Problem`` solves another problem: a program is built afresh for
  every compiled layer;
- DIFFCP rounds cotangents below 1e-8 to zero: they are scaled to unit norm per batch element before, and
  the gradients are scaled back, which is exact because the adjoint is linear;
- derivatives are inexact and nobody says so (a regularised or truncated linear solve): they are verified,
  refined, and refused when that does not help. For a program with a term −2bᵀv in its cost and v = S⁻¹(…),
  the gradient to b is U = S⁻¹v̄, so the error of U is seen in v̄ − SU; the gradients of that remainder are
  added (iterative refinement). The other gradients, which nothing would verify, are those of S v = b by the
  implicit function theorem, from v and U;
- the backward pass is once-differentiable, and some graphs drop the second-order term: differentiating
  it raises :class:`~convexdistill.errors.UnsupportedError`;
- layers keep state between calls: one lock a layer;
- an empty batch crashes, and CUDA tensors are taken for numpy arrays: both are dealt with here.
  NaN never gets here: layers check or replace their inputs, and judge every answer by its residual.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from convexdistill.errors import BackendUnavailableError, NotConvergedError, UnsupportedError
from convexdistill.layers.backends.base import inside_transform, never_compiled

METHODS = ("auto", "moreau", "diffcp")
CACHE_SIZE = 32
MAX_REFINEMENTS = 8
ANSWER_TARGET = 1e-12
GRADIENT_TARGET = 1e-11
GRADIENT_ACCEPT = 1e-8

# cvxpy switches modes by module globals while it compiles: one problem at a time, in the whole process.
COMPILING = threading.Lock()


@dataclass(frozen=True, eq=False)
class Compiled:
    """A compiled layer: ``call`` maps parameters with one batch dimension to one variable.

    Attributes:
        call: the ``CvxpyLayer``.
        shapes: the shape of each parameter, without batch.
        output: the shape of the variable, without batch.
        solver: ``"moreau"`` or ``"diffcp"``.
        derivative: solver arguments that only a call with gradients takes.
        linear: index of the parameter b of the term −2bᵀv, by which gradients are verified.
        system: ``(parameters, U) -> S U`` for the program's S, where it has one.
        implicit: ``(parameters, v, U, i) -> gradient`` to parameter i, which is not b, for that S.
    """

    call: Callable[..., tuple[Tensor, ...]]
    shapes: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]
    solver: str
    derivative: Mapping[str, Any] = field(default_factory=dict)
    linear: int | None = None
    system: Callable[[list[Tensor], Tensor], Tensor] | None = None
    implicit: Callable[[list[Tensor], Tensor, Tensor, int], Tensor] | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)


class Cache:
    """The most recently used compiled layers, safe to share between threads."""

    def __init__(self, size: int = CACHE_SIZE) -> None:
        self.size = size
        self._entries: OrderedDict[Hashable, Compiled] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, build: Callable[[], Compiled]) -> Compiled:
        """The layer of this key; ``build()`` makes it when it is not there."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key]
        with COMPILING:  # takes seconds: those who find theirs compiled do not wait for it
            with self._lock:
                made = self._entries.get(key)
            if made is None:
                made = build()
            with self._lock:
                self._entries[key] = made
                self._entries.move_to_end(key)
                while len(self._entries) > self.size:
                    self._entries.popitem(last=False)
        return made

    def clear(self) -> None:
        """Forget every layer."""
        with self._lock:
            self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)


def require_solver(method: str) -> str:
    """The solver of ``method``: for ``"auto"`` MOREAU, which keeps quadratic objectives, or else DIFFCP.

    Raises:
        BackendUnavailableError: MOREAU was asked for by name, and it is not installed.
    """
    installed = find_spec("moreau") is not None
    if method == "moreau" and not installed:
        raise BackendUnavailableError(
            'method="moreau" cannot run here: moreau is not installed; pip install moreau, or use method="auto".'
        )
    if method == "auto":
        return "moreau" if installed else "diffcp"
    return method


def constructor_arguments(solver: str) -> dict[str, Any]:
    """Arguments of ``CvxpyLayer`` for a solver."""
    if solver == "moreau":
        return {"solver": "MOREAU", "solver_args": {"solver": "ipm"}}
    return {}


def call_arguments(solver: str, differentiates_data: bool) -> dict[str, Any]:
    """Arguments of a call: which of DIFFCP's solvers runs.

    The interior-point one (Clarabel), unless gradients to more than the linear term are wanted. On ridge heads
    of real features SCS was measured 60 times slower and stopped at a residual of 3e-4; Clarabel leaves 1e-6,
    and refinement does the rest. But gradients to M are derivatives at the solver's own point, which no
    refinement reaches: there SCS, run to a tight tolerance, is the more exact.

    Args:
        solver: ``"moreau"`` or ``"diffcp"``.
        differentiates_data: whether a parameter other than the linear term needs a gradient.
    """
    if solver == "moreau":
        return {}
    if differentiates_data:
        return {"solve_method": "SCS", "eps": 1e-10, "max_iters": 100_000}
    return {"solve_method": "CLARABEL"}


def derivative_arguments(solver: str, embedding: int) -> dict[str, Any]:
    """Further arguments of a call that will be differentiated.

    Args:
        solver: ``"moreau"`` or ``"diffcp"``.
        embedding: side of the homogeneous embedding (about rows + columns of the conic program), which
            says what DIFFCP's dense derivative would cost: exact but cubic, where ``lsqr`` stops early.
    """
    return {} if solver == "moreau" else {"mode": "dense" if embedding <= 1000 else "lsqr"}


@never_compiled
def solve(layer: Compiled, *parameters: Tensor, on_failure: str = "raise") -> Tensor:
    """Solve a batch of programs, differentiable once in every parameter.

    Args:
        layer: what to solve.
        parameters: one tensor each, float64 on any one device, of the layer's shape, or with one batch
            dimension before it.
        on_failure: ``"nan"`` fills gradients that are not accurate with NaN; anything else raises.

    Returns:
        (batch, *output) float64, on the parameters' device; NaN when the solver gave up.

    Raises:
        NotConvergedError: in the backward pass, when a gradient is not accurate.
        UnsupportedError: under a ``torch.func`` transform; or in the backward pass, when gradients of
            gradients are asked for.
    """
    if inside_transform():
        raise UnsupportedError(_TRANSFORM)
    sizes = [p.shape[0] for p, s in zip(parameters, layer.shapes, strict=True) if p.ndim > len(s)]
    batch = sizes[0] if sizes else 1
    # What needs a gradient gets a row for every element, so that each can be scaled on its own; autograd
    # sums over the expanded dimension.
    spread = [
        p.expand(batch, *s) if (p.requires_grad or not sizes) else p
        for p, s in zip(parameters, layer.shapes, strict=True)
    ]
    answer: Tensor = _Guarded.apply(layer, batch, on_failure, *spread)
    return answer


class _Guarded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, layer: Compiled, batch: int, on_failure: str, *parameters: Tensor) -> Any:
        ctx.needed = ctx.needs_input_grad[3:]
        needs_grad = any(ctx.needed)
        ctx.save_for_backward(*parameters)
        ctx.on_failure, ctx.inner = on_failure, None
        if batch == 0:
            return parameters[0].new_zeros((0, *layer.output))
        leaves = [p.detach().to("cpu").contiguous() for p in parameters]
        for i, needed in enumerate(ctx.needed):
            if i == layer.linear and needs_grad:
                leaves[i] = leaves[i].expand(batch, *layer.shapes[i]).contiguous()
                needed = True
            leaves[i].requires_grad_(needed and (layer.implicit is None or i == layer.linear))
        data = any(leaf.requires_grad for i, leaf in enumerate(leaves) if i != layer.linear)
        arguments = {**call_arguments(layer.solver, data), **(layer.derivative if needs_grad else {})}
        try:
            with layer.lock, torch.set_grad_enabled(needs_grad), _quiet():
                (output,) = layer.call(*leaves, solver_args=arguments)
        except _solver_errors():  # one hopeless element raises for all: the residual will tell
            return parameters[0].new_full((batch, *layer.output), float("nan"))
        answer = _refined(layer, leaves, output.detach())
        if needs_grad:
            ctx.inner = (layer, leaves, output, answer)
        return answer.to(parameters[0].device)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        if inside_transform(cotangent):
            raise UnsupportedError(_TRANSFORM)
        parameters = ctx.saved_tensors
        if ctx.inner is None:  # nothing was solved: an empty batch, or a solver that gave up
            grads: list[Tensor | None] = [torch.full_like(p, float("nan")) for p in parameters]
        else:
            layer, leaves, output, answer = ctx.inner
            grads = _gradients(layer, leaves, output, cotangent.detach(), ctx.on_failure)
            if layer.implicit is not None and layer.linear is not None:
                U = grads[layer.linear]
                assert U is not None
                for i, needed in enumerate(ctx.needed):
                    if needed and i != layer.linear:
                        grads[i] = layer.implicit(leaves, answer, U, i)
        result: list[Tensor | None] = [None, None, None]
        for parameter, grad, needed in zip(parameters, grads, ctx.needed, strict=True):
            if not needed:
                result.append(None)
                continue
            assert grad is not None
            grad = grad.to(parameter)
            if torch.is_grad_enabled():
                grad = _NoSecondOrder.apply(grad, cotangent, *parameters)
            result.append(grad)
        return tuple(result)


@torch.no_grad()
def _refined(layer: Compiled, leaves: list[Tensor], v: Tensor) -> Tensor:
    """The answer, improved by solving again for what is left of S v = b (iterative refinement)."""
    if layer.linear is None or layer.system is None:
        return v
    parameters = [leaf.detach() for leaf in leaves]
    b = parameters[layer.linear]
    size, rest = _norm(b.expand_as(v)), b - layer.system(parameters, v)
    error = _norm(rest)
    for _ in range(MAX_REFINEMENTS):
        if bool((error <= ANSWER_TARGET * size).all()):
            break
        scale = torch.where(error > 0, error, 1.0)
        parameters[layer.linear] = rest / _like(scale, rest)
        try:
            with layer.lock, _quiet():
                (step,) = layer.call(*parameters, solver_args=call_arguments(layer.solver, False))
        except _solver_errors():
            break
        closer = v + step * _like(scale, step)
        parameters[layer.linear] = b
        left = b - layer.system(parameters, closer)
        better = _norm(left) < error  # an element that refinement does not help keeps what it has
        if not bool(better.any()):
            break
        v = torch.where(_like(better, v), closer, v)
        rest = torch.where(_like(better, rest), left, rest)
        error = _norm(rest)
    return v


@torch.no_grad()
def _gradients(
    layer: Compiled,
    leaves: list[Tensor],
    output: Tensor,
    cotangent: Tensor,
    on_failure: str,
) -> list[Tensor | None]:
    """Gradients to the leaves, by iterative refinement of the solver's own derivative."""
    wanted = [i for i, leaf in enumerate(leaves) if leaf.requires_grad]
    total: list[Tensor | None] = [None] * len(leaves)
    target = cotangent.to(output)
    size = _norm(target)
    rest, error, best = target, size, torch.full_like(size, float("inf"))
    for _ in range(MAX_REFINEMENTS):
        scale = _norm(rest)
        unit = rest / _like(torch.where(scale > 0, scale, 1.0), rest)
        with layer.lock, _quiet():
            found = torch.autograd.grad(output, [leaves[i] for i in wanted], unit, retain_graph=True)
        better = error < best  # an element that refinement does not help keeps what it has
        if not bool(better.any()):
            break
        best = torch.where(better, error, best)
        for i, grad in zip(wanted, found, strict=True):
            grad = grad * _like(torch.where(better, scale, 0.0), grad)
            previous = total[i]
            total[i] = grad if previous is None else previous + grad
        if layer.linear is None or layer.system is None:
            return total
        U = total[layer.linear]
        assert U is not None
        # The cost has −2bᵀv and S v = … + b, so the gradient to b is exactly S⁻¹ v̄.
        rest = target - layer.system(leaves, U)
        error = _norm(rest)
        if bool((error <= GRADIENT_TARGET * size).all()):
            return total
    wrong = ~(error <= GRADIENT_ACCEPT * size)
    if not bool(wrong.any()):
        return total
    if on_failure == "nan":
        return [None if g is None else g.masked_fill(_like(wrong, g), float("nan")) for g in total]
    raise NotConvergedError(
        f"the gradient through cvxpylayers ({layer.solver}) is not accurate for "
        f"{int(wrong.sum())} of {wrong.numel()} programs: relative residual "
        f'{float((error / size)[wrong].max()):.1e}. Raise lam, or use backend="torch".',
        batch_indices=tuple(torch.nonzero(wrong).reshape(-1).tolist()),
    )


def _norm(rows: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(rows.reshape(rows.shape[0], -1), dim=1)
    return norm


def _like(values: Tensor, rows: Tensor) -> Tensor:
    """(batch,) made to broadcast against (batch, ...)."""
    return values.reshape(-1, *[1] * (rows.ndim - 1))


def _solver_errors() -> tuple[type[Exception], ...]:
    import cvxpy
    import diffcp

    return (diffcp.SolverError, cvxpy.error.SolverError)


def no_second_order(grad: Tensor, *depends_on: Tensor) -> Tensor:
    """A gradient that raises :class:`~convexdistill.errors.UnsupportedError` when it is differentiated."""
    tied: Tensor = _NoSecondOrder.apply(grad, *depends_on)
    return tied


class _NoSecondOrder(torch.autograd.Function):
    """Pass a gradient on, tied to everything it depends on; refuse to be differentiated."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, *depends_on: Tensor) -> Tensor:
        return grad.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise UnsupportedError(
            'backend="cvxpylayers" has no gradients of gradients; use backend="torch", whose solves are '
            "differentiable to any order."
        )


_TRANSFORM = (
    'backend="cvxpylayers" does not run under torch.func transforms; use backend="torch", or leading '
    "batch dimensions instead of vmap."
)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence solver warnings: every answer is judged by its residual, here and not by the solver."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
