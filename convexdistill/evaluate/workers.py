"""Cells one after the other, or over several processes; whoever asks sees one bar with the time left."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

import torch

from convexdistill import progress
from convexdistill.errors import InvalidInputError
from convexdistill.evaluate.cells import Cell, Task, compute
from convexdistill.evaluate.table import Row

UNITS = 1000  # of the bar, for a cell

_task: Task | None = None  # of a worker process


def run_cells(task: Task, cells: Sequence[Cell], workers: int, done: Callable[[Cell, list[Row]], None]) -> None:
    """Compute every cell and hand its rows to ``done`` as soon as there are any.

    Args:
        task: what they share.
        cells: in the order in which they are begun.
        workers: number of processes; 1 computes in this one.
        done: called here, in the order in which cells end.

    Raises:
        InvalidInputError: a network is a function that cannot be sent to another process.
    """
    if not cells:
        return
    with progress.task("evaluate", total=UNITS * len(cells)) as advance:
        if workers == 1 or len(cells) == 1:
            for cell in cells:
                with progress.shared(advance, UNITS, task.trainings):
                    rows = compute(task, cell)
                done(cell, rows)
            return
        _check_picklable(cells)
        threads = max(1, torch.get_num_threads() // workers)
        context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        with ProcessPoolExecutor(workers, context, _start, (task, threads)) as pool:
            futures = {pool.submit(_compute, cell): cell for cell in cells}
            try:
                for future in as_completed(futures):
                    done(futures[future], future.result())
                    advance(UNITS)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _start(task: Task, threads: int) -> None:
    global _task
    _task = task
    torch.set_num_threads(threads)


def _compute(cell: Cell) -> list[Row]:
    assert _task is not None
    return compute(_task, cell)


def _check_picklable(cells: Sequence[Cell]) -> None:
    for cell in cells:
        try:
            pickle.dumps(cell.network)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise InvalidInputError(
                f"the network {cell.network_name!r} cannot be sent to another process ({error}); define it at the "
                "top of a module, or take workers=1"
            ) from error
