"""Run the checks on a backend, and say what they found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from convexdistill.layers.backends import select
from convexdistill.layers.backends.base import pick
from convexdistill.testing.cases import CASES
from convexdistill.testing.checks import CHECKS


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
        outcomes: one for every problem and check.
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
        problems: names of cases in ``CASES``. Default: all that the backend has a solver for.
        checks: names of checks in ``CHECKS``. Default: all.
        seed: of the random inputs.

    Returns:
        A :class:`Report`; ``report.raise_if_failed()`` makes a test of it.

    Raises:
        UnknownNameError: a backend, problem or check has another name.
        BackendUnavailableError: the backend cannot run here.
        UnsupportedError: it does not solve a problem that was asked for.
    """
    for problem in problems or ():
        pick("problem", problem, tuple(CASES))
        select(backend, CASES[problem].problem)
    for check in checks or ():
        pick("check", check, tuple(CHECKS))
    names = tuple(problems) if problems is not None else solved_cases(backend)
    return Report(backend, tuple(_outcomes(backend, names, tuple(checks or CHECKS), seed)))


def solved_cases(backend: str) -> tuple[str, ...]:
    """The names of the cases that a backend has a solver for."""
    from convexdistill.layers.backends import registered

    solvers = registered(backend).solvers
    return tuple(name for name, case in CASES.items() if case.problem in solvers)


def _outcomes(backend: str, problems: tuple[str, ...], checks: tuple[str, ...], seed: int) -> Iterator[Outcome]:
    for problem in problems:
        for check in checks:
            try:
                CHECKS[check](CASES[problem], backend, seed)
            except AssertionError as error:
                yield Outcome(problem, check, str(error) or "failed")
            except Exception as error:
                yield Outcome(problem, check, f"{type(error).__name__}: {error}")
            else:
                yield Outcome(problem, check)
