"""Passing on an RTSP camera of 1080p25: its own H.264 as it is, against JPEG made of it, as the peers have to."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import cv2
from case import CAMFABRIC, Case, Metric, Plan, Variant
from footage import make_film, rtsp_camera
from peers import image_zmq, net_gear
from peers.peer import Link, Peer
from pictures import FULL_HD
from processes import cpu_percent, free_endpoint, rss_mb, running
from stage import Failed, Figures, Stage, cpu_ns, free_link

from camfabric.subscriber import Subscriber

__all__ = ["PASSING_ON"]

_GROUP: Final = "RTSP 1080p25, 4 Mbit/s"
_SETTLE_S: Final = 1.0
_FIND: Final = 'import gi; gi.require_version("GstRtspServer", "1.0"); from gi.repository import GstRtspServer'


def _missing() -> str:
    try:
        found = subprocess.run(["/usr/bin/python3", "-c", _FIND], capture_output=True, check=False).returncode == 0
    except OSError:
        found = False
    return "" if found else "GStreamer's RTSP server is not installed"


@contextlib.contextmanager
def _camera(seconds: float) -> Iterator[str]:
    path = Path(tempfile.gettempdir()) / "camfabric-bench-1080p25.mp4"
    try:
        with rtsp_camera(make_film(path, seconds=60)) as url:
            yield url
    except SystemExit as error:
        raise Failed(str(error)) from None


def _fabric(seconds: float) -> Figures:
    to, endpoint = free_endpoint(), free_endpoint()
    with (
        _camera(seconds) as url,
        running(
            ("broker", "--publishers", to, "--subscribers", endpoint),
            ("publish", url, "--camera", "bench/rtsp", "--to", to),
        ) as (broker, publisher),
        Subscriber(endpoint, cameras="bench/rtsp", mode="every", decode=False) as subscriber,
    ):
        try:
            subscriber.read(timeout=20)
        except TimeoutError as error:
            raise Failed(str(error)) from None
        time.sleep(_SETTLE_S)
        before = subscriber.read(timeout=5).seq
        while (frame := subscriber.take_now()) is not None:
            before = frame.seq
        percent = cpu_percent({"sender": publisher.pid, "relay": broker.pid}, seconds)
        after = before
        while (frame := subscriber.take_now()) is not None:
            after = frame.seq
        return {
            "sender_percent": percent["sender"],
            "relay_percent": percent["relay"],
            "fps": (after - before) / seconds,
            "rss_mb": rss_mb(publisher.pid),
        }


def _transcode(pipe: Connection, peer: Peer, link: Link, url: str) -> None:
    capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG)
    with peer.sender(link) as send:
        pipe.send("open")
        while True:
            found, picture = capture.read()
            if not found:
                raise Failed("the camera ended")
            send(picture)


def _receive(pipe: Connection, peer: Peer, link: Link, seconds: float) -> None:
    with peer.receiver(link) as take:
        take()
        pipe.send("first")
        end = time.monotonic() + _SETTLE_S
        while time.monotonic() < end:
            take()
        pid: int = pipe.recv()
        begun, count, cpu = time.monotonic(), 0, cpu_ns(pid)
        while (elapsed_s := time.monotonic() - begun) < seconds:
            take()
            count += 1
        pipe.send({
            "sender_percent": (cpu_ns(pid) - cpu) / 1e7 / elapsed_s, "fps": count / elapsed_s, "rss_mb": rss_mb(pid)
        })  # fmt: skip


def _peer(peer: Peer, seconds: float) -> Figures:
    link = free_link(content="coded", size=FULL_HD)
    with _camera(seconds) as url, Stage() as stage:
        receiver = stage.start(_receive, peer, link, seconds)
        sender = stage.start(_transcode, peer, link, url)
        sender.answer(20)
        receiver.answer(20)
        receiver.pipe.send(sender.pid)
        figures: Figures = receiver.answer(20 + seconds)
    return figures


def _variants(plan: Plan) -> list[Variant]:
    peers = [image_zmq.REQ_REP] if plan.is_quick else [image_zmq.REQ_REP, net_gear.REQ_REP]
    missing = _missing()
    return [
        Variant(_GROUP, CAMFABRIC, "publish rtsp://… and a broker, both as commands", _fabric, missing),
        *(
            Variant(
                _GROUP, peer.name, f"cv2.VideoCapture, then {peer.settings}", functools.partial(_peer, peer),
                missing or peer.missing,
            )
            for peer in peers
        ),
    ]  # fmt: skip


PASSING_ON: Final = Case(
    name="passthrough",
    title="Passing on an RTSP camera",
    about="GStreamer's RTSP server plays a film. The fabric passes its H.264 on as it is; the peers carry "
    "pictures alone, so their sender decodes with cv2.VideoCapture and makes JPEGs.",
    metrics=(
        Metric("sender_percent", "CPU of the sender, of a core", "%", "less"),
        Metric("relay_percent", "of the broker", "%", "less"),
        Metric("fps", "frames/s that arrive", "/s", "more"),
        Metric("rss_mb", "RSS of the sender", "MB", "less"),
    ),
    variants=_variants,
    full=Plan(rounds=3, seconds=8.0, is_quick=False),
    quick=Plan(rounds=1, seconds=1.5, is_quick=True),
    plotted=("sender_percent",),
)
