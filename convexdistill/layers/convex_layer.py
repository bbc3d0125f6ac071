"""``ConvexLayer``: any disciplined parametrised program (DPP) of cvxpy, as a differentiable layer.

    tensors for the parameters  →  solution x* of  min f(x, θ)  subject to  x ∈ C(θ)

cvxpylayers compiles the problem to a cone program whose data are linear in the parameters θ; the rest is done
and verified here, see ``conic/program.py`` for the optimality conditions and the derivative. Use a layer with a
closed form (``ridge``, ``least_squares``, …) where there is one: it is faster, and differentiable to any order.

Source: Agrawal, Amos, Barratt, Boyd, Diamond, Kolter 2019, "Differentiable convex optimization layers", arXiv
1910.12430.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from convexdistill.errors import ParameterRangeError, ShapeError, UnsupportedError
from convexdistill.layers import checks, failure, pipeline
from convexdistill.layers.backends.base import Plan, inside_transform, never_compiled, pick
from convexdistill.layers.conic import compiled as conic
from convexdistill.layers.conic import dpp, solvers
from convexdistill.layers.conic.attributes import broken, describe
from convexdistill.layers.solution import SolveInfo
from convexdistill.layers.status import Status


@dataclass(frozen=True, eq=False)
class ConvexSolution:
    """What :meth:`ConvexLayer.solve` returns.

    Attributes:
        values: the variables, (*B, *shape) each, in the order in which the layer was given them.
        info: the :class:`~convexdistill.layers.SolveInfo` of the solve; ``info.method`` names the solvers
            whose answers were taken, ``info.residual`` is that of ``conic/program.py``.
    """

    values: tuple[Tensor, ...]
    info: SolveInfo


class ConvexLayer(nn.Module):
    """A convex program of cvxpy as a layer: tensors in for its parameters, its solution out, differentiable.

    Every answer is verified for every batch element by the optimality conditions of the compiled cone program,
    and refined by Newton's method on them, whatever the solver says. Gradients come from the same equations, and
    are verified in the same way; where the solution is not unique there is none, and that is an error.

    Args:
        problem: a ``cvxpy.Problem`` that is DPP (or ``gp=True``: a DPP geometric program).
        parameters: all its parameters, in the order in which tensors will be given.
        variables: the variables wanted, in the order in which values will be returned; dual variables
            (``constraint.dual_variables[0]``) are variables too.
        solver: ``"moreau"``, ``"clarabel"``, ``"scs"``, or ``"auto"`` (default): each of these that is installed
            and takes the problem's cones, in turn, for the elements that are not solved yet.
        solver_options: settings of the solver named, such as ``{"max_iter": 50}``.
        on_failure: ``"raise"`` (default), ``"warn"``, or ``"nan"``: NaN for the elements that failed, and for
            their gradients.
        accept_below: the relative residual up to which an answer counts as solved, 1e-8 by default.
        gp: whether the problem is a geometric program (its positive parameters declared ``pos=True``).

    Raises:
        InvalidInputError: the problem is not DPP (the message shows the expression), or parameters or variables
            are not the problem's.
        UnsupportedError: the problem has integer or complex variables, or parameters of a kind that cvxpylayers
            does not take.
        BackendUnavailableError: the solver is not installed.
        UnknownNameError: ``solver`` or ``on_failure`` is not known.

    Example:
        >>> import cvxpy as cp, torch
        >>> from convexdistill.layers.convex_layer import ConvexLayer
        >>> x, p = cp.Variable(3), cp.Parameter(3, name="p")
        >>> onto_simplex = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0, cp.sum(x) == 1])
        >>> layer = ConvexLayer(onto_simplex, [p], [x])
        >>> point = torch.tensor([[0.2, 0.4, 0.9], [3.0, 0.0, 0.0]], requires_grad=True)
        >>> (projected,) = layer(point)
        >>> projected.shape, projected.dtype
        (torch.Size([2, 3]), torch.float32)
        >>> projected[1].tolist()
        [1.0, 0.0, 0.0]
        >>> layer.solve(point).info.ok.tolist()
        [True, True]
    """

    def __init__(
        self,
        problem: Any,
        parameters: Sequence[Any],
        variables: Sequence[Any],
        *,
        solver: str = "auto",
        solver_options: Mapping[str, Any] | None = None,
        on_failure: str = "raise",
        accept_below: float = failure.ACCEPT_BELOW,
        gp: bool = False,
    ) -> None:
        super().__init__()
        dpp.check(problem, parameters, variables, gp)
        self.on_failure = pick("on_failure", on_failure, failure.POLICIES)
        checks.require_number("accept_below", accept_below)
        if not (math.isfinite(accept_below) and accept_below > 0):
            raise ParameterRangeError(f"accept_below is {accept_below}, but it must be finite and > 0.")
        options = solvers.check_options(solver, solver_options or {})
        self.program = conic.Compiled(problem, parameters, variables, solver, options, accept_below, gp)

    def forward(self, *parameters: Tensor) -> tuple[Tensor, ...]:
        """The values of :meth:`solve`, without the record."""
        return self.solve(*parameters).values

    def solve(self, *parameters: Tensor) -> ConvexSolution:
        """Solve for every batch element.

        Args:
            parameters: a tensor for every parameter, (*B, *shape) with leading dimensions that broadcast; float32
                or float64, all of one dtype and device. Gradients of what is broadcast are summed.

        Returns:
            Values (*B, *shape) of the variables, in the tensors' dtype and on their device, and the record.

        Raises:
            DtypeError: a value is not a tensor of floating-point numbers, or dtypes differ.
            DeviceError: devices differ.
            ShapeError: a shape does not fit its parameter, or leading dimensions do not broadcast.
            NonFiniteInputError: a value is NaN or infinite.
            ParameterRangeError: a value breaks an attribute of its parameter (nonneg, PSD, …).
            InfeasibleError: no point meets an element's constraints.
            UnboundedError: an element's objective falls without end.
            NotConvergedError: an element was not solved to ``accept_below``; or, in the backward pass, its
                gradient does not exist or is not accurate.
            UnsupportedError: under a ``torch.func`` transform; or, in the backward pass, when gradients of
                gradients are asked for.
        """
        if inside_transform() and not torch.compiler.is_compiling():
            raise UnsupportedError(conic.TRANSFORM)
        solution: ConvexSolution = self._solve(*parameters)
        return solution

    @never_compiled
    def _solve(self, *tensors: Tensor) -> ConvexSolution:
        parameters, names = self.program.parameters, [p.name() for p in self.program.parameters]
        batch = self._batch_shape(tensors)
        first, count = tensors[0], batch.numel()
        flat: list[Tensor] = []
        for parameter, tensor in zip(parameters, tensors, strict=True):
            core = tensor.ndim - len(parameter.shape)
            wide = tensor.requires_grad or math.prod(tensor.shape[:core]) != 1 or not flat
            spread = tensor.expand((*batch, *parameter.shape)) if wide else tensor
            flat.append(spread.reshape((*((count,) if wide else ()), *parameter.shape)))

        nonfinite = torch.zeros(count, dtype=torch.bool, device=first.device)
        invalid = nonfinite.clone()
        for name, parameter, tensor, one in zip(names, parameters, tensors, flat, strict=True):
            if self.on_failure != "nan":
                checks.require_finite(name, tensor)
            bad = ~torch.isfinite(one.detach())
            nonfinite |= _any(bad, len(parameter.shape))
            wrong = broken(parameter, one.detach().masked_fill(bad, 1.0))
            if self.on_failure != "nan" and bool(wrong.any()):
                raise ParameterRangeError(describe(name, parameter, wrong, batch))
            invalid |= wrong
        flat = [
            (t + t.mT) / 2 if dpp.is_symmetric(p) else t for p, t in zip(parameters, flat, strict=True)
        ]  # cvxpylayers reads one triangle: so its gradient is that of a symmetric matrix

        pipeline.announce("ConvexLayer", "cvxpylayers", self._plan)
        if not count:
            nothing = torch.zeros(0, device=first.device)
            info = _info(
                conic.Record(nothing.double(), nothing.to(torch.int8), nothing.long(), nothing.long()), batch
            )
            tie = sum((t.sum() for t in flat), first.new_zeros(()))  # so that backward finds its way
            values = tuple(tie.expand((*batch, *v.shape)) for v in self.program.variables)
            return ConvexSolution(values, info)
        record, values = conic.solve(self.program, self.on_failure, nonfinite | invalid, *flat)
        status = record.status.masked_fill(invalid, int(Status.INVALID_INPUT))
        status = status.masked_fill(nonfinite, int(Status.NONFINITE_INPUT))
        info = _info(record._replace(status=status), batch)
        shaped = [
            value.reshape((*batch, *variable.shape)).to(first.dtype)
            for variable, value in zip(self.program.variables, values, strict=True)
        ]
        info = failure.mark_overflow(info, *shaped)
        failure.enforce(info, self.on_failure)
        if self.on_failure == "nan":
            lost = info.status == int(Status.OVERFLOW)
            shaped = [t.masked_fill(lost[(..., *[None] * (t.ndim - lost.ndim))], float("nan")) for t in shaped]
        return ConvexSolution(tuple(shaped), info)

    def _plan(self) -> Plan:
        """The solvers that would be tried in turn, and the size of the program."""
        plug = self.program.compile().ctx.solver
        why = f"{plug.columns} variables and {plug.cones.rows} rows; the next solver runs where the last failed"
        return Plan("conic", tuple(plug.names), why)

    def _batch_shape(self, tensors: Sequence[Tensor]) -> torch.Size:
        """The common leading dimensions, after checks of types, dtypes, devices and shapes."""
        parameters = self.program.parameters
        if len(tensors) != len(parameters):
            words = ", ".join(p.name() for p in parameters)
            raise ShapeError(
                f"got {len(tensors)} tensors for {len(parameters)} parameters ({words}); pass one each."
            )
        leading = []
        for parameter, tensor in zip(parameters, tensors, strict=True):
            name, core = parameter.name(), tuple(parameter.shape)
            checks.require_tensor(name, tensor)
            checks.require_same_kind(parameters[0].name(), tensors[0], name, tensor)
            if tensor.shape[max(tensor.ndim - len(core), 0) :] != core:
                wanted = ", ".join(["*B", *map(str, core)])
                raise ShapeError(f"{name} has shape {tuple(tensor.shape)}; it must be ({wanted}).")
            leading.append((name, tensor.shape[: tensor.ndim - len(core)]))
        checks.require_values(parameters[0].name(), tensors[0])
        return checks.require_broadcast(*leading)

    def extra_repr(self) -> str:
        """The shapes of parameters and variables, and the options."""
        program = self.program
        parameters = ", ".join(f"{p.name()} {tuple(p.shape)}" for p in program.parameters)
        variables = ", ".join(f"{v.name()} {tuple(v.shape)}" for v in program.variables)
        return f"{parameters} -> {variables}, solver={program.solver!r}, on_failure={self.on_failure!r}"


def _any(mask: Tensor, core: int) -> Tensor:
    """Whether any entry of a batch element is marked; () for what has no batch dimension."""
    return mask.flatten(-core).any(-1) if core else mask


def _info(record: conic.Record, batch: torch.Size) -> SolveInfo:
    used = [conic.SOLVERS[code] for code in sorted(set(record.solver.tolist()))]
    method = ", ".join(name for name in used if name != "none") or "none"
    status, residual, steps = (part.reshape(batch) for part in (record.status, record.residual, record.steps))
    return SolveInfo("cvxpylayers", "conic", method, status, residual, steps=steps)
