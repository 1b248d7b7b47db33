"""The backlog: how much a socket holds for subscribers that do not keep up, and what is done about it.

ZeroMQ bounds a subscriber's queue by a number of messages, and the same number is far too many for raw pictures and
far too few for statuses. Nor can it be changed while connections live: libzmq acknowledges every half of the mark, and
a connection whose mark is lowered may wait for ever for an acknowledgement that is not due (measured: 0 of 100 messages
arrived after it). So the mark is fixed, the bytes are counted here, and where they are over the budget the connection
of the slowest subscriber is cut. It comes back by itself with an empty queue, and so with the newest frames.
"""

from __future__ import annotations

import fcntl
import logging
import struct
import sys
import termios
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import zmq

from camfabric.common.peers import Peer, Peers
from camfabric.common.settings import LIMITS, TIMES, Limits

__all__ = ["Backlog"]

logger = logging.getLogger(__name__)

_MAX_REPORTED: Final = 1000
_LOOK_S: Final = 0.01
_MARK_BYTES: Final = 1024 * 1024
"""Of each topic, one frame in so many bytes is tracked and stands for those before it ..."""
_UNMARKED: Final = 4
"""... and what came after the last one of each is at most such a part of the budget in all."""
_SIOCOUTQNSD: Final = 0x894B
"""Linux: bytes of a TCP socket's queue that are not sent yet, those under way left out."""


class Backlog:
    """Counts what an XPUB socket holds, and cuts off subscribers that are too far behind. Used by one thread.

    Frames of 64 kB and more are counted; of smaller ones the high-water mark holds no more than the same budget. To be
    told when ZeroMQ is done with a frame costs 15 µs and wakes a thread. As a connection takes the frames of one topic
    in their order, it is enough to be told of some: each stands for those before it.
    """

    def __init__(self, peers: Peers, *, limits: Limits = LIMITS, clock: Callable[[], float] = time.monotonic) -> None:
        self._peers = peers
        self._limits = limits
        self._clock = clock
        self._held: deque[tuple[Any, int]] = deque()
        self._unmarked: dict[bytes, int] = {}
        self._reported: dict[str, float] = {}
        self._last_cut = 0.0
        self._behind: list[Peer] = []
        self._next_look = 0.0

    def counted(self, payload: Any, stream: bytes = b"") -> Any:
        """The payload as it is to be sent, with `copy=False`: a large one is counted until ZeroMQ is done with it.

        `stream` is the topic of a frame, which may be counted together with others of it; "" counts by itself.
        """
        size = len(payload)
        if size < self._limits.counted_bytes:
            return payload
        if stream:
            unmarked = self._unmarked
            size += unmarked.get(stream, 0)
            if size < _MARK_BYTES and size * len(unmarked) * _UNMARKED < self._limits.queue_bytes:
                unmarked[stream] = size
                return payload
            if len(unmarked) > self._limits.cameras:
                unmarked.clear()
            unmarked[stream] = 0
        data = payload.buffer if isinstance(payload, zmq.Frame) else payload
        frame = zmq.Frame(data, track=True, copy=False)
        while self._held and self._held[0][0].done:
            self._held.popleft()
        self._held.append((frame.tracker, size))
        return frame

    def owes(self, peer: Peer, size_bytes: int) -> None:
        """Give the peer that asked for a replay of that size the time that a thin link needs for it."""
        peer.owed_bytes += size_bytes
        peer.excused_until = max(peer.excused_until, self._clock()) + size_bytes / self._limits.replay_bytes_s

    def has_room_for(self, peer: Peer, size_bytes: int) -> bool:
        """Whether a replay of that size may be given: nobody gets more than is kept in all before he has taken it."""
        owed = sum(other.owed_bytes for other in self._peers if other.account is peer.account)
        return not owed or owed + size_bytes <= self._limits.replay_bytes

    def held_bytes(self) -> int:
        """Bytes of large frames that some subscriber has not been sent yet."""
        self._held = deque((tracker, size) for tracker, size in self._held if not tracker.done)
        return sum(size for _, size in self._held)

    def look(self) -> None:
        """See whether those that seemed to be behind have taken everything. To be called before something is sent.

        Just after it nobody has, and who is met only then seems to be behind all the time.
        """
        if not self._behind or (now := self._clock()) < self._next_look:
            return
        self._next_look = now + _LOOK_S
        for peer in self._behind:
            self._look_at(peer, now)
        self._behind = [peer for peer in self._behind if peer.behind_since is not None]

    def check(self) -> None:
        """Cut off whoever is too far behind. To be called every 100 ms or so, and `look` in between."""
        now = self._clock()
        for peer in self._peers:
            self._look_at(peer, now)
        self._behind = behind = [peer for peer in self._peers if peer.behind_since is not None]
        if not behind:
            return
        full = self.held_bytes() > self._limits.queue_bytes
        if not full and not (behind := [peer for peer in behind if now >= peer.excused_until]):
            return
        slowest = min(behind, key=lambda peer: peer.behind_since or 0.0)
        behind_s = now - (slowest.behind_since or now)
        # One at a time: what the first one held is given back before the next is judged.
        if now - self._last_cut < TIMES.cut_pause_s:
            return
        if (full and behind_s >= TIMES.behind_busy_s) or behind_s >= TIMES.behind_s:
            self._last_cut = now
            self._cut(slowest, behind_s)

    @staticmethod
    def _look_at(peer: Peer, now: float) -> None:
        """Note whether the peer's connection has taken all that it was given."""
        try:
            waiting = _unsent_bytes(peer.descriptor) if peer.is_there() else 0
        except OSError:
            waiting = 0
        if not waiting:
            peer.behind_since = None
            peer.excused_until = 0.0
            peer.owed_bytes = 0
        elif peer.behind_since is None:
            peer.behind_since = now

    def _cut(self, peer: Peer, behind_s: float) -> None:
        if self._peers.cut(peer):
            self._report(peer.address, behind_s)

    def _report(self, address: str, behind_s: float) -> None:
        """Say it, once an address and minute: on a thin link it happens every second or two."""
        now = self._clock()
        if now - self._reported.get(address, float("-inf")) < TIMES.complain_s:
            return
        if len(self._reported) >= _MAX_REPORTED:
            self._reported.clear()
        self._reported[address] = now
        logger.warning(
            "the subscriber at %s is %.1f s behind: its connection is cut, to begin anew with new frames",
            address,
            behind_s,
        )


def _unsent_bytes(descriptor: int) -> int:
    if not sys.platform.startswith("linux"):
        return 0
    buffer = bytearray(4)
    try:
        fcntl.ioctl(descriptor, _SIOCOUTQNSD, buffer)
    except OSError:
        fcntl.ioctl(descriptor, termios.TIOCOUTQ, buffer)  # a UNIX socket: what its peer has not read
    return int(struct.unpack("i", buffer)[0])
