"""The pulse of a camera: whether pictures come, how many a second, and what its status says of that."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from camfabric.common.settings import TIMES
from camfabric.common.stats import Rate
from camfabric.common.status import LIVE, STALLED

__all__ = ["Pulse"]


class Pulse:
    """Safe for any number of threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._said = (STALLED, "no picture yet")
        self._rate = Rate(clock)
        self._last_s = 0.0
        self._interval_s = 0.0

    def beat(self) -> bool:
        """A picture came. Returns whether there was none before, or whether the source was said not to be live."""
        now = self._clock()
        with self._lock:
            self._rate.tick()
            recovered = self._said[0] != LIVE
            if self._last_s and not recovered:
                interval = now - self._last_s
                self._interval_s += (interval - self._interval_s) * (0.1 if self._interval_s else 1.0)
            self._last_s = now
            self._said = (LIVE, "")
        return recovered

    def say(self, state: str, reason: str) -> bool:
        """What is to be said of the source until the next picture. Returns whether it is news."""
        with self._lock:
            is_news = self._said != (state, reason)
            self._said = (state, reason)
        return is_news

    def state(self) -> tuple[str, str]:
        """The camera's state, and the reason where it is not live."""
        with self._lock:
            state, reason = self._said
            silence_s = self._clock() - self._last_s if self._last_s else 0.0
            if state == LIVE and silence_s > max(TIMES.stalled_s, 3 * self._interval_s):
                return STALLED, f"no picture for {silence_s:.0f} s"
        return state, reason

    def per_second(self) -> float:
        """Pictures a second; of a camera that gives less than one, by how far apart they are."""
        with self._lock:
            return 1 / self._interval_s if self._interval_s > 1 else self._rate.per_second()
