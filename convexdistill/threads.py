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

# Pieces at once. More would wait for the interpreter, which runs one thread at a time; measured on two cores only.
MOST = 8

_stop: contextvars.ContextVar[threading.Event | None] = contextvars.ContextVar("stop", default=None)


class StoppedError(Exception):
    """Internal: this piece ended because another failed, or because the user interrupted the program."""


def workers(device: torch.device) -> int:
    """How many pieces run at once on a device: one elsewhere than on CPUs."""
    return min(torch.get_num_threads(), MOST) if device.type == "cpu" else 1


def in_threads(work: Callable[[Piece], Result], pieces: Sequence[Piece], device: torch.device) -> list[Result]:
    """``[work(piece) for piece in pieces]``, several at once where that is quicker.

    A piece sees the caller's context variables, gradient mode and autocast; other modes that torch keeps for each
    thread, such as a default device, do not reach it. When one raises, those that have not begun are left out,
    those that run end at their next :func:`check`, and the exception comes out here. Threads that a caller begins
    meanwhile compute on one core for all their life.

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
    cast, kind = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)
    stop, lock, failed = threading.Event(), threading.Lock(), list[BaseException]()

    def one(piece: Piece) -> Result:
        _stop.set(stop)
        check()
        try:
            with torch.set_grad_enabled(gradients), torch.autocast(device.type, kind, enabled=cast):
                return work(piece)
        except BaseException as error:
            with lock:  # at once, so that the first to fail is known and no other piece begins
                if not stop.is_set():
                    failed.append(error)
                stop.set()
            raise

    try:
        with ThreadPoolExecutor(count, "convexdistill", torch.set_num_threads, (threads // count,)) as executor:
            try:
                running = [executor.submit(contextvars.copy_context().run, one, piece) for piece in pieces]
                wait(running, return_when=FIRST_EXCEPTION)
            except BaseException:  # an interrupt: the caller's, not a piece's
                stop.set()
                raise
            finally:
                executor.shutdown(wait=False, cancel_futures=stop.is_set())
        if failed:
            raise failed[0]
        return [future.result() for future in running]
    finally:
        # MKL has one number of threads for the whole process, and the workers have set it.
        torch.set_num_threads(threads)


def check() -> None:
    """Raise where the work of this thread is not wanted any more; see :func:`in_threads`."""
    stop = _stop.get()
    if stop is not None and stop.is_set():
        raise StoppedError
