"""The pass by several real processes: torchrun with 2 and 4 workers, one killed on the way, and Dask."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from convexdistill import distill, select
from convexdistill.data import load
from convexdistill.errors import BackendUnavailableError, ParameterRangeError
from convexdistill.features import pool
from convexdistill.moments import Moments, accumulate
from convexdistill.moments.tasks import accumulate_tasks

DIGITS = load("digits")
POOL = pool("convnet", count=2, width=8)
WHOLE = accumulate(POOL, DIGITS)
BASE = select.choose(DIGITS, size=20, seed=0)

# What a user would write, with a worker that dies in the middle of its first life.
SCRIPT = """
import os, signal, sys
import torch
import convexdistill as cd
from convexdistill.moments.checkpoint import Checkpoint
from convexdistill.moments.workers import accumulate_together, process_group

die = sys.argv[1] == "die" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and os.environ["RANK"] == "1"
write = Checkpoint.write
def write_then_die(self, images, state):
    write(self, images, state)
    if die and images > 150:
        os.kill(os.getpid(), signal.SIGKILL)
Checkpoint.write = write_then_die

torch.set_num_threads(1)
pool = cd.features.pool("convnet", count=2, width=8)
with process_group() as first:
    moments = accumulate_together(pool, cd.data.load("digits"), checkpoint="ck", every=0.0, batch_size=64)
    moments.save(f"moments.{os.environ['RANK']}")
    if first and os.environ["TORCHELASTIC_RESTART_COUNT"] != "0":
        print("after a restart")
"""


def difference(a: Moments, b: Moments) -> float:
    pairs = zip((*a.gram, *a.cross), (*b.gram, *b.cross), strict=True)
    return max(float((x - y).norm() / y.norm()) for x, y in pairs)


def labels(moments: Moments) -> torch.Tensor:
    return distill.closed_form(moments, BASE, gamma=0.1).labels


def same_labels(moments: Moments) -> bool:
    expected = labels(WHOLE)
    return float((labels(moments) - expected).norm() / expected.norm()) < 1e-8


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("workers", "how"), [(2, "die"), (4, "live")])
def test_workers_give_the_labels_of_one_process(tmp_path: Path, workers: int, how: str) -> None:
    (tmp_path / "sum.py").write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers)]
    command = [*launcher, "--max-restarts", "1", "--monitor-interval", "0.1", "sum.py", how]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert ("after a restart" in done.stdout) == (how == "die")
    for rank in range(workers):
        moments = Moments.load(tmp_path / f"moments.{rank}")
        assert moments.target == WHOLE.target
        assert moments.images == len(DIGITS)
        assert difference(moments, WHOLE) <= 1e-12
    assert same_labels(moments)


def test_a_task_graph_gives_the_labels_of_one_process() -> None:
    pytest.importorskip("dask", reason="the extra dask is not installed")
    graph = accumulate_tasks(POOL, DIGITS, shards=5)
    assert len([key for key in graph.dask if "merge" in str(key)]) == 4
    moments = graph.compute(scheduler="processes", num_workers=2)
    assert moments.target == WHOLE.target
    assert difference(moments, WHOLE) <= 1e-12
    assert same_labels(moments)
    with pytest.raises(ParameterRangeError, match="shards"):
        accumulate_tasks(POOL, DIGITS, shards=0)


def test_task_graphs_need_their_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dask", "dask.delayed"):  # as if it were not installed
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendUnavailableError, match=r"convexdistill\[dask\]"):
        accumulate_tasks(POOL, DIGITS, shards=2)
