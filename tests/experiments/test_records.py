from dataclasses import dataclass

import _records
import pytest
from matplotlib.figure import Figure

from convexdistill.errors import MissingDataError


@dataclass(frozen=True)
class Setting:
    size: int
    networks: tuple[str, ...] = ("lenet",)


def made(measure, settings):
    def table(records):
        return "".join(f"{r['setting']['size']}: {r['result']['twice']}\n" for r in records)

    def plot(records):
        figure = Figure()
        figure.subplots().plot([r["setting"]["size"] for r in records])
        return figure

    return _records.Experiment("help", "made", settings, settings[:1], measure, table, plot)


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    measured = []

    def measure(setting, data_root):
        measured.append(setting.size)
        if setting.size == 3 and measured.count(3) == 1:
            raise KeyboardInterrupt
        return {"twice": 2 * setting.size, "root": data_root}

    experiment = made(measure, [Setting(1), Setting(2), Setting(3)])
    _records.run(experiment, ["--quick", "--out", str(tmp_path)])
    assert measured == [1]
    with pytest.raises(KeyboardInterrupt):
        _records.run(experiment, ["--out", str(tmp_path)])
    _records.run(experiment, ["--out", str(tmp_path), "--data-root", "there"])
    assert measured == [1, 2, 3, 3]
    assert (tmp_path / "made.md").read_text() == "1: 2\n2: 4\n3: 6\n"
    first, *_, last = _records.read(tmp_path / "made.jsonl")
    assert first["setting"] == {"size": 1, "networks": ["lenet"]}
    assert last["result"] == {"twice": 6, "root": "there"}
    assert last["seconds"] >= 0
    assert last["machine"]["cores"] >= 1


def test_a_record_that_is_older_than_a_setting_has_its_default(tmp_path):
    file = tmp_path / "made.jsonl"
    _records.append(file, {"setting": {"size": 1}, "result": {"twice": 2}})
    measured = []

    def measure(setting, data_root):
        measured.append(setting.networks)
        return {"twice": 2 * setting.size}

    settings = [Setting(1), Setting(1, networks=("alexnet",))]
    _records.measure_missing(made(measure, settings), settings, file, None)
    assert measured == [("alexnet",)]


def test_settings_whose_data_is_missing_are_left_out_and_named_once(tmp_path, capsys):
    def measure(setting, data_root):
        if setting.size < 3:
            raise MissingDataError("no letters in here")
        return {"twice": 2 * setting.size}

    experiment = made(measure, [Setting(1), Setting(2), Setting(3)])
    _records.run(experiment, ["--out", str(tmp_path)])
    assert [record["setting"]["size"] for record in _records.read(tmp_path / "made.jsonl")] == [3]
    assert capsys.readouterr().out.count("no letters in here") == 1
    with pytest.raises(SystemExit, match="nothing was measured"):
        _records.run(experiment, ["--quick", "--out", str(tmp_path / "elsewhere")])


def test_page_and_plot_follow_from_the_records_alone(tmp_path):
    experiment = made(lambda setting, root: {"twice": 2 * setting.size}, [Setting(1), Setting(2)])
    _records.run(experiment, ["--out", str(tmp_path)])
    first = [(tmp_path / f"made.{kind}").read_bytes() for kind in ("md", "svg")]
    for kind in ("md", "svg"):
        (tmp_path / f"made.{kind}").unlink()
    _records.run(experiment, ["--table", "--out", str(tmp_path)])
    assert [(tmp_path / f"made.{kind}").read_bytes() for kind in ("md", "svg")] == first


def test_a_line_that_was_cut_off_is_measured_again(tmp_path):
    file = tmp_path / "made.jsonl"
    experiment = made(lambda setting, root: {"twice": 2 * setting.size}, [Setting(1), Setting(2)])
    _records.run(experiment, ["--out", str(tmp_path)])
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    assert [r["setting"]["size"] for r in _records.read(file)] == [1]
    _records.run(experiment, ["--out", str(tmp_path)])
    assert [r["setting"]["size"] for r in _records.read(file)] == [1, 2]
    assert all(line.startswith("{") for line in file.read_text().splitlines())


def test_a_result_that_is_no_number_is_refused_before_it_is_written(tmp_path):
    experiment = made(lambda setting, root: {"twice": float("nan")}, [Setting(1)])
    with pytest.raises(ValueError, match="JSON"):
        _records.run(experiment, ["--out", str(tmp_path)])
    assert _records.read(tmp_path / "made.jsonl") == []


def test_tables_are_markdown():
    assert _records.markdown_table(["rule", "test:"], [["random", 1.5]]) == [
        "| rule | test |",
        "| --- | ---: |",
        "| random | 1.5 |",
    ]
