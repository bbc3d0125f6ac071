"""The command line as a user meets it: output, exit codes and files.

The main command runs as a real process, the others within this one, which has loaded PyTorch already: a second
instead of ten.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import convexdistill as cd
from convexdistill import terminal
from convexdistill.cli import app

QUICK = ["--pool-size", "1", "--gamma", "1e-2", "--label-scale", "8"]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A small job with an evaluation: its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("job")
    small = ["--base-size", "20", "--repeats", "2", "--base-sets", "2", *QUICK]
    command = [sys.executable, "-m", "convexdistill", "distill", *small]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return folder / "distilled" / "digits-20", done.stdout


def test_distill_writes_the_set_the_numbers_and_the_report(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    assert {p.name for p in folder.iterdir()} == {"distilled.safetensors", "metrics.json", "report.html"}
    assert len(cd.load(folder / "distilled.safetensors")) == 20


def test_metrics_have_the_agreed_keys(finished: tuple[Path, str]) -> None:
    record = json.loads((finished[0] / "metrics.json").read_text())
    agreed = ["target", "source", "base_size", "method", "backend", "seeds", "seconds", "results"]
    assert set(agreed) <= set(record)
    assert {"accumulate", "solve", "evaluate", "total"} <= set(record["seconds"])
    names = [row["labels"] for row in record["results"]]
    trained = ["distilled", "one-hot", "smoothed", "one-hot-recipe", "teacher", "random-subset"]
    assert names == [*trained, "nearest-neighbour", "nearest-mean"]
    for row in record["results"]:
        assert np.mean(row["runs"]) == pytest.approx(row["accuracy_mean"])
        assert 0 <= row["validation_mean"] <= 100
        assert len(row["runs"]) == (2 if row["network"] is None else 4)


def test_where_there_are_two_kinds_of_labels_a_line_says_which_were_taken(finished: tuple[Path, str]) -> None:
    record = json.loads((finished[0] / "metrics.json").read_text())
    assert not [line for line in terminal.job_lines(record) if line.startswith("labels")]
    tried = [{"labels": "cross-entropy", "validation_mean": 61.2}, {"labels": "unrolled", "validation_mean": 70.0}]
    (line,) = [one for one in terminal.job_lines(record | {"chosen_from": tried}) if one.startswith("labels")]
    assert line == "labels (first base set): unrolled, validation 70.0 %, cross-entropy 61.2"


def test_terminal_and_report_show_the_numbers_of_the_file(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    page = (folder / "report.html").read_text("utf-8")
    for row in json.loads((folder / "metrics.json").read_text())["results"]:
        assert f"{row['accuracy_mean']:.1f}" in printed
        assert f"{row['accuracy_mean']:.1f}" in page
    assert "torch and cvxpylayers differ by" in printed
    assert "distilling, once" in printed
    assert "pay for itself" in printed or "paid for itself" in printed


def test_evaluate_report_and_info_work_on_the_file(finished: tuple[Path, str], tmp_path: Path) -> None:
    file = finished[0] / "distilled.safetensors"
    numbers = tmp_path / "numbers.json"
    axes = ["--optimizers", "sgd,nadam", "--learning-rates", "x3", "--steps", "auto,5", "--losses", "kl:2"]
    more = ["--augment", "shift", "--orders", "fixed", "--baselines", "one-hot", "--cache", tmp_path / "cells"]
    done = run("evaluate", file, "--repeats", "1", *axes, *more, "--json", numbers)
    assert done.exit_code == 0, done.stderr
    record = json.loads(numbers.read_text())
    rows = record["results"]
    assert [row["labels"] for row in rows] == ["distilled", "one-hot"] * 4
    assert [row["optimizer"] for row in rows] == ["sgd"] * 4 + ["nadam"] * 4
    assert [row["steps"] for row in rows[2:4]] == [[5], [5]]
    assert {(row["loss"], row["temperature"]) for row in rows} == {("kl", 2.0)}
    assert {(row["augmentation"], row["order"]) for row in rows} == {("shift", "fixed")}
    assert rows[0]["learning_rate"] == pytest.approx(0.03)
    assert record["cost"]["distil_seconds"] > 0
    assert (record["cost"]["energy_kwh"] is None) == bool(record["cost"]["energy_why_not"])
    again = run("evaluate", file, "--repeats", "2", *axes, *more)
    assert (again.exit_code, again.stdout) == (2, "")
    assert "repeats: 1 there, 2 now" in again.stderr
    assert run("report", file, "--out", tmp_path / "page.html").exit_code == 0
    assert "20 of 1×8×8, from digits" in run("info", file).stdout


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--optimizers", "lion"], "unknown optimizer 'lion'; known are adam"),
        (["--target", "wide.npz"], "images of (1, 8, 8), but found 10 classes and images of (1, 16, 8)"),
        (["--target", "three.npz"], "is for 10 classes"),
        (["--repeats", "0"], "repeat"),
    ],
)
def test_what_cannot_be_evaluated_costs_one_line(
    options: list[str],
    expected: str,
    finished: tuple[Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    _npz(tmp_path / "wide.npz", rng.random((300, 16, 8)), np.arange(300) % 10)
    _npz(tmp_path / "three.npz", rng.random((300, 8, 8)), np.arange(300) % 3)
    done = run("evaluate", finished[0] / "distilled.safetensors", *options)
    assert done.exit_code == 2, done.stdout + done.stderr
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_compress_writes_a_smaller_file_and_info_shows_the_budget(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    file, small = finished[0] / "distilled.safetensors", tmp_path / "small.safetensors"
    done = run("compress", file, "--bits", "4", "--top-k", "5", "--out", small)
    assert "labels 800 → 360 bytes" in done.stdout, done.stderr
    told = run("compress", file, "--bits", "4", "--top-k", "5", "--out", small, "--json", "-")
    record = json.loads(told.stdout)
    assert (record["bytes_before"]["labels"], record["bytes"]["labels"]) == (800, 360)
    assert small.stat().st_size < file.stat().st_size
    shown = run("info", small).stdout
    assert "images 1,280, labels 360, total 1,640" in shown
    assert "5 of 10 values in 4 bits each, 18 bytes a label" in shown
    wrong = run("compress", file, "--bits", "40", "--out", tmp_path / "no")
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert "1 to 16" in wrong.stderr
    assert not (tmp_path / "no").exists()


def test_the_cvxpylayers_backend_ends_at_the_closed_forms_labels(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    arguments = ["--base-size", "20", "--backend", "cvxpylayers", "--no-evaluate", "--out", tmp_path / "out"]
    done = run("distill", *arguments, *QUICK)
    assert done.exit_code == 0, done.stderr
    closed, descended = (cd.load(f / "distilled.safetensors") for f in (finished[0], tmp_path / "out"))
    assert closed.manifest["certificate"]["solver"].startswith("torch/")
    assert float((closed.labels - descended.labels).norm() / closed.labels.norm()) < 1e-3
    assert descended.manifest["certificate"]["solver"] == "cvxpylayers/l-bfgs"


def test_moments_of_shards_give_the_labels_of_one_pass(
    finished: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--pool-size", "1"]
    for i in range(2):
        done = run("moments", "accumulate", *small, "--shard", f"{i}/2", "--out", f"{i}.st")
        assert done.exit_code == 0, done.stderr
    part = run("distill", "--moments", "0.st", "--no-evaluate")
    assert part.exit_code == 2
    assert "lacks 1 shards" in part.stderr
    merged = run("moments", "merge", "1.st", "0.st", "--out", "all.st", "--json", "-")
    assert merged.exit_code == 0
    assert json.loads(merged.stdout) == json.loads(run("moments", "info", "all.st", "--json", "-").stdout)
    assert "wrote all.st: 1258 images" in merged.stderr
    assert "1,258" in run("moments", "info", "all.st").stdout
    common = ["--base-size", "20", "--no-evaluate", *QUICK]
    done = run("distill", *common, "--moments", "all.st", "--out", "merged", "--json", "-")
    assert json.loads(done.stdout) == json.loads(Path("merged/metrics.json").read_text())
    assert "wrote merged/metrics.json" in done.stderr
    direct, merged = (cd.load(folder / "distilled.safetensors") for folder in (finished[0], Path("merged")))
    np.testing.assert_allclose(direct.labels, merged.labels, atol=1e-6)
    assert not merged.is_cross


def test_moments_of_whitened_images_say_so(tmp_path: Path) -> None:
    file = str(tmp_path / "white.st")
    arguments = ["--pool-size", "1", "--width", "4", "--zca", "0.1", "--out", file]
    done = run("moments", "accumulate", *arguments)
    assert done.exit_code == 0, done.stderr
    assert "regularisation 0.1" in run("moments", "info", file).stdout
    record = json.loads(run("moments", "info", file, "--json", "-").stdout)
    assert record["preprocessing"]["zca"]["shape"] == [1, 8, 8]
    wrong = run("moments", "accumulate", "--zca", "-1", "--out", str(tmp_path / "no.st"))
    assert (wrong.exit_code, (tmp_path / "no.st").exists()) == (2, False)
    assert "must be a positive number, found -1.0" in wrong.stderr


def test_every_command_explains_itself() -> None:
    for command in ([], ["distill"], ["moments", "accumulate"]):
        done = run(*command, "--help")
        assert done.exit_code == 0
        assert "Usage" in done.stdout
        assert not command or "CONVEXDISTILL_DATA" in done.stdout
    assert "torch" in run("backends").stdout


def _npz(path: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    np.savez(path, images=images, labels=labels)
    return path


def _bad_inputs(folder: Path) -> dict[str, tuple[list[str], str]]:
    """What a user may get wrong: the arguments, and what the one line must say."""
    rng = np.random.default_rng(0)
    images, labels = rng.random((60, 8, 8)), np.arange(60) % 3
    nan = images.copy()
    nan[7, 0, 0] = np.nan
    inf = np.where(np.isnan(nan), np.inf, images)
    negative = _npz(folder / "neg.npz", images, labels - 1)
    whole = _npz(folder / "whole.npz", images, labels)
    cut = folder / "cut.npz"
    cut.write_bytes(whole.read_bytes()[:300])
    (folder / "file").write_text("no folder")
    scarce = _npz(folder / "scarce.npz", images, np.where(np.arange(60) < 2, 2, np.arange(60) % 2))
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for stem in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{stem}-ubyte").write_bytes(bytes([0, 0, 8, 3]) + bytes(20))
    foreign = folder / "foreign.safetensors"
    foreign.write_bytes(b"not a distilled set")
    tiny = ["distill", "--target", str(whole), "--base-size"]
    return {
        "missing data files": (["distill", "--target", "emnist-letters", "--data-root", "nowhere"], "emnist"),
        "truncated data file": (["distill", "--target", str(cut)], "cut.npz"),
        "unknown data set": (["distill", "--target", "mnits"], "mnits"),
        "base size too large": ([*tiny, "100"], "holds only"),
        "base size zero": ([*tiny, "0"], "at least 1"),
        "class too small": (["distill", "--target", str(scarce), "--base-size", "30"], "--unbalanced"),
        "NaN pixels": (["distill", "--target", str(_npz(folder / "nan.npz", nan, labels))], "NaN"),
        "infinite pixels": (["distill", "--target", str(_npz(folder / "inf.npz", inf, labels))], "infin"),
        "negative labels": (
            ["distill", "--target", str(negative)],
            "label",
        ),
        "fractional labels": (
            ["distill", "--target", str(_npz(folder / "half.npz", images, labels + 0.5))],
            "label",
        ),
        "truncated MNIST": (["distill", "--target", "mnist", "--data-root", str(folder)], "ubyte"),
        "unknown backend": (["distill", "--backend", "foo"], "cvxpylayers"),
        "unknown device": (["distill", "--device", "cpu:x"], "cpu:x"),
        "unwritable output": (["distill", "--out", "file/below"], "--out"),
        "unknown network": (["distill", "--networks", "lenot"], "lenet"),
        "gamma no number": (["distill", "--gamma", "much"], "much"),
        "no repeats": (["distill", "--repeats", "0"], "repeats"),
        "foreign distilled file": (["evaluate", str(foreign)], "foreign.safetensors"),
        "no distilled file": (["info", "nowhere.safetensors"], "nowhere.safetensors"),
    }


CASES = """missing data files, truncated data file, truncated MNIST, unknown data set, base size too large,
base size zero, class too small, NaN pixels, infinite pixels, negative labels, fractional labels,
unknown backend, unknown device, unwritable output, unknown network, gamma no number, no repeats,
foreign distilled file, no distilled file"""


@pytest.mark.parametrize("case", [case.strip() for case in CASES.split(",")])
def test_a_mistake_costs_one_line_and_leaves_nothing_behind(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = _bad_inputs(tmp_path)
    arguments, expected = cases[case]
    before = {p.name for p in tmp_path.rglob("*")}
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.exit_code == 2, done.stdout + done.stderr
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert {p.name for p in tmp_path.rglob("*")} == before


def test_a_cut_off_distilled_file_is_refused(finished: tuple[Path, str], tmp_path: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((finished[0] / "distilled.safetensors").read_bytes()[:-100])
    done = run("evaluate", cut)
    assert done.exit_code == 2
    assert "cut.safetensors" in done.stderr
