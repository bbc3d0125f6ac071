"""Gradients that must not be differentiated again say so, instead of dropping a term in silence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convexdistill.errors import UnsupportedError


def first_order(gradient: Tensor, message: str, *depends_on: Tensor) -> Tensor:
    """Pass a gradient on, tied to all that it depends on; to differentiate it raises.

    Args:
        gradient: what a backward pass returns.
        message: of the error: what has no second derivative, and what has.
        depends_on: tensors with a graph. Without them, autograd would take the gradient for a constant.

    Raises:
        UnsupportedError: later, in the backward pass of the gradient.
    """
    tied: Tensor = _FirstOrder.apply(gradient, message, *depends_on)
    return tied


class _FirstOrder(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, message: str, *depends_on: Tensor) -> Tensor:
        ctx.message = message
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise UnsupportedError(ctx.message)
