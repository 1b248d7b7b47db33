"""Clocks: how far each publisher's monotonic clock is from this machine's, by the arithmetic of NTP (RFC 5905)."""

from __future__ import annotations

import time
from typing import Final

from camfabric.common.frame import Frame
from camfabric.common.wire import ClockAnswer

__all__ = ["Clocks"]

_AGING: Final = 1e-4
"""Two clocks may drift apart by 100 µs a second, so an older measurement is trusted that much less."""
_MAX_EPOCHS: Final = 10_000


class Clocks:
    """The measured offsets, by publisher's epoch. Used by one thread."""

    def __init__(self) -> None:
        self._best: dict[tuple[str, int], tuple[int, int, int]] = {}

    def answered(self, camera: str, answer: ClockAnswer, asked_ns: int, now_ns: int) -> None:
        """Take in a camera's answer to what was asked at `asked_ns` and came at `now_ns`, on this machine's clock."""
        round_trip_ns = (now_ns - asked_ns) - (answer.sent_ns - answer.received_ns)
        offset_ns = ((asked_ns - answer.received_ns) + (now_ns - answer.sent_ns)) // 2
        clock = (camera, answer.epoch)  # nobody can answer for another camera
        best = self._best.get(clock)
        if round_trip_ns < 0:
            return
        if best is None or round_trip_ns <= best[1] + (now_ns - best[2]) * _AGING:
            if best is None and len(self._best) >= _MAX_EPOCHS:
                self._best.pop(next(iter(self._best)))
            self._best[clock] = (offset_ns, round_trip_ns, now_ns)

    def knows(self, camera: str, epoch: int) -> bool:
        """Whether there was an answer of that publisher."""
        return (camera, epoch) in self._best

    def offset_ns(self, frame: Frame) -> int:
        """This machine's monotonic clock minus the publisher's; from the wall clocks where there is no answer yet."""
        best = self._best.get((frame.camera, frame.epoch))
        if best is not None:
            return best[0]
        here_ns = time.monotonic_ns() - time.time_ns()
        return here_ns - (frame.captured_monotonic_ns - frame.captured_ns)
