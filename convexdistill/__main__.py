"""``python -m convexdistill`` is the ``convexdistill`` command."""

from convexdistill.cli import main

if __name__ == "__main__":
    main()
