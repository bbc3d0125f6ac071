"""Call an ``autograd.Function`` in the cheapest way that is right where it is called.

``torch.func`` needs the style with ``setup_context``, whose arguments ``Function.apply`` binds by introspection:
that takes longer than solving a system of a hundred rows. Outside of transforms the style with ``forward(ctx, …)``
does the same; and where nothing is to be differentiated, no graph node is needed at all.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad


def differentiable(plain: type[Function], with_jvp: type[Function], *inputs: Any) -> Any:
    """Apply a function that exists with and without forward-mode derivative.

    Args:
        plain: with ``forward``, ``setup_context`` and ``backward`` only, which is what ``torch.compile`` takes.
        with_jvp: the same with ``jvp``.
        inputs: arguments of ``forward``, all of them, by position.
    """
    if torch.compiler.is_compiling():
        return plain.apply(*inputs)
    if torch._C._are_functorch_transforms_active():
        return with_jvp.apply(*inputs)
    # Dual numbers carry derivatives without any graph.
    dual = forward_ad._current_level >= 0
    if not dual and not (torch.is_grad_enabled() and any(_requires_grad(x) for x in inputs)):
        return plain.forward(*inputs)
    return _eager(with_jvp).apply(*inputs)


@cache
def _eager(function: Any) -> Any:
    """The same function in the style that torch applies without introspection."""

    def forward(ctx: Any, *inputs: Any) -> Any:
        output = function.forward(*inputs)
        function.setup_context(ctx, inputs, output)
        return output

    methods = {"forward": forward, "backward": function.backward, "jvp": function.jvp}
    return type(function.__name__, (Function,), {name: staticmethod(m) for name, m in methods.items()})


def _requires_grad(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad
