"""Admission: the one handler of ZeroMQ's authentication protocol (ZAP, https://rfc.zeromq.org/spec/27/).

Each socket that is bound with keys has a domain, and each domain a table of the public keys that may connect. A key
that is in no table is refused; so is everybody while there is no table, or nobody answers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import zmq
from zmq.utils import z85

from camfabric.common.errors import WireError
from camfabric.common.keys import KeyPair
from camfabric.common.settings import TIMES
from camfabric.common.sockets import Socket, is_readable, open_server, secure_server
from camfabric.common.stats import Complaints

__all__ = ["Gate"]

logger = logging.getLogger(__name__)

_ENDPOINT: Final = "inproc://zeromq.zap.01"
_VERSION: Final = b"1.0"
_MECHANISM: Final = 5
_CURVE_FRAMES: Final = 7
_KEY_BYTES: Final = 32
_ADMITTED: Final = b"200"
_LATER: Final = b"300"
"""Closes the connection without a word, and the client tries again."""
_REFUSED: Final = b"400"
"""Says so to the client, which libzmq then lets rest."""
_BATCH: Final = 64
_MAX_BANNED: Final = 10_000


class Gate:
    """Says who may connect to which of a context's sockets. Used by one thread, which polls `socket`.

    To be made before any socket of the context is bound.
    """

    def __init__(self, context: zmq.Context[Any], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tables: dict[str, Mapping[str, str]] = {}
        self._open: set[str] = set()
        self._labels: dict[str, str] = {}
        self._names: Mapping[str, str] = {}
        self._banned: dict[str, float] = {}
        self._complaints = Complaints(logger)
        self.socket: Final[Socket] = context.socket(zmq.REP)
        self.socket.linger = 0
        self.socket.bind(_ENDPOINT)

    def admit(self, domain: str, table: Mapping[str, str], *, label: str) -> None:
        """Replace a domain's table: names by public key (Z85). `label` is what the log calls the domain."""
        self._tables[domain] = dict(table)
        self._labels[domain] = label

    def guard(self, socket: Socket, domain: str, pair: KeyPair | None) -> None:
        """Have a socket ask here who may connect: by the domain's table, or everybody where there are no keys.

        Before `bind`.
        """
        if pair is not None:
            secure_server(socket, pair, domain)
        else:
            open_server(socket, domain)
            self._open.add(domain)

    def know(self, names: Mapping[str, str]) -> None:
        """The names of all public keys (Z85) that are known, admitted or not, for the log."""
        self._names = dict(names)

    def name(self, key: str) -> str:
        """A key's name, for a person."""
        return self._names.get(key) or (f"{key[:8]}…" if key else "no key")

    def is_admitted(self, domain: str, key: str) -> bool:
        """Whether a public key (Z85) may connect to a socket of this domain now."""
        return key in self._tables.get(domain, ())

    def ban(self, key: str) -> None:
        """Refuse a key for a while."""
        if len(self._banned) >= _MAX_BANNED:
            self._banned.clear()
        self._banned[key] = self._clock() + TIMES.refused_s

    def answer(self) -> None:
        """Answer the requests that there are."""
        for _ in range(_BATCH):
            if not is_readable(self.socket):
                return
            self.socket.send_multipart(self._reply(self.socket.recv_multipart()))

    def _reply(self, request: list[bytes]) -> list[bytes]:
        request_id = request[1] if len(request) > 1 else b""
        status, text, key = self._judge(request)
        # The user's id is the public key itself: a name may be given to another key while this one is connected.
        return [_VERSION, request_id, status, text, key.encode(), b""]

    def _judge(self, request: list[bytes]) -> tuple[bytes, bytes, str]:
        if request[_MECHANISM : _MECHANISM + 1] == [b"NULL"] and request[2].decode(errors="replace") in self._open:
            return _ADMITTED, b"", ""
        if len(request) != _CURVE_FRAMES or request[0] != _VERSION or request[_MECHANISM] != b"CURVE":
            return _REFUSED, b"keys are needed", ""
        if len(request[6]) != _KEY_BYTES:
            return _REFUSED, b"no key", ""
        domain, address = request[2].decode(errors="replace"), request[3].decode(errors="replace")
        key = z85.encode(request[6]).decode()
        if not self.is_admitted(domain, key):
            where = self._labels.get(domain, domain)
            self._complain(f"{address} on {where}", f"key {self.name(key)} is not admitted there")
            return _REFUSED, b"not admitted", ""
        if self._banned.get(key, 0.0) > self._clock():
            return _LATER, b"later", ""
        return _ADMITTED, b"", key

    def _complain(self, peer: str, why: str) -> None:
        self._complaints.note(peer, WireError(why, reason="refused"), what="connection")

    @property
    def refused(self) -> int:
        """How many handshakes were refused."""
        return self._complaints.counts["refused"]

    def close(self) -> None:
        """Close its socket: from now on everybody is refused."""
        self.socket.close(0)
