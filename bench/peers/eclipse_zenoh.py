"""Eclipse Zenoh's Python binding: over TCP, with the newest sample alone, and over its own shared memory."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from pictures import decoded, encoded

from peers.peer import Link, Peer, Send, Take

__all__ = ["HISTORY", "NEWEST", "SHARED", "ZENOH", "open_session", "route"]

_KEY: Final = "bench/1"


def open_session(mode: str, *, listen: str = "", connect: str = "", shared: bool = False) -> Any:
    """A session with no scouting: it knows its endpoints."""
    import zenoh

    config = zenoh.Config()
    config.insert_json5("mode", json.dumps(mode))
    config.insert_json5("listen/endpoints", json.dumps([_locator(listen)] if listen else []))
    config.insert_json5("connect/endpoints", json.dumps([_locator(connect)] if connect else []))
    config.insert_json5("scouting/multicast/enabled", "false")
    config.insert_json5("timestamping/enabled", "true")  # history needs it
    config.insert_json5("transport/shared_memory/enabled", json.dumps(shared))
    return zenoh.open(config)


def _locator(endpoint: str) -> str:
    return endpoint.replace("tcp://", "tcp/").replace("ipc://", "unixsock-stream/")


@contextlib.contextmanager
def _sender(link: Link, shared: bool, keeps: bool) -> Iterator[Send]:
    import zenoh
    import zenoh.ext

    where = {"connect": link.send_to} if link.relayed else {"listen": link.send_to}
    with open_session("client" if link.relayed else "peer", shared=shared, **where) as session:
        width, height = link.size
        how: dict[str, Any] = {"congestion_control": zenoh.CongestionControl.DROP, "express": True}
        if keeps:
            publisher = zenoh.ext.declare_advanced_publisher(
                session, _KEY, cache=zenoh.ext.CacheConfig(1), publisher_detection=True, **how
            )
        else:
            publisher = session.declare_publisher(_KEY, **how)
        provider = zenoh.shm.ShmProvider.default_backend(8 * width * height * 3) if shared else None

        def send(picture: Any) -> None:
            data = encoded(picture) if link.content == "coded" else picture
            data = data if isinstance(data, bytes) else data.tobytes()
            if provider is None:
                publisher.put(data)
                return
            try:
                room = provider.alloc(len(data), zenoh.shm.GarbageCollect())
            except zenoh.ZError:
                return  # all of it is in use: this picture is left out
            room[:] = data
            publisher.put(room)

        yield send


@contextlib.contextmanager
def _receiver(link: Link, newest: bool, shared: bool, keeps: bool) -> Iterator[Take]:
    import zenoh
    import zenoh.ext

    width, height = link.size
    with open_session("client" if link.relayed else "peer", connect=link.take_from, shared=shared) as session:
        handler: Any = zenoh.handlers.RingChannel(1) if newest else zenoh.handlers.FifoChannel(4)
        if keeps:
            history = zenoh.ext.HistoryConfig(detect_late_publishers=True, max_samples=1)
            subscriber = zenoh.ext.declare_advanced_subscriber(session, _KEY, handler, history=history)
        else:
            subscriber = session.declare_subscriber(_KEY, handler)

        def take() -> Any:
            payload = subscriber.recv().payload
            memory = payload.as_shm() if shared else None
            data = payload.to_bytes() if memory is None else bytes(memory)
            if link.content == "bytes":
                return data
            if link.content == "coded":
                return decoded(data)
            return np.frombuffer(data, np.uint8).reshape(height, width, 3)

        yield take


def route(endpoint: str) -> None:
    """A process: a router, until it is ended."""
    import threading

    with open_session("router", listen=endpoint):
        threading.Event().wait()


def _peer(name: str, settings: str, *, newest: bool = False, shared: bool = False, keeps: bool = False) -> Peer:
    return Peer(
        name,
        f"{settings}, CongestionControl.DROP, express, no scouting",
        functools.partial(_sender, shared=shared, keeps=keeps),
        functools.partial(_receiver, newest=newest, shared=shared, keeps=keeps),
        "eclipse-zenoh",
    )


ZENOH: Final = _peer("zenoh", "FifoChannel(4)")
HISTORY: Final = _peer(
    "zenoh, history", "AdvancedPublisher with a cache of 1, AdvancedSubscriber with history", keeps=True
)
NEWEST: Final = _peer("zenoh, ring", "RingChannel(1)", newest=True)
SHARED: Final = _peer("zenoh, shared memory", "ShmProvider of 8 pictures, FifoChannel(4)", shared=True)
