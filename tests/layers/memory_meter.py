"""The peak of what PyTorch's CPU allocator holds while something runs, temporaries inside of operators counted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(run: Callable[[], object]) -> int:
    """Bytes at the peak, beyond what was there before."""
    torch.zeros(1)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        kept = run()
    del kept
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def test_the_meter_sees_temporaries():
    x = torch.ones(1000, dtype=torch.float64)
    assert 8000 <= peak_bytes(lambda: x + 1) < 9000
    assert 16000 <= peak_bytes(lambda: (x + 1) * 2) < 17000
    matrix = torch.eye(100, dtype=torch.float64)
    assert peak_bytes(lambda: torch.linalg.qr(matrix)) > 160_000
