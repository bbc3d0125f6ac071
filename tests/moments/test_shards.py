"""Shards: gaps, duplicates, and any order of merging."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from convexdistill.cli import app
from convexdistill.data import load
from convexdistill.features import pool
from convexdistill.moments import Moments, accumulate, parts

DIGITS = load("digits")
POOL = pool("convnet", count=2, width=4)
WHOLE = accumulate(POOL, DIGITS)
SHARDS = [accumulate(POOL, DIGITS, shard=(i, 6)) for i in range(6)]


def difference(a, b):
    pairs = zip((*a.gram, *a.cross), (*b.gram, *b.cross), strict=True)
    return max(float((x - y).norm() / y.norm()) for x, y in pairs)


def tree(moments, draw):
    """Merge in an order of hypothesis' choice, not only from left to right."""
    moments = list(moments)
    while len(moments) > 1:
        a = moments.pop(draw(st.integers(0, len(moments) - 1)))
        b = moments.pop(draw(st.integers(0, len(moments) - 1)))
        moments.append(a.merge(b))
    return moments[0]


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_the_order_of_merging_does_not_matter(data):
    merged = tree(SHARDS, data.draw)
    assert difference(merged, functools.reduce(Moments.merge, SHARDS)) <= 1e-12
    assert difference(merged, WHOLE) <= 1e-12
    assert merged.target == WHOLE.target
    assert merged.images == len(DIGITS)


@settings(deadline=None)
@given(st.integers(2, 9), st.data())
def test_parts_are_missing_exactly_where_they_are(count, data):
    chosen = data.draw(st.sets(st.integers(0, count - 1), min_size=1))
    names = [parts.named("f", (i, count)) for i in chosen]
    missing = {parts.named("f", (i, count)) for i in range(count) if i not in chosen}
    assert set(parts.missing(names)) == missing
    assert (parts.joined(names) == ["f"]) == (not missing)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    for i, shard in enumerate(SHARDS[:3]):
        shard.save(folder / f"{i}.st")
    functools.reduce(Moments.merge, SHARDS[3:]).save(folder / "rest.st")
    return folder


def merge(folder, *arguments):
    (folder / "merged.st").unlink(missing_ok=True)
    files = [argument if argument.startswith("--") else str(folder / argument) for argument in arguments]
    return CliRunner().invoke(app, ["moments", "merge", *files, "--out", str(folder / "merged.st")])


def test_the_command_refuses_gaps_and_duplicates_unless_told_otherwise(folder):
    gap = merge(folder, "0.st", "2.st")
    assert gap.exit_code == 2
    assert "4 shards are missing" in gap.stderr
    assert "--allow-gaps" in gap.stderr
    assert not (folder / "merged.st").exists()
    twice = merge(folder, "rest.st", "0.st", "1.st", "2.st", "0.st")
    assert twice.exit_code == 2
    assert "counted twice" in twice.stderr
    told = merge(folder, "rest.st", "0.st", "2.st", "0.st", "--allow-gaps", "--skip-duplicates")
    assert told.exit_code == 0, told.output
    assert "still missing: 1 shards; left out: 1 duplicates" in told.stdout
    assert Moments.load(folder / "merged.st").missing == [parts.named(DIGITS.fingerprint, (1, 6))]


def test_odd_batches_meet_the_same_kernels_too():
    digits = load("digits").subset(range(300))
    specs = pool("lenet", count=1)
    whole = accumulate(specs, digits, batch_size=33)
    first, *others = (accumulate(specs, digits, shard=(i, 3), batch_size=33) for i in range(3))
    for other in others:
        first = first.merge(other)
    assert float((first.gram[0] - whole.gram[0]).norm() / whole.gram[0].norm()) < 1e-14
