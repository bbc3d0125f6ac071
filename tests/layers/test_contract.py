"""One contract for every backend and every problem: the checks that anybody can run on a backend of their own."""

from __future__ import annotations

import pytest

from convexdistill.errors import UnknownNameError, UnsupportedError
from convexdistill.layers import backends
from convexdistill.testing import CASES, CHECKS, check_backend
from convexdistill.testing.report import solved_cases

PAIRS = [(b, c) for b, report in backends().items() if report.available for c in solved_cases(b)]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(("backend", "case"), PAIRS, ids=[f"{b}-{c}" for b, c in PAIRS])
def test_the_backend_keeps_the_contract(backend, case, check):
    CHECKS[check](CASES[case], backend, 0)


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
    assert check_backend("empty").outcomes == ()
