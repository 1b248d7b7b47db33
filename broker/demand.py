"""Demand: what subscribers ask for, what of it is answered here, and what of it goes upstream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from camfabric.broker.inlet import Inlet, UpstreamInlet
from camfabric.broker.interest import Interest
from camfabric.broker.outlet import Outlet
from camfabric.broker.permissions import Cameras
from camfabric.broker.ports import Ports
from camfabric.common import wire
from camfabric.common.audience import Subscription
from camfabric.common.groups import Groups
from camfabric.common.peers import Peer
from camfabric.common.settings import Limits
from camfabric.common.topics import BROKER, CHANNELS, REPLAY, STATUS, parse_request, topic

__all__ = ["Demand"]

_SUBSCRIBE: Final = b"\x01"
_UNSUBSCRIBE: Final = b"\x00"
_OWN: Final = (topic(STATUS), topic(BROKER))
"""What a broker subscribes to for itself."""
_MOST: Final = 100_000
"""Subscriptions that go to publishers ..."""
_UPSTREAM_SHARE: Final = 2
"""... and the part of what one peer may hold that goes to an upstream, which has the same bound for it."""
_FRAMES: Final = tuple(topic(channel) for channel in CHANNELS)


class Demand:
    """Keeps what is subscribed to upstream in step with the outlets' subscriptions. Used by one thread."""

    def __init__(self, ports: Ports, interest: Interest, groups: Groups, *, limits: Limits) -> None:
        self._ports = ports
        self._interest = interest
        self._groups = groups
        self._limits = limits
        self._has_let_go = False
        """Of frames: what is kept of them is to be looked through."""

    def hear(self, outlet: Outlet) -> None:
        """Take in what an outlet's subscribers say."""
        for subscription in outlet.audience.hear():
            self._heard(outlet, subscription)
        self._forget_unwanted()

    def _heard(self, outlet: Outlet, subscription: Subscription) -> None:
        prefix = subscription.prefix
        if subscription.peer is None:
            self._let_go(outlet, prefix, outlet.subscriptions.pop(prefix, ()))
            return
        cut = outlet.cameras.cut(prefix)
        request = parse_request(prefix) if cut else None
        is_status = topic(STATUS).startswith(prefix) or prefix.startswith(topic(STATUS))
        if request and not outlet.peers.may_ask(subscription.peer):
            return
        if is_status and outlet.peers.may_ask(subscription.peer):
            outlet.ask(prefix)
        if request and request[0] == REPLAY and self._replay(outlet, prefix, request[2], subscription.peer):
            return
        if prefix not in outlet.subscriptions:
            outlet.subscriptions[prefix] = cut
            self._want(outlet, prefix, cut)

    def _replay(self, outlet: Outlet, request: bytes, stream: str, peer: Peer) -> bool:
        """Answer a request for a replay. Returns whether it goes no further: its end finds nothing to take back."""
        kept = self._groups.get(f"{stream}/".encode())
        if not kept:
            return False
        if outlet.audience.may_replay(peer, sum(len(payload) for _, payload in kept)):
            outlet.socket.send_multipart(wire.pack_replay(request, kept), copy=False)
        return True

    def begin(self, inlet: Inlet) -> None:
        """Subscribe over a new inlet to what is wanted."""
        self._make_room(0)
        inlet.socket.send(_SUBSCRIBE + topic(BROKER))
        for prefix in (topic(STATUS), *self._interest):
            for cut in inlet.cut(prefix):
                inlet.socket.send(_SUBSCRIBE + cut)

    def change(self, inlet: UpstreamInlet, cameras: Cameras) -> None:
        """An upstream is believed for other cameras now: ask it for these alone."""
        wanted = (topic(STATUS), *self._interest)
        before = [cut for prefix in wanted for cut in inlet.cut(prefix)]
        inlet.cameras = cameras
        # The new ones first, so that nothing stops in between; libzmq counts them.
        for cut in [cut for prefix in wanted for cut in inlet.cut(prefix)]:
            inlet.socket.send(_SUBSCRIBE + cut)
        for cut in before:
            inlet.socket.send(_UNSUBSCRIBE + cut)

    def end(self, outlet: Outlet) -> None:
        """An outlet is closed: nobody subscribes there any more."""
        for prefix, cut in outlet.subscriptions.items():
            self._let_go(outlet, prefix, cut)
        outlet.subscriptions.clear()
        self._forget_unwanted()

    def cut_anew(self, outlet: Outlet) -> None:
        """An outlet's cameras have changed: have upstream what they leave of its subscriptions now."""
        for prefix, before in list(outlet.subscriptions.items()):
            after = outlet.cameras.cut(prefix)
            if after == before:
                continue
            if any(cut.startswith(topic(STATUS)) for cut in after):
                outlet.ask(prefix)
            outlet.subscriptions[prefix] = after
            self._want(outlet, prefix, set(after) - set(before))
            self._let_go(outlet, prefix, set(before) - set(after))
        self._forget_unwanted()

    def _want(self, outlet: Outlet, prefix: bytes, cut: Iterable[bytes]) -> None:
        for wanted in cut:
            if wanted not in self._interest:
                self._make_room(1)
                if prefix not in outlet.subscriptions:
                    return  # it was the heaviest one's
            if self._interest.add(wanted, (outlet.domain, prefix)):
                self._send_up(_SUBSCRIBE, wanted)

    def _let_go(self, outlet: Outlet, prefix: bytes, cut: Iterable[bytes]) -> None:
        for wanted in cut:
            if self._interest.remove(wanted, (outlet.domain, prefix)):
                self._has_let_go = self._has_let_go or wanted.startswith(_FRAMES)
                self._send_up(_UNSUBSCRIBE, wanted)

    def _forget_unwanted(self) -> None:
        """What no longer flows grows old here, and must not be handed out as the newest."""
        if not self._has_let_go:
            return
        self._has_let_go = False
        for stream in self._groups.topics():
            if not self._interest.covers(stream):
                self._groups.drop(stream)

    def _make_room(self, count: int) -> None:
        """Before so many more go upstream: where all together are too many, whoever has the most of them is dropped.

        An upstream broker sees one peer, whose key it would refuse for what one of those behind it has asked for.
        """
        has_upstream = any(isinstance(inlet, UpstreamInlet) for inlet in self._ports.inlets)
        most = self._limits.subscriptions // _UPSTREAM_SHARE if has_upstream else _MOST
        while len(self._interest) + count > most:
            heaviest = [(peer.account.weight, outlet, peer) for outlet, peer in self._heaviest()]
            if not heaviest:
                return
            _, outlet, peer = max(heaviest, key=lambda each: each[0])
            outlet.peers.offend(peer, f"the most of {most} subscriptions in all", reason="subscriptions")
            for prefix in outlet.peers.ended():
                self._let_go(outlet, prefix, outlet.subscriptions.pop(prefix, ()))

    def _heaviest(self) -> Iterator[tuple[Outlet, Peer]]:
        for outlet in self._ports.outlets:
            if (peer := outlet.peers.heaviest()) is not None:
                yield outlet, peer

    def _send_up(self, kind: bytes, prefix: bytes) -> None:
        if prefix not in _OWN:
            for inlet in self._ports.inlets:
                for cut in inlet.cut(prefix):
                    inlet.socket.send(kind + cut)
