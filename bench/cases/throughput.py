"""Throughput: 1080p from an array in one process to one in another, raw and as JPEG, with the CPU at both ends."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, Final

from case import Bar, Case, Metric, Plan, Result, Variant
from peers import eclipse_zenoh, fabric, image_zmq, net_gear, plain_pyzmq, shared_memory
from peers.peer import Link, Peer
from pictures import FULL_HD, Content, decoded, encoded, make_pictures
from stage import Figures, Load, Stage, Window, cpu_ns, free_link, ipc_endpoint, stream

__all__ = ["JPEG", "RAW"]

_TCP: Final = "raw 1080p, TCP"
_IPC: Final = "raw 1080p, ipc"
_HOST: Final = "raw 1080p, same host, best way"
_JPEG: Final = "JPEG 1080p, TCP"
_RAW_FPS: Final = 700.0
"""More than anybody takes over a socket ..."""
_HOST_FPS: Final = 2500.0
"""... and through shared memory."""
_ALONE_S: Final = 1.0
_ENCODER: Final = "encoder alone"
_DECODER: Final = "decoder alone"
_BOTH: Final = "encoder and decoder at once"

_METRICS: Final = (
    Metric("fps", "frames/s", "/s", "more"),
    Metric("sender_cpu_ms", "sender CPU a frame", "ms", "less"),
    Metric("receiver_cpu_ms", "receiver CPU a frame", "ms", "less"),
    Metric("p50_ms", "age, median", "ms", "less"),
)


def _measure(peer: Peer, make_link: Callable[[], Link], fps: float, seconds: float) -> Figures:
    return stream(peer, make_link(), Load(fps), Window(seconds))


def _row(group: str, peer: Peer, fps: float, make_link: Callable[[], Link]) -> Variant:
    return Variant(group, peer.name, peer.settings, functools.partial(_measure, peer, make_link, fps), peer.missing)


def _over_tcp(content: Content) -> Link:
    return free_link(content=content, size=FULL_HD)


def _over_ipc() -> Link:
    endpoint = ipc_endpoint()
    return Link(endpoint, endpoint, size=FULL_HD)


def _raw(plan: Plan) -> list[Variant]:
    tcp = functools.partial(_over_tcp, "pixels")
    best = [plain_pyzmq.REQ_REP, plain_pyzmq.PUSH_PULL]
    everybody = [image_zmq.REQ_REP, image_zmq.PUB_SUB, net_gear.REQ_REP, net_gear.PUB_SUB, eclipse_zenoh.ZENOH]
    over_tcp = [fabric.FABRIC, *best, *(everybody[::2] if plan.is_quick else everybody)]
    over_ipc = [] if plan.is_quick else [fabric.FABRIC, *best, image_zmq.REQ_REP, eclipse_zenoh.ZENOH]
    inside = [
        fabric.FABRIC_LOCAL, shared_memory.RING, shared_memory.ICEORYX, eclipse_zenoh.SHARED, image_zmq.REQ_REP,
    ]  # fmt: skip
    return [
        *(_row(_TCP, peer, _RAW_FPS, tcp) for peer in over_tcp),
        *(_row(_IPC, peer, _RAW_FPS, _over_ipc) for peer in over_ipc),
        *(_row(_HOST, peer, _HOST_FPS, tcp) for peer in inside),
    ]


def _against(group: str, key: str, against: str) -> Callable[[Result], float | None]:
    def value(result: Result) -> float | None:
        spread = result.ratio(group, key, against)
        return spread.median if spread is not None else None

    return value


def _against_best(group: str, prefix: str = "") -> Callable[[Result], float | None]:
    def value(result: Result) -> float | None:
        ratios = [result.ratio(group, "fps", who) for who in result.others(group) if who.startswith(prefix)]
        return min((spread.median for spread in ratios if spread is not None), default=None)

    return value


_IMAGEZMQ: Final = image_zmq.REQ_REP.name
RAW: Final = Case(
    name="raw",
    title="Raw 1080p: frames a second and CPU",
    about=f"An array of 6.2 MB from one process to another one. The sender has {_RAW_FPS:.0f} pictures a "
    f"second, on one host {_HOST_FPS:.0f}; what is not taken waits or is dropped, as each peer does it. On one "
    "host each peer goes the best way it has; imagezmq has TCP alone.",
    metrics=_METRICS,
    variants=_raw,
    full=Plan(rounds=5, seconds=1.5, is_quick=False),
    quick=Plan(rounds=1, seconds=0.5, is_quick=True),
    bars=(
        Bar("raw 1080p same host, frames/s over imagezmq's", "at least", 4, _against(_HOST, "fps", _IMAGEZMQ)),
        Bar("raw 1080p same host, frames/s over a bare ring's", "at least", 0.9,
            _against(_HOST, "fps", shared_memory.RING.name)),
        Bar("raw 1080p same host, frames/s over bare iceoryx2's", "at least", 0.9,
            _against(_HOST, "fps", shared_memory.ICEORYX.name)),
        Bar("raw 1080p same host, receiver CPU a frame over imagezmq's", "at most", 0.1,
            _against(_HOST, "receiver_cpu_ms", _IMAGEZMQ)),
        Bar("raw 1080p over TCP, frames/s over pyzmq's at its best", "at least", 0.95, _against_best(_TCP, "pyzmq")),
        Bar("raw 1080p over TCP, frames/s over the fastest peer's", "at least", 1, _against_best(_TCP)),
    ),
    plotted=("fps", "receiver_cpu_ms"),
)  # fmt: skip


def _codec_alone(pipe: Connection, decode: bool) -> None:
    images = make_pictures(FULL_HD, 8)
    coded = [encoded(image) for image in images]
    last: list[Any] = [None]
    pipe.send("open")
    while True:
        seconds: float = pipe.recv()
        begun, cpu, count = time.monotonic(), cpu_ns(0), 0
        while (elapsed_s := time.monotonic() - begun) < seconds:
            # As in a program, the last one lives until the next is there. Without that, malloc gives its memory back
            # to the kernel each time, and decoding takes twice as long.
            last[0] = decoded(coded[count % 8]) if decode else encoded(images[count % 8])
            count += 1
        pipe.send({"fps": count / elapsed_s, "sender_cpu_ms": (cpu_ns(0) - cpu) / 1e6 / count})


def _codecs(decode: Sequence[bool], seconds: float) -> list[Figures]:
    """Encoders and decoders at the same time, each in a process of its own."""
    with Stage() as stage:
        actors = [stage.start(_codec_alone, each) for each in decode]
        for actor in actors:
            actor.answer()
        for actor in actors:
            actor.pipe.send(seconds)
        return [actor.answer(seconds + 12) for actor in actors]


def _alone(decode: bool, seconds: float) -> Figures:
    return _codecs((decode,), seconds)[0]


def _both(seconds: float) -> Figures:
    """The slower of the two, while both run: what they leave each other of the caches and of the memory."""
    encoder, decoder = _codecs((False, True), seconds)
    return {
        "fps": min(encoder["fps"], decoder["fps"]),
        "sender_cpu_ms": encoder["sender_cpu_ms"],
        "receiver_cpu_ms": decoder["sender_cpu_ms"],
    }


@functools.cache
def _slower_fps() -> float:
    """What the slower of encoder and decoder does by itself, on this machine, now."""
    return min(float(_alone(decode, _ALONE_S)["fps"]) for decode in (False, True))


def _measure_coded(peer: Peer, seconds: float) -> Figures:
    return _measure(peer, functools.partial(_over_tcp, "coded"), _slower_fps(), seconds)


def _coded_row(peer: Peer) -> Variant:
    return Variant(_JPEG, peer.name, peer.settings, functools.partial(_measure_coded, peer), peer.missing)


def _jpeg(plan: Plan) -> list[Variant]:
    peers = [
        fabric.FABRIC, plain_pyzmq.PUSH_PULL, image_zmq.REQ_REP, image_zmq.PUB_SUB, net_gear.REQ_REP, net_gear.PUB_SUB,
        eclipse_zenoh.ZENOH,
    ]  # fmt: skip
    return [
        *map(_coded_row, peers[::2] if plan.is_quick else peers),
        Variant(_JPEG, _ENCODER, "OpenCV, quality 80, nothing else runs", functools.partial(_alone, False)),
        Variant(_JPEG, _DECODER, "OpenCV, nothing else runs", functools.partial(_alone, True)),
        Variant(_JPEG, _BOTH, "in two processes with nothing between them", _both),
    ]


def _of_slower(result: Result) -> float | None:
    ratios = [result.ratio(_JPEG, "fps", who) for who in (_ENCODER, _DECODER)]
    return max((spread.median for spread in ratios if spread is not None), default=None)


JPEG: Final = Case(
    name="jpeg",
    title="JPEG 1080p: encoded, sent and decoded",
    about="From array to array by way of JPEG, quality 80. The last rows are how fast OpenCV is by itself. The "
    "slower codec bounds all of the others, so the sender has as many pictures a second as that one does: what is "
    "encoded beyond it costs the decoder its time, where there are two cores for all.",
    metrics=_METRICS,
    variants=_jpeg,
    full=Plan(rounds=5, seconds=1.5, is_quick=False),
    quick=Plan(rounds=1, seconds=0.6, is_quick=True),
    bars=(Bar("JPEG 1080p end to end, over the slower of encoder and decoder alone", "at least", 0.95, _of_slower),),
    plotted=("fps",),
)
