"""imagezmq: `ImageSender` and `ImageHub` in both of their patterns."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, Final

from pictures import decoded, encoded

from peers.peer import Link, Peer, Send, Take

__all__ = ["PUB_SUB", "REQ_REP"]


@contextlib.contextmanager
def _sender(link: Link, replies: bool) -> Iterator[Send]:
    import imagezmq

    sender = imagezmq.ImageSender(connect_to=link.send_to, REQ_REP=replies)
    sender.zmq_socket.linger = 0

    def send(picture: Any) -> None:
        if link.content == "pixels":
            sender.send_image("bench", picture)
        else:
            sender.send_jpg("bench", encoded(picture) if link.content == "coded" else picture)

    with sender:
        yield send


@contextlib.contextmanager
def _receiver(link: Link, replies: bool) -> Iterator[Take]:
    import imagezmq

    hub = imagezmq.ImageHub(open_port=link.take_from, REQ_REP=replies)

    def take() -> Any:
        _, picture = hub.recv_image() if link.content == "pixels" else hub.recv_jpg()
        if replies:
            hub.send_reply(b"OK")
        return decoded(picture) if link.content == "coded" else getattr(picture, "buffer", picture)

    with hub:
        yield take


def _pattern(name: str, replies: bool) -> Peer:
    return Peer(
        f"imagezmq {name}",
        f"REQ_REP={replies}",
        functools.partial(_sender, replies=replies),
        functools.partial(_receiver, replies=replies),
        "imagezmq",
    )


REQ_REP: Final = _pattern("REQ/REP", True)
PUB_SUB: Final = _pattern("PUB/SUB", False)
