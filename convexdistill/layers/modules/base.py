"""What every layer module shares: options kept as attributes, λ fixed or learnt, a short ``repr``."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn

from convexdistill.errors import ParameterRangeError
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
    """A module with λ: a number, or a parameter ``log_lam``, which keeps it positive.

    Args:
        problem: as in :class:`LayerModule`.
        lam: λ ≥ 0; the starting value when it is learnt, then > 0.
        learn_lam: whether λ is a parameter.
        options: as in :class:`LayerModule`.

    Raises:
        ParameterRangeError: ``lam`` is negative or not finite, or zero with ``learn_lam=True``.
    """

    log_lam: nn.Parameter | None

    def __init__(self, problem: type, lam: float, learn_lam: bool, **options: Any) -> None:
        super().__init__(problem, **options)
        lam = float(lam)
        if not (math.isfinite(lam) and lam >= 0):
            raise ParameterRangeError(f"lam is {lam}, but lam must be finite and >= 0.")
        if learn_lam and lam == 0:
            raise ParameterRangeError(
                "lam is 0, which learn_lam=True cannot start from, since it learns log(lam); give a positive lam."
            )
        self.lam = lam
        self.learn_lam = learn_lam
        self.register_parameter("log_lam", nn.Parameter(torch.tensor(math.log(lam))) if learn_lam else None)

    def current_lam(self, features: Tensor, lam: float | Tensor | None = None) -> float | Tensor:
        """λ for a solve: the one given, or else the module's own in the dtype of the features."""
        if lam is not None:
            return lam
        dtype = getattr(features, "dtype", None)
        return self.lam if self.log_lam is None else self.log_lam.exp().to(dtype)

    def extra_repr(self) -> str:
        """λ as it is now, and the options that differ from the defaults."""
        lam = self.lam if self.log_lam is None else math.exp(self.log_lam.item())
        words = [f"lam={lam:g}"] + (["learn_lam=True"] if self.learn_lam else []) + [super().extra_repr()]
        return ", ".join(filter(None, words))
