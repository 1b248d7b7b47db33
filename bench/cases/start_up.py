"""Start-up: from the start of an interpreter to the first picture, and what each process weighs."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, Final

from case import CAMFABRIC, Case, Metric, Plan, Variant
from peers import eclipse_zenoh, fabric, image_zmq, net_gear, plain_pyzmq
from peers.peer import Peer
from pictures import HD
from processes import free_endpoint, rss_mb
from stage import Figures, Load, Stage, Window, free_link, relay, send, take

from cases.latency import brokers, proxies

__all__ = ["START_UP"]

_ENDS: Final = "sender and receiver, 720p JPEG"
_RELAYS: Final = "relay"


def _ends(peer: Peer, seconds: float) -> Figures:
    link, load = free_link(content="coded", size=HD), Load(30.0)
    with Stage(fresh=True) as stage:
        begun = time.monotonic()
        sender = stage.start(send, peer, link, load)
        # One that needs a receiver to open has it after a while.
        opened = sender.pipe.poll(3.0)
        sender_s = time.monotonic() - begun
        begun = time.monotonic()
        receiver = stage.start(take, peer, link, load, Window(0.1))
        receiver.answer()
        receiver.answer()
        receiver_s = time.monotonic() - begun
        time.sleep(min(seconds, 2.0))
        return {
            "sender_s": sender_s if opened else float("nan"),
            "receiver_s": receiver_s,
            "sender_mb": rss_mb(sender.pid),
            "receiver_mb": rss_mb(receiver.pid),
        }


def _relay(run: Callable[..., None], arguments: tuple[Any, ...], seconds: float) -> Figures:
    with Stage(fresh=True) as stage:
        begun = time.monotonic()
        between = stage.start(relay, run, arguments)
        between.answer()
        started_s = time.monotonic() - begun
        time.sleep(min(seconds, 2.0))
        return {"sender_s": started_s, "sender_mb": rss_mb(between.pid)}


def _variants(plan: Plan) -> list[Variant]:
    peers = [fabric.FABRIC, image_zmq.REQ_REP, net_gear.REQ_REP, eclipse_zenoh.ZENOH, plain_pyzmq.PUB_SUB]
    rows = [
        Variant(_ENDS, peer.name, peer.settings, functools.partial(_ends, peer), peer.missing)
        for peer in (peers[:2] if plan.is_quick else peers)
    ]
    for who, settings, make in ((CAMFABRIC, "Broker", brokers), ("zmq.proxy", "XSUB to XPUB", proxies)):
        one = make([free_endpoint(), free_endpoint()])[0]
        rows.append(Variant(_RELAYS, who, settings, functools.partial(_relay, one.run, one.arguments)))
    return rows


START_UP: Final = Case(
    name="startup",
    title="Start-up and memory",
    about="Each process in an interpreter of its own. The sender's time ends when its socket is open, the receiver's when it "
    "has its first picture. RSS is that of the process after two seconds of work; NumPy, OpenCV and the benchmark's own "
    "pictures (22 MB) are in that of each end, the benchmark itself in that of each relay.",
    metrics=(
        Metric("sender_s", "sender or relay starts in", "s", "less"),
        Metric("receiver_s", "receiver has a picture in", "s", "less"),
        Metric("sender_mb", "RSS of sender or relay", "MB", "less"),
        Metric("receiver_mb", "RSS of receiver", "MB", "less"),
    ),
    variants=_variants,
    full=Plan(rounds=3, seconds=2.0, is_quick=False),
    quick=Plan(rounds=1, seconds=0.3, is_quick=True),
    plotted=("sender_mb",),
)
