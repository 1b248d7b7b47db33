"""Latency: how old a picture is when the other process has it, at 30 frames/s, directly and through relays."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, Final

import zmq
from case import CAMFABRIC, Bar, Case, Metric, Plan, Result, Variant
from peers import eclipse_zenoh, fabric, image_zmq, net_gear, plain_pyzmq, shared_memory
from peers.peer import Link, Peer
from pictures import HD, Content
from processes import free_endpoint
from stage import Figures, Load, Relay, Window, free_link, stream

from camfabric.broker import Broker

__all__ = ["LATENCY", "Chain", "brokers", "proxies"]

_FPS: Final = 30.0
_WAYS: Final = {0: "direct", 1: "one relay", 3: "three relays"}
_CONTENTS: Final[dict[Content, str]] = {"bytes": "JPEG 720p as it is", "coded": "JPEG 720p", "pixels": "raw 720p"}

Chain = Callable[[list[str]], list[Relay]]
"""Relays that lead from the first endpoint to the last."""


def _broker(publishers: str, subscribers: str, upstream: str) -> None:
    own = (publishers,) if not upstream else ()
    Broker(publishers=own, subscribers=(subscribers,), upstreams=(upstream,) if upstream else ()).run()


def brokers(endpoints: list[str]) -> list[Relay]:
    """Brokers in a row."""
    pairs = list(itertools.pairwise(endpoints))
    return [Relay(_broker, (source, to, source if number else "")) for number, (source, to) in enumerate(pairs)]


def _proxy(source: str, to: str, is_first: bool) -> None:
    context: zmq.Context[Any] = zmq.Context()
    inlet, outlet = context.socket(zmq.XSUB), context.socket(zmq.XPUB)
    if is_first:
        inlet.bind(source)
    else:
        inlet.connect(source)
    outlet.bind(to)
    zmq.proxy(inlet, outlet)


def proxies(endpoints: list[str]) -> list[Relay]:
    """Processes that do nothing but `zmq.proxy`, in a row."""
    pairs = list(itertools.pairwise(endpoints))
    return [Relay(_proxy, (source, to, not number)) for number, (source, to) in enumerate(pairs)]


def _routers(endpoints: list[str]) -> list[Relay]:
    return [Relay(eclipse_zenoh.route, (endpoints[0],))]


def _measure(peer: Peer, chain: Chain | None, content: Content, hops: int, seconds: float) -> Figures:
    link, relays = free_link(content=content, size=HD), []
    if chain is not None and hops:
        endpoints = [free_endpoint() for _ in range(hops + 1)]
        relays = chain(endpoints)
        is_router = chain is _routers
        link = Link(endpoints[0], endpoints[0 if is_router else -1], content=content, size=HD, relayed=True)
    return stream(peer, link, Load(_FPS), Window(seconds), relays=relays)


def _row(
    peer: Peer, content: Content, hops: int = 0, chain: Chain | None = None, relay: str = "", way: str = ""
) -> Variant:
    group = f"{_CONTENTS[content]}, {way or _WAYS[hops]}"
    settings = peer.settings + (f"; {relay}" if relay else "")
    return Variant(group, peer.name, settings, functools.partial(_measure, peer, chain, content, hops), peer.missing)


def _variants(plan: Plan) -> list[Variant]:
    rows = []
    contents: tuple[Content, ...] = ("bytes",) if plan.is_quick else ("bytes", "coded", "pixels")
    for content in contents:
        peers = [fabric.FABRIC, plain_pyzmq.PUB_SUB, image_zmq.REQ_REP, image_zmq.PUB_SUB, eclipse_zenoh.ZENOH]
        if content != "bytes":
            peers += [net_gear.REQ_REP, net_gear.PUB_SUB]
        rows += [_row(peer, content) for peer in (peers[:3] if plan.is_quick else peers)]
    if not plan.is_quick:
        inside = [fabric.FABRIC_LOCAL, shared_memory.RING, shared_memory.ICEORYX, eclipse_zenoh.SHARED]
        rows += [_row(peer, "pixels", way="same host, best way") for peer in inside]
    for content in contents if plan.is_quick else contents[:: len(contents) - 1]:
        for hops in (1, 3):
            rows.append(_row(fabric.FABRIC, content, hops, brokers, "camfabric broker"))
            rows.append(_row(plain_pyzmq.PUB_SUB, content, hops, proxies, "zmq.proxy"))
        rows.append(_row(eclipse_zenoh.ZENOH, content, 1, _routers, "zenoh router"))
    return rows


def _figure(hops: int, key: str) -> Callable[[Result], float | None]:
    def value(result: Result) -> float | None:
        spread = result.spread(f"{_CONTENTS['bytes']}, {_WAYS[hops]}", CAMFABRIC, key)
        return None if spread is None else spread.median

    return value


def _a_broker(hops: int) -> Callable[[Result], float | None]:
    def value(result: Result) -> float | None:
        direct, through = _figure(0, "p50_ms")(result), _figure(hops, "p50_ms")(result)
        return None if direct is None or through is None else (through - direct) / hops

    return value


LATENCY: Final = Case(
    name="latency",
    title="Latency at 30 frames/s",
    about='From just before a picture is given to the sender until the receiver has it. "JPEG as it is" is a '
    'camera\'s own JPEG, passed on and taken without coding: what the way itself costs. "JPEG" is from array '
    "to array, coding included. NetGear cannot pass on a JPEG; imagezmq and NetGear have no relay. One zenoh "
    "router, for a row of them is no setting of one machine.",
    metrics=(
        Metric("p50_ms", "p50", "ms", "less"),
        Metric("p99_ms", "p99", "ms", "less"),
        Metric("sender_cpu_ms", "sender CPU a frame", "ms", "less"),
        Metric("receiver_cpu_ms", "receiver CPU a frame", "ms", "less"),
        Metric("relay_cpu_ms", "relays' CPU a frame", "ms", "less"),
    ),
    variants=_variants,
    full=Plan(rounds=3, seconds=3.0, is_quick=False),
    quick=Plan(rounds=1, seconds=0.7, is_quick=True),
    bars=(
        Bar("latency added, 720p JPEG 30 fps, p50, direct", "at most", 0.5, _figure(0, "p50_ms"), "ms"),
        Bar("latency added, 720p JPEG 30 fps, p99, direct", "at most", 2, _figure(0, "p99_ms"), "ms"),
        Bar("each broker more, p50, of one", "at most", 0.3, _a_broker(1), "ms"),
        Bar("each broker more, p50, of three", "at most", 0.3, _a_broker(3), "ms"),
    ),
    plotted=("p50_ms", "p99_ms"),
)
