"""Every socket of the fabric is made here: its options, its queue's bound, and how a thread that polls it is woken.

The reasons stand beside the options; each was found by trying it without.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import resource
import select
import socket as posix
import sys
import threading
from typing import TYPE_CHECKING, Final, TypeAlias

import zmq

from camfabric.common.endpoint import Endpoint
from camfabric.common.errors import EndpointError
from camfabric.common.settings import LIMITS, TIMES, Limits

if TYPE_CHECKING:
    from camfabric.common.keys import KeyPair

__all__ = [
    "Socket",
    "Waker",
    "Watch",
    "attach",
    "bind",
    "connect",
    "is_readable",
    "make_sub",
    "make_xpub",
    "make_xsub",
    "open_server",
    "receive",
    "room_for_connections",
    "secure_client",
    "secure_server",
]

Socket: TypeAlias = "zmq.Socket[bytes]"

_RECEIVE_HWM: Final = 64
_SUBSCRIPTIONS_HWM: Final = 16
_OTHER_DESCRIPTORS: Final = 48
_COPIED_BYTES: Final = 256 * 1024
_POLLIN: Final = int(zmq.POLLIN)
"""As a number: with the enumeration, asking whether there is something costs 1 µs more."""


def _make(context: zmq.Context[Socket], kind: int, limits: Limits) -> Socket:
    socket = context.socket(kind)
    socket.linger = TIMES.linger_ms
    socket.setsockopt(zmq.RECONNECT_IVL, TIMES.reconnect_ms)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, TIMES.reconnect_max_ms)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, TIMES.connect_timeout_ms)
    socket.setsockopt(zmq.HANDSHAKE_IVL, TIMES.handshake_ms)
    # Keep-alive finds a peer that vanished, TCP_MAXRT one that takes nothing of what it is sent. Not ZeroMQ's own
    # heartbeats: where a connection ends while its reader is behind, libzmq 4.3.5 aborts the process on the next one.
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, TIMES.keepalive_s)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, TIMES.keepalive_s)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, TIMES.keepalive_count)
    socket.setsockopt(zmq.TCP_MAXRT, TIMES.tcp_maxrt_ms)
    socket.setsockopt(zmq.MAXMSGSIZE, limits.payload_bytes)
    return socket


def make_xpub(context: zmq.Context[Socket], *, limits: Limits = LIMITS) -> Socket:
    """A socket that sends frames and sees who subscribes to what: each subscription of each peer, and each end."""
    socket = _make(context, zmq.XPUB, limits)
    socket.setsockopt(zmq.XPUB_VERBOSER, 1)
    socket.setsockopt(zmq.MAXMSGSIZE, limits.subscription_bytes)
    # What a peer says is taken in by libzmq for as long as there is some: so few at a time, and the peer has to wait.
    socket.setsockopt(zmq.RCVHWM, _SUBSCRIPTIONS_HWM)
    # Never to be changed while it lives: see camfabric.common.backlog, which bounds the bytes.
    socket.setsockopt(zmq.SNDHWM, limits.queue_messages)
    # A copy costs less than to be told when ZeroMQ is done with the bytes, which wakes a thread.
    socket.copy_threshold = _COPIED_BYTES
    # Without it a socket that connects keeps a dead peer's subscriptions and goes on encoding for nobody.
    socket.setsockopt(zmq.IMMEDIATE, 1)
    return socket


def make_xsub(context: zmq.Context[Socket], *, limits: Limits = LIMITS) -> Socket:
    """A broker's socket for publishers; what it receives waits in their queues, not here."""
    return _receiving(_make(context, zmq.XSUB, limits))


def make_sub(context: zmq.Context[Socket], *, limits: Limits = LIMITS) -> Socket:
    """A subscriber's socket, one for each endpoint, so that each peer's traffic is known for what it is."""
    return _receiving(_make(context, zmq.SUB, limits))


def _receiving(socket: Socket) -> Socket:
    socket.setsockopt(zmq.RCVHWM, _RECEIVE_HWM)
    # 0 is no limit: at a limit, subscriptions are discarded without a word.
    socket.setsockopt(zmq.SNDHWM, 0)
    return socket


def secure_server(socket: Socket, pair: KeyPair, domain: str) -> None:
    """Bind with keys: whoever connects has to prove a key that the domain's table has. Before `bind`.

    See camfabric.common.zap.
    """
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, pair.secret)
    socket.setsockopt_string(zmq.ZAP_DOMAIN, domain)
    # Without it everybody gets in where the handler is not there.
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)


def open_server(socket: Socket, domain: str) -> None:
    """Bind without keys, but ask the domain's table all the same: then libzmq refuses versions of ZMTP before 3.

    Messages of these say nothing of their connection, so that no bound holds for it. Before `bind`.
    """
    socket.setsockopt_string(zmq.ZAP_DOMAIN, domain)


def secure_client(socket: Socket, pair: KeyPair, server: bytes) -> None:
    """Connect with keys: the other side has to prove the public key `server` (Z85). Before `connect`."""
    socket.setsockopt(zmq.CURVE_SERVERKEY, server)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, pair.public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, pair.secret)


def attach(socket: Socket, endpoint: Endpoint) -> None:
    """Set what depends on the address; before `bind` or `connect`."""
    socket.setsockopt(zmq.IPV6, int(endpoint.is_ipv6))


def bind(socket: Socket, endpoint: Endpoint) -> str:
    """Bind, and return the endpoint with its real port.

    Raises:
        EndpointError: it is taken, or not an address of this machine.
    """
    attach(socket, endpoint)
    if endpoint.scheme == "ipc" and _answers(endpoint.host):
        raise EndpointError(f"{endpoint} is taken by another process", endpoint=endpoint.text)
    try:
        socket.bind(endpoint.text)
    except zmq.ZMQError as error:
        raise EndpointError(f"cannot bind {endpoint}: {_why(error)}", endpoint=endpoint.text) from error
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)


def connect(socket: Socket, endpoint: Endpoint) -> None:
    """Connect; whether and when the peer is there does not matter.

    Raises:
        EndpointError: it is not an address that one can connect to.
    """
    attach(socket, endpoint)
    try:
        socket.connect(endpoint.text)
    except zmq.ZMQError as error:
        raise EndpointError(f"cannot connect to {endpoint}: {_why(error)}", endpoint=endpoint.text) from error


def _answers(path: str) -> bool:
    # ZeroMQ would unlink a living process's socket file and bind its own in its place.
    if path.startswith("@"):
        return False
    with posix.socket(posix.AF_UNIX, posix.SOCK_STREAM) as probe, contextlib.suppress(OSError):
        probe.connect(path)
        return True
    return False


def _why(error: zmq.ZMQError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the port is taken by another process"
    if error.errno in (errno.ENODEV, errno.EADDRNOTAVAIL):
        return "it is not an address of this machine"
    return (error.strerror or str(error)).lower()


def is_readable(socket: Socket) -> bool:
    """Whether a message is there."""
    return bool(int(socket.getsockopt(zmq.EVENTS)) & _POLLIN)


def receive(socket: Socket, *, limits: Limits = LIMITS, likely: bool = False) -> list[zmq.Frame] | None:
    """The next message's parts, uncopied, or None where there is none now.

    Of one with too many parts the first are there, one more than the limit. Where a message is `likely` to be there,
    it costs 1 µs less, and 10 µs more if it is not.
    """
    # Asking costs a tenth of the exception that says that there is nothing.
    if not likely and not is_readable(socket):
        return None
    try:
        part = socket.recv(zmq.NOBLOCK, copy=False)
    except zmq.Again:
        return None
    parts = [part]
    while part.more:
        part = socket.recv(zmq.NOBLOCK, copy=False)  # the parts of a message arrive together
        if len(parts) <= limits.parts:
            parts.append(part)
    return parts


def room_for_connections(endpoints: int) -> int:
    """How many connections each of so many bound endpoints may have, for this process to keep descriptors to spare.

    Where they run out, libzmq tries to accept the same connection again and again.
    """
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return sys.maxsize
    return max((most - _OTHER_DESCRIPTORS) // max(endpoints, 1), 1)


class Waker:
    """Wakes a thread that polls sockets: poll `fileno()`, call `wake()` from anywhere, `clear()` when woken.

    A pipe, not a socket: it may be used by any number of threads.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal's handler may come while the same thread is in `wake`
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._read

    def wake(self) -> None:
        """Wake the thread. Does nothing after `close`, or where a wake is pending already."""
        with self._lock:
            if self._write >= 0:
                try:
                    os.write(self._write, b"\0")
                except BlockingIOError:
                    return  # it is full of wakes

    def clear(self) -> None:
        """Take all pending wakes."""
        with contextlib.suppress(BlockingIOError):
            while len(os.read(self._read, 4096)) == 4096:
                pass

    def close(self) -> None:
        """Give the descriptors back."""
        with self._lock:
            read, write, self._read, self._write = self._read, self._write, -1, -1
            if write >= 0:
                os.close(write)
                os.close(read)


class Watch:
    """Waits for sockets and descriptors. Used by one thread.

    It takes one system call for all of them, and two for each socket that is asked; `zmq.Poller` takes six for each. A
    socket's own descriptor tells that something has happened since it was last asked, not what is there. So each is
    asked before the wait. One that is `quiet`, and used only when it was found ready, is asked only after that.
    Nobody is asked after the wait: what is told then has most likely a message, and is to be received from, or asked.
    """

    def __init__(self) -> None:
        self._poll = select.poll()
        self._sources: dict[int, Socket | int] = {}
        self._asked: list[Socket] = []
        self._quiet: list[Socket] = []
        self._found: list[Socket] = []
        self.has_waited = False
        """Whether nothing was there when it was last called: then there is most likely one message, and no more."""

    def register(self, source: Socket | int, *, quiet: bool = False) -> None:
        """Wait for a socket, or for a descriptor."""
        descriptor = source if isinstance(source, int) else int(source.getsockopt(zmq.FD))
        self._poll.register(descriptor, select.POLLIN)
        self._sources[descriptor] = source
        if isinstance(source, int):
            return
        (self._quiet if quiet else self._asked).append(source)
        self._found.append(source)  # before it was asked for the first time, it tells nothing

    def unregister(self, source: Socket | int) -> None:
        """Wait for it no more, if it was waited for. Before it is closed."""
        descriptor = source if isinstance(source, int) else int(source.getsockopt(zmq.FD))
        if self._sources.pop(descriptor, None) is None:
            return
        self._poll.unregister(descriptor)
        for sockets in (self._asked, self._quiet, self._found):
            if source in sockets:
                sockets.remove(source)

    def wait(self, timeout_s: float) -> set[Socket | int]:
        """What is readable, or in rare cases only seems so, within `timeout_s` seconds; nothing where they are over."""
        ready: set[Socket | int] = {socket for socket in {*self._asked, *self._found} if is_readable(socket)}
        self._found.clear()
        self.has_waited = not ready
        timeout_ms = 0 if ready else math.ceil(max(timeout_s, 0) * 1000)
        ready.update([self._sources[descriptor] for descriptor, _ in self._poll.poll(timeout_ms)])
        if self._quiet:
            self._found = [socket for socket in self._quiet if socket in ready]
        return ready
