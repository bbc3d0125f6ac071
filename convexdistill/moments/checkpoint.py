"""Checkpoints of a pass: it may be killed at any moment and goes on from the last one.

A checkpoint holds the sums after a whole number of batches and the settings of the pass. It is written whole or
not at all, so that whatever is found is a state the pass went through; going on from there repeats the same
additions in the same order, and ends with the same bits.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from convexdistill.differences import differences
from convexdistill.errors import FileFormatError, InvalidInputError
from convexdistill.files import read_tensors, write_tensors

KIND = "moments-checkpoint"
FORMAT_VERSION = 1
LARGEST_SHARE = 0.05  # of the time that may go into writing checkpoints


class Checkpoint:
    """The checkpoint file of one pass.

    Args:
        path: the file.
        settings: what must be the same for a pass to go on; JSON values.
        every: seconds between checkpoints; longer where writing one takes more than a twentieth of that.

    Raises:
        InvalidInputError: the file belongs to a pass with other settings; the message shows the difference.
        FileFormatError: the file is no checkpoint.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any], every: float) -> None:
        self.path, self.every = Path(path), every
        self.settings = json.loads(json.dumps(settings))  # tuples become lists, as they will be when read
        self.due = time.monotonic() + every
        # A process that was killed while it wrote leaves its unfinished file behind.
        for leftover in self.path.parent.glob(f".{self.path.name}.*.part"):
            leftover.unlink(missing_ok=True)

    def read(self) -> tuple[int, dict[str, Tensor]] | None:
        """Images that were summed, and the sums; None where there is no checkpoint."""
        if not self.path.exists():
            return None
        tensors, manifest = read_tensors(self.path, kind=KIND, version=FORMAT_VERSION)
        try:
            found, images = manifest["settings"], int(manifest["images"])
            differ = differences(
                {key: value for key, value in found.items() if key in self.settings}, self.settings
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FileFormatError(f"{self.path} lacks a part that a checkpoint has: {error}; delete it") from error
        if differ:
            raise InvalidInputError(
                f"{self.path} is the checkpoint of another pass ({differ}); go on with the same "
                "settings, or name another checkpoint, or delete it"
            )
        return images, tensors

    def is_due(self) -> bool:
        """Whether it is time to write."""
        return time.monotonic() >= self.due

    def write(self, images: int, state: Mapping[str, Tensor]) -> None:
        """Write the sums of so many images."""
        start = time.monotonic()
        manifest = {"kind": KIND, "format_version": FORMAT_VERSION, "images": images, "settings": self.settings}
        write_tensors(self.path, state, manifest)
        end = time.monotonic()
        self.due = end + max(self.every, (end - start) / LARGEST_SHARE)
