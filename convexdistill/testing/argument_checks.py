"""Checks of the arguments that every layer shares: vectors, λ, weights, intercepts, forms, policies."""

from __future__ import annotations

import warnings

import torch

from convexdistill.errors import NumericalWarning, ParameterRangeError, UnsupportedError
from convexdistill.layers import Status
from convexdistill.testing.cases import Case
from convexdistill.testing.common import NotApplicable, check, close, expect, fitted, inputs, random_like


@check
def vector_labels_are_one_column(case: Case, backend: str, seed: int) -> None:
    """Labels (n,) give the weight (d,) of labels (n, 1), and a gradient of their own shape."""
    if not case.vectors:
        raise NotApplicable("the layer takes no vectors")
    given = inputs(case, (), seed)
    column = {k: v[..., :1] if k in ("labels", "lam", "prior") else v for k, v in given.items()}
    vector = {**column, "labels": column["labels"].squeeze(-1).requires_grad_()}
    fit = case.layer(**vector, backend=backend)
    expect(fit.weight.ndim == 1, f"the weight has shape {tuple(fit.weight.shape)}")
    (gradient,) = torch.autograd.grad(fit.weight.sum(), vector["labels"])
    expect(gradient.shape == vector["labels"].shape, f"the gradient has shape {tuple(gradient.shape)}")
    if case.name != "logistic regression":  # where a vector is the second of two classes
        close(fit.weight, case.layer(**column, backend=backend).weight.squeeze(-1), case.tolerance)


@check
def lam_may_be_a_number_or_one_for_all(case: Case, backend: str, seed: int) -> None:
    """0.7, a tensor (), (1,) and (C,) of 0.7 give the same."""
    given = inputs(case, (), seed)
    if "lam" not in given:
        raise NotApplicable("the layer has no lam")
    same = torch.full_like(given["lam"], 0.7)
    expected = fitted(case.layer(**{**given, "lam": same}, backend=backend))
    for lam in (0.7, same[0], same[:1]):
        close(fitted(case.layer(**{**given, "lam": lam}, backend=backend)), expected, case.tolerance, f"lam={lam}")


@check
def gradients_to_weights_match_differences(case: Case, backend: str, seed: int) -> None:
    """The gradient to positive sample weights is what central differences find."""
    if not case.weighted:
        raise NotApplicable("the layer takes no weights")
    given = inputs(case, (), seed)
    s = 0.5 + random_like(given["labels"][..., 0], seed).abs()
    direction = random_like(s, seed + 1)
    answer = fitted(case.layer(**given, backend=backend))
    u = random_like(answer, seed)

    def value(weights: torch.Tensor) -> torch.Tensor:
        return (fitted(case.layer(**given, sample_weight=weights, backend=backend)) * u).sum()

    at = s.clone().requires_grad_()
    (found,) = torch.autograd.grad(value(at), at)
    step = 1e-5
    expected = (value(s + step * direction) - value(s - step * direction)) / (2 * step)
    error = float(((found * direction).sum() - expected).detach().abs())
    size = float(expected.detach().abs()) + float(
        answer.norm() * u.norm()
    )  # it may be 0: no example of an SVM binds
    expect(error <= case.gradient_tolerance * size, f"gradient to sample_weight: error {error:.1e} of {size:.1e}")


@check
def every_intercept_is_optimal(case: Case, backend: str, seed: int) -> None:
    """Every intercept is solved to the promised accuracy; a free one makes up for labels that are shifted."""
    given = inputs(case, (), seed)
    for word in case.intercepts:
        fit = case.layer(**given, intercept=word, backend=backend)
        expect(int(fit.info.status) == Status.OPTIMAL, f"intercept={word!r}: status {int(fit.info.status)}")
        expect((fit.intercept is None) == (word == "none"), f"intercept={word!r} gave {fit.intercept}")
    if "free" in case.intercepts and "ridge" in case.name and "constrained" not in case.name:
        before = case.layer(**given, intercept="free", backend=backend)
        after = case.layer(**{**given, "labels": given["labels"] + 3.0}, intercept="free", backend=backend)
        assert before.intercept is not None
        assert after.intercept is not None
        close(after.weight, before.weight, case.tolerance, "weight after a shift")
        close(after.intercept, before.intercept + 3.0, case.tolerance, "intercept after a shift")


@check
def forms_give_the_same(case: Case, backend: str, seed: int) -> None:
    """The primal and the dual form give the answer of "auto"; a form that is not there raises UnsupportedError."""
    given = inputs(case, (), seed)
    expected = fitted(case.layer(**given, backend=backend))
    there = 0
    for form in ("primal", "dual"):
        try:
            found = fitted(case.layer(**given, form=form, backend=backend))
        except TypeError as error:
            raise NotApplicable("the layer has one form") from error
        except UnsupportedError:
            continue
        there += 1
        close(found, expected, case.tolerance, f"form={form!r}")
    expect(there > 0, "neither form is there")


@check
def policies_agree_where_all_is_well(case: Case, backend: str, seed: int) -> None:
    """ "raise", "warn" and "nan" give the same, without a warning; a negative λ raises, or costs its element."""
    given = inputs(case, (2,), seed)
    expected = fitted(case.layer(**given, backend=backend))
    with warnings.catch_warnings():
        warnings.simplefilter("error", NumericalWarning)
        for policy in ("warn", "nan"):
            fit = case.layer(**given, backend=backend, on_failure=policy)
            close(fitted(fit), expected, case.tolerance, f"on_failure={policy!r}")
    if "lam" not in given:
        return
    given["lam"][1] = -1.0
    for policy in ("raise", "warn"):
        try:
            case.layer(**given, backend=backend, on_failure=policy)
        except ParameterRangeError:
            continue
        raise AssertionError(f"a negative lam was accepted with on_failure={policy!r}")
    fit = case.layer(**given, backend=backend, on_failure="nan")
    expect(fit.info.status.tolist() == [0, int(Status.INVALID_INPUT)], f"status {fit.info.status.tolist()}")
    close(fitted(fit)[0], expected[0], case.tolerance, "the element beside the wrong one")
