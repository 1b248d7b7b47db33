"""The publisher's link: its one socket, connected to a broker or bound for subscribers, with keys or without."""

from __future__ import annotations

import time
from collections.abc import Container
from dataclasses import replace
from typing import Any, Final

import zmq

from camfabric.common.audience import Audience
from camfabric.common.dial import Dial
from camfabric.common.endpoint import Endpoint
from camfabric.common.keys import ClientKeys, ServerKeys
from camfabric.common.peers import Peers
from camfabric.common.register import Register
from camfabric.common.settings import LIMITS, TIMES
from camfabric.common.sockets import Socket, Watch, bind, make_xpub, room_for_connections
from camfabric.common.zap import Gate

__all__ = ["Link"]

_DOMAIN: Final = "subscribers"


class Link:
    """Made by one thread, then used by another one, which waits for its sockets.

    Args:
        keys: to bind, one's own and who may connect; to connect, one's own and the broker's; None for none.

    Raises:
        EndpointError: the endpoint cannot be bound or connected.
    """

    def __init__(
        self, context: zmq.Context[Any], address: Endpoint, *, bound: bool, keys: ServerKeys | ClientKeys | None
    ) -> None:
        self.endpoint = address.text
        self._register = Register(keys) if isinstance(keys, ServerKeys) else None
        self._next_look = 0.0
        self._dial: Dial | None = None
        self._gate = Gate(context)
        self.socket: Final[Socket] = make_xpub(context)
        self._peers = Peers(
            self.socket,
            label=address.text,
            bound=bound,
            keyed=self._register is not None,
            name=self._gate.name,
            ban=self._gate.ban,
            limits=replace(LIMITS, connections=min(LIMITS.connections, room_for_connections(1))),
        )
        self.audience: Final = Audience(
            self.socket,
            self._peers,
            is_admitted=lambda key: self._register is None or self._gate.is_admitted(_DOMAIN, key),
        )
        try:
            if bound:
                self._gate.guard(self.socket, _DOMAIN, None if keys is None else keys.pair)
                self._admit()
                self.endpoint = bind(self.socket, address)
            else:
                server = keys.server(0) if isinstance(keys, ClientKeys) else None
                self._dial = Dial(self.socket, address, pair=None if keys is None else keys.pair, server=server)
        except BaseException:
            self.close()
            raise

    def register(self, watch: Watch) -> None:
        """Have its sockets waited for; `hear` is to be called with those that are readable."""
        watch.register(self.socket)
        watch.register(self._gate.socket, quiet=True)
        monitor = self._peers.monitor if self._dial is None else self._dial.monitor
        if monitor is not None:
            watch.register(monitor, quiet=True)

    @property
    def patience_s(self) -> float:
        """After how long `hear` and `look` are to be called again, whatever comes."""
        if self.audience.has_news:
            return 0.0
        if self._peers.in_doubt:
            return TIMES.doubt_s
        return 2 * TIMES.look_s if self._dial is None else TIMES.status_s

    def hear(self, ready: Container[Socket | int]) -> bool:
        """Take in who connects. Returns whether there may be subscriptions to be heard.

        Args:
            ready: what is readable.
        """
        if self._gate.socket in ready:
            self._gate.answer()
        if self._peers.monitor in ready:
            self._peers.accept()
        self.audience.backlog.look()
        if self._dial is not None and self._dial.monitor in ready:
            self._dial.hear()
        return self.socket in ready or self.audience.has_news

    def look(self) -> None:
        """Look at what the peers have sent."""
        self._peers.look()

    def tick(self) -> None:
        """Do what depends on time. To be called every 100 ms or so."""
        self.audience.backlog.check()
        if self._dial is not None:
            self._dial.tick()
        if self._register is not None and (now := time.monotonic()) >= self._next_look:
            self._next_look = now + TIMES.keys_s
            if self._register.has_changed():
                self._admit()

    def _admit(self) -> None:
        """Admit the keys that are in the folder now, and drop whoever's is not."""
        if self._register is not None:
            self._register.read()
            self._gate.know(self._register.all_names)
            self._gate.admit(_DOMAIN, self._register.names, label=self.endpoint)
            self._peers.admit(self._register.names)

    def close(self) -> None:
        """Close it; what is on its way goes out first, for half a second at most."""
        self._peers.close()
        if self._dial is not None:
            self._dial.close()
        self.socket.close()
        self._gate.close()
