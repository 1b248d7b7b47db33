"""How much may be on its way to a viewer: as much as its link and its browser deal with at once, and no more.

What is sent and not acknowledged waits somewhere: in sockets, on the way, or in the page. So the time to the
acknowledgement is watched: where it grows beyond the shortest one seen, no more is sent than is dealt with in that
time, and what is not sent is replaced by what is newer. That is congestion control by delay, as in LEDBAT (RFC 6817),
with the rate of delivery as its measure, as in BBR.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from camfabric.gateway.settings import WEB_LIMITS, WebLimits

__all__ = ["Window"]

_TARGET_S: Final = 0.1
"""How much later than the shortest time an acknowledgement may come."""
_MEMORY_S: Final = 30.0
"""The shortest time is that of the last one or two such periods: ways change."""


@dataclass(frozen=True, slots=True)
class _Sent:
    n: int
    size: int
    at: float
    delivered_bytes: int
    """What was acknowledged by then, in all."""


class Window:
    """Of one viewer. Used on the event loop."""

    def __init__(self, *, limits: WebLimits = WEB_LIMITS, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._pending: deque[_Sent] = deque()
        self._bytes = 0
        self._delivered_bytes = 0
        self._was_full = False
        self._answered_at = float("-inf")
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

    @property
    def unanswered_s(self) -> float:
        """For how long nothing was acknowledged of what is on its way; 0 where nothing is."""
        if not self._pending:
            return 0.0
        return self._clock() - max(self._answered_at, self._pending[0].at)

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
        self._pending.append(_Sent(self.last_n, size, self._clock(), self._delivered_bytes))
        self._bytes += size

    def acknowledged(self, n: int) -> bool:
        """Take in that messages up to `n` were dealt with. Returns whether that was news."""
        newest: _Sent | None = None
        before = self._bytes
        while self._pending and self._pending[0].n <= n:
            newest = self._pending.popleft()
            self._bytes -= newest.size
        if newest is None:
            return False
        self._answered_at = self._clock()
        self._delivered_bytes += before - self._bytes
        self._adapt(newest, before - self._bytes)
        return True

    def _adapt(self, newest: _Sent, size: int) -> None:
        now = self._clock()
        took_s = max(now - newest.at, 1e-6)
        recent, before = self._shortest
        if now >= self._period_end:
            recent, before = float("inf"), recent
            self._period_end = now + _MEMORY_S
        self._shortest = recent, before = min(recent, took_s), before
        shortest_s = min(recent, before)
        late_s = took_s - shortest_s
        if late_s > _TARGET_S:
            bytes_s = (self._delivered_bytes - newest.delivered_bytes) / took_s
            least = self._limits.window_least_bytes
            self.allowed_bytes = min(max(int(bytes_s * (shortest_s + _TARGET_S)), least), self.allowed_bytes)
        elif self._was_full:
            grown = self.allowed_bytes + int(size * (1 - late_s / _TARGET_S))
            self.allowed_bytes = min(grown, self._limits.window_bytes)
        self._was_full = False
