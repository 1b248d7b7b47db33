"""A limit of pictures a second, by their capture times."""

from __future__ import annotations

__all__ = ["RateLimit"]


class RateLimit:
    """Lets at most `fps` pictures a second through, evenly."""

    def __init__(self, fps: float | None) -> None:
        self._interval_ns = 0 if fps is None else int(1e9 / fps)
        self._due_ns: int | None = None

    def admits(self, at_ns: int) -> bool:
        """Whether the picture of that monotonic time goes through."""
        if not self._interval_ns:
            return True
        # A camera's jitter must not cost it every second frame: a tenth of an interval early is on time.
        if self._due_ns is not None and at_ns < self._due_ns - self._interval_ns // 10:
            return False
        if self._due_ns is None or at_ns - self._due_ns > self._interval_ns:
            self._due_ns = at_ns  # the first, or the first after a pause: what was not used is not made up for
        self._due_ns += self._interval_ns
        return True
