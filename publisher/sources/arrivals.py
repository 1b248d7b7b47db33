"""Arrivals of packets, and what they tell of when pictures were captured."""

from __future__ import annotations

from collections import deque
from fractions import Fraction
from typing import Final

__all__ = ["Arrivals"]

_REMEMBERED: Final = 64
"""Packets whose delay is remembered."""
_MAX_DELAY_NS: Final = 2_000_000_000


class Arrivals:
    """When packets came, to tell when a picture was captured.

    With B-frames packets come in decoding order, and some later than pictures that are shown after them. The camera's
    own times are even, so they are taken, moved by the smallest delay seen among the last packets.
    """

    def __init__(self, time_base: Fraction | None) -> None:
        self._tick_ns = float(time_base * 10**9) if time_base else 0.0
        self._delays_ns: deque[float] = deque(maxlen=_REMEMBERED)
        self._last_ns = 0
        self._ahead_pts: int | None = None
        self._ahead_ns = 0
        self._behind_ns = 0

    def came(self, pts: int | None, now_ns: int) -> None:
        """A packet came."""
        self._last_ns = now_ns
        if pts is not None:
            self._delays_ns.append(now_ns - pts * self._tick_ns)

    def captured_ns(self, pts: int | None) -> int:
        """When the picture of that time was captured, as well as one can tell; in the order of these times."""
        captured_ns, steady = self._last_ns, False
        if pts is not None and self._delays_ns:
            moved_ns = int(pts * self._tick_ns + min(self._delays_ns))
            # Where the camera's times have jumped, the arrival is the better word as long as the jump is remembered.
            if self._last_ns - _MAX_DELAY_NS <= moved_ns <= self._last_ns:
                captured_ns, steady = moved_ns, True
        # The smallest delay shrinks while a camera sends what it has kept: a picture that is shown after the one that
        # is furthest ahead is not captured before it, and one that is shown before it, not before the one behind that.
        if steady and pts is not None and self._ahead_pts is not None and pts <= self._ahead_pts:
            return max(captured_ns, self._behind_ns)
        captured_ns = max(captured_ns, self._ahead_ns)
        self._behind_ns, self._ahead_ns, self._ahead_pts = self._ahead_ns, captured_ns, pts
        return captured_ns
