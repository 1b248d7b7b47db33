"""vidgear's NetGear. It carries pictures alone, raw or as JPEG of its own making; a camera's JPEG it cannot pass on."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, Final

from peers.peer import Link, Peer, Send, Take

__all__ = ["PUB_SUB", "REQ_REP"]

_QUALITY: Final = 80


def _open(link: Link, *, pattern: int, receive: bool) -> Any:
    import logging

    from vidgear.gears import NetGear

    logging.disable(logging.WARNING)
    address, _, port = (link.take_from if receive else link.send_to).removeprefix("tcp://").rpartition(":")
    # FastDCT is its default and stays.
    options: dict[str, Any] = {"jpeg_compression": link.content == "coded", "jpeg_compression_quality": _QUALITY}
    return NetGear(
        address=address, port=port, protocol="tcp", pattern=pattern, receive_mode=receive, logging=False, **options
    )


@contextlib.contextmanager
def _sender(link: Link, pattern: int) -> Iterator[Send]:
    gear = _open(link, pattern=pattern, receive=False)
    try:
        yield gear.send
    finally:
        gear.close()


@contextlib.contextmanager
def _receiver(link: Link, pattern: int) -> Iterator[Take]:
    gear = _open(link, pattern=pattern, receive=True)
    try:
        yield gear.recv
    finally:
        gear.close()


def _pattern(name: str, number: int) -> Peer:
    return Peer(
        f"NetGear {name}",
        f"pattern={number}, JPEG by simplejpeg with fastdct, quality {_QUALITY}, or none",
        functools.partial(_sender, pattern=number),
        functools.partial(_receiver, pattern=number),
        "vidgear",
    )


REQ_REP: Final = _pattern("REQ/REP", 1)
PUB_SUB: Final = _pattern("PUB/SUB", 2)
