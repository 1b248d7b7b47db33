"""An outlet: where subscribers connect, with the keys that it admits and the cameras that it shows."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import zmq

from camfabric.broker.config import OutletConfig
from camfabric.broker.permissions import Cameras
from camfabric.common.audience import Audience
from camfabric.common.keys import KeyPair
from camfabric.common.peers import Peers
from camfabric.common.settings import Limits
from camfabric.common.sockets import Socket, bind, make_xpub
from camfabric.common.topics import STATUS, topic
from camfabric.common.zap import Gate

__all__ = ["Outlet"]

_MANY: Final = 64
_STATUSES_S: Final = 0.1
"""Between two answers to new subscribers to statuses ..."""
_STATUS_S: Final = 0.001
"""... and so much more for each status in one: everybody who is subscribed to them gets them again."""


class Outlet:
    """A bound XPUB socket. Used by one thread.

    Raises:
        EndpointError: the endpoint is taken, or not of this machine.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        config: OutletConfig,
        *,
        number: int,
        pair: KeyPair | None,
        gate: Gate,
        limits: Limits,
    ) -> None:
        self.config = config
        self.cameras = Cameras(config.cameras)
        self.subscriptions: Final[dict[bytes, tuple[bytes, ...]]] = {}
        """What is subscribed to here, and what of it goes upstream."""
        self._asked: set[bytes] = set()
        self._next_statuses = 0.0
        self.domain: Final = f"outlet {number}"
        """Of the gate: it stays where the outlet's name changes."""
        self.socket: Final[Socket] = make_xpub(context, limits=limits)
        self.peers: Final = Peers(
            self.socket,
            label=self.label,
            bound=True,
            keyed=pair is not None,
            name=gate.name,
            ban=gate.ban,
            limits=limits,
        )
        self.monitor: Final = self.peers.monitor
        """To be polled; `peers.accept` is to be called when it is readable."""
        self.audience: Final = Audience(
            self.socket,
            self.peers,
            is_admitted=lambda key: pair is None or gate.is_admitted(self.domain, key),
            weigh=lambda prefix: max(len(self.cameras.cut(prefix)), 1),
            limits=limits,
        )
        try:
            gate.guard(self.socket, self.domain, pair)
            self.endpoint: Final = bind(self.socket, config.endpoint)
        except BaseException:
            self.close()
            raise

    @property
    def label(self) -> str:
        """What the log calls it."""
        return f"outlet {self.config.name}"

    @property
    def is_asked(self) -> bool:
        """Whether somebody waits for the statuses that there are, and some were not handed out just now."""
        return bool(self._asked) and time.monotonic() >= self._next_statuses

    def ask(self, prefix: bytes) -> None:
        """Take note of a new subscription to statuses."""
        # Many at once are one question more: all statuses go out together, ten times a second at most.
        self._asked.add(prefix if len(self._asked) < _MANY else topic(STATUS))

    def hand_out(self, statuses: Mapping[str, bytes]) -> None:
        """Send the statuses that were asked for."""
        asked = tuple(self._asked)
        self._asked.clear()
        sent = 0
        for camera, packed in statuses.items():
            of_camera = topic(STATUS, camera)
            if of_camera.startswith(asked) and self.cameras.covers(camera):
                self.socket.send_multipart([of_camera, packed])
                sent += 1
        self._next_statuses = time.monotonic() + _STATUSES_S + _STATUS_S * sent

    def close(self) -> None:
        """Close it."""
        self.peers.close()
        self.socket.close(0)
