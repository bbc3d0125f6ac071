"""Run the checks on a backend, and say what they found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from convexdistill.errors import UnsupportedError
from convexdistill.layers.backends import problem_name, registered, select
from convexdistill.layers.backends.base import pick
from convexdistill.testing.cases import CASES
from convexdistill.testing.common import CHECKS, NotApplicable


@dataclass(frozen=True)
class Outcome:
    """What one check found on one problem.

    Attributes:
        problem: the name of the case.
        check: the name of the check.
        failure: what was wrong; empty when it passed.
    """

    problem: str
    check: str
    failure: str = ""


@dataclass(frozen=True)
class Report:
    """What the checks found; prints as a list of failures.

    Attributes:
        backend: the backend that was checked.
        outcomes: one for every case, and check that applies to it.
    """

    backend: str
    outcomes: tuple[Outcome, ...]

    @property
    def failures(self) -> tuple[Outcome, ...]:
        """The outcomes of the checks that failed."""
        return tuple(o for o in self.outcomes if o.failure)

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return not self.failures

    def raise_if_failed(self) -> None:
        """Raise an ``AssertionError`` that lists the failures, if there are any."""
        if not self.ok:
            raise AssertionError(str(self))

    def __str__(self) -> str:
        passed = len(self.outcomes) - len(self.failures)
        lines = [f"{self.backend}: {passed} of {len(self.outcomes)} checks passed"]
        return "\n".join([*lines, *(f"  {o.problem}, {o.check}: {o.failure}" for o in self.failures)])


def check_backend(
    backend: str, *, problems: Sequence[str] | None = None, checks: Sequence[str] | None = None, seed: int = 0
) -> Report:
    """Check a registered backend on every problem it solves: answers, gradients, batches, dtypes, failures.

    Args:
        backend: its registered name.
        problems: names of problems as in ``backends()[...].problems``, or of single cases in ``CASES``. Default:
            all that the backend has a solver for.
        checks: names of checks in ``CHECKS``. Default: all.
        seed: of the random inputs.

    Returns:
        A :class:`Report`; ``report.raise_if_failed()`` makes a test of it.

    Raises:
        UnknownNameError: a backend, problem or check has another name.
        BackendUnavailableError: the backend cannot run here.
        UnsupportedError: it does not solve a problem that was asked for, or there is nothing to check.
    """
    registered(backend)
    names = solved_cases(backend) if problems is None else tuple(dict.fromkeys(chain(*map(_cases, problems))))
    for name in names:
        select(backend, CASES[name].problem)
    for check in checks or ():
        pick("check", check, tuple(CHECKS))
    if not names or (checks is not None and not checks):
        raise UnsupportedError(
            f"there is nothing to check: backend={backend!r} solves none of {', '.join(map(repr, CASES))}."
            if problems is None
            else "there is nothing to check: problems and checks must not be empty; leave them out to take all."
        )
    return Report(backend, tuple(_outcomes(backend, names, tuple(checks or CHECKS), seed)))


def solved_cases(backend: str) -> tuple[str, ...]:
    """The names of the cases that a backend has a solver for."""
    solvers = registered(backend).solvers
    return tuple(name for name, case in CASES.items() if case.problem in solvers)


def _cases(name: str) -> tuple[str, ...]:
    """The cases that a word stands for: those of a problem as ``backends()`` calls it, or one by its name.

    Raises:
        UnknownNameError: it is neither.
    """
    found = tuple(case.name for case in CASES.values() if problem_name(case.problem) == name)
    known = dict.fromkeys([*map(problem_name, (case.problem for case in CASES.values())), *CASES])
    return found or (pick("problem", name, tuple(known)),)


def _outcomes(backend: str, problems: tuple[str, ...], checks: tuple[str, ...], seed: int) -> Iterator[Outcome]:
    for problem in problems:
        for check in checks:
            try:
                CHECKS[check](CASES[problem], backend, seed)
            except NotApplicable:
                continue
            except AssertionError as error:
                yield Outcome(problem, check, str(error) or "failed")
            except Exception as error:
                yield Outcome(problem, check, f"{type(error).__name__}: {error}")
            else:
                yield Outcome(problem, check)
