"""pyzmq alone: what a few lines of one's own would reach."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import zmq
from pictures import decoded, encoded

from peers.peer import Link, Peer, Send, Take

__all__ = ["NEWEST", "PUB_SUB", "PUSH_PULL", "REQ_REP", "SNDBUF"]

_HWM: Final = 4
SNDBUF: Final = 384 * 1024
"""For raw pictures: what is on its way stays in the caches."""


@contextlib.contextmanager
def _sender(link: Link, kind: int, conflate: bool) -> Iterator[Send]:
    context: zmq.Context[Any] = zmq.Context()
    socket = context.socket(kind)
    socket.linger = 0
    socket.sndhwm = _HWM
    socket.conflate = conflate
    if link.content == "pixels" and link.send_to.startswith("tcp:"):
        socket.sndbuf = SNDBUF
    if link.relayed:
        socket.connect(link.send_to)
    else:
        socket.bind(link.send_to)

    def send(picture: Any) -> None:
        socket.send(encoded(picture) if link.content == "coded" else picture, copy=False)
        if kind == zmq.REQ:
            socket.recv()

    try:
        yield send
    finally:
        context.destroy(0)


@contextlib.contextmanager
def _receiver(link: Link, kind: int, conflate: bool) -> Iterator[Take]:
    context: zmq.Context[Any] = zmq.Context()
    socket = context.socket(kind)
    socket.rcvhwm = _HWM
    socket.conflate = conflate
    if kind == zmq.SUB:
        socket.subscribe(b"")
    socket.connect(link.take_from)
    width, height = link.size

    def take() -> Any:
        data = socket.recv(copy=False).buffer
        if kind == zmq.REP:
            socket.send(b"")
        if link.content == "bytes":
            return data
        if link.content == "coded":
            return decoded(data)
        return np.frombuffer(data, np.uint8).reshape(height, width, 3)

    try:
        yield take
    finally:
        context.destroy(0)


def _pair(name: str, send: int, take: int, *, conflate: bool = False) -> Peer:
    return Peer(
        f"pyzmq {name}",
        f"one part, copy=False at both ends, {'CONFLATE' if conflate else f'HWM {_HWM}'}; "
        f"for raw pictures over TCP SNDBUF {SNDBUF // 1024} kB",
        functools.partial(_sender, kind=send, conflate=conflate),
        functools.partial(_receiver, kind=take, conflate=conflate),
        "pyzmq",
    )


PUSH_PULL: Final = _pair("PUSH/PULL", zmq.PUSH, zmq.PULL)
REQ_REP: Final = _pair("REQ/REP", zmq.REQ, zmq.REP)
PUB_SUB: Final = _pair("PUB/SUB", zmq.PUB, zmq.SUB)
NEWEST: Final = _pair("PUB/SUB, CONFLATE", zmq.PUB, zmq.SUB, conflate=True)
"""One camera a socket, and messages of one part: that is what ZeroMQ has it for."""
