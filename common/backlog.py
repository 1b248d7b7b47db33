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
import random
import select
import struct
import sys
import termios
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

import zmq

from camfabric.common.connections import acknowledged_bytes, bound_within_host, round_trip_s
from camfabric.common.peers import Peer, Peers
from camfabric.common.settings import LIMITS, TIMES, Limits

__all__ = ["Backlog"]

logger = logging.getLogger(__name__)

_MAX_REPORTED: Final = 1000
_LOOK_S: Final = 0.01
_MARKED_BYTES: Final = 2 * 1024 * 1024
"""A frame from this size on is tracked; of smaller ones ..."""
_MARK_BYTES: Final = 8 * 1024 * 1024
"""... one in about so many bytes, which stands for the others ..."""
_MOST_UNMARKED: Final = 2
"""... and never more than twice as many without one."""
_SHORT_S: Final = 0.01
"""A frame that takes no longer may have another one waiting behind it."""
_OFTEN_FULL: Final = 3
"""Looks in a row at which a connection is full: it was not by chance."""
_START_ROUND_TRIPS: Final = 8
"""Until TCP, which begins with ten packets and doubles that each round trip, has 4 MB under way."""
_SIOCOUTQNSD: Final = 0x894B
"""Linux: bytes of a TCP socket's queue that are not sent yet, those under way left out."""


class _Held(weakref.ref[memoryview]):
    """A frame that ZeroMQ has: it is let go when ZeroMQ is done, by a thread of pyzmq's."""

    __slots__ = ("is_alone", "since", "size", "stream")

    size: int
    """What it stands for, in bytes."""
    stream: bytes
    """Its topic."""
    is_alone: bool
    """It stands for itself alone."""
    since: float
    """When it was sent, on the backlog's clock."""


class Backlog:
    """Counts what an XPUB socket holds, and cuts off subscribers that are too far behind. Used by one thread.

    Frames of 64 kB and more are counted; of smaller ones the high-water mark holds no more than the same budget. To be
    told when ZeroMQ is done with a frame wakes a thread, which costs more than to pass on the frame where the cores are
    busy. So a sample is tracked, by the byte, and each of the sample stands for as much as lies between two. That
    thread, pyzmq's, also calls `on_room`.
    """

    def __init__(self, peers: Peers, *, limits: Limits = LIMITS, clock: Callable[[], float] = time.monotonic) -> None:
        self._peers = peers
        self._limits = limits
        self._clock = clock
        self._held: deque[_Held] = deque()
        """Frames that are tracked."""
        self._took_s = float("inf")
        """How long the last one took, of any topic, since it was its turn ..."""
        self._done_at = 0.0
        """... and when it was done."""
        self._has_large = False
        """Large frames are sent here: of small ones the kernel may hold as many as it likes, for fewer wakes."""
        self._unmarked = 0
        self._next_mark = 0
        self.on_room: Callable[[], None] = lambda: None
        """Called, in any thread, when there may be room for what was held back."""
        self._held_back: set[bytes] = set()
        """Topics of pictures that wait for room."""
        self._reported: dict[str, float] = {}
        self._last_cut = 0.0
        self._behind: list[Peer] = []
        self._next_look = 0.0

    def counted(self, stream: bytes, payload: Any) -> Any:
        """The payload as it is to be sent, with `copy=False`: a large one is counted until ZeroMQ is done with it.

        Args:
            stream: its topic.
            payload: a frame's last part.
        """
        size = len(payload)
        if size < self._limits.counted_bytes:
            return payload
        self._unmarked += size
        if size < _MARKED_BYTES and self._unmarked < self._next_mark:
            return payload
        is_alone, size, self._unmarked = self._unmarked == size, self._unmarked, 0
        # As at random as can be: cameras come in turn, and none is to be left out.
        self._next_mark = min(int(random.expovariate(1 / _MARK_BYTES)), _MOST_UNMARKED * _MARK_BYTES)
        view = memoryview(payload.buffer if isinstance(payload, zmq.Frame) else payload)
        self._has_large = True
        held = _Held(view, self._done)
        held.is_alone, held.size, held.stream, held.since = is_alone, size, stream, self._clock()
        self._forget_done()
        self._held.append(held)
        return zmq.Frame(view, copy=False)

    def _done(self, held: _Held) -> None:
        now = self._clock()
        self._took_s, self._done_at = now - max(held.since, self._done_at), now
        if self._held_back:
            self.on_room()

    def holds_back(self, stream: bytes) -> bool:
        """Hold back a picture of this topic where it would only wait: a large one does, and all takers are busy.

        Two wait where they do not take long: else the pause from one to the next is felt. Where one of several takers
        has been sent everything, the others are not to hold it up, as long as what waits for them is within the bound.
        """
        waiting = self._waiting(stream)
        is_over, was_held = self._are_too_many(waiting), stream in self._held_back
        if not is_over and not was_held:
            return False
        self._held_back.discard(stream)
        takers = [peer for peer in self._peers if stream.startswith(tuple(peer.prefixes))]
        if not is_over:
            if len(waiting) == sum(held() is not None for held in self._held):
                # They have been sent all, or all but what may wait: they take what they are given, one by one.
                for peer in takers:
                    peer.behind_since = None
            return False
        if not takers or not self._are_busy(takers, waiting):
            return False
        self._held_back.add(stream)
        if self._are_too_many(self._waiting(stream)):
            return True
        self._held_back.discard(stream)  # one was done before anybody was to be told
        return False

    def _waiting(self, stream: bytes) -> list[int]:
        """The sizes of frames of this topic that are tracked, and that ZeroMQ is not done with."""
        self._forget_done()
        return [held.size for held in self._held if held.stream == stream and held() is not None]

    def _are_too_many(self, waiting: list[int]) -> bool:
        return len(waiting) > (1 if self._took_s < _SHORT_S else 0)

    def _are_busy(self, takers: list[Peer], waiting: list[int]) -> bool:
        """Whether each of those who take a stream has one of these frames still to be sent, or they are too much."""
        if len(self._peers) == 1 or sum(waiting) > self._limits.queue_bytes:
            return True
        # Of several it is not known whose it is: as far as can be seen, theirs who are busy.
        return all(map(_has_unsent, takers))

    def _forget_done(self) -> None:
        while self._held and self._held[0]() is None:
            self._held.popleft()

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
        self._held = deque(held for held in self._held if held() is not None)
        return sum(held.size for held in self._held)

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
            if self._has_large and not peer.is_bounded:
                peer.is_bounded = True
                bound_within_host(peer.descriptor, peer.inode)
        self._behind = [peer for peer in self._peers if peer.behind_since is not None]
        full = self.held_bytes() > self._limits.queue_bytes
        waits_s = self._waits_s(now)
        if is_single := self._is_single():
            self._see_progress(self._held[0].stream, now)
        # One at a time: what the first one held is given back before the next is judged.
        if now - self._last_cut < TIMES.cut_pause_s:
            return
        for peer, behind_s in self._suspects(now, 0.0 if is_single else waits_s, full=full):
            if behind_s >= _patience_s(peer, full=full):
                self._last_cut = now
                self._cut(peer, behind_s)
                return

    def _suspects(self, now: float, waits_s: float, *, full: bool) -> Iterator[tuple[Peer, float]]:
        """Who may be too far behind, and by how many seconds."""
        if behind := [peer for peer in self._behind if full or now >= peer.excused_until]:
            slowest = min(behind, key=lambda peer: peer.behind_since or 0.0)
            yield slowest, now - (slowest.behind_since or now)
        fullest = max(self._peers, key=lambda peer: peer.times_full, default=None)
        if fullest is not None and fullest.times_full >= _OFTEN_FULL:
            yield fullest, waits_s if full or now >= fullest.excused_until else 0.0

    def _is_single(self) -> bool:
        """Whether a picture is all that waits, and the next is held back until it is through."""
        return len(self._held) == 1 and self._held[0].is_alone and self._held[0].stream in self._held_back

    def _see_progress(self, stream: bytes, now: float) -> None:
        """Whoever goes on taking a picture, with the next held back, is not behind: begun anew, it comes no sooner."""
        for peer in self._behind:
            is_taker = peer.is_there() and stream.startswith(tuple(peer.prefixes))
            acknowledged = acknowledged_bytes(peer.descriptor) if is_taker else None
            if acknowledged is not None and acknowledged != peer.acknowledged_bytes:
                peer.acknowledged_bytes = acknowledged
                peer.behind_since = now

    def _waits_s(self, now: float) -> float:
        """How long a tracked frame has been waiting for somebody. Notes whose connections are full meanwhile.

        On a long link, all that the kernel has may be under way: it has nothing unsent, and takes no more all the same.
        """
        waits_s = now - self._held[0].since if self._held else 0.0
        if waits_s >= TIMES.behind_busy_s or any(peer.times_full for peer in self._peers):
            for peer in self._peers:
                peer.times_full = peer.times_full + 1 if waits_s >= TIMES.behind_busy_s and _is_full(peer) else 0
        return waits_s

    @staticmethod
    def _look_at(peer: Peer, now: float) -> None:
        """Note whether the peer's connection has taken all that it was given."""
        if not _has_unsent(peer):
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


def _patience_s(peer: Peer, *, full: bool) -> float:
    """How many seconds a peer may be behind."""
    if full:
        return TIMES.behind_busy_s
    return min(TIMES.behind_s + _START_ROUND_TRIPS * round_trip_s(peer.descriptor), TIMES.behind_far_s)


def _has_unsent(peer: Peer) -> bool:
    try:
        return peer.is_there() and _unsent_bytes(peer.descriptor) > 0
    except OSError:
        return False


def _is_full(peer: Peer) -> bool:
    """Whether the kernel takes nothing more for a peer now."""
    writable = select.poll()
    writable.register(peer.descriptor, select.POLLOUT)
    return peer.is_there() and not writable.poll(0)


def _unsent_bytes(descriptor: int) -> int:
    if not sys.platform.startswith("linux"):
        return 0
    buffer = bytearray(4)
    try:
        fcntl.ioctl(descriptor, _SIOCOUTQNSD, buffer)
    except OSError:
        fcntl.ioctl(descriptor, termios.TIOCOUTQ, buffer)  # a UNIX socket: what its peer has not read
    return int(struct.unpack("i", buffer)[0])
