"""When to save: often enough that little is lost, seldom enough that it costs nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

COST_SHARE = 50  # an epoch's end is a place to save once 50 times the cost of a save have passed since the last


class SaveClock:
    """Decides on rank 0, by the clock; what is computed does not depend on it."""

    def __init__(self, every_minutes: float, *, now: Callable[[], float] = time.monotonic) -> None:
        self._every = every_minutes * 60
        self._now = now
        self._cost = 0.0
        self._last = now()

    def due(self, *, epoch_end: bool) -> bool:
        """Whether to save after this step; `every_minutes` 0 means after every step."""
        passed = self._now() - self._last
        return passed >= self._every or (epoch_end and passed >= COST_SHARE * self._cost)

    def saved(self, *, seconds: float) -> None:
        """A save took `seconds`."""
        self._cost = seconds
        self._last = self._now()
