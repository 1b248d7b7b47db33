"""Ports: the sockets of a broker as its configuration wants them, and what changes when that does."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

import zmq

from camfabric.broker.config import BrokerConfig, OutletConfig, UpstreamConfig
from camfabric.broker.inlet import Inlet, PublisherInlet, UpstreamInlet
from camfabric.broker.outlet import Outlet
from camfabric.broker.permissions import Cameras
from camfabric.common.endpoint import Endpoint
from camfabric.common.errors import ConfigError, EndpointError
from camfabric.common.keys import ServerKeys, client_keys
from camfabric.common.settings import Limits
from camfabric.common.zap import Gate

__all__ = ["Port", "Ports"]

logger = logging.getLogger(__name__)

Port: TypeAlias = Inlet | Outlet
_T = TypeVar("_T")

_GIVEN_UP_S: Final = 0.3
_AGAIN_S: Final = 0.005


class Ports:
    """Inlets and outlets. Used by one thread."""

    def __init__(
        self,
        context: zmq.Context[Any],
        *,
        gate: Gate,
        keys: ServerKeys | None,
        limits: Limits,
        may_publish: Callable[[str, str], bool],
    ) -> None:
        self._context = context
        self._gate = gate
        self._keys = keys
        self._pair = None if keys is None else keys.pair
        self._limits = limits
        self._may_publish = may_publish
        self._numbers = 0
        self.inlets: Final[list[Inlet]] = []
        self.outlets: Final[list[Outlet]] = []

    @property
    def all(self) -> list[Port]:
        """All of them."""
        return [*self.outlets, *self.inlets]

    def apply(self, config: BrokerConfig) -> tuple[list[Port], list[Port]]:
        """Bind and connect what is new, and take out what is gone. Returns both; what is gone is still to be closed.

        An outlet is known by its endpoint: it may have another name, other keys and other cameras.

        Raises:
            EndpointError: an endpoint cannot be bound or connected; nothing was changed.
            ConfigError: the key of an upstream cannot be read, at the first time; later that one is taken out.
        """
        servers = self._servers(config)
        here: dict[object, Port] = {_identity(port): port for port in self.all}
        makers: dict[object, Callable[[], Port]] = {}
        for endpoint in config.publishers:
            makers["publishers", _place(endpoint, "")] = partial(self._new_publishers, endpoint)
        for outlet in config.outlets:
            makers["outlet", _place(outlet.endpoint, outlet.name)] = partial(self._new_outlet, outlet)
        for upstream, server in servers:
            makers["upstream", upstream.endpoint.text, server] = partial(
                UpstreamInlet, self._context, upstream, pair=self._pair, server=server, limits=self._limits
            )
        gone = [port for identity, port in here.items() if identity not in makers]
        new = self._made({identity: make for identity, make in makers.items() if identity not in here}, gone)
        here.update(new)
        ports = [here[identity] for identity in makers]
        self.inlets[:] = [port for port in ports if not isinstance(port, Outlet)]
        self.outlets[:] = [port for port in ports if isinstance(port, Outlet)]
        self._update(config)
        return list(new.values()), gone

    @staticmethod
    def _made(makers: dict[object, Callable[[], Port]], gone: list[Port]) -> dict[object, Port]:
        """The new ports. Those that are gone give up their endpoints first: a new one may have the same port number."""
        new: dict[object, Port] = {}
        bound = [port for port in gone if not isinstance(port, UpstreamInlet)] if makers else []
        for port in bound:
            port.socket.unbind(port.endpoint)
        try:
            for identity, make in makers.items():
                new[identity] = _patiently(make) if bound else make()
        except BaseException:
            for made in new.values():
                made.close()
            for port in bound:
                _patiently(partial(port.socket.bind, port.endpoint))
            raise
        return new

    def _new_publishers(self, endpoint: Endpoint) -> PublisherInlet:
        return PublisherInlet(
            self._context,
            endpoint,
            pair=self._pair,
            gate=self._gate,
            limits=self._limits,
            may_publish=self._may_publish,
        )

    def _new_outlet(self, wanted: OutletConfig) -> Outlet:
        self._numbers += 1
        return Outlet(
            self._context, wanted, number=self._numbers, pair=self._pair, gate=self._gate, limits=self._limits
        )

    def _update(self, config: BrokerConfig) -> None:
        """Give each outlet its part of the configuration."""
        for outlet, wanted in zip(self.outlets, config.outlets, strict=True):
            outlet.config = wanted
            outlet.cameras = Cameras(wanted.cameras)

    def _servers(self, config: BrokerConfig) -> list[tuple[UpstreamConfig, bytes | None]]:
        """The upstreams with their public keys."""
        found: list[tuple[UpstreamConfig, bytes | None]] = []
        for upstream in config.upstreams:
            try:
                found.append((upstream, self._server(upstream, config)))
            except ConfigError as error:
                if not self.all:
                    raise
                logger.error("upstream %s is left out: %s", upstream.endpoint, error)
        return found

    def _server(self, upstream: UpstreamConfig, config: BrokerConfig) -> bytes | None:
        if not upstream.server_key or self._pair is None:
            return None
        keys = client_keys(key=config.key or self._pair.name, server_key=upstream.server_key, keys=config.keys)
        return None if keys is None else keys.server(0)

    def close(self) -> None:
        """Close all."""
        for port in self.all:
            port.close()
        self.inlets.clear()
        self.outlets.clear()


def _patiently(bind: Callable[[], _T]) -> _T:
    """Bind what was given up just now: libzmq does that in another thread, within milliseconds."""
    end = time.monotonic() + _GIVEN_UP_S
    while True:
        try:
            return bind()
        except (EndpointError, zmq.ZMQError):
            if time.monotonic() >= end:
                raise
            time.sleep(_AGAIN_S)


def _place(endpoint: Endpoint, name: str) -> str:
    """The endpoint; of one whose port the system chooses, the name besides."""
    return f"{endpoint} {name}" if endpoint.scheme == "tcp" and endpoint.port is None else endpoint.text


def _identity(port: Port) -> object:
    if isinstance(port, Outlet):
        return "outlet", _place(port.config.endpoint, port.config.name)
    if isinstance(port, PublisherInlet):
        return "publishers", _place(port.config, "")
    return "upstream", port.endpoint, port.server
