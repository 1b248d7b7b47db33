"""Idle cameras: what a hundred of them cost that nobody watches."""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Final

from case import CAMFABRIC, Case, Metric, Plan, Variant
from peers import image_zmq
from peers.eclipse_zenoh import ZENOH, open_session, route
from peers.peer import Link, Send
from pictures import HD, encoded, make_pictures
from processes import free_endpoint, rss_mb
from stage import Figures, Stage, cpu_ns, relay

from camfabric.broker import Broker
from camfabric.publisher import Publisher

__all__ = ["IDLE"]

_CAMERAS: Final = 100
_FPS: Final = 2.0
_GROUP: Final = f"{_CAMERAS} cameras, 720p JPEG at {_FPS:g} frames/s, nobody subscribes"


def _fabric(stack: contextlib.ExitStack, to: str) -> list[Send]:
    publishers = [stack.enter_context(Publisher(f"bench/{number}", to=to)) for number in range(_CAMERAS)]
    return [functools.partial(publisher.send, copy=False) for publisher in publishers]


def _imagezmq(stack: contextlib.ExitStack, to: str) -> list[Send]:
    # Names of Linux's own: so many free ports are hard to come by, and files would stay.
    endpoints = [f"ipc://@camfabric-bench-{os.getpid()}-{number}" for number in range(_CAMERAS)]
    links = [Link(endpoint, endpoint, content="coded") for endpoint in endpoints]
    return [stack.enter_context(image_zmq.PUB_SUB.sender(link)) for link in links]


def _zenoh(stack: contextlib.ExitStack, to: str, asks: bool) -> list[Send]:
    session = stack.enter_context(open_session("client", connect=to))
    publishers = [session.declare_publisher(f"bench/{number}") for number in range(_CAMERAS)]

    def send(publisher: Any, picture: Any) -> None:
        if not asks or publisher.matching_status.matching:
            publisher.put(encoded(picture))

    return [functools.partial(send, publisher) for publisher in publishers]


def _idle(pipe: Connection, make: Callable[..., list[Send]], to: str) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    picture = make_pictures(HD, 1)[0]
    with contextlib.ExitStack() as stack:
        senders = make(stack, to)
        due, sent = time.monotonic(), 0
        warm, measuring, cpu, seconds, begun = due + 1.5, False, 0, 0.0, 0.0
        pids: list[int] = []
        pipe.send("open")
        while True:
            for send in senders:
                send(picture)
                sent += 1
                due += 1 / _FPS / _CAMERAS
                if (wait_s := due - time.monotonic()) > 0:
                    time.sleep(wait_s)
                else:
                    due -= wait_s
            now = time.monotonic()
            if not measuring and now > warm:
                seconds, pids = pipe.recv()
                measuring, begun, sent = True, time.monotonic(), 0
                cpu, relays = cpu_ns(0), sum(map(cpu_ns, pids))
                due = begun
            elif measuring and now >= begun + seconds:
                elapsed_s = now - begun
                pipe.send({
                    "sender_percent": (cpu_ns(0) - cpu) / 1e7 / elapsed_s,
                    "relay_percent": (sum(map(cpu_ns, pids)) - relays) / 1e7 / elapsed_s,
                    "rss_mb": rss_mb(),
                    "fps": sent / elapsed_s / _CAMERAS,
                })  # fmt: skip
                return


def _broker(publishers: str, subscribers: str) -> None:
    Broker(publishers=(publishers,), subscribers=(subscribers,)).run()


def _measure(
    make: Callable[..., list[Send]], run: Callable[..., None] | None, arguments: int, seconds: float
) -> Figures:
    to = free_endpoint()
    with Stage() as stage:
        pids = []
        if run is not None:
            between = stage.start(relay, run, (to, free_endpoint())[:arguments])
            between.answer()
            pids = [between.pid]
        actor = stage.start(_idle, make, to)
        actor.answer(30)
        actor.pipe.send((seconds, pids))
        figures: Figures = actor.answer(30 + seconds)
    return figures


def _variants(plan: Plan) -> list[Variant]:
    asking, plain = functools.partial(_zenoh, asks=True), functools.partial(_zenoh, asks=False)
    rows = [
        Variant(
            _GROUP, CAMFABRIC, f"{_CAMERAS} Publishers, a broker", functools.partial(_measure, _fabric, _broker, 2)
        ),
        Variant(
            _GROUP, "zenoh, asking", "encodes only if matching_status says so; a router",
            functools.partial(_measure, asking, route, 1), ZENOH.missing,
        ),
        Variant(
            _GROUP, "zenoh", "encodes whatever comes; a router",
            functools.partial(_measure, plain, route, 1), ZENOH.missing,
        ),
        Variant(
            _GROUP, image_zmq.PUB_SUB.name, f"{_CAMERAS} ImageSenders, REQ_REP=False",
            functools.partial(_measure, _imagezmq, None, 0), image_zmq.PUB_SUB.missing,
        ),
    ]  # fmt: skip
    return [rows[0], rows[1], rows[3]] if plan.is_quick else rows


IDLE: Final = Case(
    name="idle",
    title="A hundred cameras that nobody watches",
    about="All in one process, each with pictures to give twice a second. The fabric does not encode them, and "
    "says of each camera once a second how it is. imagezmq has no way to know that nobody listens; a NetGear "
    "sender needs a receiver.",
    metrics=(
        Metric("sender_percent", "CPU of the cameras, of a core", "%", "less"),
        Metric("relay_percent", "of the broker or router", "%", "less"),
        Metric("rss_mb", "RSS of the cameras", "MB", "less"),
        Metric("fps", "frames/s that each could give", "/s", "more"),
    ),
    variants=_variants,
    full=Plan(rounds=3, seconds=5.0, is_quick=False),
    quick=Plan(rounds=1, seconds=1.0, is_quick=True),
    plotted=("sender_percent",),
)
