"""One stream of one viewer: what of it waits to be sent, and what is left out where the viewer is slow."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from camfabric.gateway.packet import Packet
from camfabric.gateway.protocol import WatchedStream
from camfabric.gateway.settings import WEB_LIMITS, WEB_TIMES

__all__ = ["Lane"]


class Lane:
    """Of an intra-coded stream the newest frame waits, of an inter-coded one the packets since a keyframe.

    A queue over its bound, in packets, bytes or time, is emptied, and takes packets from the next keyframe on. What is
    left out is counted on the next one. `ready` is called where something waits, `count_dropped` with how many frames
    were left out.
    """

    def __init__(
        self,
        stream: WatchedStream,
        ready: Callable[[Lane], None],
        count_dropped: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stream: Final = stream
        self._ready = ready
        self._count_dropped = count_dropped
        self._clock = clock
        self._queue: deque[tuple[Packet, float]] = deque()
        self._bytes = 0
        self._from_keyframe = True
        self._broken = True
        self._begun = False
        self._lost = 0

    def __bool__(self) -> bool:
        """Whether something waits."""
        return bool(self._queue)

    def take(self, packet: Packet) -> None:
        """Take a packet in."""
        frame, now = packet.frame, self._clock()
        self._lost += frame.missed + frame.dropped
        if frame.codec.is_intra:
            self._drop()
        elif frame.keyframe:
            if self._queue and (packet.breaks or now - self._queue[0][1] > WEB_TIMES.late_s):
                self._drop()
                self._broken = True
        elif packet.breaks or self._from_keyframe or not self._has_room(now):
            self._drop()
            self._lost += 1
            self._from_keyframe = self._broken = True
            return
        self._from_keyframe = False
        self._broken = self._broken or packet.breaks
        self._queue.append((packet, now))
        self._bytes += len(packet)
        self._ready(self)

    def _has_room(self, now: float) -> bool:
        if not self._queue:
            return True
        return (
            len(self._queue) < WEB_LIMITS.queue_packets
            and self._bytes < WEB_LIMITS.queue_bytes
            and now - self._queue[0][1] < WEB_TIMES.queue_s
        )

    def _drop(self) -> None:
        self._lost += len(self._queue)
        self._count_dropped(len(self._queue))
        self._queue.clear()
        self._bytes = 0

    def pop(self) -> tuple[Packet, bool, int]:
        """What is to be sent next: the packet, whether what came before is to be forgotten, and how many are lost."""
        packet, _ = self._queue.popleft()
        self._bytes -= len(packet)
        broken, self._broken = self._broken, False
        lost, self._lost = self._lost, 0
        if not self._begun:
            self._begun, lost = True, 0
        return packet, broken, lost
