"""Every example that a reader may copy runs as printed: docstrings, README and docs."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import convexdistill
from convexdistill.cli import app

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(convexdistill.__path__, "convexdistill.")
    if not module.name.endswith("__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_print_what_they_say(name: str) -> None:
    failures, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert failures == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_of_a_page_run_one_after_the_other(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S))
    if page.name == "README.md":  # it reads what the quick start above it has written
        monkeypatch.chdir(tmp_path)
        quick = ["--no-evaluate", "--pool-size", "1", "--gamma", "0.1", "--label-scale", "8"]
        assert CliRunner().invoke(app, ["distill", *quick]).exit_code == 0
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
        assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_the_reference_names_what_is_there() -> None:
    for name in re.findall(r"^::: (\S+)$", (ROOT / "docs" / "reference.md").read_text("utf-8"), re.M):
        found = convexdistill
        for part in name.split(".")[1:]:
            found = getattr(found, part) if hasattr(found, part) else importlib.import_module(name)


def test_the_readme_commands_can_be_read_by_ci() -> None:
    script = ROOT / "docs" / "readme_command.py"
    for name in ("start", "test"):
        done = subprocess.run([sys.executable, script, name], capture_output=True, text=True, check=True)
        assert done.stdout.startswith("python3 bootstrap.py")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
