"""Checks of second derivatives, transforms and ``torch.compile``, where a backend says that it has them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

from convexdistill.errors import UnsupportedError
from convexdistill.layers.backends import registered
from convexdistill.testing.cases import Case, Inputs
from convexdistill.testing.common import NotApplicable, check, close, fitted, inputs, random_like


@check
def second_derivatives_are_right_or_refused(case: Case, backend: str, seed: int) -> None:
    """Gradients of gradients match differences, or raise UnsupportedError; a term is never dropped."""
    given = inputs(case, (), seed, grad=True)
    tensors = list(given.values())

    def slope(at: list[Tensor], graph: bool) -> Tensor:
        answer = fitted(case.layer(**dict(zip(given, at, strict=True)), backend=backend))
        grads = torch.autograd.grad(answer.square().sum(), at, create_graph=graph)
        return torch.stack([(g * random_like(g, seed + i)).sum() for i, g in enumerate(grads)]).sum()

    if not registered(backend).double_backward:
        try:
            torch.autograd.grad(slope(tensors, True), tensors)
        except UnsupportedError:
            return
        raise AssertionError("the backend says it has no second derivatives, and returns some")
    found = torch.autograd.grad(slope(tensors, True), tensors)
    directions = [random_like(t, seed + 7) for t in tensors]
    if "gram" in given:
        directions = [v + v.mT if k == "gram" else v for k, v in zip(given, directions, strict=True)]
    step = 1e-5
    ends = []
    for sign in (1, -1):
        moved = [(t.detach() + sign * step * v).requires_grad_() for t, v in zip(tensors, directions, strict=True)]
        ends.append(slope(moved, False))
    expected = (ends[0] - ends[1]) / (2 * step)
    close(torch.stack([(g * v).sum() for g, v in zip(found, directions, strict=True)]).sum(), expected, 1e-4)


def _solve(case: Case, backend: str) -> Callable[[Inputs], Tensor]:
    def solve(values: Inputs) -> Tensor:
        return fitted(case.layer(**values, backend=backend))

    return solve


def _work_or_are_refused(backend: str, run: Callable[[], None]) -> None:
    """``run()`` compares what a transform gives; a backend without transforms may refuse instead."""
    try:
        run()
    except UnsupportedError:
        if registered(backend).transforms:
            raise


@check
def transforms_work_or_are_refused(case: Case, backend: str, seed: int) -> None:
    """torch.func.vmap gives what leading dimensions give, or raises UnsupportedError."""
    given, solve = inputs(case, (3,), seed), _solve(case, backend)
    _work_or_are_refused(
        backend, lambda: close(torch.func.vmap(solve)(given), solve(given), case.tolerance, "under vmap")
    )


@check
def forward_mode_is_the_transpose_of_backward(case: Case, backend: str, seed: int) -> None:
    """⟨Jv, u⟩ = ⟨v, Jᵀu⟩, for jvp and for dual numbers; or UnsupportedError."""
    given, solve = inputs(case, (), seed, grad=True), _solve(case, backend)
    answer = solve(given)
    u = random_like(answer, seed)
    v = {k: random_like(t, seed + i) for i, (k, t) in enumerate(given.items())}
    if "gram" in v:
        v["gram"] = v["gram"] + v["gram"].mT
    grads = torch.autograd.grad((answer * u).sum(), list(given.values()))
    expected = torch.stack([(g * w).sum() for g, w in zip(grads, v.values(), strict=True)]).sum()
    plain = {k: t.detach() for k, t in given.items()}

    def jvp() -> None:
        tangent = torch.func.jvp(solve, (plain,), (v,))[1]
        close((tangent * u).sum(), expected, case.gradient_tolerance, "jvp")

    def duals() -> None:
        with forward_ad.dual_level():
            found = solve({k: forward_ad.make_dual(plain[k], v[k]) for k in plain})
            tangent = forward_ad.unpack_dual(found).tangent
            if tangent is None:
                raise AssertionError("the answer to dual numbers has no tangent: a derivative of zero")
            close((tangent * u).sum(), expected, case.gradient_tolerance, "dual numbers")

    for run in (jvp, duals):
        _work_or_are_refused(backend, run)


@check
def jacobians_and_hessians_agree(case: Case, backend: str, seed: int) -> None:
    """jacrev and batched gradients give what one backward pass an entry gives; hessian what two give."""
    given, solve = inputs(case, (), seed), _solve(case, backend)
    labels = given["labels"].clone().requires_grad_()

    def at(Y: Tensor) -> Tensor:
        return solve({**given, "labels": Y})

    answer = at(labels)
    rows = torch.eye(answer.numel(), dtype=answer.dtype).reshape(-1, *answer.shape)
    loop = torch.stack([torch.autograd.grad(answer, labels, row, retain_graph=True)[0] for row in rows])
    loop = loop.reshape(*answer.shape, *labels.shape)

    def jacrev() -> None:
        close(torch.func.jacrev(at)(labels.detach()), loop, case.gradient_tolerance, "jacrev")

    def batched() -> None:
        (found,) = torch.autograd.grad(at(labels), labels, rows, is_grads_batched=True)
        close(found.reshape(loop.shape), loop, case.gradient_tolerance, "is_grads_batched")

    def hessian() -> None:
        def energy(Y: Tensor) -> Tensor:
            return at(Y).pow(3).sum()

        found = torch.func.hessian(energy)(labels.detach())
        (slope,) = torch.autograd.grad(energy(labels), labels, create_graph=True)
        direction = random_like(labels, seed)
        (expected,) = torch.autograd.grad((slope * direction).sum(), labels)
        close(torch.tensordot(found, direction, labels.ndim), expected, 1e-4, "hessian")

    for run in (jacrev, batched) + ((hessian,) if registered(backend).double_backward else ()):
        _work_or_are_refused(backend, run)


@check
def compiled_layers_give_the_same(case: Case, backend: str, seed: int) -> None:
    """torch.compile traces the layer and its gradient, and gives what it gives without; or UnsupportedError."""
    if not registered(backend).transforms:
        raise NotApplicable("the backend says that it does not run under torch.compile")
    given, solve = inputs(case, (), seed, grad=True), _solve(case, backend)
    torch.compiler.reset()
    compiled = torch.compile(solve, backend="aot_eager")
    found, expected = compiled(given), solve(given)
    close(found, expected, case.tolerance, "compiled")
    tensors = list(given.values())
    u = random_like(expected, seed)
    for one, other in zip(
        torch.autograd.grad(found, tensors, u), torch.autograd.grad(expected, tensors, u), strict=True
    ):
        close(one, other, case.gradient_tolerance, "gradient of compiled")
