"""How often something may be done: a budget of so many at once, filled up by so many a second."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Budget"]


class Budget:
    """A token bucket. Used by one thread."""

    def __init__(self, at_once: int, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._at_once = at_once
        self._per_second = per_second
        self._clock = clock
        self._left: float = at_once
        self._counted_at = clock()

    def _count(self) -> None:
        now = self._clock()
        self._left = min(self._left + (now - self._counted_at) * self._per_second, self._at_once)
        self._counted_at = now

    def spend(self) -> bool:
        """Do it once more, if it may be done."""
        self._count()
        if self._left < 1:
            return False
        self._left -= 1
        return True

    @property
    def is_full(self) -> bool:
        """Whether nothing of it is spent: a new one would be the same."""
        self._count()
        return self._left >= self._at_once

    def give_back(self) -> None:
        """What was spent last was not to be counted."""
        self._left = min(self._left + 1, self._at_once)

    def wait_s(self) -> float:
        """How long until it may be done once more."""
        self._count()
        return max(1 - self._left, 0.0) / self._per_second
