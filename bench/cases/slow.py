"""A slow consumer: how old its pictures are, and what it weighs, after a while."""

from __future__ import annotations

import functools
from typing import Final

from case import Bar, Case, Metric, Plan, Result, Variant
from peers import eclipse_zenoh, fabric, image_zmq, net_gear, plain_pyzmq
from peers.peer import Peer
from pictures import HD
from stage import Figures, Load, Window, free_link, stream

__all__ = ["SLOW"]

_LOAD: Final = Load(fps=30.0, work_s=0.2)
_GROUP: Final = "720p raw at 30 frames/s, 200 ms of work with each"


def _measure(peer: Peer, seconds: float) -> Figures:
    return stream(peer, free_link(content="pixels", size=HD), _LOAD, Window(seconds, warm_up_s=0))


def _variants(plan: Plan) -> list[Variant]:
    peers = [
        fabric.FABRIC, image_zmq.PUB_SUB, image_zmq.REQ_REP, net_gear.REQ_REP, net_gear.PUB_SUB, eclipse_zenoh.NEWEST,
        plain_pyzmq.PUB_SUB, plain_pyzmq.NEWEST,
    ]  # fmt: skip
    if plan.is_quick:
        peers = [peers[0], peers[1], peers[4], peers[5]]
    return [
        Variant(_GROUP, peer.name, peer.settings, functools.partial(_measure, peer), peer.missing) for peer in peers
    ]


def _share_of(who: str, result: Result) -> float | None:
    share = result.ratio(_GROUP, "p50_ms", who)
    return None if share is None else share.median


SLOW: Final = Case(
    name="slow",
    title="A slow consumer",
    about="Ages are taken when the consumer gets a picture. The fabric, zenoh's ring and CONFLATE keep the newest, "
    "the last one of one camera a socket, and with no header; of the others this is what they do by themselves. With "
    "REQ/REP the sender waits for the consumer: it has one picture under way, and its camera has to wait too.",
    metrics=(
        Metric("p50_ms", "age, median", "ms", "less"),
        Metric("p99_ms", "age, p99", "ms", "less"),
        Metric("grown_mb", "RSS, grown by", "MB", "less"),
        Metric("rss_mb", "RSS, most", "MB", "less"),
    ),
    variants=_variants,
    full=Plan(rounds=1, seconds=15.0, is_quick=False),
    quick=Plan(rounds=1, seconds=2.0, is_quick=True),
    bars=tuple(
        Bar(f"slow consumer, median age over {peer.name}'s", "at most", 0.01, functools.partial(_share_of, peer.name))
        for peer in (image_zmq.PUB_SUB, image_zmq.REQ_REP, net_gear.REQ_REP, net_gear.PUB_SUB)
    ),
    plotted=("p50_ms",),
    lines=(
        Metric("age_over_time", "age over time", "ms", "less"),
        Metric("rss_over_time", "RSS over time", "MB", "less"),
    ),
)
