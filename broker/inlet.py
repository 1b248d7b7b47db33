"""An inlet: where frames come from, and for which cameras that is believed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import zmq

from camfabric.broker.config import UpstreamConfig
from camfabric.broker.permissions import Cameras
from camfabric.common.dial import Dial
from camfabric.common.endpoint import Endpoint
from camfabric.common.keys import KeyPair
from camfabric.common.peers import Peers
from camfabric.common.settings import Limits
from camfabric.common.sockets import Socket, bind, make_xsub
from camfabric.common.zap import Gate

__all__ = ["PUBLISHERS", "Inlet", "PublisherInlet", "UpstreamInlet"]

PUBLISHERS: Final = "publishers"
"""The domain of all endpoints for publishers."""


class PublisherInlet:
    """A bound socket that publishers connect to. What a message is believed for is a matter of its sender's key.

    Raises:
        EndpointError: the endpoint is taken, or not of this machine.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        endpoint: Endpoint,
        *,
        pair: KeyPair | None,
        gate: Gate,
        limits: Limits,
        may_publish: Callable[[str, str], bool],
    ) -> None:
        self.config: Final = endpoint
        self._may_publish = may_publish
        self.socket: Final[Socket] = make_xsub(context, limits=limits)
        self.peers: Final = Peers(
            self.socket,
            label=f"{PUBLISHERS} ({endpoint})",
            bound=True,
            keyed=pair is not None,
            takes_frames=True,
            name=gate.name,
            ban=gate.ban,
            limits=limits,
        )
        self.monitor: Final = self.peers.monitor
        """To be polled; `hear` is to be called when it is readable."""
        try:
            gate.guard(self.socket, PUBLISHERS, pair)
            self.endpoint: Final = bind(self.socket, endpoint)
        except BaseException:
            self.close()
            raise

    def hear(self) -> None:
        """Take note of connections."""
        self.peers.accept()

    def look(self) -> None:
        """Look at what the peers have sent."""
        self.peers.look()

    def sender(self, part: zmq.Frame) -> str:
        """Who has sent a message: one that is believed for the same cameras has the same name."""
        peer = self.peers.of(part)
        return self.peers.key(part) if peer is None else peer.key

    def may_publish(self, sender: str, camera: str) -> bool:
        """Whether the sender is believed for a camera."""
        return self._may_publish(sender, camera)

    def cut(self, subscription: bytes) -> tuple[bytes, ...]:
        """What of a subscription is sent here. ZeroMQ sends it to all publishers alike."""
        return (subscription,)

    def describe(self, part: zmq.Frame) -> str:
        """Who has sent a message, for the log."""
        return self.peers.describe(self.peers.of(part))

    def close(self) -> None:
        """Close it."""
        self.peers.close()
        self.socket.close(0)


class UpstreamInlet:
    """A connection to a publisher that binds, or to another broker. Belief is a matter of the connection.

    Raises:
        EndpointError: the endpoint is none that one can connect to.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        config: UpstreamConfig,
        *,
        pair: KeyPair | None,
        server: bytes | None,
        limits: Limits,
    ) -> None:
        self.config: Final = config
        self.endpoint: Final = config.endpoint.text
        self.server: Final = server
        self.cameras = Cameras(config.cameras)
        self.refused = False
        """It leads back to this broker, and is disconnected."""
        self.socket: Final[Socket] = make_xsub(context, limits=limits)
        try:
            self._dial = Dial(self.socket, config.endpoint, pair=pair, server=server)
        except BaseException:
            self.socket.close(0)
            raise
        self.monitor: Final[Socket | None] = self._dial.monitor
        """To be polled; `hear` is to be called when it is readable."""

    def hear(self) -> None:
        """Take in what has become of the connection."""
        self._dial.hear()

    def look(self) -> None:
        """Connect again where that is due."""
        if not self.refused:
            self._dial.tick()

    def refuse(self) -> None:
        """Disconnect for good."""
        self.refused = True
        self.socket.disconnect(self.config.endpoint.text)

    def sender(self, part: zmq.Frame) -> str:
        """Who has sent a message: the upstream."""
        return self.endpoint

    def may_publish(self, sender: str, camera: str) -> bool:
        """Whether the upstream is believed for a camera."""
        return self.cameras.covers(camera)

    def cut(self, subscription: bytes) -> tuple[bytes, ...]:
        """What of a subscription is sent here: what is about cameras that the upstream is believed for."""
        return self.cameras.cut(subscription)

    def describe(self, part: zmq.Frame) -> str:
        """Who has sent a message, for the log."""
        return f"upstream {self.endpoint}"

    def close(self) -> None:
        """Close it."""
        self._dial.close()
        self.socket.close(0)


Inlet: TypeAlias = PublisherInlet | UpstreamInlet
