"""Accuracy by class and subgroup: columns, gaps, their intervals, and the whole on digits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import convexdistill as cd
from convexdistill.cli import app
from convexdistill.errors import (
    BackendUnavailableError,
    DataError,
    InvalidInputError,
    MissingDataError,
    ParameterRangeError,
    UnknownNameError,
)
from convexdistill.evaluate.disparity import EVERYONE, by_group
from convexdistill.evaluate.groups import group_names, read_column


@pytest.fixture(scope="module")
def job():
    """Digits, few of them to train on everything with, and two distilled sets."""
    digits = cd.data.load("digits")
    moments = cd.accumulate(cd.features.pool(count=1), digits)
    sets = [cd.distill.closed_form(moments, cd.select.choose(digits, size=20, seed=s), gamma=0.1) for s in (0, 1)]
    few = digits.subset(range(60))
    return sets, {"target": few, "validation": cd.data.load("digits", split="validation")}


def test_the_report_on_digits(job):
    sets, splits = job
    test = cd.data.load("digits", split="test")
    is_left = test.images.float().mean((1, 2))[:, :4].sum(1) > test.images.float().mean((1, 2))[:, 4:].sum(1)
    found = cd.evaluate.bias(sets, {"heavier side": is_left}, repeats=1, baselines=["one-hot"], **splits)
    labels = dict.fromkeys(row.labels for row in found.rows)
    assert list(labels) == ["distilled", "one-hot", "full-data"]
    for name in labels:
        whole = found.row(name)
        for column in ("class", "heavier side"):
            rows = [row for row in found.rows if row.labels == name and row.group == column]
            assert sum(row.count for row in rows) == whole.count == len(test)
            mean = sum(row.count * row.accuracy for row in rows) / whole.count
            assert mean == pytest.approx(whole.accuracy)
            apart = max(row.accuracy for row in rows) - min(row.accuracy for row in rows)
            (said,) = [one for one in found.disparities if (one.labels, one.group) == (name, column)]
            assert said.difference == pytest.approx(apart)
            assert found.row(name, column, said.worst).accuracy == pytest.approx(min(r.accuracy for r in rows))
    ours, full = found.row("distilled", "class", "8"), found.row("full-data", "class", "8")
    assert ours.gap == pytest.approx(ours.accuracy - full.accuracy)
    assert ours.excess == pytest.approx(ours.gap - found.row("distilled").gap)
    assert ours.gap_ci95[0] <= ours.gap <= ours.gap_ci95[1]
    assert full.gap is full.excess is None
    assert json.loads(json.dumps(found.to_dicts()))["subgroups"][0]["group"] == EVERYONE


def test_the_accuracies_are_those_of_the_evaluation(job):
    sets, splits = job
    found = cd.evaluate.bias(sets[0], repeats=1, baselines=[], **splits)
    table = cd.evaluate.matrix(sets[0], repeats=1, baselines=("one-hot",), validation=splits["validation"])
    assert found.row("distilled").accuracy == pytest.approx(table.row("distilled").accuracy_mean)


def test_intervals_hold_what_they_promise():
    random, inside, rounds = np.random.default_rng(0), 0, 40
    hands = np.array(["left"] * 100 + ["right"] * 300)
    right_of = np.where(hands == "left", 0.6, 0.8)
    for seed in range(rounds):
        full = random.random((3, 400)) < 0.9
        ours = [random.random((3, 400)) < right_of for _ in range(2)]
        rows, _ = by_group({"distilled": ours}, full, {"hand": hands}, seed=seed, draws=300)
        (left,) = [row for row in rows if (row.labels, row.value) == ("distilled", "left")]
        low, high = left.gap_ci95
        inside += low <= -30 <= high
        assert left.excess_ci95[0] <= left.excess <= left.excess_ci95[1]
    assert inside >= 0.85 * rounds


def test_the_spread_of_trainings_is_a_part_of_the_interval():
    groups = {"hand": np.array(["left", "right"] * 5000)}
    full = np.ones((2, 10000), dtype=bool)
    alike, unlike = np.ones((2, 10000), dtype=bool), np.ones((2, 10000), dtype=bool)
    unlike[1] = False
    (same, *_), _ = by_group({"distilled": [alike]}, full, groups)
    (spread, *_), _ = by_group({"distilled": [unlike]}, full, groups)
    assert same.gap_ci95 == (0.0, 0.0)
    assert spread.gap_ci95 == (-100.0, 0.0)


def test_base_sets_are_redrawn_as_wholes():
    """Two sets that differ, each with trainings that agree: more trainings make nothing more certain."""
    groups = {"hand": np.array(["left", "right"] * 50)}
    full = np.ones((2, 100), dtype=bool)
    sets = [np.full((count, 100), right) for count, right in ((50, True), (50, False))]
    (row, *_), _ = by_group({"distilled": sets}, full, groups)
    assert row.gap_ci95 == (-100.0, 0.0)


def test_a_column_of_numbers_is_cut_into_equal_parts():
    names, counts = np.unique(group_names(np.arange(1000.0) ** 2, 1000, "area", 5), return_counts=True)
    assert len(names) == 5
    assert counts.max() - counts.min() <= 1
    assert group_names(np.array([1.5, np.nan, 2.5]), 3, "x").tolist() == ["1.5", "missing", "2.5"]
    assert group_names(np.array(["a", "", "b"]), 3, "x").tolist() == ["a", "missing", "b"]
    assert set(group_names(torch.tensor([True, False]).numpy(), 2, "x")) == {"True", "False"}
    assert len(np.unique(group_names(np.arange(40), 40, "x"))) == 4


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.zeros(9), "9,?.*10 images"),
        (np.zeros((10, 2)), r"\(10, 2\)"),
        (np.zeros(10), "one group only"),
        (np.array([f"image {k}" for k in range(10)] * 30), "300"),
        (np.array([None] * 10), "object"),
        (np.zeros(10, dtype=complex), "complex"),
    ],
)
def test_columns_that_do_not_fit(values, says):
    with pytest.raises(DataError, match=says):
        group_names(values, 10, "x")


def test_a_column_of_names_is_refused():
    with pytest.raises(DataError, match="200 groups"):
        group_names(np.array([f"image {k}" for k in range(200)]), 200, "name")
    with pytest.raises(ParameterRangeError, match="at least 2 parts"):
        group_names(np.arange(40.0), 40, "x", 1)


def test_columns_are_read_from_files(tmp_path):
    (tmp_path / "t.csv").write_text("\ufeffwriter, age\nanna,31\nbert,\n\n", encoding="utf-8")
    np.savez(tmp_path / "t.npz", side=np.array([1, 2]))
    np.save(tmp_path / "slant.npy", np.array([0.5, 1.5]))
    name, values = read_column(f"{tmp_path / 't.csv'}:age")
    assert (name, values[0], np.isnan(values[1])) == ("age", 31, True)
    assert read_column(f"{tmp_path / 't.csv'}:writer")[1].tolist() == ["anna", "bert"]
    assert read_column(tmp_path / "t.npz")[0] == "side"
    assert read_column(tmp_path / "slant.npy")[0] == "slant"


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3\n")
    (tmp_path / "e.csv").write_text("")
    (tmp_path / "t.txt").write_text("1")
    (tmp_path / "t.npz").write_bytes(b"PK broken")
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    for place, says in (
        ("t.csv:a", "line 3"),
        ("e.csv", "empty"),
        ("t.txt", ".csv, .npz and .npy"),
        ("t.npz:x", "cannot be read"),
        ("o.npy", "cannot be read"),
    ):
        with pytest.raises(DataError, match=says):
            read_column(tmp_path / place)
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    for place, says in (("t.csv", "more than one column; take one of: 'a', 'b'"), ("t.csv:c", "no column 'c'")):
        with pytest.raises(DataError, match=says):
            read_column(tmp_path / place)
    with pytest.raises(MissingDataError, match="nowhere"):
        read_column("nowhere.csv:a")


def test_wrong_settings_cost_no_training(job):
    sets, splits = job
    test = cd.data.load("digits", split="test")
    for error, says, arguments in (
        (ParameterRangeError, "0", {"repeats": 0}),
        (UnknownNameError, "lenet", {"network": "lenot"}),
        (UnknownNameError, "teacher", {"baselines": ["teachers"]}),
        (DataError, "359 images", {"columns": {"x": [1, 2]}}),
        (InvalidInputError, "test split", {"validation": test}),
        (InvalidInputError, "test split", {"target": test}),
    ):
        with pytest.raises(error, match=says):
            cd.evaluate.bias(sets[0], **{**splits, **arguments})
    with pytest.raises(ParameterRangeError, match="0 and"):
        cd.evaluate.bias([])


def test_without_fairlearn_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "fairlearn.metrics", None)
    with pytest.raises(BackendUnavailableError, match=r"convexdistill\[bias\]"):
        by_group({}, np.ones((1, 2), dtype=bool), {"x": np.array(["a", "b"])})


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, Path]:
    """A set distilled from a data set so small that training on everything takes a moment."""
    random = np.random.default_rng(0)
    labels = np.arange(120) % 3
    images = random.integers(0, 60, (120, 8, 8)).astype(np.uint8)
    for k in range(3):
        images[labels == k, 2 * k : 2 * k + 2] += 150
    np.savez(tmp_path / "bars.npz", images=images, labels=labels)
    train = cd.data.load(str(tmp_path / "bars.npz"))
    moments = cd.accumulate(cd.features.pool(count=1), train)
    cd.distill.closed_form(moments, cd.select.choose(train, size=6), gamma=0.1).save(tmp_path / "d.safetensors")
    return tmp_path / "d.safetensors", tmp_path


def test_the_command_adds_the_numbers_to_those_beside_the_file(small):
    file, folder = small
    count = len(cd.data.load(str(folder / "bars.npz"), split="test"))
    (folder / "side.csv").write_text("side\n" + "left\nright\n" * (count // 2) + "left\n" * (count % 2))
    done = run("bias", file, "--group", folder / "side.csv", "--repeats", 1)
    assert done.exit_code == 0, done.output
    assert "side: left" in done.output
    record = json.loads((folder / "metrics.json").read_text())
    assert {one["group"] for one in record["subgroups"]} == {"everyone", "class", "side"}
    assert run("report", file, "--out", folder / "page.html").exit_code == 0
    page = (folder / "page.html").read_text("utf-8")
    for one in record["subgroups"]:
        if one["labels"] == "distilled":
            assert f'data-value="{one["accuracy"]}"' in page
            assert f"{one['accuracy']:.1f}" in done.output


def test_bias_and_evaluate_write_into_the_file_that_is_read_and_keep_each_others_numbers(small):
    file, folder = small
    numbers, quick = file.with_suffix(".json"), ["--repeats", 1, "--baselines", "one-hot"]
    assert run("evaluate", file, *quick, "--json", numbers).exit_code == 0
    done = run("bias", file, "--repeats", 1)
    assert f"wrote {numbers}" in done.stdout, done.output
    assert not (folder / "metrics.json").exists()
    before = json.loads(numbers.read_text())
    assert before["subgroups"]
    assert before["results"]
    done = run("evaluate", file, *quick, "--seed", 1, "--json", numbers)
    assert "one training on the distilled set" in done.stdout
    after = json.loads(numbers.read_text())
    assert [after[name] for name in ("subgroups", "disparities")] == [before["subgroups"], before["disparities"]]
    assert (before["evaluation"]["seed"], after["evaluation"]["seed"]) == (0, 1)
    numbers.write_text(json.dumps(before | {"base_size": 7}))  # of another set: nothing to keep
    assert run("evaluate", file, *quick, "--json", numbers).exit_code == 0
    assert "subgroups" not in json.loads(numbers.read_text())


def test_a_wrong_column_costs_one_line(small):
    file, folder = small
    (folder / "short.csv").write_text("side\nleft\n")
    before = {path.name for path in folder.iterdir()}
    for arguments, says in (
        (["--group", folder / "short.csv"], "24 images"),
        (["--group", folder / "none.csv"], "none.csv"),
        (["--repeats", 0], "at least one repeat"),
        (["--network", "lenot"], "lenet"),
    ):
        done = run("bias", file, *arguments)
        assert done.exit_code == 2, done.output
        assert says in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert {path.name for path in folder.iterdir()} == before
