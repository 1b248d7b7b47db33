"""Start-up: from the start of an interpreter to the first picture, and what each process weighs."""

from __future__ import annotations

import contextlib
import functools
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Final

from case import CAMFABRIC, Case, Metric, Plan, Variant
from peers import eclipse_zenoh, fabric, image_zmq, net_gear, plain_pyzmq
from peers.peer import Peer
from pictures import HD
from processes import free_endpoint, rss_mb, start
from stage import Failed, Figures, Load, Stage, Window, free_link, send, take

__all__ = ["START_UP"]

_ENDS: Final = "sender and receiver, 720p JPEG"
_RELAYS: Final = "relay, its command alone"
_PROXY: Final = """
import sys, zmq
context = zmq.Context()
inlet, outlet = context.socket(zmq.XSUB), context.socket(zmq.XPUB)
inlet.bind(sys.argv[1]); outlet.bind(sys.argv[2])
zmq.proxy(inlet, outlet)
"""


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


def _relay(make: Callable[[str, str], subprocess.Popen[bytes]], seconds: float) -> Figures:
    publishers, subscribers = free_endpoint(), free_endpoint()
    address, _, port = subscribers.removeprefix("tcp://").rpartition(":")
    begun = time.monotonic()
    process = make(publishers, subscribers)
    try:
        while True:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection((address, int(port)), 1):
                break
            if process.poll() is not None or time.monotonic() - begun > 20:
                raise Failed("the relay did not start")
            time.sleep(0.002)
        started_s = time.monotonic() - begun
        time.sleep(min(seconds, 2.0))
        return {"sender_s": started_s, "sender_mb": rss_mb(process.pid)}
    finally:
        process.terminate()
        process.wait()


def _broker(publishers: str, subscribers: str) -> subprocess.Popen[bytes]:
    return start("broker", "--publishers", publishers, "--subscribers", subscribers)


def _proxy(publishers: str, subscribers: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _PROXY, publishers, subscribers])


def _variants(plan: Plan) -> list[Variant]:
    peers = [fabric.FABRIC, image_zmq.REQ_REP, net_gear.REQ_REP, eclipse_zenoh.ZENOH, plain_pyzmq.PUB_SUB]
    rows = [
        Variant(_ENDS, peer.name, peer.settings, functools.partial(_ends, peer), peer.missing)
        for peer in (peers[:2] if plan.is_quick else peers)
    ]
    return [
        *rows,
        Variant(_RELAYS, CAMFABRIC, "camfabric broker", functools.partial(_relay, _broker)),
        Variant(_RELAYS, "zmq.proxy", "five lines of Python, XSUB to XPUB", functools.partial(_relay, _proxy)),
    ]


START_UP: Final = Case(
    name="startup",
    title="Start-up and memory",
    about="Each process in an interpreter of its own. The sender's time ends when its socket is open, the "
    "receiver's when it has its first picture. RSS is that of the process after two seconds of work; NumPy, "
    "OpenCV and the benchmark's own pictures (22 MB) are in that of each end.",
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
