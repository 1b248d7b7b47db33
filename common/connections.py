"""What the kernel knows of a connection, by its descriptor, which libzmq owns and may close at any moment."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

__all__ = [
    "NO_PORT",
    "acknowledged_bytes",
    "bound_within_host",
    "drop",
    "is_there",
    "local_port",
    "memory_bytes",
    "peer_address",
    "received_bytes",
    "round_trip_s",
]

_TCP_INFO: Final = struct.Struct("120xQQ12xI")
"""Of Linux's `struct tcp_info` (4.9 and later): bytes acknowledged and received, and the shortest round trip in µs."""
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_SEND_BUFFER_BYTES: Final = 384 * 1024
NO_PORT: Final = -1
"""Of ipc://."""


def is_there(descriptor: int, inode: int) -> bool:
    """Whether a descriptor is still that connection's: it is used again as soon as it is closed."""
    try:
        return os.fstat(descriptor).st_ino == inode
    except OSError:
        return False


def drop(descriptor: int, inode: int) -> bool:
    """End a connection, with what the kernel holds of it. Returns whether it was there."""
    with contextlib.suppress(OSError), _own(descriptor, inode) as connection:
        # What the kernel still holds is old as well: with no linger it is thrown away.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
        return True
    return False


@contextlib.contextmanager
def _own(descriptor: int, inode: int) -> Iterator[socket.socket]:
    """A connection, by a descriptor of our own where there is one left."""
    try:
        own = os.dup(descriptor)
    except OSError:
        own = -1
    try:
        connection = socket.socket(fileno=own if own >= 0 else descriptor)
    except OSError:
        if own >= 0:
            os.close(own)
        raise
    try:
        if not is_there(connection.fileno(), inode):
            raise OSError("another connection")
        yield connection
    finally:
        if own >= 0:
            connection.close()
        else:
            connection.detach()


def peer_address(descriptor: int) -> str:
    """Of the other side's machine, without a port; "" of ipc://."""
    address = _asked(descriptor, socket.socket.getpeername)
    return str(address[0]) if isinstance(address, tuple) else ""


def local_port(descriptor: int) -> int:
    """The port that it came to, or `NO_PORT`."""
    address = _asked(descriptor, socket.socket.getsockname)
    return int(address[1]) if isinstance(address, tuple) else NO_PORT


def bound_within_host(descriptor: int, inode: int) -> None:
    """Keep what the kernel holds of a TCP connection that stays on this host so small that the caches have it.

    Left to itself Linux lets it grow to 4 MB, all of which goes through the memory then: raw 1080p pictures over
    loopback, 427 → 544 frames/s. Frames of 30 kB come 7 % slower with it, so it is for large ones, and to other hosts
    it would bound what is under way. Linux takes twice of what it is told, and less where `net.core.wmem_max` is
    smaller.
    """
    with contextlib.suppress(OSError), _own(descriptor, inode) as connection:
        here, there = connection.getsockname(), connection.getpeername()
        if isinstance(here, tuple) and here[0] == there[0]:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)


def _asked(descriptor: int, question: Callable[[socket.socket], Any]) -> Any:
    """What a descriptor's socket says, or None; it stays open."""
    try:
        connection = socket.socket(fileno=descriptor)
    except OSError:
        return None
    try:
        return question(connection)
    except OSError:
        return None
    finally:
        connection.detach()


def received_bytes(descriptor: int) -> int | None:
    """What came over a TCP connection in all; None where that cannot be told, or it is gone."""
    info = _tcp_info(descriptor)
    return None if info is None else info[1]


def acknowledged_bytes(descriptor: int) -> int | None:
    """What the other side of a TCP connection has in all; None where that cannot be told, or it is gone."""
    info = _tcp_info(descriptor)
    return None if info is None else info[0]


def round_trip_s(descriptor: int) -> float:
    """The shortest round trip of a TCP connection so far; 0 where that cannot be told, or it is gone."""
    info = _tcp_info(descriptor)
    return 0.0 if info is None else info[2] / 1e6


def _tcp_info(descriptor: int) -> tuple[int, int, int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=descriptor)
    except OSError:
        return None
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    except OSError:
        return None
    finally:
        connection.detach()
    if len(info) < _TCP_INFO.size:
        return None
    acknowledged, received, round_trip_us = _TCP_INFO.unpack(info)
    return acknowledged, received, round_trip_us


def memory_bytes() -> int:
    """This process's memory; 0 where that cannot be told."""
    try:
        # Twenty times a second: the plain calls cost 6 µs, `Path.read_bytes` 60.
        descriptor = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return int(os.read(descriptor, 256).split()[1]) * _PAGE_BYTES
    finally:
        os.close(descriptor)
