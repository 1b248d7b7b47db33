"""Every socket of the fabric is made here: its options, its queue's bound, and how a thread that polls it is woken.

The reasons stand beside the options; each was found by trying it without.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket as posix
import threading
from typing import Final, TypeAlias

import zmq

from camfabric.common.endpoint import Endpoint
from camfabric.common.errors import EndpointError
from camfabric.common.settings import LIMITS, TIMES, Limits

__all__ = [
    "Socket",
    "Waker",
    "attach",
    "bind",
    "connect",
    "make_sub",
    "make_xpub",
    "make_xsub",
    "receive",
]

Socket: TypeAlias = "zmq.Socket[bytes]"

_RECEIVE_HWM: Final = 64


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
    """A socket that sends frames and sees who subscribes to what: each subscription, and the last end of each."""
    socket = _make(context, zmq.XPUB, limits)
    socket.setsockopt(zmq.XPUB_VERBOSE, 1)
    socket.setsockopt(zmq.MAXMSGSIZE, limits.subscription_bytes)
    # Never to be changed while it lives: see camfabric.common.backlog, which bounds the bytes.
    socket.setsockopt(zmq.SNDHWM, limits.queue_messages)
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


def receive(socket: Socket) -> list[zmq.Frame] | None:
    """The next message's parts, uncopied, or None where there is none now."""
    # Asking costs a tenth of the exception that says that there is nothing.
    if not int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
        return None
    try:
        part = socket.recv(zmq.NOBLOCK, copy=False)
    except zmq.Again:
        return None
    parts = [part]
    while part.more:
        part = socket.recv(zmq.NOBLOCK, copy=False)  # the parts of a message arrive together
        parts.append(part)
    return parts


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
        with self._lock, contextlib.suppress(BlockingIOError):
            if self._write >= 0:
                os.write(self._write, b"\0")

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
