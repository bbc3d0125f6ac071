"""Refuse inputs that have no meaning, and say which one, what was found, where, and what to do."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from convexdistill.errors import (
    DeviceError,
    DtypeError,
    NonFiniteInputError,
    ParameterRangeError,
    ShapeError,
)
from convexdistill.layers.problems.base import broadcast_shapes


def require_tensor(name: str, value: Any) -> Tensor:
    """Return ``value`` if it is a real floating-point tensor.

    Raises:
        DtypeError: it is not.
    """
    if not isinstance(value, Tensor):
        raise DtypeError(
            f"{name} must be a torch.Tensor, got {type(value).__module__}.{type(value).__qualname__}; "
            f"wrap it in torch.as_tensor(...)."
        )
    if not value.is_floating_point():
        raise DtypeError(
            f"{name} must be a floating-point tensor, got {value.dtype}; use {name}.float() "
            "(class indices become soft labels with torch.nn.functional.one_hot)."
        )
    return value


def require_same_kind(first: str, reference: Tensor, name: str, tensor: Tensor, *, double: bool = False) -> None:
    """Check that a tensor has the dtype (or, where ``double`` allows it, float64) and the device of the reference.

    Raises:
        DtypeError: dtypes differ.
        DeviceError: devices differ.
    """
    if tensor.dtype != reference.dtype and not (double and tensor.dtype == torch.float64):
        raise DtypeError(
            f"{name} is {tensor.dtype} but {first} is {reference.dtype}; "
            f"bring them to one dtype, for example {name}.to({first}.dtype)."
        )
    if tensor.device != reference.device:
        raise DeviceError(
            f"{name} is on {tensor.device} but {first} is on {reference.device}; "
            f"bring them to one device, for example {name}.to({first}.device)."
        )


def require_values(name: str, tensor: Tensor) -> None:
    """Check that a tensor has values: those on the meta device have a shape alone.

    Raises:
        DeviceError: it has none.
    """
    if tensor.is_meta:
        raise DeviceError(f"{name} is on the meta device, which holds no values to fit; move it to cpu or cuda.")


def require_number(name: str, value: Any, *, whole: bool = False) -> None:
    """Check that an option is a number, not a tensor or a text.

    Raises:
        DtypeError: it is not, or not a whole one where it has to be.
    """
    if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
        kind = "a whole number" if whole else "a number"
        raise DtypeError(f"{name} must be {kind}, got {type(value).__qualname__}.")


def require_finite(name: str, tensor: Tensor, *, infinite: bool = False) -> None:
    """Check that no entry is NaN, nor infinite unless ``infinite`` allows it.

    Raises:
        NonFiniteInputError: one is; the message names the first and counts them.
    """
    bad = torch.isnan(tensor) if infinite else ~torch.isfinite(tensor)
    if not bool(bad.any()):
        return
    where = torch.nonzero(bad)[0].tolist()
    value = float(tensor[tuple(where)])
    raise NonFiniteInputError(
        f"{name}{_index(tensor, where)} is {value} ({int(bad.sum())} of {tensor.numel()} values are not "
        f"finite); look for the step that made it, upstream of the layer."
    )


def require_sign(name: str, tensor: Tensor, *, strict: bool = False) -> None:
    """Check that no entry is negative, nor zero when ``strict``.

    Raises:
        ParameterRangeError: one is; the message names the first.
    """
    bad = tensor <= 0 if strict else tensor < 0
    if not bool(bad.any()):
        return
    where = torch.nonzero(bad)[0].tolist()
    raise ParameterRangeError(
        f"{name}{_index(tensor, where)} is {float(tensor[tuple(where)])}, but {name} must be "
        f"{'> 0' if strict else '>= 0'}."
    )


def require_broadcast(*named: tuple[str, torch.Size]) -> torch.Size:
    """The common shape of leading dimensions.

    Raises:
        ShapeError: they do not broadcast; the message shows them all.
    """
    try:
        return broadcast_shapes(*(shape for _, shape in named))
    except RuntimeError:
        shapes = ", ".join(f"{name} {tuple(shape)}" for name, shape in named)
        raise ShapeError(
            f"the leading (batch) dimensions do not broadcast: {shapes}; "
            "make them equal, or 1 where a tensor is shared."
        ) from None


def _index(tensor: Tensor, where: list[int]) -> str:
    if tensor.numel() == 1:
        return ""
    return f"[{', '.join(map(str, where))}]" if where else ""
