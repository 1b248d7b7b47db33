"""Peers: who is connected to a socket, what each has sent, and how one of them is dropped.

libzmq tells of connections by their descriptors alone, and cannot close one. So each is known here by its descriptor,
and by the inode that shows whether it is still the same connection; `shutdown` on it drops that one and no other.

Two things never reach a program as messages, however much memory they cost: a message that is never complete, and
subscriptions that come faster than they are read. The kernel's count of what came over a connection shows both.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import zmq
from zmq.utils.monitor import parse_monitor_message

from camfabric.common.budget import Budget
from camfabric.common.connections import (
    NO_PORT,
    drop,
    is_there,
    local_port,
    memory_bytes,
    peer_address,
    received_bytes,
)
from camfabric.common.errors import WireError
from camfabric.common.settings import LIMITS, TIMES, Limits
from camfabric.common.sockets import Socket, is_readable
from camfabric.common.stats import Complaints

__all__ = ["Account", "Peer", "Peers"]

logger = logging.getLogger(__name__)

_EVENTS: Final = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED
_MEMORY_FACTOR: Final = 4
"""A message that is not complete may cost so many times its size, and what the settings say beyond it."""
_SUM: Final = 16
"""Messages that are not complete count together from one such part of the bound for one."""
_WHOLE_S: Final = 0.2
"""An honest message is not under way for so long, unless the line is slow."""
_PATIENCE_S: Final = 1.0
_SUBSCRIPTIONS: Final = 32
"""As much as so many of the largest subscriptions, and none of it complete for a second, is no subscription."""
_MANY: Final = 500
"""From so many connections on they are looked at less often: a look costs 3 µs for each."""


@dataclass(slots=True, eq=False)
class Account:
    """What one peer has asked for: of a key over all its connections, else of one connection."""

    requests: Budget
    """For what is sent at once when it is asked for."""
    prefixes: Counter[bytes] = field(default_factory=Counter)
    """Its subscriptions, each with the number of its connections that have it."""
    weights: dict[bytes, int] = field(default_factory=dict)
    """What each of them counts ..."""
    weight: int = 0
    """... and all together."""
    peers: int = 0


@dataclass(slots=True, eq=False)
class Peer:
    """One connection."""

    descriptor: int
    inode: int
    address: str
    """Of its machine, without a port, so that whoever comes again and again is complained about once; "" of ipc://."""
    key: str
    """The public key (Z85) that it has proved; "" where there is none, or nothing came from it yet."""
    account: Account
    since: float
    prefixes: set[bytes] = field(default_factory=set)
    heard: bool = False
    """Something came from it, so that it is known whose it is."""
    is_cut: bool = False
    completed: bool = True
    """It has completed a message since the last look."""
    completed_at: float = 0.0
    """When it last had, at a look ..."""
    mark_bytes: int = 0
    """... and what had come from it then."""
    received_bytes: int = 0
    """What had come from it at the last look."""
    level_bytes: float = 0.0
    """Of subscribers: what came beyond what is allowed each second."""
    is_bounded: bool = False
    """The kernel was told how much to hold for it."""
    behind_since: float | None = None
    acknowledged_bytes: int = 0
    """What it had when it was last looked at while it took a single frame."""
    times_full: int = 0
    """How often in a row its connection took no more, while a frame waited for somebody."""
    excused_until: float = 0.0
    owed_bytes: int = 0
    """Replays given to it since it had last taken everything."""

    def is_there(self) -> bool:
        """Whether the descriptor is still this connection's."""
        return is_there(self.descriptor, self.inode)


class Peers:
    """The peers of one socket. Used by one thread, which calls `accept` when `monitor` is readable, and `look` often.

    Args:
        socket: not bound yet.
        label: what the endpoint is called in the log.
        bound: whether connections come in; else it is the one that the socket makes, and its peer has no bounds.
        keyed: whether all peers have proved a key.
        takes_frames: whether peers send frames (a broker's socket for publishers), or subscriptions alone.
    """

    def __init__(
        self,
        socket: Socket,
        *,
        label: str,
        bound: bool,
        keyed: bool,
        takes_frames: bool = False,
        name: Callable[[str], str] = str,
        ban: Callable[[str], None] = lambda key: None,
        limits: Limits = LIMITS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.label = label
        self._keyed = keyed
        self._bound = bound
        self._takes_frames = takes_frames
        self._name = name
        self._ban = ban
        self._limits = limits
        self._clock = clock
        self._peers: dict[int, Peer] = {}
        self._accounts: dict[str, Account] = {}
        self._holders: Counter[bytes] = Counter()
        self._ended: list[bytes] = []
        self._doubted_at: float | None = None
        self._looked_at = self._caught_up_at = clock()
        self._port = 0
        self._calm_memory = 0
        self._socket = socket
        self.complaints = Complaints(logger)
        self.monitor: Final[Socket | None] = socket.get_monitor_socket(_EVENTS) if bound else None
        self._admitted: frozenset[str] = frozenset()

    def __iter__(self) -> Iterator[Peer]:
        return iter(list(self._peers.values()))

    def __len__(self) -> int:
        return len(self._peers)

    def describe(self, peer: Peer | None) -> str:
        """A peer as the log names it: its key, its address, and where it is connected."""
        if peer is None:
            return f"a peer at {self.label}"
        who = f"key {self._name(peer.key)} at " if peer.key else ""
        return f"{who}{peer.address or 'a local socket'} on {self.label}"

    # Who is there

    def accept(self) -> None:
        """Take note of the connections that were made and ended."""
        if self.monitor is None:
            return
        while is_readable(self.monitor):
            event = parse_monitor_message(self.monitor.recv_multipart())
            descriptor = int(event["value"])
            if event["event"] == zmq.EVENT_ACCEPTED:
                self._add(descriptor)
            elif (peer := self._peers.get(descriptor)) is not None:
                if peer.is_there():
                    self.lost()
                else:
                    self._forget(peer)
        if len(self._peers) > self._limits.connections:
            self._make_room()

    def lost(self) -> None:
        """A connection has ended, or is just about to: look for it soon."""
        self._doubted_at = self._doubted_at or self._clock()

    @property
    def in_doubt(self) -> bool:
        """Whether a connection is about to end: `look` is to be called again in 10 ms then."""
        return self._doubted_at is not None

    def _forget_dead(self) -> None:
        for peer in self:
            if not peer.is_there():
                self._forget(peer)

    def _make_room(self) -> None:
        """Cut those that have said nothing for longest: whoever means it says something within milliseconds."""
        self._forget_dead()
        here = [peer for peer in self if not peer.is_cut]
        silent = deque(sorted((peer for peer in here if not peer.heard), key=lambda peer: peer.since))
        for _ in range(len(here) - self._limits.connections):
            victim = silent.popleft() if silent else here.pop()
            self._complain(victim, f"more than {self._limits.connections} connections", reason="connections")
            self.cut(victim)

    @staticmethod
    def is_sent(part: zmq.Frame) -> bool:
        """Whether somebody has sent a message; libzmq makes up the ends of a lost connection's subscriptions."""
        try:
            part.get(zmq.SRCFD)
        except zmq.ZMQError:
            return False
        return True

    def key(self, part: zmq.Frame) -> str:
        """The public key (Z85) whose owner has sent a message; "" where there are no keys."""
        return str(part.get("User-Id")) if self._keyed else ""

    def of(self, part: zmq.Frame) -> Peer | None:
        """The peer that a message came from, and whose key the message has proved; None where it is gone."""
        try:
            descriptor = int(part.get(zmq.SRCFD))
        except zmq.ZMQError:
            return None
        key = self.key(part)
        peer = self._peers.get(descriptor)
        if peer is None or not peer.heard or peer.key != key or not (self._takes_frames or peer.is_there()):
            peer = self._hear(descriptor, key)
        if peer is not None:
            peer.completed = True
        return peer

    def _hear(self, descriptor: int, key: str) -> Peer | None:
        """The first message of a connection, which says whose it is."""
        peer = self._add(descriptor)
        if peer is None:
            return None
        if peer.heard:
            if peer.key == key:
                return peer
            # A connection has one key: this, or what came before it, is of an earlier one with the same descriptor.
            self.cut(peer)
            return None
        peer.heard = True
        if key:
            self._leave(peer)
            peer.key = key
            peer.account = self._accounts.setdefault(key, self._new_account())
            peer.account.peers += 1
            if peer.account.peers > self._limits.connections_per_key:
                self._complain(peer, f"more than {self._limits.connections_per_key} of its key", reason="connections")
                self.cut(peer)
        return peer

    def _new_account(self) -> Account:
        return Account(Budget(self._limits.replay_requests, self._limits.replay_requests_s, self._clock))

    def _add(self, descriptor: int) -> Peer | None:
        try:
            status = os.fstat(descriptor)
        except OSError:
            return None
        if not stat.S_ISSOCK(status.st_mode):
            return None
        inode = status.st_ino
        if (old := self._peers.get(descriptor)) is not None:
            if old.inode == inode:
                return old
            self._forget(old)
        if not self._is_ours(descriptor):
            return None
        account = self._new_account()
        account.peers = 1
        peer = Peer(descriptor, inode, peer_address(descriptor), "", account, self._clock())
        self._peers[descriptor] = peer
        return peer

    def _is_ours(self, descriptor: int) -> bool:
        """Whether a connection is to this endpoint: what came late may name one that has another's by now."""
        if not self._bound:
            return True
        if not self._port:
            endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
            self._port = int(endpoint.rpartition(":")[2]) if endpoint.startswith("tcp://") else NO_PORT
        return local_port(descriptor) == self._port

    def _forget(self, peer: Peer) -> None:
        if self._peers.get(peer.descriptor) is peer:
            del self._peers[peer.descriptor]
            self._leave(peer)

    def _leave(self, peer: Peer) -> None:
        """Take a connection out of its account, with what it was subscribed to."""
        self._ended += [prefix for prefix in list(peer.prefixes) if self.unsubscribed(peer, prefix)]
        account = peer.account
        account.peers -= 1
        if account.peers > 0:
            return
        if self._accounts.get(peer.key) is account and account.requests.is_full:
            del self._accounts[peer.key]

    # What they ask for

    def subscribed(self, peer: Peer, prefix: bytes, weight: int = 1) -> bool:
        """Count a subscription. Returns whether it is within the bound; if not, the peer is dropped.

        `weight` is how many it is where it goes upstream.
        """
        if prefix in peer.prefixes:
            return True
        account = peer.account
        if prefix not in account.prefixes:
            if self._bound and account.weight + weight > self._limits.subscriptions:
                self.offend(peer, f"more than {self._limits.subscriptions} subscriptions", reason="subscriptions")
                return False
            account.weights[prefix] = weight
            account.weight += weight
        peer.prefixes.add(prefix)
        account.prefixes[prefix] += 1
        self._holders[prefix] += 1
        return True

    def unsubscribed(self, peer: Peer, prefix: bytes) -> bool:
        """Take a subscription back. Returns whether it was the last one of its kind.

        libzmq passes on the end of one that a peer never had, as if it were the end of everybody's.
        """
        if prefix not in peer.prefixes:
            return False
        peer.prefixes.discard(prefix)
        for count in (peer.account.prefixes, self._holders):
            count[prefix] -= 1
            if not count[prefix]:
                del count[prefix]
        if prefix not in peer.account.prefixes:
            peer.account.weight -= peer.account.weights.pop(prefix)
        return prefix not in self._holders

    def ended(self) -> Iterator[bytes]:
        """Subscriptions whose last holder's connection has ended; those that are not taken now come the next time."""
        while self._ended:
            if (prefix := self._ended.pop()) not in self._holders:
                yield prefix

    @property
    def has_ended(self) -> bool:
        """Whether `ended` has some."""
        return bool(self._ended)

    def heaviest(self) -> Peer | None:
        """The one with the most subscriptions; None where nobody has any."""
        here = [peer for peer in self if not peer.is_cut and peer.account.weight]
        return max(here, key=lambda peer: peer.account.weight, default=None)

    def may_ask(self, peer: Peer) -> bool:
        """Count a request for something that is sent at once. Returns whether it is within the bound; if not, it is
        not to be answered."""
        if not self._bound:
            return True
        if peer.account.requests.spend():
            return True
        self._complain(
            peer, f"more than {self._limits.replay_requests_s} requests a second: not answered", reason="requests"
        )
        return False

    # What they send

    def look(self) -> None:
        """Look at what each connection has sent since the last time, unless that was just now."""
        now = self._clock()
        passed_s = now - self._looked_at
        if self._doubted_at is not None and now - self._doubted_at >= TIMES.doubt_s:
            self._doubted_at = None
            self._forget_dead()
        if passed_s < TIMES.look_s * max(1, len(self._peers) // _MANY):
            return
        self._looked_at = now
        for key in [key for key, account in self._accounts.items() if not account.peers and account.requests.is_full]:
            del self._accounts[key]
        if not self._bound:
            self._forget_dead()
            return
        # Where messages wait to be read, what came may be whole ones.
        if not is_readable(self._socket):
            self._caught_up_at = now
        is_behind = 0 < now - self._caught_up_at < _PATIENCE_S
        unfinished: dict[Peer, int] = {}
        for peer in self:
            may_ask = peer.address and not peer.is_cut and peer.is_there()
            received = received_bytes(peer.descriptor) if may_ask else None
            if received is None:
                if not peer.is_there():
                    self._forget(peer)
                continue
            if not is_behind and (size := self._look_at_message(peer, received, now)):
                unfinished[peer] = size
            if not self._takes_frames:
                self._look_at_upstream(peer, received, passed_s)
        if not is_behind:
            self._look_at_memory(unfinished, now)

    def _look_at_message(self, peer: Peer, received: int, now: float) -> int:
        """How much has come of a message that is not complete; its size is bounded here."""
        if peer.completed:
            peer.completed, peer.mark_bytes, peer.completed_at = False, received, now
            return 0
        size = received - peer.mark_bytes
        limits = self._limits
        if self._takes_frames:
            is_over = size > limits.payload_bytes + limits.header_bytes + limits.unfinished_bytes
        else:
            # Whole ones may have had to wait until they were read.
            waited_s = now - peer.completed_at
            is_over = size > _SUBSCRIPTIONS * limits.subscription_bytes and waited_s > _PATIENCE_S
        if is_over:
            self.offend(peer, f"a message of {size} bytes, and no end", reason="size")
        return size if size > limits.unfinished_bytes // _SUM else 0

    def _look_at_memory(self, unfinished: dict[Peer, int], now: float) -> None:
        """Bound the memory that messages cost that are not complete: it may be many times their size."""
        memory = memory_bytes()
        if not unfinished:
            self._calm_memory = memory
            return
        size = sum(unfinished.values())
        if memory - self._calm_memory > _MEMORY_FACTOR * size + self._limits.unfinished_memory_bytes:
            oldest = min(unfinished, key=lambda peer: peer.completed_at)
            for peer, bytes_ in unfinished.items():
                if peer is oldest or now - peer.completed_at > _WHOLE_S:
                    self.offend(peer, f"a message of {bytes_} bytes in too many parts, and no end", reason="parts")

    def _look_at_upstream(self, peer: Peer, received: int, passed_s: float) -> None:
        """Bound what a subscriber sends."""
        allowed = passed_s * self._limits.upstream_bytes_s
        peer.level_bytes = max(0.0, peer.level_bytes - allowed) + (received - peer.received_bytes)
        peer.received_bytes = received
        if peer.level_bytes > self._limits.upstream_bytes:
            self.offend(peer, f"{peer.level_bytes:.0f} bytes of subscriptions at a time", reason="upstream")

    # How one is dropped

    def offend(self, peer: Peer, why: str, *, reason: str) -> None:
        """A peer has gone over a bound: drop it, with all connections of its key, and refuse the key for a while."""
        if peer.is_cut:
            return
        self._complain(peer, why, reason=reason)
        if not peer.key:
            self.cut(peer)
            return
        self._ban(peer.key)
        self.cut_all(other for other in self if other.key == peer.key)

    def _complain(self, peer: Peer, why: str, *, reason: str) -> None:
        self.complaints.note(self.describe(peer), WireError(why, reason=reason), what="what is over a bound")

    def admit(self, keys: Iterable[str]) -> None:
        """Say which public keys (Z85) are admitted now. Whoever is not any more is dropped; and who has said nothing
        yet, for nobody knows whose connection that is: it begins anew, and misses nothing."""
        self.accept()
        admitted = frozenset(keys)
        if not self._admitted <= admitted:
            self.cut_all(peer for peer in self if peer.key not in admitted)
        self._admitted = admitted

    def cut_all(self, peers: Iterable[Peer]) -> int:
        """Drop these connections. Returns how many there were."""
        return sum(self.cut(peer) for peer in list(peers))

    def cut(self, peer: Peer) -> bool:
        """Drop a connection, with what the kernel holds of it. Returns whether it was there."""
        if peer.is_cut:
            return False
        peer.is_cut = True  # it is forgotten once it is gone, for more of it may be on its way
        self._ended += [prefix for prefix in list(peer.prefixes) if self.unsubscribed(peer, prefix)]
        return drop(peer.descriptor, peer.inode)

    def close(self) -> None:
        """Give the monitor back, before the socket is closed."""
        if self.monitor is not None:
            self._socket.disable_monitor()
            self.monitor.close(0)
