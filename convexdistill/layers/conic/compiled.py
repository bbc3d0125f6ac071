"""A problem compiled by cvxpylayers, and called so that autograd gets what was verified and nothing else.

cvxpylayers 1.2 converts tensors to numpy as they come, keeps state between calls, and its backward pass can be
differentiated without an error and without the second-order term. Here every call is in float64 on the CPU,
under a lock, with one batch dimension, and differentiating a gradient raises.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from convexdistill.errors import NotConvergedError, NumericalWarning, UnsupportedError
from convexdistill.layers.backends.cvxpylayers_backend.guard import COMPILING

GRADIENT_ACCEPT = 1e-8
SOLVERS = ("none", "moreau", "clarabel", "scs")


class Compiled:
    """One problem, compiled at its first use; copies share it, and pickles leave the compiled form behind.

    Args:
        problem: a ``cvxpy.Problem``, which is only read.
        parameters: its parameters, in the order of the tensors of a call.
        variables: the variables wanted, or dual variables of its constraints.
        solver: as :func:`convexdistill.layers.conic.solvers.chain` takes it.
        options: settings of the solver.
        accept_below: the residual up to which an answer is accepted.
        gp: whether it is a geometric program.
    """

    def __init__(
        self,
        problem: Any,
        parameters: Sequence[Any],
        variables: Sequence[Any],
        solver: str,
        options: Mapping[str, Any],
        accept_below: float,
        gp: bool,
    ) -> None:
        self.problem, self.parameters, self.variables = problem, tuple(parameters), tuple(variables)
        self.solver, self.options, self.accept_below, self.gp = solver, dict(options), accept_below, gp
        self._layer: Any = None
        self._lock = threading.RLock()

    def __deepcopy__(self, memo: Any) -> Compiled:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_layer": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()

    def compile(self) -> Any:
        """The ``CvxpyLayer``, made once.

        Raises:
            UnsupportedError: cvxpylayers cannot compile the problem.
        """
        with self._lock:
            if self._layer is None:
                cp: Any = import_module("cvxpy")
                torch_layers: Any = import_module("cvxpylayers.torch")
                interface: Any = import_module("convexdistill.layers.conic.interface")
                plug = interface.Conic(self.solver, self.options, self.accept_below)
                # cvxpy caches canonical forms on the problem, and some solvers of cvxpylayers change them
                # there: a problem of its own, with the same expressions, has a cache of its own.
                fresh = cp.Problem(self.problem.objective, self.problem.constraints)
                try:
                    with COMPILING:
                        self._layer = torch_layers.CvxpyLayer(
                            fresh, list(self.parameters), list(self.variables), solver=plug, gp=self.gp
                        )
                except NotImplementedError as error:
                    raise UnsupportedError(f"cvxpylayers cannot compile this problem: {error}") from error
            return self._layer

    def call(self, skip: Tensor, *parameters: Tensor) -> tuple[tuple[Tensor, ...], Any]:
        """Values of a batch, and the record of it; differentiable once in the parameters."""
        layer = self.compile()
        with self._lock:
            values = layer(*parameters, solver_args={"skip": skip.cpu().numpy()})
            return values, layer.ctx.solver.last


class Record(NamedTuple):
    """What became of a batch, (batch,) each; ``solver`` is the place of its name in ``SOLVERS``."""

    residual: Tensor
    status: Tensor
    steps: Tensor
    solver: Tensor


def solve(
    compiled: Compiled, on_failure: str, skip: Tensor, *parameters: Tensor
) -> tuple[Record, tuple[Tensor, ...]]:
    """Solve a batch.

    Args:
        compiled: the problem.
        on_failure: what becomes of gradients that are not accurate.
        skip: (batch,) bool, elements that are not to be solved.
        parameters: (batch, *shape) each, or (*shape) where no gradient is wanted.

    Returns:
        The record, and float64 values (batch, *shape) of the variables, differentiable once.
    """
    found = _Solve.apply(compiled, on_failure, skip, *parameters)
    record = len(Record._fields)
    return Record(*found[:record]), tuple(found[record:])


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, compiled: Compiled, on_failure: str, skip: Tensor, *parameters: Tensor) -> Any:
        ctx.needed = ctx.needs_input_grad[3:]
        ctx.save_for_backward(*parameters)
        leaves = [p.detach().cpu().double().clone() for p in parameters]
        for leaf, needed in zip(leaves, ctx.needed, strict=True):
            leaf.requires_grad_(needed)
        with torch.set_grad_enabled(any(ctx.needed)):
            values, batch = compiled.call(skip, *leaves)
        ctx.inner = (leaves, values, batch, on_failure)
        device, outcomes = parameters[0].device, batch.outcomes
        record = Record(
            torch.tensor(
                [o.residual if math.isfinite(o.residual) else math.nan for o in outcomes],
                dtype=torch.float64,
                device=device,
            ),
            torch.tensor([int(o.status) for o in outcomes], dtype=torch.int8, device=device),
            torch.tensor([o.steps for o in outcomes], dtype=torch.int64, device=device),
            torch.tensor([SOLVERS.index(o.solver) for o in outcomes], device=device),
        )
        answers = [v.detach().clone().to(device) for v in values]
        if on_failure == "nan":
            failed = record.status != 0
            answers = [v.masked_fill(failed.reshape(-1, *[1] * (v.ndim - 1)), math.nan) for v in answers]
            for outcome in outcomes:
                if outcome.status:
                    outcome.point = None  # no answer, so no gradient either
        ctx.mark_non_differentiable(*record)
        return *record, *answers

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        given = cotangents[len(Record._fields) :]
        wrapped = torch._C._functorch
        if any(wrapped.is_functorch_wrapped_tensor(g) or wrapped.is_legacy_batchedtensor(g) for g in given):
            raise UnsupportedError(TRANSFORM)
        leaves, values, batch, on_failure = ctx.inner
        parameters = ctx.saved_tensors
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        # MOREAU and DIFFCP would round or regularise here; our adjoint is linear to rounding, at any scale.
        inner = [g.detach().cpu().double() for g in given]
        found = iter(torch.autograd.grad(values, wanted, inner, retain_graph=True, allow_unused=True))
        wrong = _judge_gradient(batch.errors, on_failure)
        grads: list[Tensor | None] = []
        for parameter, needed in zip(parameters, ctx.needed, strict=True):
            if not needed:
                grads.append(None)
                continue
            grad = next(found)
            grad = torch.zeros_like(parameter) if grad is None else grad.to(parameter)
            if wrong is not None:
                grad = grad.masked_fill(wrong.to(grad.device).reshape(-1, *[1] * (grad.ndim - 1)), float("nan"))
            if torch.is_grad_enabled():
                grad = _NoSecondOrder.apply(grad, *given, *parameters)
            grads.append(grad)
        return None, None, None, *grads

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise UnsupportedError(
            "ConvexLayer has no forward-mode derivatives; use backward() or torch.autograd.grad, or a layer with "
            "a closed form, such as ridge."
        )


def _judge_gradient(errors: Any, on_failure: str) -> Tensor | None:
    """The (batch,) mask of elements whose gradient has to be NaN, or None.

    Raises:
        NotConvergedError: an element's gradient does not solve its equations, and ``on_failure="raise"``.
    """
    wrong = ~(errors <= GRADIENT_ACCEPT)
    if not wrong.any():
        return None
    indices = tuple(int(i) for i in np.flatnonzero(wrong))
    message = (
        f"the gradient of batch elements {list(indices[:8])} of {len(errors)} does not exist or cannot be "
        f"computed: the implicit equations leave a relative residual of {float(np.nanmax(errors[wrong])):.1e}. "
        "The answer is not unique there, or nearly so; make the objective strictly convex, by a small "
        "quadratic term, say."
    )
    if on_failure == "raise":
        raise NotConvergedError(message, batch_indices=indices)
    if on_failure == "warn":
        warnings.warn(message, NumericalWarning, stacklevel=2)
        return None
    return torch.from_numpy(wrong)


class _NoSecondOrder(torch.autograd.Function):
    """Pass a gradient on, tied to everything it depends on; refuse to be differentiated."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, *depends_on: Tensor) -> Tensor:
        return grad.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise UnsupportedError(
            "ConvexLayer has no gradients of gradients; use a layer of the torch backend (ridge, least_squares, "
            "logistic_regression, …), whose solves are differentiable to any order."
        )


TRANSFORM = (
    "ConvexLayer does not run under torch.func transforms; use leading batch dimensions instead of vmap, or a "
    "layer of the torch backend."
)
