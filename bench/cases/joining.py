"""Late joiners: how soon one who comes in the middle has a picture, of a slow camera and of H.264."""

from __future__ import annotations

import functools
import random
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from case import Case, Metric, Plan, Variant
from footage import make_film
from late_joiner import join
from peers import eclipse_zenoh, fabric, image_zmq, plain_pyzmq
from peers.peer import Link, Peer
from pictures import HD
from processes import free_endpoint, running
from stage import Figures, Load, Stage, free_link, send

__all__ = ["JOINING"]

_FPS: Final = 1.0
_GAP_S: Final = 8.4


def _join_often(pipe: Connection, peer: Peer, link: Link, count: int) -> None:
    times = []
    for _ in range(count):
        time.sleep(random.uniform(0.1, 0.9) / _FPS)
        begun = time.monotonic()
        with peer.receiver(link) as take:
            take()
            times.append(1e3 * (time.monotonic() - begun))
    pipe.send({"first_ms": statistics.median(times), "latest_ms": max(times)})


def _of_stills(peer: Peer, seconds: float) -> Figures:
    link = free_link(content="bytes", size=HD)
    with Stage() as stage:
        sender = stage.start(send, peer, link, Load(_FPS))
        sender.answer()
        joiner = stage.start(_join_often, peer, link, max(int(seconds), 2))
        figures: Figures = joiner.answer(12 + 4 * seconds)
    return figures


def _of_video(seconds: float) -> Figures:
    film = make_film(
        Path(tempfile.gettempdir()) / "camfabric-bench-360p.mp4",
        size=(640, 360), fps=30, seconds=42, bit_rate=300_000, gop=int(30 * _GAP_S), b_frames=3,
    )  # fmt: skip
    publishers, subscribers = free_endpoint(), free_endpoint()
    with running(
        ("broker", "--publishers", publishers, "--subscribers", subscribers),
        ("publish", str(film), "--loop", "--codec", "copy", "--camera", "bench/late", "--to", publishers),
    ):
        join(subscribers)
        times = []
        for _ in range(max(int(seconds), 2)):
            time.sleep(random.uniform(0.1, min(seconds, 4.0)))
            times.append(join(subscribers)[0])
    return {"first_ms": statistics.median(times), "latest_ms": max(times)}


def _variants(plan: Plan) -> list[Variant]:
    peers = [fabric.FABRIC, eclipse_zenoh.HISTORY, plain_pyzmq.PUB_SUB, image_zmq.PUB_SUB]
    rows = [
        Variant("JPEG 720p, 1 frame/s", peer.name, peer.settings, functools.partial(_of_stills, peer), peer.missing)
        for peer in (peers[:3] if plan.is_quick else peers)
    ]
    video = f"H.264 360p30, keyframes {_GAP_S} s apart, one broker"
    return [*rows, Variant(video, "camfabric", "publish --codec copy", _of_video)]


JOINING: Final = Case(
    name="joining",
    title="A late joiner's first picture",
    about="A receiver is opened at random moments, and the time counted until it has a picture, the opening "
    "included. The fabric answers from what it keeps since the last keyframe; a zenoh AdvancedPublisher keeps "
    "its last sample; the others wait for the next picture. None of the peers carries H.264 in a way that one "
    "can join.",
    metrics=(
        Metric("first_ms", "first picture, median", "ms", "less"),
        Metric("latest_ms", "the latest", "ms", "less"),
    ),
    variants=_variants,
    full=Plan(rounds=3, seconds=5.0, is_quick=False),
    quick=Plan(rounds=1, seconds=2.0, is_quick=True),
    plotted=("first_ms",),
)
