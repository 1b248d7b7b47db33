"""Listening sockets that bound how many connections there are: beyond it, descriptors would run out."""

from __future__ import annotations

import socket
from typing import Any, Final

__all__ = ["Room", "open_listeners"]


class Room:
    """How many connections there are, of so many that there may be. Used on the event loop."""

    def __init__(self, most: int) -> None:
        self.most: Final = most
        self.taken = 0


class _Connection(socket.socket):
    """Counts as long as it is open."""

    room: Room | None = None

    def close(self) -> None:
        """Close it."""
        room, self.room = self.room, None
        if room is not None:
            room.taken -= 1
        super().close()


class _Listener(socket.socket):
    """Accepts connections while there is room, and closes the newest beyond it at once, before any TLS."""

    room: Room

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection.

        Raises:
            BlockingIOError: there is none, or no room for it.
        """
        accepted, address = super().accept()
        if self.room.taken >= self.room.most:
            accepted.close()
            raise BlockingIOError
        connection = _Connection(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        connection.room = self.room
        self.room.taken += 1
        return connection, address


def open_listeners(host: str | None, port: int, room: Room) -> list[socket.socket]:
    """Sockets bound to each address of a host; None for every address of this machine.

    Raises:
        OSError: the address is taken, or not one of this machine.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[_Listener] = []
    try:
        for family, kind, proto, _, address in dict.fromkeys(found):
            try:
                listener = _Listener(family, kind, proto)
            except OSError:
                continue  # a machine without IPv6
            listeners.append(listener)
            listener.room = room
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # A port that the system chooses is the same for all.
            listener.bind((address[0], port or _port_of(listeners[0]), *address[2:]))
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return [*listeners]


def _port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port
