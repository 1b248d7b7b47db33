"""The fabric itself: a `Publisher` and a `Subscriber`, as a program uses them."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any, Final

from camfabric.common.frame import Codec
from camfabric.publisher import Publisher
from camfabric.subscriber import Subscriber
from peers.peer import Link, Peer, Send, Take

__all__ = ["FABRIC", "FABRIC_LOCAL", "HAS_LOCAL"]

_CAMERA: Final = "bench/1"
_CODECS: Final = {"pixels": "raw", "coded": "jpeg", "bytes": "copy"}
HAS_LOCAL: Final = "local" in inspect.signature(Subscriber).parameters
"""Whether this version has shared memory."""


@contextlib.contextmanager
def _sender(link: Link) -> Iterator[Send]:
    where: dict[str, Any] = {"to" if link.relayed else "bind": link.send_to}
    with Publisher(_CAMERA, codec=_CODECS[link.content], **where) as publisher:

        def send(picture: Any) -> None:
            if link.content == "bytes":
                publisher.send_packet(picture, codec=Codec.JPEG, size=link.size, keyframe=True)
            else:
                publisher.send(picture, copy=False)

        yield send


def _open(link: Link, **local: Any) -> Subscriber:
    return Subscriber(link.take_from, cameras=_CAMERA, decode=link.content != "bytes", **local)


@contextlib.contextmanager
def _taking(subscriber: Subscriber, link: Link) -> Iterator[Take]:
    with subscriber:
        if link.content == "bytes":
            yield lambda: subscriber.read().payload
        else:
            yield lambda: subscriber.read().image


@contextlib.contextmanager
def _receiver(link: Link) -> Iterator[Take]:
    local = {"local": "off"} if HAS_LOCAL else {}
    with _taking(_open(link, **local), link) as take:
        yield take


@contextlib.contextmanager
def _local_receiver(link: Link) -> Iterator[Take]:
    local = {"local": "auto"} if HAS_LOCAL else {}
    with _taking(_open(link, **local), link) as take:
        yield take


FABRIC: Final = Peer("camfabric", "Publisher.send(copy=False), Subscriber(mode='latest')", _sender, _receiver)
FABRIC_LOCAL: Final = Peer(
    "camfabric",
    "Publisher.send(copy=False), "
    + ("Subscriber(local='auto')" if HAS_LOCAL else "this version has no shared memory: ZeroMQ"),
    _sender,
    _local_receiver,
)
