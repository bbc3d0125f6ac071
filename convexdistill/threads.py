"""Whole pieces of CPU work side by side, a core for each.

PyTorch divides every operator among the cores. On the small batches of small networks the cores then wait for each
other more than they work; pieces that know nothing of each other never wait. Operators release the interpreter's
lock, so threads are enough. `benchmarks/evaluate.py` measures trainings.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Result = TypeVar("Result")

MOST = 4  # pieces at once: with more the interpreter, which runs one thread at a time, is what is waited for

_stop: contextvars.ContextVar[threading.Event | None] = contextvars.ContextVar("stop", default=None)


class StoppedError(Exception):
    """Internal: this piece ended because another failed, or because the user interrupted the program."""


def workers(device: torch.device) -> int:
    """How many pieces run at once on a device: one elsewhere than on CPUs."""
    return min(torch.get_num_threads(), MOST) if device.type == "cpu" else 1


def in_threads(work: Callable[[Piece], Result], pieces: Sequence[Piece], device: torch.device) -> list[Result]:
    """``[work(piece) for piece in pieces]``, several at once where that is quicker.

    A piece sees the context variables and the gradient mode of the caller. When one raises, those that have not
    begun are left out, those that run end at their next :func:`check`, and the exception comes out here.

    Args:
        work: what is done with a piece; long work calls :func:`check` now and then.
        pieces: anything.
        device: where the work is done.

    Example:
        >>> in_threads(abs, [-1, 2, -3], torch.device("cpu"))
        [1, 2, 3]
    """
    count = min(workers(device), len(pieces))
    if count <= 1:
        return [work(piece) for piece in pieces]
    threads, gradients = torch.get_num_threads(), torch.is_grad_enabled()
    stop = threading.Event()

    def one(piece: Piece) -> Result:
        _stop.set(stop)
        check()
        try:
            with torch.set_grad_enabled(gradients):
                return work(piece)
        except BaseException:
            stop.set()  # here already, so that no other piece begins before the caller hears of it
            raise

    try:
        with ThreadPoolExecutor(count, "convexdistill", torch.set_num_threads, (threads // count,)) as executor:
            running = [executor.submit(contextvars.copy_context().run, one, piece) for piece in pieces]
            try:
                wait(running, return_when=FIRST_EXCEPTION)
                errors = [future.exception() for future in running if future.done()]
                if failed := [error for error in errors if error and not isinstance(error, StoppedError)]:
                    raise failed[0]
            except BaseException:
                stop.set()
                executor.shutdown(wait=False, cancel_futures=True)
                raise
            return [future.result() for future in running]
    finally:
        # MKL has one number of threads for the whole process, and the workers have set it.
        torch.set_num_threads(threads)


def check() -> None:
    """Raise where the work of this thread is not wanted any more; see :func:`in_threads`."""
    stop = _stop.get()
    if stop is not None and stop.is_set():
        raise StoppedError
