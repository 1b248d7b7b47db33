"""Fan-out: what further subscribers cost the sender, and whether all of them get everything in time."""

from __future__ import annotations

import functools
from typing import Final

from case import CAMFABRIC, Bar, Case, Metric, Plan, Result, Variant
from peers import eclipse_zenoh, fabric, image_zmq, plain_pyzmq
from peers.peer import Peer
from pictures import FULL_HD, HD, Content
from stage import Figures, Load, Window, free_link, stream

__all__ = ["FAN_OUT"]

_FPS: Final = 30.0
_HOST: Final = "raw 1080p, same host"
_FEW: Final = 4


def _measure(peer: Peer, content: Content, size: tuple[int, int], receivers: int, seconds: float) -> Figures:
    return stream(peer, free_link(content=content, size=size), Load(_FPS), Window(seconds), receivers=receivers)


def _row(peer: Peer, kind: str, content: Content, size: tuple[int, int], receivers: int) -> Variant:
    measure = functools.partial(_measure, peer, content, size, receivers)
    return Variant(_group(kind, receivers), peer.name, peer.settings, measure, peer.missing)


def _group(kind: str, receivers: int) -> str:
    return f"{kind}, {receivers} subscriber{'s' if receivers > 1 else ''}"


def _variants(plan: Plan) -> list[Variant]:
    peers = [fabric.FABRIC, plain_pyzmq.PUB_SUB, image_zmq.PUB_SUB, eclipse_zenoh.ZENOH]
    counts = (1, _FEW) if plan.is_quick else (1, _FEW, 16)
    rows = [
        _row(peer, "JPEG 720p", "bytes", HD, receivers)
        for receivers in counts
        for peer in (peers[:3] if plan.is_quick else peers)
    ]
    local = [fabric.FABRIC_LOCAL] if plan.is_quick else [fabric.FABRIC_LOCAL, image_zmq.PUB_SUB]
    return [*rows, *(_row(peer, _HOST, "pixels", FULL_HD, receivers) for receivers in (1, _FEW) for peer in local)]


def _a_further_one(result: Result) -> float | None:
    one = result.spread(_group(_HOST, 1), CAMFABRIC, "sender_cpu_ms")
    few = result.spread(_group(_HOST, _FEW), CAMFABRIC, "sender_cpu_ms")
    return None if one is None or few is None else 100 * (few.median / one.median - 1) / (_FEW - 1)


FAN_OUT: Final = Case(
    name="fanout",
    title="Fan-out",
    about="One camera of 30 frames/s, straight from the sender to 1, 4 and 16 subscribers, each a process; the "
    "camera's JPEG is passed on. p99 is that of the subscriber that fares worst. imagezmq REQ/REP and NetGear "
    "have one receiver a sender, and are left out.",
    metrics=(
        Metric("sender_cpu_ms", "sender CPU a frame", "ms", "less"),
        Metric("receiver_cpu_ms", "CPU a frame of a receiver", "ms", "less"),
        Metric("least_fps", "frames/s of the worst off", "/s", "more"),
        Metric("p99_ms", "p99 of the worst off", "ms", "less"),
    ),
    variants=_variants,
    full=Plan(rounds=3, seconds=3.0, is_quick=False),
    quick=Plan(rounds=1, seconds=0.6, is_quick=True),
    bars=(Bar("each further same-host subscriber, more publisher CPU", "at most", 2, _a_further_one, "%"),),
    plotted=("sender_cpu_ms", "p99_ms"),
)
