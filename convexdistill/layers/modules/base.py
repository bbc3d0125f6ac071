"""What every layer module shares: options kept as attributes, λ fixed or learnt, a short ``repr``."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn

from convexdistill.errors import ParameterRangeError, ShapeError, UnsupportedError
from convexdistill.layers import checks
from convexdistill.layers.backends import select
from convexdistill.layers.backends.base import pick
from convexdistill.layers.failure import POLICIES
from convexdistill.layers.pipeline import FORMS
from convexdistill.layers.reduction import INTERCEPTS

_WORDS = {"intercept": INTERCEPTS, "form": FORMS, "on_failure": POLICIES}


class LayerModule(nn.Module):
    """Base of the modules: checks the options when it is built, and keeps no buffer that depends on data.

    Args:
        problem: the class of problem, by which an unknown backend is refused now and not at the first batch.
        options: keyword options of the layer's function; each becomes an attribute.
    """

    def __init__(self, problem: type, **options: Any) -> None:
        super().__init__()
        for name, value in options.items():
            if name in _WORDS:
                pick(name, value, _WORDS[name])
            if name == "backend":
                select(value, problem)
            setattr(self, name, value)
        self._names = tuple(options)

    def options(self) -> dict[str, Any]:
        """The options as they are now, for the layer's function."""
        return {name: getattr(self, name) for name in self._names}

    def extra_repr(self) -> str:
        """The options that differ from the defaults."""
        defaults = inspect.signature(type(self).__init__).parameters
        changed = ((k, v) for k, v in self.options().items() if k not in defaults or v != defaults[k].default)
        return ", ".join(f"{name}={value!r}" for name, value in changed)


class RegularisedModule(LayerModule):
    """A module with λ: fixed, or a parameter ``log_lam``, which keeps it positive.

    Args:
        problem: as in :class:`LayerModule`.
        lam: λ ≥ 0, a number or a tensor () or (C,), one for each column of the labels; the starting value when it
            is learnt, then > 0.
        learn_lam: whether λ is a parameter.
        options: as in :class:`LayerModule`.

    Raises:
        DtypeError: ``lam`` is neither a number nor a floating-point tensor.
        ParameterRangeError: ``lam`` is negative or not finite, or zero with ``learn_lam=True``.
    """

    log_lam: nn.Parameter | None
    _columns: Tensor | None

    def __init__(self, problem: type, lam: float | Tensor, learn_lam: bool, **options: Any) -> None:
        super().__init__(problem, **options)
        self.learn_lam = learn_lam
        self.register_parameter("log_lam", None)
        self.register_buffer("_columns", None)
        self._number: float = 0.0
        lam = _valid(lam)
        if not learn_lam:
            self.lam = lam
            return
        start = lam if isinstance(lam, Tensor) else torch.tensor(lam)
        if bool((start == 0).any()):
            raise ParameterRangeError(
                "lam is 0, which learn_lam=True cannot start from, since it learns log(lam); give a positive lam."
            )
        log = start.log() if isinstance(lam, Tensor) else torch.tensor(math.log(lam))
        self.register_parameter("log_lam", nn.Parameter(log))

    @property
    def lam(self) -> float | Tensor:
        """λ as it is now: a number, or a tensor (C,) without gradient. May be assigned where it is not learnt."""
        if self.log_lam is not None:
            found = self.log_lam.detach().exp()
            return found if found.ndim else found.item()
        return self._number if self._columns is None else self._columns

    @lam.setter
    def lam(self, value: float | Tensor) -> None:
        if self.learn_lam:
            raise UnsupportedError(
                "lam is learnt (learn_lam=True): it is exp(log_lam), and cannot be assigned. Set the parameter "
                "under torch.no_grad(): layer.log_lam.fill_(math.log(value)); or build one with learn_lam=False."
            )
        value = _valid(value)
        self._columns = value if isinstance(value, Tensor) else None
        self._number = 0.0 if isinstance(value, Tensor) else value

    def current_lam(self, lam: float | Tensor | None = None) -> float | Tensor:
        """λ for a solve: the one given, or else the module's own, float64 where it is a tensor."""
        if lam is not None:
            return lam
        own = self.lam if self.log_lam is None else self.log_lam.double().exp()
        return own.double() if isinstance(own, Tensor) else own

    def extra_repr(self) -> str:
        """λ as it is now, and the options that differ from the defaults."""
        lam = self.lam
        shown = f"[{', '.join(f'{x:g}' for x in lam.tolist())}]" if isinstance(lam, Tensor) else f"{lam:g}"
        words = [f"lam={shown}"] + (["learn_lam=True"] if self.learn_lam else []) + [super().extra_repr()]
        return ", ".join(filter(None, words))


def _valid(lam: float | Tensor) -> float | Tensor:
    """λ as a number, or as a tensor (C,) without gradient.

    Raises:
        DtypeError: it is neither.
        ParameterRangeError: it is negative or not finite.
        ShapeError: it is a tensor with more than one dimension.
    """
    if isinstance(lam, Tensor):
        lam = checks.require_tensor("lam", lam).detach()
        if lam.ndim > 1 or not lam.numel():
            raise ShapeError(f"lam has shape {tuple(lam.shape)}; a module takes (), or (C,), one for each column.")
        checks.require_sign("lam", lam)
        if not bool(lam.isfinite().all()):
            raise ParameterRangeError(f"lam is {lam.tolist()}, but lam must be finite and >= 0.")
        return lam.clone() if lam.ndim else lam.item()
    checks.require_number("lam", lam)
    lam = float(lam)
    if not (math.isfinite(lam) and lam >= 0):
        raise ParameterRangeError(f"lam is {lam}, but lam must be finite and >= 0.")
    return lam
