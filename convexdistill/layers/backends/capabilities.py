"""What a backend says that it cannot do is refused for it, by name, before torch fails or a value is wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from convexdistill.errors import UnsupportedError
from convexdistill.layers.backends import capable
from convexdistill.layers.backends.base import Backend, Solved, has_tangent, inside_transform


def refuse_transforms(backend: Backend, problem: type, *values: Any) -> None:
    """Raise where a backend without transforms would meet one.

    Args:
        backend: one with ``transforms=False``.
        problem: the class of problem, for the advice.
        values: the user's arguments, which may be dual numbers.

    Raises:
        UnsupportedError: a transform, ``torch.compile`` or forward mode is running.
    """
    if inside_transform() or has_tangent(*values):
        raise UnsupportedError(_message(backend, problem))


def guard_gradient(backend: Backend, problem: type, solved: Solved) -> Solved:
    """The same answer, whose backward pass refuses the batched cotangents of ``is_grads_batched=True``."""
    if not solved.answer.requires_grad:
        return solved
    return replace(solved, answer=_Guard.apply(solved.answer, _message(backend, problem)))


class _Guard(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, answer: Tensor, message: str) -> Tensor:
        ctx.message = message
        return answer.clone()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        if inside_transform(cotangent):
            raise UnsupportedError(ctx.message)
        return cotangent, None


def _message(backend: Backend, problem: type) -> str:
    others = capable(problem)
    advice = f"use backend={' or '.join(map(repr, others))}, or" if others else "use"
    return (
        f"backend={backend.name!r} does not run under torch.func transforms, torch.compile, forward mode or "
        f"batched gradients; {advice} leading batch dimensions instead of vmap."
    )
