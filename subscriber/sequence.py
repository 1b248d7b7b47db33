"""Sequence numbers: which frames are new, which are repeats, and how many were lost on the way."""

from __future__ import annotations

__all__ = ["Sequence"]


class Sequence:
    """Of one camera. A repeat comes over a second path, or is both replayed and live."""

    def __init__(self) -> None:
        self._epoch: int | None = None
        self._last = -1

    def missed(self, epoch: int, seq: int) -> int | None:
        """How many frames are missing in front of this one, or None where it is a repeat or older than the last."""
        if epoch != self._epoch:
            # A publisher that started anew has lost nothing.
            self._epoch, self._last = epoch, seq
            return 0
        if seq <= self._last:
            return None
        gap, self._last = seq - self._last - 1, seq
        return gap
