"""Print a command of the README, so that CI runs what the reader is told to run.

python3 docs/readme_command.py start        # the quick start
python3 docs/readme_command.py test         # the tests
"""

import re
import sys
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"


def command(name: str) -> str:
    """The shell block that follows ``<!-- command: NAME -->``."""
    found = re.search(rf"<!-- command: {re.escape(name)} -->\n+```\w*\n(.*?)```", README.read_text("utf-8"), re.S)
    if found is None:
        raise SystemExit(f"README.md has no block after <!-- command: {name} -->")
    return found[1].strip()


if __name__ == "__main__":
    print(command(sys.argv[1]))
