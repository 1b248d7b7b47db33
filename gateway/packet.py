"""`Packet`: a frame on its way to viewers, shared by all of them; and the times that browsers show them by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from camfabric.common.frame import Frame

__all__ = ["Listener", "Packet", "Timeline"]

_US: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Packet:
    """A frame with its payload, and what a browser has to be told of it."""

    frame: Frame
    time_us: int
    """Presentation time: of inter-coded streams on a clock of the stream's own, else when it was captured, Unix."""
    breaks: bool = False
    """What came before is no part of the same stream: another publisher, codec, size or clock."""

    def __len__(self) -> int:
        return len(self.frame.payload)


class Listener(Protocol):
    """Whoever takes packets of a stream."""

    def take(self, packet: Packet) -> None:
        """Take a packet; must return at once. Called on the event loop."""


class Timeline:
    """Presentation times of one stream, and where it breaks.

    The stream's own times are used from a keyframe on that has one. Where a packet has none, as often the first ones of
    RTSP, it is placed by when it was captured.
    """

    def __init__(self) -> None:
        self._last: Frame | None = None
        self._time_us = 0
        self._by_pts = False

    def place(self, frame: Frame) -> Packet:
        """The frame as a packet. To be called with each frame of the stream, in order."""
        if frame.codec.is_intra:
            last, self._last = self._last, frame
            return Packet(frame, frame.captured_ns // 1000, last is not None and not _is_alike(last, frame))
        last = self._last
        breaks = last is None or not _is_alike(last, frame) or frame.seq != last.seq + 1
        by_pts = frame.pts is not None if frame.keyframe else self._by_pts
        breaks = breaks or by_pts != self._by_pts
        time_us = self._time(frame, by_pts=by_pts, anew=breaks)
        # A source that begins again counts from zero again.
        if frame.keyframe and not breaks and time_us <= self._time_us:
            breaks = True
        self._last, self._time_us, self._by_pts = frame, time_us, by_pts
        return Packet(frame, time_us, breaks)

    def _time(self, frame: Frame, *, by_pts: bool, anew: bool) -> int:
        if by_pts and frame.pts is not None and frame.time_base is not None:
            numerator, denominator = frame.time_base
            return frame.pts * numerator * _US // denominator
        if by_pts and not anew and self._last is not None:
            return self._time_us + (frame.captured_monotonic_ns - self._last.captured_monotonic_ns) // 1000
        return frame.captured_monotonic_ns // 1000


def _is_alike(one: Frame, other: Frame) -> bool:
    return (one.epoch, one.codec, one.width, one.height) == (other.epoch, other.codec, other.width, other.height)
