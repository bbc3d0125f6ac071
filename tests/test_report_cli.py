"""``report``, ``info``, ``compare``, ``backends``: the terminal, the JSON and the page show the same numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

import convexdistill as cd
from convexdistill.cli import app
from convexdistill.distilled import DistilledSet
from convexdistill.files import write_json


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def sets() -> list[DistilledSet]:
    """Two real sets of digits."""
    digits = cd.data.load("digits")
    moments = cd.accumulate(cd.features.pool(count=1), digits)
    bases = [cd.select.choose(digits, size=size) for size in (20, 30)]
    return [cd.distill.closed_form(moments, base, gamma=0.1) for base in bases]


@pytest.fixture(scope="module")
def tables(sets: list[DistilledSet]) -> list[dict[str, Any]]:
    """Their numbers, from real trainings, though few."""
    found = [cd.evaluate.matrix(one, repeats=2, baselines=("one-hot", "teacher", "nearest-mean")) for one in sets]
    return [
        cd.evaluate.metrics([one], table, {"evaluate": table.seconds})
        for one, table in zip(sets, found, strict=True)
    ]


@pytest.fixture
def files(sets: list[DistilledSet], tables: list[dict[str, Any]], tmp_path: Path) -> list[Path]:
    found = []
    for name, one, numbers in zip(("twenty", "thirty"), sets, tables, strict=True):
        one.save(tmp_path / f"{name}.safetensors")
        write_json(tmp_path / f"{name}.json", numbers)
        found.append(tmp_path / f"{name}.safetensors")
    return found


def page_tables(html: str) -> dict[str, list[list[tuple[str, str | None]]]]:
    """Every table of a page by its id: of every cell its text and its number."""
    found = {}
    for name, body in re.findall(r'<table id="([^"]*)".*?<tbody>(.*?)</tbody>', html, re.DOTALL):
        rows = re.findall(r"<tr[^>]*>(.*?)</tr>", body, re.DOTALL)
        cells = [re.findall(r'<t[hd][^>]*?(?:data-value="([^"]*)")?>(.*?)</t[hd]>', row) for row in rows]
        found[name] = [[(unescape(text), value or None) for value, text in row] for row in cells]
    return found


def printed_rows(text: str, count: int) -> list[list[str]]:
    """Cells of the lines below the first rule of a table."""
    lines = text[re.search(r"^ ─+.*$", text, re.M).end() :].splitlines()[1 : count + 1]  # type: ignore[union-attr]
    return [re.split(r"\s{2,}", line.strip()) for line in lines]


NUMBERS = ("accuracy_mean", "validation_mean", "ece", "brier", "nll", "std_training", "seconds")


def test_terminal_json_and_page_show_the_same_numbers(files: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    printed, told = run("compare", *files, "--html", page), run("compare", *files, "--json", "-")
    assert printed.exit_code == told.exit_code == 0, printed.output + told.output
    record, shown = json.loads(told.stdout), page_tables(page.read_text("utf-8"))
    rows = [(one["name"], row) for one in record["sets"] for row in one["metrics"]["results"]]
    assert len(rows) == len(shown["accuracy-table"]) == 8

    for (name, row), cells in zip(rows, shown["accuracy-table"], strict=True):
        assert cells[0][0] == name
        numbers = {float(value) for _, value in cells if value is not None}
        for key in NUMBERS:  # to the last digit
            if row.get(key):
                assert row[key] in numbers, (key, cells)
        assert row["accuracy_ci95"][0] in numbers or row["accuracy_ci95"][0] is None
        texts = [text for text, _ in cells]
        spread = "" if row["accuracy_std"] is None else f" ± {row['accuracy_std']:.1f}"
        assert f"{row['accuracy_mean']:.1f}{spread}" in texts

    # Every cell of the terminal stands in the page's table, word for word.
    lines = printed_rows(printed.output, 2)
    for line, cells in zip(lines, shown["sets"], strict=True):
        assert line == [text for text, _ in cells]
    for one, cells in zip(record["sets"], shown["sets"], strict=True):
        assert float(cells[1][1] or "nan") == one["main"]["accuracy_mean"]
        assert float(cells[3][1] or "nan") == one["main"]["minus_best"]["mean"]
    assert float(shown["sets"][1][5][1] or "nan") == record["sets"][1]["against_first"]["mean"]


def test_info_shows_the_numbers_of_the_page(files: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    printed, told = run("info", files[0]), run("info", files[0], "--json", tmp_path / "info.json")
    wrote = run("report", files[0], "--out", page, "--json", "-")
    assert [one.exit_code for one in (printed, told, wrote)] == [0, 0, 0], printed.output
    assert told.stdout == ""
    assert json.loads((tmp_path / "info.json").read_text()) == json.loads(wrote.stdout)
    assert f"wrote {page}" in wrote.stderr
    (one,) = json.loads(wrote.stdout)["sets"]
    html = unescape(page.read_text("utf-8"))
    shown = page_tables(html)["accuracy-table"]
    for row, cells in zip(one["metrics"]["results"], shown, strict=True):
        texts = [text for text, _ in cells]
        for text in (texts[0], f"{row['accuracy_mean']:.1f}"):
            assert text in printed.output
    headline = re.search(r'<p class="headline">(.*?)</p>', html).group(1)  # type: ignore[union-attr]
    assert headline.replace("\u00a0", " ") in " ".join(printed.output.split())


def test_figures_are_written_on_request(files: list[Path], tmp_path: Path) -> None:
    done = run(
        "report", files[0], "--out", tmp_path / "p.html", "--plots", tmp_path / "plots", "--plot-format", "png"
    )
    assert done.exit_code == 0, done.output
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    assert {"accuracy.png", "curves.png", "calibration.png", "confusion.png", "labels.png"} <= names
    for name in names:
        assert (tmp_path / "plots" / name).read_bytes().startswith(b"\x89PNG")
        assert f"wrote {tmp_path / 'plots' / name}" in done.output


def test_a_report_of_several_files_is_a_comparison(files: list[Path], tmp_path: Path) -> None:
    done = run("report", *files)
    assert done.exit_code == 0, done.output
    assert "2 distilled sets for digits" in (tmp_path / "comparison.html").read_text("utf-8")


def test_backends_and_moments_as_json(tmp_path: Path) -> None:
    backends = json.loads(run("backends", "--json", "-").stdout)["backends"]
    assert {"torch", "cvxpylayers"} <= {one["name"] for one in backends if one["available"]}
    assert all(one["available"] or one["reason"] for one in backends)
    digits = cd.data.load("digits")
    moments = cd.accumulate(cd.features.pool(count=1), digits)
    moments.save(tmp_path / "m.safetensors")
    record = json.loads(run("moments", "info", tmp_path / "m.safetensors", "--json", "-").stdout)
    assert (record["images"], record["missing"]) == (len(digits), [])


Spoil = Callable[[list[Path], Path], list[object]]


def _numbers_of_another_set(files: list[Path], folder: Path) -> list[object]:
    return ["report", files[0], "--metrics", files[1].with_suffix(".json")]


def _another_target(files: list[Path], folder: Path) -> list[object]:
    digits = cd.data.load("digits")
    labels = np.array([f"no {digits.classes[label]}" for label in digits.labels.tolist()])
    other = cd.data.load((255 - digits.images, labels), split="train", name="negatives")
    moments = cd.accumulate(cd.features.pool(count=1), other)
    cd.distill.closed_form(moments, cd.select.choose(other, size=20), gamma=0.1).save(folder / "other.safetensors")
    return ["compare", files[0], folder / "other.safetensors"]


def _cut_off_numbers(files: list[Path], folder: Path) -> list[object]:
    (folder / "cut.json").write_text('{"results": [')
    return ["info", files[0], "--metrics", folder / "cut.json"]


BAD: dict[str, tuple[Spoil, str]] = {
    "numbers of another set": (_numbers_of_another_set, "another distilled set"),
    "another target": (_another_target, "different classes"),
    "cut off numbers": (_cut_off_numbers, "cut.json"),
    "a single set to compare": (lambda files, folder: ["compare", files[0]], "at least two"),
    "a format that is not there": (
        lambda files, folder: ["report", files[0], "--plot-format", "gif"],
        "svg or png",
    ),
    "no file": (lambda files, folder: ["compare", files[0], folder / "nowhere"], "nowhere"),
    "a folder for the page": (lambda files, folder: ["report", files[0], "--out", folder], "cannot write"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_costs_one_line(case: str, files: list[Path], tmp_path: Path) -> None:
    spoil, expected = BAD[case]
    arguments = spoil(files, tmp_path)
    before = {path.name for path in tmp_path.rglob("*")}
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert {path.name for path in tmp_path.rglob("*")} == before
