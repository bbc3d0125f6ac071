"""Write the installed versions into pyproject's ``constraint-dependencies``.

    .venv/bin/python docs/refresh_versions.py

Run it in an environment in which the tests pass: what stands there is what is known to work.
"""

import re
from importlib.metadata import version
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def main() -> None:
    """Replace each ``name==version`` by what is installed; local version labels are dropped."""
    head, table, tail = re.split(r"(constraint-dependencies = \[.*?\n\])", PROJECT.read_text("utf-8"), flags=re.S)

    def installed(match: re.Match[str]) -> str:
        return f'"{match[1]}=={version(match[1]).partition("+")[0]}"'

    PROJECT.write_text(head + re.sub(r'"([\w-]+)==[^"]+"', installed, table) + tail, "utf-8")


if __name__ == "__main__":
    main()
