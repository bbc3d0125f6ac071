"""What the speed benchmarks share: the machine in words, CPU time taken in turns, and records."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).resolve().parent / "results"
Record = dict[str, Any]


def machine() -> Record:
    """Processor, cores, memory, versions, and how busy the machine was with other work."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.machine())
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load_before": round(os.getloadavg()[0], 1),
        "versions": {name: version(name) for name in ("torch", "numpy", "scipy", "convexdistill")},
    }


def in_turns(
    candidates: Mapping[str, Callable[[], object]], rounds: int, device: str = "cpu"
) -> dict[str, Record]:
    """Seconds for each candidate, best and median: of CPU of this thread, or on the clock for a CUDA device.

    Candidates take turns, so that whatever else the machine does hits all of them; CPU time leaves out the time
    in which other processes had the core, not what they do to its caches: the best round is the nearest to an
    idle machine.
    """

    def now() -> float:
        if device == "cpu":
            return time.thread_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for run in candidates.values():
        run()
    for _ in range(rounds):
        for name, run in candidates.items():
            start = now()
            run()
            seconds[name].append(now() - start)
    return {name: {"best": min(s), "median": statistics.median(s)} for name, s in seconds.items()}


def write(name: str, record: Mapping[str, Any]) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    file = RESULTS / f"{name}.json"
    file.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    print(f"wrote {file}")
