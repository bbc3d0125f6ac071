"""When the network is thrown away: the paper's early-stopping rule, which also says how long to train."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

RECENT = 3


class RestartRule:
    """Restart a window of steps after the mean error of a window was lowest (Bohdal et al. 2020, code).

    The sum of the last ``window`` errors is followed from the moment that there are so many. A step that does
    not lower its minimum counts; the step after ``window`` such steps in a row restarts, and the step of the
    minimum is kept: it is how long a network wants to be trained on the labels of that time.

    Args:
        window: W, in steps.

    Attributes:
        lengths: of each restart, the number of steps to the minimum.
        steps: since the last restart.

    Example:
        >>> rule = RestartRule(window=2)
        >>> [rule.record(error) for error in (90, 50, 50, 60, 60, 60)]
        [False, False, False, False, False, True]
        >>> rule.lengths, rule.steps
        ([3], 0)
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self.lengths: list[int] = []
        self._start()

    def _start(self) -> None:
        self.steps = 0
        self._waited = 0
        self._lowest = math.inf
        self._errors: deque[float] = deque(maxlen=self.window)

    def record(self, error: float) -> bool:
        """Take the error of one more step; whether to restart now."""
        self.steps += 1
        self._errors.append(error)
        if len(self._errors) < self.window:
            return False
        # Summed exactly and anew: a sum that is carried along would drift from window to window.
        total = math.fsum(self._errors)
        if total < self._lowest:
            self._lowest, self._waited = total, 0
        elif self._waited < self.window:
            self._waited += 1
        else:
            self.lengths.append(self.steps - self._waited - 1)
            self._start()
            return True
        return False

    @property
    def training_length(self) -> int:
        """T: the mean of the last three lengths, rounded down; before the first restart all steps so far."""
        recent = self.lengths[-RECENT:]
        return sum(recent) // len(recent) if recent else self.steps

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON."""
        return {
            "lengths": list(self.lengths),
            "steps": self.steps,
            "waited": self._waited,
            "lowest": None if math.isinf(self._lowest) else self._lowest,
            "errors": list(self._errors),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self.lengths = list(state["lengths"])
        self.steps, self._waited = state["steps"], state["waited"]
        self._lowest = math.inf if state["lowest"] is None else state["lowest"]
        self._errors = deque(state["errors"], maxlen=self.window)
