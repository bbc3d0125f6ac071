"""How far a long job is: the library reports, whoever runs it decides what is shown.

Library code writes ``with progress.task("accumulate", total=50) as advance: ... advance(1)``. By default
nothing is shown. The command line installs a :class:`Reporter` for the duration of a command.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Protocol, TextIO

Advance = Callable[[int], None]


class Reporter(Protocol):
    """Shows tasks; see :func:`reporting`."""

    def task(self, description: str, total: int | None) -> AbstractContextManager[Advance]:
        """Show a task of ``total`` steps, None where nobody knows, until the block ends.

        The function it yields advances it.
        """
        ...


class SilentReporter:
    """Shows nothing; also around tasks that are a part of one that is shown."""

    @contextmanager
    def task(self, description: str, total: int | None) -> Iterator[Advance]:
        """Show nothing."""
        yield lambda steps: None


class PlainReporter:
    """One line when a task starts, one a minute with the time left, and one when it ends; for logs and pipes.

    Args:
        stream: where to print; default: standard error.
        every: seconds between lines of a long task.
    """

    def __init__(self, stream: TextIO | None = None, every: float = 60.0) -> None:
        self.stream = stream or sys.stderr
        self.every = every

    @contextmanager
    def task(self, description: str, total: int | None) -> Iterator[Advance]:
        """Print the start of the task, now and then how far it is, and its seconds at the end."""
        start = said = paced = time.perf_counter()
        done = since = 0
        print(f"{description} ...", file=self.stream, flush=True)

        def advance(steps: int) -> None:
            nonlocal said, paced, done, since
            now = time.perf_counter()
            if done == 0:
                paced, since = now, steps  # perhaps those of an earlier sitting: no measure of the pace
            done += steps
            if now - said >= self.every and done > since:
                far = f"{done}"
                if total is not None:
                    left = (now - paced) / (done - since) * (total - done)
                    far += f"/{total}, {left / 60:.0f} min left"
                print(f"{description}: {far}", file=self.stream, flush=True)
                said = now

        yield advance
        seconds = time.perf_counter() - start
        print(f"{description}: done in {seconds:.1f} s", file=self.stream, flush=True)


class RichReporter:
    """A bar with a count and the time left, for terminals."""

    @contextmanager
    def task(self, description: str, total: int | None) -> Iterator[Advance]:
        """Draw the bar on standard error; leave it there, full, when the task ends."""
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description:<26}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("•"),
            TimeElapsedColumn(),
            TextColumn("elapsed,"),
            TimeRemainingColumn(),
            TextColumn("left"),
        )
        with Progress(*columns, console=Console(stderr=True), expand=False) as bar:
            task = bar.add_task(description, total=total)
            yield lambda steps: bar.advance(task, steps)


_SILENT: Reporter = SilentReporter()
_current: ContextVar[Reporter] = ContextVar("convexdistill_progress", default=_SILENT)


def task(description: str, total: int | None) -> AbstractContextManager[Advance]:
    """Report a task of ``total`` steps (None: nobody knows) to whoever listens."""
    return _current.get().task(description, total)


@contextmanager
def shared(advance: Advance, units: int, tasks: int) -> Iterator[None]:
    """Count the tasks inside the block as parts of one that is shown: ``units`` of it, ``tasks`` of equal size.

    What the tasks did not use up is added at the end.

    Example:
        >>> seen = []
        >>> with shared(seen.append, units=10, tasks=2), task("a", total=4) as step:
        ...     step(4)
        >>> sum(seen)
        10
    """
    part = _PartReporter(advance, units, tasks)
    with reporting(part):
        yield
    part.go_to(units)


class _PartReporter:
    """Hands the progress of tasks on to the task that they are parts of."""

    def __init__(self, advance: Advance, units: int, tasks: int) -> None:
        self.advance, self.units, self.tasks = advance, units, tasks
        self.gone, self.ended = 0, 0

    def go_to(self, position: int) -> None:
        position = min(position, self.units)
        if position > self.gone:
            self.advance(position - self.gone)
            self.gone = position

    @contextmanager
    def task(self, description: str, total: int | None) -> Iterator[Advance]:
        done = 0

        def advance(steps: int) -> None:
            nonlocal done
            done += steps
            if total:
                self.go_to(int(self.units * (self.ended + min(done / total, 1)) / self.tasks))

        yield advance
        self.ended += 1
        self.go_to(int(self.units * self.ended / self.tasks))


@contextmanager
def reporting(reporter: Reporter) -> Iterator[None]:
    """Show the tasks of everything inside the block through ``reporter``."""
    token = _current.set(reporter)
    try:
        yield
    finally:
        _current.reset(token)
