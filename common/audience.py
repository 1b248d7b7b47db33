"""An audience: who subscribes to an XPUB socket, heard one subscription at a time, and sent to within its bounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import zmq

from camfabric.common.backlog import Backlog
from camfabric.common.errors import WireError
from camfabric.common.peers import Peer, Peers
from camfabric.common.settings import LIMITS, Limits
from camfabric.common.sockets import Socket, receive

__all__ = ["Audience", "Subscription"]

_BATCH: Final = 64
_HEARD_S: Final = 0.005
"""How long subscriptions are heard before frames have their turn: nobody can hold up the others by sending more."""
_SNDMORE: Final = int(zmq.SNDMORE)
"""As a number: with the enumeration, each part costs 0.7 µs more."""
_SUBSCRIBE: Final = b"\x01"
_UNSUBSCRIBE: Final = b"\x00"


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a subscriber says."""

    prefix: bytes
    peer: Peer | None
    """Who begins it; None where the last one that had it has ended it."""


class Audience:
    """Used by one thread.

    Args:
        socket: an XPUB socket.
        peers: its peers.
        is_admitted: whether the owner of a public key (Z85) may be here, asked for each subscription.
        weigh: how many subscriptions upstream one here is.
    """

    def __init__(
        self,
        socket: Socket,
        peers: Peers,
        *,
        is_admitted: Callable[[str], bool],
        weigh: Callable[[bytes], int] = lambda prefix: 1,
        limits: Limits = LIMITS,
    ) -> None:
        self.peers: Final = peers
        self.backlog: Final = Backlog(peers, limits=limits)
        self._socket = socket
        self._is_admitted = is_admitted
        self._weigh = weigh
        self._limits = limits

    def hear(self) -> Iterator[Subscription]:
        """What subscribers say, as far as it is a subscription, by a peer that is within its bounds."""
        end = time.monotonic() + _HEARD_S
        for _ in range(_BATCH):
            if (parts := receive(self._socket, limits=self._limits)) is None:
                break
            if (heard := self._heard(parts)) is not None:
                yield heard
            if time.monotonic() > end:
                break
        # As bounded in time: one peer may leave thousands behind.
        for prefix in self.peers.ended():
            yield Subscription(prefix, None)
            if time.monotonic() > end + _HEARD_S:
                break

    def _heard(self, parts: list[zmq.Frame]) -> Subscription | None:
        """What a message says; None where it does not count."""
        part, data = parts[0], parts[0].bytes
        if not self.peers.is_sent(part):
            self.peers.lost()
            return None
        peer = self.peers.of(part)
        if peer is None or peer.is_cut:
            return None
        if not self._is_admitted(peer.key):
            self.peers.cut(peer)
            return None
        kind, prefix = data[:1], data[1:]
        if len(parts) != 1 or kind not in (_SUBSCRIBE, _UNSUBSCRIBE):
            self._complain(peer, WireError("no subscription", reason="parts"))
        elif len(prefix) > self._limits.topic_bytes:
            # libzmq has it already, and forgets it with the connection alone.
            self.peers.offend(peer, f"a subscription of {len(prefix)} bytes", reason="size")
        elif kind == _SUBSCRIBE:
            return Subscription(prefix, peer) if self.peers.subscribed(peer, prefix, self._weigh(prefix)) else None
        elif self.peers.unsubscribed(peer, prefix):
            return Subscription(prefix, None)
        return None

    @property
    def has_news(self) -> bool:
        """Whether `hear` has something to say although no message came."""
        return self.peers.has_ended

    def _complain(self, peer: Peer | None, error: WireError) -> None:
        self.peers.complaints.note(self.peers.describe(peer), error)

    def send(self, parts: Sequence[Any]) -> None:
        """Send a message to whoever is subscribed to it.

        Its last part is not copied, and counts towards the backlog. Of the small parts in front of it a copy costs less
        than its avoidance.
        """
        send = self._socket.send
        for part in parts[:-1]:
            send(part, _SNDMORE)
        send(self.backlog.counted(parts[0], parts[-1]), copy=False)

    def may_replay(self, peer: Peer, size_bytes: int) -> bool:
        """Whether a replay of that size may be given to a peer; it is given the time that it takes."""
        if not self.backlog.has_room_for(peer, size_bytes):
            return False
        self.backlog.owes(peer, size_bytes)
        return True
