"""The pacer: lets pictures out at their own times."""

from __future__ import annotations

import threading
import time
from typing import Final

__all__ = ["Pacer"]

_LATE_S: Final = 0.5


class Pacer:
    """Waits until pictures are due, by their times in seconds; waits end when `stop` is set."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._offset: float | None = None

    def wait(self, at_s: float) -> bool:
        """Wait until the picture of time `at_s` is due, counted from the first. Returns False where it was stopped.

        One that is over half a second late, or early by more than the stream can explain, begins the count anew: after
        a pause the pictures do not come in a rush.
        """
        now = time.monotonic()
        if self._offset is None or now - (self._offset + at_s) > _LATE_S:
            self._offset = now - at_s
        due = self._offset + at_s
        return not self._stop.wait(max(0.0, due - now))
