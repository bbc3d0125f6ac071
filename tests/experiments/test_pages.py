"""The pages of docs/results say what the committed records say, and every experiment can be asked for help."""

import importlib

import _records
import pytest

SCRIPTS = sorted(path.stem for path in _records.RESULTS.parent.parent.joinpath("experiments").glob("[!_]*.py"))
OWN = ("main_job",)  # has a command line and a table of its own
EXPERIMENTS = [importlib.import_module(name).EXPERIMENT for name in SCRIPTS if name not in OWN]


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda experiment: experiment.name)
def test_the_page_follows_from_the_records(experiment):
    page = _records.RESULTS / f"{experiment.name}.md"
    records = _records.read(_records.RESULTS / f"{experiment.name}.jsonl")
    assert page.is_file() == bool(records)
    if records:
        assert page.read_text("utf-8") == experiment.table(records), "run it again with --table"


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda experiment: experiment.name)
def test_settings_are_told_apart(experiment):
    for settings in (experiment.full, experiment.quick):
        plain = [_records.plain(vars(setting)) for setting in settings]
        assert all(plain.count(setting) == 1 for setting in plain)


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda experiment: experiment.name)
def test_help_teaches(experiment, capsys):
    with pytest.raises(SystemExit):
        _records.run(experiment, ["--help"])
    shown = capsys.readouterr().out
    assert "--quick" in shown
    assert f"experiments/{experiment.name}.py" in shown


def test_the_page_of_performance_follows_from_the_benchmarks(monkeypatch):
    root = _records.RESULTS.parent.parent
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    written = importlib.import_module("performance").page()
    assert (root / "docs" / "performance.md").read_text("utf-8") == written
