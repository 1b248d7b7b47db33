"""Rates, counts of bad messages, and complaints that are logged once a minute."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Final

from camfabric.common.errors import WireError
from camfabric.common.settings import TIMES

__all__ = ["Complaints", "Rate", "Standing"]

_WINDOW_S: Final = 2.0
_MAX_PEERS: Final = 1000


class Rate:
    """Events a second over the last two seconds. Used by one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._times: deque[float] = deque(maxlen=2000)

    def tick(self) -> None:
        """Count an event now."""
        self._times.append(self._clock())

    def per_second(self) -> float:
        """The rate; 0.0 where nothing happened in the window."""
        now = self._clock()
        while self._times and self._times[0] < now - _WINDOW_S:
            self._times.popleft()
        if not self._times:
            return 0.0
        if len(self._times) == self._times.maxlen:
            return len(self._times) / max(now - self._times[0], 1e-3)
        return len(self._times) / min(max(now - self._started, 0.5), _WINDOW_S)


class Standing:
    """What is wrong for as long as it is: each line is logged once until it has gone away. Used by one thread."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._said: frozenset[str] = frozenset()

    def say(self, problems: Iterable[str]) -> None:
        """All that is wrong now."""
        now = frozenset(problems)
        for problem in sorted(now - self._said):
            self._logger.warning("%s", problem)
        self._said = now


class Complaints:
    """Counts bad messages by reason, and logs one line a peer and minute. Safe for any number of threads."""

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._lock = threading.Lock()
        self._logged: OrderedDict[str, float] = OrderedDict()
        self.counts: Counter[str] = Counter()

    def note(self, peer: str, error: WireError, *, what: str = "bad message") -> None:
        """Count `error`, and log it if `peer` was not complained about in the last minute."""
        if self._is_news(peer, error.reason):
            self._logger.warning("%s from %s dropped: %s", what, peer, error)

    def note_fault(self, peer: str, error: Exception) -> None:
        """Count a message that this program failed at, which is its own fault: it is to end nothing for the others."""
        if self._is_news(peer, "fault"):
            self._logger.error("a message from %s could not be dealt with", peer, exc_info=error)

    def _is_news(self, peer: str, reason: str) -> bool:
        with self._lock:
            self.counts[reason] += 1
            now = self._clock()
            if now - self._logged.get(peer, float("-inf")) < TIMES.complain_s:
                return False
            self._logged[peer] = now
            self._logged.move_to_end(peer)
            if len(self._logged) > _MAX_PEERS:
                self._logged.popitem(last=False)
            return True
