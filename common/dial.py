"""A connection that this process makes: why it does not come about, and how it is tried again.

ZeroMQ says nothing where a handshake fails, and gives up for good where the other side refuses a key, or is something
else. It is said here, and tried again: the key may be admitted later, the right one may come back to the port.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Final

import zmq
from zmq.utils.monitor import parse_monitor_message

from camfabric.common.endpoint import Endpoint
from camfabric.common.keys import KeyPair
from camfabric.common.settings import TIMES
from camfabric.common.sockets import Socket, connect, is_readable, secure_client

__all__ = ["Dial"]

logger = logging.getLogger(__name__)

_EVENTS: Final = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED
)
_TWICE: Final = 2
"""A handshake that fails once may have met a broker that was just ending."""


class Dial:
    """One endpoint that a socket connects to. Used by one thread, which calls `hear` when `monitor` is readable.

    Args:
        pair: one's own keys, and ...
        server: ... the public key (Z85) that the other side has to prove; without both, there are none.

    Raises:
        EndpointError: it is not an address that one can connect to.
    """

    def __init__(
        self,
        socket: Socket,
        endpoint: Endpoint,
        *,
        pair: KeyPair | None = None,
        server: bytes | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.socket: Final = socket
        self.endpoint: Final = endpoint
        self._key = "" if pair is None or server is None else pair.name
        self._clock = clock
        self._failures = 0
        self._is_made = self._was_made = False
        self._complained = float("-inf")
        self._redial_at: float | None = None
        self.trouble = ""
        """Why there is no connection, as far as that is known, in a few words for a person."""
        self.monitor: Final[Socket] = socket.get_monitor_socket(_EVENTS)
        try:
            if pair is not None and server is not None:
                secure_client(socket, pair, server)
            connect(socket, endpoint)
        except BaseException:
            self.close()
            raise

    def hear(self) -> None:
        """Take in what has become of it."""
        while is_readable(self.monitor):
            self._heard(parse_monitor_message(self.monitor.recv_multipart())["event"])

    def _heard(self, event: int) -> None:
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._failures, self._is_made, self._was_made = 0, True, True
            if self.trouble:
                logger.info("connected to %s", self.endpoint)
            self.trouble = ""
        elif event == zmq.EVENT_CONNECT_RETRIED:
            self._redial_at = None
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self._complain(f"it refuses the key {self._key!r}: see which keys it admits")
        elif event == zmq.EVENT_DISCONNECTED:
            self._failures += not self._is_made
            self._is_made = False
            # Unless ZeroMQ says that it tries again itself.
            self._redial_at = self._clock() + TIMES.redial_s
            if self._failures >= _TWICE and not self.trouble:
                self._complain(self._guess())

    def _guess(self) -> str:
        if self._key and self._was_made:
            return "it refuses this key for a while, as its log says, or has another key now than --server-key says"
        if self._key:
            return "it has another key than --server-key says, or runs without keys"
        return "it wants keys (--keys DIR), or is no part of a fabric"

    def _complain(self, why: str) -> None:
        self.trouble = why
        if self._clock() - self._complained >= TIMES.complain_s:
            self._complained = self._clock()
            logger.warning("no connection to %s: %s", self.endpoint, why)

    def tick(self) -> None:
        """Try again what was refused. To be called every second or so."""
        if self._redial_at is None or self._clock() < self._redial_at:
            return
        self._redial_at = None
        with contextlib.suppress(zmq.ZMQError):  # libzmq has forgotten it already
            self.socket.disconnect(self.endpoint.text)
        connect(self.socket, self.endpoint)

    def close(self) -> None:
        """Give the monitor back, before the socket is closed."""
        self.socket.disable_monitor()
        self.monitor.close(0)
