"""A pass that is killed at any moment goes on, and ends with the same bits."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from typer.testing import CliRunner

from convexdistill.cli import app
from convexdistill.data import Preprocessing, load, stream
from convexdistill.errors import FileFormatError, InvalidInputError
from convexdistill.features import pool
from convexdistill.moments import Moments, accumulate

DIGITS = load("digits").subset(range(600))
POOL = pool("convnet", count=2, width=4)
PREPARE = Preprocessing.fit(DIGITS)


def slow():
    for images, labels in zip(DIGITS.images.split(20), DIGITS.labels.split(20), strict=True):
        time.sleep(0.01)
        yield images, labels


def run(checkpoint, **options):
    options = {"every": 0.0, "batch_size": 20, "preprocessing": PREPARE, **options}
    return accumulate(POOL, stream(slow, classes=10, name="slow"), checkpoint=checkpoint, **options)


def same(a, b):
    return all(map(torch.equal, (*a.gram, *a.cross, a.counts), (*b.gram, *b.cross, b.counts)))


@pytest.fixture(scope="module")
def whole():
    return run(None)


def _work(checkpoint, out):
    torch.set_num_threads(1)
    run(checkpoint).save(out)


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_moments_it_ends_with_the_same_bits(tmp_path, whole, seed):
    draw = random.Random(seed)
    fork = multiprocessing.get_context("fork")  # a process of its own each time, without importing torch again
    kills = 0
    for _ in range(60):
        worker = fork.Process(target=_work, args=(tmp_path / "ck", tmp_path / "out"))
        worker.start()
        worker.join(draw.uniform(0.02, 0.25) if kills < 8 else None)
        if worker.exitcode == 0:
            break
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        assert worker.exitcode in (-signal.SIGKILL, 0)
        kills += 1
    assert kills >= 2
    assert same(Moments.load(tmp_path / "out"), whole)
    again = run(tmp_path / "ck")  # the checkpoint stays: the same call has nothing left to do
    assert same(again, whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ck", "out"]


def test_the_command_goes_on_after_kill_9(tmp_path, monkeypatch):
    base = [sys.executable, "-m", "convexdistill", "moments", "accumulate", "--pool-size", "12", "--width", "24"]
    command = [*base, "--checkpoint", "ck", "--every", "0", "--batch-size", "8", "--out", "killed.st"]
    first = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE)
    while not (tmp_path / "ck").exists():
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.01)
    first.kill()
    first.communicate()
    assert not (tmp_path / "killed.st").exists()
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, command[3:])
    assert done.exit_code == 0, done.output
    assert [p.name for p in tmp_path.iterdir()] == ["killed.st"]
    straight = accumulate(pool("convnet", 12, 0, width=24), load("digits"), batch_size=8)
    assert same(Moments.load(tmp_path / "killed.st"), straight)


def cut_short(path, **options):
    """A checkpoint in the middle of a pass."""

    class StopError(Exception):
        pass

    def some():
        for i, batch in enumerate(slow()):
            if i == 9:
                raise StopError
            yield batch

    with pytest.raises(StopError):
        accumulate(
            POOL,
            stream(some, classes=10, name="slow"),
            checkpoint=path,
            **{"every": 0.0, "batch_size": 20, "preprocessing": PREPARE, **options},
        )
    assert path.exists()


def test_other_settings_are_refused_with_the_difference(tmp_path, whole):
    path = tmp_path / "ck"
    cut_short(path)
    before = path.read_bytes()
    for options, says in [
        ({"batch_size": 30}, "batch_size: 20 there, 30 now"),
        ({"shard": (0, 2)}, r"parts: .* there, .*#0/2.* now"),
        ({"preprocessing": Preprocessing((0.5,), (0.25,))}, r"preprocessing.mean: .* there, .*0.5.* now"),
        ({"autocast": True}, "autocast: false there, true now"),
    ]:
        with pytest.raises(InvalidInputError, match=says):
            run(path, **options)
    with pytest.raises(InvalidInputError, match=r"pool\[1\]: \{.* there, nothing now"):
        accumulate(POOL[:1], stream(slow, classes=10, name="slow"), checkpoint=path, batch_size=20)
    with pytest.raises(InvalidInputError, match=r"name: .*slow.* there, .*other.* now; parts"):
        accumulate(
            POOL,
            stream(slow, classes=10, name="other"),
            checkpoint=path,
            batch_size=20,
            preprocessing=PREPARE,
        )
    assert path.read_bytes() == before
    assert same(run(path), whole)


def test_a_file_that_is_no_checkpoint_is_refused_and_kept(tmp_path, whole):
    whole.save(tmp_path / "moments")
    (tmp_path / "text").write_text("notes")
    for name in ("moments", "text"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(FileFormatError):
            run(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before


def test_checkpoints_are_not_written_more_often_than_asked(tmp_path, monkeypatch):
    from convexdistill.moments.checkpoint import Checkpoint

    written = []
    original = Checkpoint.write
    monkeypatch.setattr(Checkpoint, "write", lambda self, n, state: (written.append(n), original(self, n, state)))
    run(tmp_path / "ck", every=3600.0)
    assert written == [600]
