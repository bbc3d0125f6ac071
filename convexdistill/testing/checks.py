"""The promises of a backend, one function each: ``check(case, backend, seed)`` raises AssertionError.

With those of ``derivative_checks.py`` and ``argument_checks.py`` they are what ``CHECKS`` lists by name;
each goes through the public layer, as a user would.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from convexdistill.errors import ConvexDistillError, NonFiniteInputError
from convexdistill.layers import Status
from convexdistill.layers.backends import registered
from convexdistill.layers.backends.base import SolveOptions
from convexdistill.layers.explain import announced
from convexdistill.testing.cases import Case, Inputs
from convexdistill.testing.common import (
    NotApplicable,
    broadcastable,
    check,
    close,
    expect,
    fitted,
    inputs,
    random_like,
)


@check
def answers_are_optimal(case: Case, backend: str, seed: int) -> None:
    """Every element's residual is small, its status says so, and what ran is on record."""
    given = inputs(case, (3,), seed)
    fit = case.layer(**given, backend=backend)
    expect(bool((fit.info.residual <= 1e-8).all()), f"residuals {fit.info.residual.tolist()}")
    expect(fit.info.status.tolist() == [0] * 3, f"status {fit.info.status.tolist()}")
    expect(fit.info.backend == backend, f"info.backend is {fit.info.backend!r}")
    told = announced(case.layer, **given, backend=backend)
    problem, solver = told.instance, registered(backend).solvers[case.problem]
    assert problem is not None
    solved = solver(problem, told.options or SolveOptions())
    residual = problem.residual(solved.answer, solved.dual)  # never the one that the backend reports
    expect(bool((residual <= 1e-8).all()), f"the residual of the answer is {residual.tolist()}")


@check
def answers_agree_with_torch(case: Case, backend: str, seed: int) -> None:
    """The answer is that of the torch backend."""
    if backend == "torch":
        raise NotApplicable("torch cannot be compared with itself")
    given = inputs(case, (2,), seed)
    close(
        fitted(case.layer(**given, backend=backend)), fitted(case.layer(**given, backend="torch")), case.tolerance
    )


@check
def gradients_match_differences(case: Case, backend: str, seed: int) -> None:
    """The gradient to every input, in a random direction, is what central differences find."""
    given = inputs(case, (), seed, grad=True)
    cotangent = random_like(fitted(case.layer(**given, backend=backend)), seed)
    value = (fitted(case.layer(**given, backend=backend)) * cotangent).sum()
    found = torch.autograd.grad(value, list(given.values()))
    for (name, tensor), gradient in zip(given.items(), found, strict=True):
        direction = random_like(tensor, seed + 1)
        if name == "gram":
            direction = direction + direction.mT
        step = 1e-5
        ends = []
        for sign in (1, -1):
            moved = {k: v.detach() for k, v in given.items()} | {name: tensor.detach() + sign * step * direction}
            ends.append((fitted(case.layer(**moved, backend=backend)) * cotangent).sum())
        expected = (ends[0] - ends[1]) / (2 * step)
        close((gradient * direction).sum(), expected, case.gradient_tolerance, f"gradient to {name}")


@check
def batches_are_loops(case: Case, backend: str, seed: int) -> None:
    """Any number of leading dimensions gives what a loop gives."""
    given = inputs(case, (2, 2), seed)
    together = fitted(case.layer(**given, backend=backend))
    expect(together.shape[:2] == (2, 2), f"the answer has shape {tuple(together.shape)}")
    for i, j in ((0, 1), (1, 0)):
        alone = fitted(case.layer(**{k: v[i, j] for k, v in given.items()}, backend=backend))
        close(together[i, j], alone, case.tolerance)


@check
def empty_batches_are_empty(case: Case, backend: str, seed: int) -> None:
    """A batch of no problems has no answers and no error, and gradients of its own shape."""
    given = inputs(case, (0,), seed, grad=True)
    fit = case.layer(**given, backend=backend)
    expect(fit.weight.shape[0] == 0, f"the weight has shape {tuple(fit.weight.shape)}")
    expect(fit.info.status.shape == (0,), f"the status has shape {tuple(fit.info.status.shape)}")
    fit.weight.sum().backward()
    for name, tensor in given.items():
        expect(tensor.grad is None or tensor.grad.shape == tensor.shape, f"gradient to {name}")


@check
def dtypes_are_kept(case: Case, backend: str, seed: int) -> None:
    """float32 in, float32 out, gradients included; the solve is as exact as the inputs."""
    given = inputs(case, (), seed)
    single = {k: v.float().requires_grad_() for k, v in given.items()}
    fit = case.layer(**single, backend=backend)
    expect(fit.weight.dtype == torch.float32, f"the weight is {fit.weight.dtype}")
    rounded = case.layer(**{k: v.detach().double() for k, v in single.items()}, backend=backend)
    close(fitted(fit).double(), fitted(rounded), 1e-6)
    fit.weight.sum().backward()
    for name, tensor in single.items():
        expect(tensor.grad is not None and tensor.grad.dtype == torch.float32, f"gradient to {name}")


@check
def layouts_do_not_matter(case: Case, backend: str, seed: int) -> None:
    """Transposed, strided and expanded inputs give the same, and no input is written to."""
    given = inputs(case, (), seed)
    expected = fitted(case.layer(**given, backend=backend))
    strided = {k: torch.stack([v, v + 1], -1)[..., 0] for k, v in given.items()}
    copies = {k: v.clone() for k, v in strided.items()}
    close(fitted(case.layer(**strided, backend=backend)), expected, case.tolerance)
    expanded = {k: v.expand(2, *v.shape) for k, v in given.items()}
    for answer in fitted(case.layer(**expanded, backend=backend)):
        close(answer, expected, case.tolerance)
    expect(all(torch.equal(strided[k], copies[k]) for k in copies), "an input was written to")


@check
def shared_inputs_get_summed_gradients(case: Case, backend: str, seed: int) -> None:
    """The gradient to an input that a batch shares is the sum over the batch, not the mean."""
    many, one = inputs(case, (3,), seed), inputs(case, (), seed, grad=True)
    for name, shared in one.items():
        others = {k: v for k, v in many.items() if k != name}
        together = fitted(case.layer(**others, **{name: broadcastable(name, shared, others)}, backend=backend))
        cotangent = random_like(together, seed)
        (found,) = torch.autograd.grad((together * cotangent).sum(), shared)
        parts = []
        for i in range(3):
            alone = fitted(case.layer(**{k: v[i] for k, v in others.items()}, **{name: shared}, backend=backend))
            parts.append(torch.autograd.grad((alone * cotangent[i]).sum(), shared)[0])
        close(found, torch.stack(parts).sum(0), case.gradient_tolerance, f"gradient to shared {name}")


@check
def gradients_are_linear_in_the_cotangent(case: Case, backend: str, seed: int) -> None:
    """Cotangents of 1e-12 and 1e12 give gradients of that size, not zero and not infinity."""
    given = inputs(case, (), seed, grad=True)
    answer = fitted(case.layer(**given, backend=backend))
    cotangent = random_like(answer, seed)
    tensors = list(given.values())
    expected = torch.autograd.grad(answer, tensors, cotangent, retain_graph=True)
    for scale in (1e-12, 1e12):
        found = torch.autograd.grad(answer, tensors, cotangent * scale, retain_graph=True)
        for name, a, b in zip(given, found, expected, strict=True):
            close(a / scale, b, case.gradient_tolerance, f"gradient to {name} at scale {scale:g}")


@check
def only_wanted_gradients_are_made(case: Case, backend: str, seed: int) -> None:
    """An input that requires no gradient gets none, and the others get the same as before."""
    every = inputs(case, (), seed, grad=True)
    answer = fitted(case.layer(**every, backend=backend))
    cotangent = random_like(answer, seed)
    expected = torch.autograd.grad(answer, list(every.values()), cotangent)
    for name, gradient in zip(every, expected, strict=True):
        given = {k: v.detach().requires_grad_(k == name) for k, v in every.items()}
        (found,) = torch.autograd.grad(fitted(case.layer(**given, backend=backend)), given[name], cotangent)
        close(found, gradient, case.gradient_tolerance, f"gradient to {name} alone")


@check
def nan_is_refused_by_name(case: Case, backend: str, seed: int) -> None:
    """NaN in any argument raises, naming it; under on_failure="nan" only its own element is lost."""
    for name in inputs(case, (2,), seed):
        given = inputs(case, (2,), seed)
        given[name][1].view(-1)[0] = float("nan")
        try:
            case.layer(**given, backend=backend)
        except NonFiniteInputError as error:
            expect(str(error).startswith(name), f"the message does not name {name}: {error}")
        else:
            raise AssertionError(f"NaN in {name} was accepted")
        fit = case.layer(**given, backend=backend, on_failure="nan")
        codes = [int(Status.OPTIMAL), int(Status.NONFINITE_INPUT)]
        expect(fit.info.status.tolist() == codes, f"status {fit.info.status.tolist()} with NaN in {name}")
        expect(bool(fit.weight[1].isnan().all() and fit.weight[0].isfinite().all()), f"weights with NaN in {name}")


@check
def repeated_rows_are_weights(case: Case, backend: str, seed: int) -> None:
    """An example that stands there twice counts like one of weight 2."""
    if not case.weighted:
        raise NotApplicable("the layer takes no weights")
    given = inputs(case, (), seed)
    weights = torch.ones(given["labels"].shape[0], dtype=torch.float64)
    weights[0] = 2
    twice = {k: torch.cat([v, v[:1]]) if k in ("features", "labels") else v for k, v in given.items()}
    if "gram" in given:
        K = torch.cat([given["gram"], given["gram"][:1]])
        twice["gram"] = torch.cat([K, K[:, :1]], 1)
    expected = case.layer(**twice, backend=backend)
    found = case.layer(**given, sample_weight=weights, backend=backend)
    if "gram" in given:  # the dual coefficients of the twins add up
        folded = expected.weight[:-1].clone()
        folded[0] += expected.weight[-1]
        close(found.weight, folded, case.tolerance)
    else:
        close(fitted(found), fitted(expected), case.tolerance)


@check
def threads_do_not_disturb_each_other(case: Case, backend: str, seed: int) -> None:
    """Solves at the same time give what they give one after the other."""
    jobs = [inputs(case, (), seed + i) for i in range(6)]

    def solve(given: Inputs) -> Tensor:
        return fitted(case.layer(**given, backend=backend))

    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(solve, jobs))
    for given, answer in zip(jobs, answers, strict=True):
        close(answer, solve(given), case.tolerance)


@check
def errors_are_our_own(case: Case, backend: str, seed: int) -> None:
    """A method that does not exist raises an error of convexdistill that lists those that do."""
    try:
        case.layer(**inputs(case, (), seed), backend=backend, method="no such method")
    except ConvexDistillError as error:
        expect("no such method" in str(error), f"the message is {error}")
    else:
        raise AssertionError("a method that does not exist was accepted")
