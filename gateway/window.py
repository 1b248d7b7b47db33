"""How much may be on its way to a viewer: as much as its link and its browser deal with at once, and no more.

What is sent and not acknowledged waits somewhere: in sockets, on the way, or in the page. So the time to the
acknowledgement is watched: where it grows beyond the shortest one seen, less is sent, and what is not sent is replaced
by what is newer. That is congestion control by delay, as in LEDBAT (RFC 6817).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from camfabric.gateway.settings import WEB_LIMITS, WebLimits

__all__ = ["Window"]

_TARGET_S: Final = 0.1
"""How much later than the shortest time an acknowledgement may come."""
_MEMORY_S: Final = 10.0
"""The shortest time is that of the last one or two such periods: ways change."""
_SHRINK: Final = 0.5


class Window:
    """Of one viewer. Used on the event loop."""

    def __init__(self, *, limits: WebLimits = WEB_LIMITS, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._pending: deque[tuple[int, int, float]] = deque()
        self._bytes = 0
        self._was_full = False
        self._shrunk_at = float("-inf")
        self._shortest = (float("inf"), float("inf"))
        self._period_end = float("-inf")
        self.allowed_bytes = limits.window_first_bytes
        """What may be on its way now."""
        self.last_n = 0
        """The number of the message sent last; 0 for none yet."""

    @property
    def pending(self) -> int:
        """Messages on their way."""
        return len(self._pending)

    def has_room(self) -> bool:
        """Whether another message may be sent."""
        if not self._pending:
            return True
        room = self._bytes < self.allowed_bytes and len(self._pending) < self._limits.window_messages
        self._was_full = self._was_full or not room
        return room

    def next_n(self) -> int:
        """The next message's number."""
        return self.last_n + 1

    def sent(self, size: int) -> None:
        """Note that the next message was sent."""
        self.last_n += 1
        self._pending.append((self.last_n, size, self._clock()))
        self._bytes += size

    def acknowledged(self, n: int) -> bool:
        """Take in that messages up to `n` were dealt with. Returns whether that was news."""
        now, size, sent_at = self._clock(), 0, None
        while self._pending and self._pending[0][0] <= n:
            _, of_one, sent_at = self._pending.popleft()
            size += of_one
        if sent_at is None:
            return False
        self._bytes -= size
        self._adapt(now, now - sent_at, size)
        return True

    def _adapt(self, now: float, took_s: float, size: int) -> None:
        recent, before = self._shortest
        if now >= self._period_end:
            recent, before = float("inf"), recent
            self._period_end = now + _MEMORY_S
        self._shortest = recent, before = min(recent, took_s), before
        late_s = took_s - min(recent, before)
        if late_s > _TARGET_S:
            # Once for each round trip: the acknowledgements of what is on its way already say the same again.
            if now - self._shrunk_at > took_s:
                self._shrunk_at = now
                self.allowed_bytes = max(int(self.allowed_bytes * _SHRINK), self._limits.window_least_bytes)
        elif self._was_full:
            grown = self.allowed_bytes + int(size * (1 - late_s / _TARGET_S))
            self.allowed_bytes = min(grown, self._limits.window_bytes)
        self._was_full = False
