#!/usr/bin/env python3
"""Make ``.venv`` beside this file and install convexdistill into it: the first half of the quick start.

    python3 bootstrap.py            # to use it
    python3 bootstrap.py dev        # to work on it: with the extra of that name

It needs Python 3.11 or newer and nothing else that a fresh machine lacks: the system's own Python is never
written to, and Debian's and Ubuntu's, which come without ``ensurepip``, are served by their own pip. The
exact versions that are known to work stand in ``pyproject.toml`` and are handed to pip as constraints.
Safe to repeat; ``uv sync`` does the same for those who have uv.
"""

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE / ".venv"
PYTHON = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def has_pip(python: Path | str) -> bool:
    """Whether this Python can run pip."""
    return subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0


def make_environment() -> list[str]:
    """Make the environment if it is not there; return the command that is pip for it."""
    if not PYTHON.exists():
        try:
            venv.create(ENVIRONMENT, with_pip=True)
        except subprocess.CalledProcessError:  # Debian without python3-venv
            venv.create(ENVIRONMENT, with_pip=False, clear=True)
    if has_pip(PYTHON):
        return [str(PYTHON), "-m", "pip"]
    if has_pip(sys.executable):
        return [sys.executable, "-m", "pip", "--python", str(PYTHON)]
    raise SystemExit("this Python has neither pip nor ensurepip; on Debian or Ubuntu: apt install python3-venv")


def main() -> None:
    """Install the package, with the extras named on the command line."""
    if sys.version_info < (3, 11):  # noqa: UP036 - this file must speak on older ones, too
        raise SystemExit(f"convexdistill needs Python 3.11 or newer, this is {sys.version.split()[0]}")
    import tomllib

    project = tomllib.loads((HERE / "pyproject.toml").read_text("utf-8"))
    extras = sys.argv[1:]
    known = project["project"]["optional-dependencies"]
    if unknown := [extra for extra in extras if extra not in known]:
        raise SystemExit(f"unknown extra {unknown[0]!r}; known are {', '.join(known)}")
    pip = make_environment()
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join(project["tool"]["uv"]["constraint-dependencies"]) + "\n", "utf-8")
        what = f"{HERE}[{','.join(extras)}]" if extras else str(HERE)
        print(
            "installing convexdistill into .venv (PyTorch is large: some minutes the first time) ...",
            flush=True,
        )
        command = [*pip, "install", "--quiet", "--constraint", str(constraints), "--editable", what]
        environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        if subprocess.run(command, check=False, env=environment).returncode:
            raise SystemExit("pip could not install convexdistill; its message stands above")
    print(f"ready: {PYTHON.parent.relative_to(HERE) / 'convexdistill'} --help")


if __name__ == "__main__":
    main()
