"""What a block of work costs: seconds, and energy where the machine can tell.

Energy is read by Zeus (You, Chung, Chowdhury 2023; ``pip install 'convexdistill[energy]'``) from the counters of
graphics cards (NVML, AMD SMI) and of processors (RAPL). They count everything that the chips do, other programs
included, and nothing of the rest of the machine. An estimate from a processor's nominal power is no measurement:
none is made.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

JOULES_PER_KWH = 3.6e6


@dataclass
class Spent:
    """What a block has cost, once it has ended.

    Attributes:
        seconds: wall-clock time.
        kwh: energy; ``None`` where the machine cannot tell.
        of: whose energy: ``"gpu"``, ``"cpu"``, ``"dram"``, joined by ``" + "``; empty where there is none.
    """

    seconds: float = 0.0
    kwh: float | None = None
    of: str = ""


@contextmanager
def spending() -> Iterator[Spent]:
    """Measure the block.

    Example:
        >>> with spending() as spent:
        ...     total = sum(range(1000))
        >>> spent.seconds > 0
        True
    """
    spent, monitor = Spent(), _monitor()[0]
    if monitor is not None:
        monitor.begin_window("convexdistill", sync_execution=False)
    start = time.perf_counter()
    try:
        yield spent
    finally:
        spent.seconds = time.perf_counter() - start
        if monitor is not None:
            found = monitor.end_window("convexdistill", sync_execution=False)
            spent.kwh, spent.of = _energy(found)


def why_no_energy() -> str | None:
    """Why energy is not measured here; ``None`` where it is."""
    return _monitor()[1]


def _energy(found: Any) -> tuple[float | None, str]:
    """kWh of a measurement of Zeus, and of which parts; ``None`` where no counter had anything to say."""
    parts = {"gpu": found.gpu_energy, "cpu": found.cpu_energy, "dram": found.dram_energy}
    joules = {name: sum(each.values()) for name, each in parts.items() if each}
    if not joules:
        return None, ""
    return sum(joules.values()) / JOULES_PER_KWH, " + ".join(joules)


@functools.lru_cache(maxsize=1)
def _monitor() -> tuple[Any, str | None]:
    """Zeus's monitor, or ``None`` and the reason."""
    try:
        from zeus.monitor import ZeusMonitor
    except ImportError:
        return None, "Zeus is not installed; pip install 'convexdistill[energy]'"
    logging.getLogger("zeus").setLevel(logging.ERROR)
    try:
        monitor = ZeusMonitor()
        monitor.begin_window("probe", sync_execution=False)
        kwh, _ = _energy(monitor.end_window("probe", sync_execution=False))
    except Exception as error:  # drivers fail in their own ways, and a number that is missing is no reason to stop
        return None, f"Zeus cannot read the counters of this machine ({error})"
    if kwh is None:
        return None, "neither the graphics card nor the processor has an energy counter that this user may read"
    return monitor, None
