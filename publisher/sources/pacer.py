"""The pacer: lets pictures out at their own times."""

from __future__ import annotations

import threading
import time
from typing import Final

__all__ = ["Pacer"]

_LATE_S: Final = 0.5


class Pacer:
    """Waits until pictures are due, by their times in seconds; waits end when `stop` is set."""

    def __init__(self, stop: threading.Event, *, max_gap_s: float = float("inf")) -> None:
        self._stop = stop
        self._max_gap_s = max_gap_s
        self._offset: float | None = None

    def wait(self, at_s: float) -> bool:
        """Wait until the picture of time `at_s` is due, counted from the first. Returns False where it was stopped.

        One that is over half a second late begins the count anew, so that after a pause the pictures do not come in a
        rush; so does one that is due only after `max_gap_s`, as where a file's timestamps jump.
        """
        now = time.monotonic()
        if self._offset is None or not -self._max_gap_s <= now - (self._offset + at_s) <= _LATE_S:
            self._offset = now - at_s
        due = self._offset + at_s
        return not self._stop.wait(max(0.0, due - now))
