"""One contract for every backend and every problem: the checks that anybody can run on a backend of their own."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from convexdistill.errors import UnknownNameError, UnsupportedError
from convexdistill.layers import backends
from convexdistill.testing import CASES, CHECKS, check_backend
from convexdistill.testing.common import NotApplicable
from convexdistill.testing.report import solved_cases

FORMS = ("primal", "dual")
PAIRS = [(b, c) for b, report in backends().items() if report.available for c in solved_cases(b)]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(("backend", "case"), PAIRS, ids=[f"{b}-{c}" for b, c in PAIRS])
def test_the_backend_keeps_the_contract(backend, case, check):
    try:
        CHECKS[check](CASES[case], backend, 0)
    except NotApplicable as error:
        pytest.skip(str(error))


# Every form and method of the torch backend by name: none is right only because another one would catch it.
NAMED = [
    *(("ridge", {"form": f, "method": m}) for f in FORMS for m in ("cholesky", "qr", "svd")),
    *(("logistic regression", {"form": f, "method": m}) for f in FORMS for m in ("newton", "newton-cg")),
    *(("kernel ridge", {"method": m}) for m in ("cholesky", "eigh")),
    *(("least squares", {"method": m}) for m in ("qr", "svd")),
    ("svm, more features than examples", {"form": "dual"}),
]


@pytest.mark.parametrize("check", [check for check in CHECKS if "compiled" not in check])  # that takes minutes
@pytest.mark.parametrize(("case", "words"), NAMED, ids=[f"{c}-{'-'.join(w.values())}" for c, w in NAMED])
def test_every_form_and_method_keeps_the_contract(case, words, check):
    given = replace(CASES[case], layer=partial(CASES[case].layer, **words))
    try:
        CHECKS[check](given, "torch", 1)
    except NotApplicable as error:
        pytest.skip(str(error))


def test_a_wrong_backend_is_found_out(monkeypatch):
    from convexdistill.layers.backends import _REGISTRY, Backend, Solved
    from convexdistill.layers.problems.ridge import RidgeProblem

    def half(problem, options):
        solved = _REGISTRY["torch"].solvers[RidgeProblem](problem, options)
        answer = solved.answer.detach() + 0 * problem.labels.sum()  # right, but with a gradient of zero
        return Solved(answer, solved.form, "half")

    monkeypatch.setitem(_REGISTRY, "half", Backend("half", {RidgeProblem: half}))
    report = check_backend("half", problems=["ridge"])
    failed = {outcome.check for outcome in report.failures}
    assert "gradients_match_differences" in failed
    assert "answers_are_optimal" not in failed
    assert "gradients_match_differences" in str(report)
    with pytest.raises(AssertionError, match="half"):
        report.raise_if_failed()


def test_words_that_are_not_known_are_refused():
    with pytest.raises(UnknownNameError, match="'ridge'"):
        check_backend("torch", problems=["riddle"])
    with pytest.raises(UnknownNameError, match="batches_are_loops"):
        check_backend("torch", checks=["batches"])
    with pytest.raises(UnknownNameError, match="auto"):
        check_backend("auto")


def test_a_problem_without_a_solver_is_refused(monkeypatch):
    from convexdistill.layers.backends import _REGISTRY, Backend

    monkeypatch.setitem(_REGISTRY, "empty", Backend("empty"))
    with pytest.raises(UnsupportedError, match="RidgeProblem"):
        check_backend("empty", problems=["ridge"])
    with pytest.raises(UnsupportedError, match="'empty' solves none of"):
        check_backend("empty")


def test_what_checks_nothing_is_refused():
    for given in ({"problems": []}, {"checks": []}):
        with pytest.raises(UnsupportedError, match="there is nothing to check"):
            check_backend("torch", **given)
    with pytest.raises(UnknownNameError, match="auto"):
        check_backend("auto", problems=["ridge"])


def test_problems_have_the_names_that_backends_has():
    known = set(backends()["torch"].problems)
    assert {"ridge", "kernel ridge", "least squares", "quadratic"} <= known
    report = check_backend("torch", problems=["quadratic", "svm"], checks=["empty_batches_are_empty"])
    assert report.ok
    assert len(report.outcomes) == sum(case.problem.__name__ == "QuadraticProblem" for case in CASES.values())
    alone = check_backend("torch", problems=["ridge"], checks=["answers_agree_with_torch"])
    assert alone.outcomes == ()  # torch is not compared with itself


def broken(monkeypatch, change, **flags):
    """A backend that is torch's, changed."""
    from convexdistill.layers.backends import _REGISTRY, Backend
    from convexdistill.layers.problems.ridge import RidgeProblem

    def solve(problem, options):
        return change(_REGISTRY["torch"].solvers[RidgeProblem](problem, options))

    monkeypatch.setitem(_REGISTRY, "broken", Backend("broken", {RidgeProblem: solve}, **flags))
    return {outcome.check for outcome in check_backend("broken", problems=["ridge"]).failures}


def test_an_honest_backend_that_claims_little_passes(monkeypatch):
    assert broken(monkeypatch, lambda solved: solved, double_backward=True) == set()


def test_a_residual_that_is_not_the_answers_is_found_out(monkeypatch):
    failed = broken(monkeypatch, lambda s: replace(s, answer=1.01 * s.answer, residual=0 * s.residual))
    assert "answers_are_optimal" in failed


def test_claims_of_forward_mode_are_checked(monkeypatch):
    class Backward(torch.autograd.Function):
        """Right, but for torch.func and dual numbers."""

        @staticmethod
        def forward(ctx, answer):
            return answer.clone()

        @staticmethod
        def backward(ctx, cotangent):
            return cotangent

    change = lambda s: replace(s, answer=Backward.apply(s.answer))  # noqa: E731
    failed = broken(monkeypatch, change, double_backward=True, transforms=True)
    assert {"transforms_work_or_are_refused", "forward_mode_is_the_transpose_of_backward"} <= failed
    assert broken(monkeypatch, change, double_backward=True) == set()
