"""The pass by several real processes: torchrun with 2 and 4 workers, one killed on the way, and Dask."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from convexdistill import distill, select
from convexdistill.data import load, stream
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
import os, signal
import torch
import convexdistill as cd
from convexdistill.moments.checkpoint import Checkpoint
from convexdistill.moments.workers import accumulate_together, process_group

die = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and os.environ["RANK"] == "1"
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


def torchrun(folder: Path, workers: int, *command: str) -> str:
    """What a launch of so many workers prints."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers)]
    options = ["--max-restarts", "1", "--monitor-interval", "0.1"]
    done = subprocess.run(
        [*launcher, *options, *command], cwd=folder, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def are_whole(moments: Moments) -> None:
    assert moments.target == WHOLE.target
    assert moments.images == len(DIGITS)
    assert difference(moments, WHOLE) <= 1e-12


@pytest.mark.timeout(300)
def test_a_worker_that_is_killed_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "sum.py").write_text(SCRIPT)
    assert "after a restart" in torchrun(tmp_path, 4, "sum.py")
    found = [Moments.load(tmp_path / f"moments.{rank}") for rank in range(4)]
    for moments in found:
        are_whole(moments)
    assert same_labels(found[0])


@pytest.mark.timeout(300)
def test_the_command_divides_the_images_among_two_workers(tmp_path: Path) -> None:
    said = torchrun(
        tmp_path, 2, "-m", "convexdistill", "moments", "accumulate", "--width", "8", "--pool-size", "2",
        "--checkpoint", "ck", "--out", "all.st",
    )  # fmt: skip
    assert said.count("wrote all.st: 1258 images") == 1
    moments = Moments.load(tmp_path / "all.st")
    are_whole(moments)
    assert same_labels(moments)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["all.st"]


def test_a_task_graph_gives_the_labels_of_one_process(tmp_path: Path) -> None:
    pytest.importorskip("dask", reason="the extra dask is not installed")
    graph = accumulate_tasks(POOL, DIGITS, shards=5, checkpoint=tmp_path / "ck", every=0.0, batch_size=64)
    assert len([key for key in graph.dask if "merge" in str(key)]) == 4
    moments = graph.compute(scheduler="synchronous")  # by processes: below
    assert moments.target == WHOLE.target
    assert difference(moments, WHOLE) <= 1e-12
    assert same_labels(moments)
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"ck.{i}-of-5" for i in range(5)]
    with pytest.raises(ParameterRangeError, match="shards"):
        accumulate_tasks(POOL, DIGITS, shards=0)


@pytest.mark.timeout(300)
def test_a_cluster_repeats_the_task_of_a_worker_that_is_killed(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")
    images, names = DIGITS.images, DIGITS.labels  # travel with the function, which no worker could import

    def batches():  # type: ignore[no-untyped-def]
        for i, batch in enumerate(zip(images.split(100), names.split(100), strict=True)):
            if i == 6 and multiprocessing.parent_process() and not (tmp_path / "killed").exists():
                (tmp_path / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch

    source = stream(batches, classes=DIGITS.classes, name="digits")
    graph = accumulate_tasks(
        POOL, source, shards=4, checkpoint=tmp_path / "ck", every=0.0, batch_size=64,
        preprocessing=WHOLE.preprocessing,
    )  # fmt: skip
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster),
    ):
        moments = graph.compute()
    assert (tmp_path / "killed").exists()
    assert moments.images == len(DIGITS)
    assert difference(moments, WHOLE) <= 1e-12
    assert same_labels(moments)


def test_task_graphs_need_their_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dask", "dask.delayed"):  # as if it were not installed
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendUnavailableError, match=r"convexdistill\[dask\]"):
        accumulate_tasks(POOL, DIGITS, shards=2)
