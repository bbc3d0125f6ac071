"""What a user passes to a layer: described once, then checked, converted and made harmless by one mechanism.

A layer lists its arguments; everything said here of an argument (its core dimensions, its sign, whether it may
be infinite) is checked with a message that names it. Errors are for ``on_failure="raise"`` and ``"warn"``; under
``"nan"``, where nothing may wait for the device, values without a meaning are replaced and their batch elements
remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor

from convexdistill.errors import DtypeError, ParameterRangeError, ShapeError
from convexdistill.layers import checks

Values = dict[str, Tensor | None]


class Argument(NamedTuple):
    """One argument of a layer.

    Attributes:
        name: what the user calls it.
        value: what was passed: a tensor, a number, or None for a default.
        core: how many trailing dimensions belong to the problem; those before are batch, and broadcast.
        sign: ``"any"``, ``"nonnegative"`` or ``"positive"``.
        infinite: whether ±inf has a meaning (a bound that is not there).
        required: whether None is no default but a mistake.
        double: whether a float64 tensor will do beside shorter ones: rounded to float16, λ = 1e-8 is 0.
    """

    name: str
    value: Tensor | float | None
    core: int = 0
    sign: str = "any"
    infinite: bool = False
    required: bool = False
    double: bool = False


class Rule(NamedTuple):
    """A condition on several values, without which the problem has no meaning.

    Attributes:
        broken: values -> (*B,) bool, true where the condition does not hold.
        message: the sentence of the :class:`~convexdistill.errors.ParameterRangeError`.
        argument: which argument is to be replaced in broken elements under ``on_failure="nan"``.
        fallback: by what.
    """

    broken: Callable[[Values], Tensor]
    message: str
    argument: str
    fallback: float


def examples(features: Tensor, labels: Tensor) -> bool:
    """Check the shapes of features (*B, n, d) and labels (*B, n, C) or (*B, n); True for vector labels.

    Raises:
        DtypeError: one is no floating-point tensor.
        ShapeError: the shapes do not fit together, or there is nothing to fit.
    """
    X, Y = checks.require_tensor("features", features), checks.require_tensor("labels", labels)
    x, y = X.shape, Y.shape
    if len(x) < 2:
        raise ShapeError(f"features must have shape (*B, n, d), got {tuple(x)}.")
    vector_labels = len(y) == len(x) - 1
    if len(y) < 2 - vector_labels or y[-1 if vector_labels else -2] != x[-2]:
        hint = (
            " Labels with one dimension less than features are read as vectors (*B, n); "
            "to share one matrix (n, C) over the batch, pass labels.unsqueeze(0)."
            if vector_labels and len(x) > 2
            else ""
        )
        raise ShapeError(
            f"labels has shape {tuple(y)} and features {tuple(x)}; labels must be "
            f"(*B, n, C) or (*B, n) with n = {x[-2]}, the number of examples in features.{hint}"
        )
    if not x[-1] or not x[-2]:
        missing = "features" if x[-2] else "examples"
        raise ShapeError(f"features has shape {tuple(x)}: there are no {missing} to fit.")
    if not y[-1]:
        raise ShapeError(f"labels has shape {tuple(y)}: there are no columns to fit.")
    return vector_labels


def require_length(name: str, value: Tensor | None, length: int, of: str = "features") -> None:
    """Check that the last dimension of an argument with a value for every example is ``length``.

    Raises:
        DtypeError: it is no floating-point tensor.
        ShapeError: it is not.
    """
    if value is None:
        return
    checks.require_tensor(name, value)
    if value.ndim < 1 or value.shape[-1] != length:
        raise ShapeError(
            f"{name} has shape {tuple(value.shape)}; it must be (*B, n) with n = {length}, "
            f"the number of examples in {of}."
        )


def require_columns(name: str, value: Tensor | float | None, columns: int) -> None:
    """Check that an argument with a value for every column of the labels has 1 or C of them.

    Raises:
        ShapeError: it has not.
    """
    if isinstance(value, Tensor) and value.ndim and value.shape[-1] not in (1, columns):
        raise ShapeError(
            f"{name} has shape {tuple(value.shape)}; its last dimension counts columns of the labels, so it "
            f"must be 1 or C = {columns}; for one value a batch element pass {name}.unsqueeze(-1)."
        )


def convert(arguments: Sequence[Argument]) -> Values:
    """The float64 tensors by name, after checks of types, dtypes, devices and leading dimensions.

    Raises:
        DtypeError: a value is neither a number nor a floating-point tensor, or dtypes differ.
        DeviceError: devices differ, or hold no values.
        ShapeError: leading dimensions do not broadcast.
    """
    first = arguments[0].value
    assert isinstance(first, Tensor)
    values: Values = {}
    for name, value, core, _, _, required, double in arguments:
        if value is None and not required:
            values[name] = None
        elif isinstance(value, Tensor):
            checks.require_tensor(name, value)
            checks.require_same_kind(arguments[0].name, first, name, value, double=double)
            missing = core - value.ndim
            values[name] = (value if missing <= 0 else value.reshape(*[1] * missing, *value.shape)).double()
        elif isinstance(value, bool) or not isinstance(value, Real):
            raise DtypeError(f"{name} must be a number or a torch.Tensor, got {type(value).__qualname__}.")
        else:
            number = torch.tensor(float(value), dtype=torch.float64, device=first.device)
            values[name] = number.reshape([1] * core) if core else number
    checks.require_values(arguments[0].name, first)
    cores = {a.name: a.core for a in arguments}
    batches = [(name, v.shape[: v.ndim - cores[name]]) for name, v in values.items() if v is not None]
    if any(shape != batches[0][1] for _, shape in batches):
        checks.require_broadcast(*batches)
    return values


def check_signs(arguments: Sequence[Argument], values: Values, rules: Sequence[Rule]) -> None:
    """Raise on negative numbers and broken rules, which a solver may not notice.

    Raises:
        ParameterRangeError: a value has the wrong sign, or a rule is broken.
    """
    for name, value, _, sign, *_ in arguments:
        if value is None or sign == "any":
            continue
        if isinstance(value, Tensor):
            checks.require_sign(name, value, strict=sign == "positive")
        elif value < 0 or (sign == "positive" and value == 0):
            checks.require_sign(name, torch.tensor(float(value)), strict=sign == "positive")
    for rule in rules:
        if bool(rule.broken(values).any()):
            raise ParameterRangeError(rule.message)


def check_finite(arguments: Sequence[Argument]) -> None:
    """Raise on NaN, and on infinity where it has no meaning.

    Raises:
        NonFiniteInputError: a value is one; the message says which.
    """
    for name, value, _, _, infinite, *_ in arguments:
        if value is not None:
            tensor = value if isinstance(value, Tensor) else torch.tensor(float(value), dtype=torch.float64)
            checks.require_finite(name, tensor, infinite=infinite)


def sanitise(
    arguments: Sequence[Argument], values: Values, rules: Sequence[Rule]
) -> tuple[Values, Tensor, Tensor]:
    """Replace what has no meaning by what has, and say where: solvers never see NaN.

    Returns:
        The values, then (*B,) masks of the batch elements with non-finite and with invalid values.
    """
    first = values[arguments[0].name]
    assert first is not None
    nonfinite = invalid = torch.zeros((), dtype=torch.bool, device=first.device)
    safe: Values = {}
    for name, _, core, sign, infinite, *_ in arguments:
        tensor = values[name]
        if tensor is None:
            safe[name] = None
            continue
        bad = tensor.isnan() if infinite else ~tensor.isfinite()
        nonfinite = nonfinite | _any(bad, core)
        if sign != "any":
            wrong = tensor <= 0 if sign == "positive" else tensor < 0
            invalid = invalid | _any(wrong & ~bad, core)
            bad = bad | wrong
        safe[name] = tensor.masked_fill(bad, 0.0 if sign == "any" else 1.0)
    cores = {a.name: a.core for a in arguments}
    for rule in rules:
        broken = rule.broken(safe)
        invalid = invalid | broken
        target = safe[rule.argument]
        assert target is not None
        safe[rule.argument] = target.masked_fill(broken[(..., *[None] * cores[rule.argument])], rule.fallback)
    return safe, nonfinite, invalid


def _any(mask: Tensor, core: int) -> Tensor:
    """Whether any entry of a batch element is marked."""
    return mask.flatten(-core).any(-1) if core else mask
