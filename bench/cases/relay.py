"""A broker against ZeroMQ's own proxy: messages a second through one process, with keys and permissions and without.

The sender gives messages as fast as they are taken over one connection, the receiver counts what comes out. The broker
with keys checks each message against its sender's key; it has 50 keys and two outlets.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import zmq
from case import CAMFABRIC, Bar, Case, Metric, Plan, Result, Variant
from peers.plain_pyzmq import SNDBUF
from processes import free_endpoint
from stage import Figures, Stage, cpu_ns, relay
from zmq.auth.thread import ThreadAuthenticator

from camfabric.broker import Broker
from camfabric.common import wire
from camfabric.common.frame import Codec, Frame
from camfabric.common.keys import KeyFolder

__all__ = ["RELAY", "Way", "measure"]

_KEYS: Final = 50
_HWM: Final = 100
_SMALL_BYTES: Final = 10_000
"""Up to this, a copy is cheaper than its avoidance."""
_LARGE_BYTES: Final = 100_000
"""From this size on the proxy has a small buffer in the kernel, so that what is on its way stays in the caches."""
_PROXY: Final = "zmq.proxy"


@dataclass(frozen=True)
class Way:
    """What goes through the relay, and how."""

    size_bytes: int
    cameras: int
    folder: Path | None = None
    """Of keys; None for none."""

    @property
    def label(self) -> str:
        """Its name in the report."""
        keys = ", keys and permissions" if self.folder is not None else ""
        return f"{self.size_bytes / 1000:g} kB, {self.cameras} camera{'s' if self.cameras > 1 else ''}{keys}"


def _socket(context: zmq.Context[Any], kind: int) -> Any:
    socket = context.socket(kind)
    socket.linger = 0
    socket.sndhwm = _HWM if kind == zmq.XPUB else 0
    socket.rcvhwm = _HWM
    return socket


def _secure(socket: Any, folder: Path) -> None:
    keys = KeyFolder(folder)
    pair = keys.pair("key-0")
    socket.curve_publickey, socket.curve_secretkey = pair.public, pair.secret
    socket.curve_serverkey = keys.pair("broker").public


def _send(pipe: Connection, to: str, way: Way) -> None:
    """Frames of all cameras in turn, as fast as they are taken. Their headers are made before."""
    context: zmq.Context[Any] = zmq.Context()
    socket = _socket(context, zmq.XPUB)
    socket.setsockopt(zmq.XPUB_NODROP, 1)
    if way.folder is not None:
        _secure(socket, way.folder)
    socket.connect(to)
    payload = bytes(way.size_bytes)
    frames = [
        Frame(camera=f"c/0/{n}", codec=Codec.JPEG, width=640, height=480, epoch=n + 1) for n in range(way.cameras)
    ]
    messages = [
        [f"cam/{frame.camera}/".encode(), wire.pack_header(replace(frame, seq=seq)), payload]
        for seq in range(max(1, 1000 // way.cameras))
        for frame in frames
    ]
    copy = way.size_bytes < _SMALL_BYTES
    pipe.send("open")
    socket.recv()
    while True:
        for message in messages:
            socket.send_multipart(message, copy=copy)


def _proxy(publishers: str, subscribers: str, way: Way) -> None:
    context: zmq.Context[Any] = zmq.Context(1 if way.folder is None else 2)
    inlet, outlet = _socket(context, zmq.XSUB), _socket(context, zmq.XPUB)
    if way.folder is not None:
        admission = ThreadAuthenticator(context)
        admission.start()
        admission.configure_curve(domain="*", location=str(way.folder))
        pair = KeyFolder(way.folder).pair("broker")
        for socket in (inlet, outlet):
            socket.curve_server, socket.curve_publickey, socket.curve_secretkey = True, pair.public, pair.secret
    if way.size_bytes >= _LARGE_BYTES:
        outlet.sndbuf = SNDBUF
    inlet.bind(publishers)
    outlet.bind(subscribers)
    zmq.proxy(inlet, outlet)


def _broker(publishers: str, subscribers: str, way: Way) -> None:
    if way.folder is None:
        Broker(publishers=(publishers,), subscribers=(subscribers,)).run()
        return
    grants = "".join(f'[[publisher]]\nkey = "key-{n}"\ncameras = ["c/{n}"]\n' for n in range(_KEYS))
    path = way.folder.parent / "broker.toml"
    path.write_text(
        f'keys = "{way.folder}"\npublishers = ["{publishers}"]\n{grants}'
        f'[[outlet]]\nname = "guard"\nendpoint = "{subscribers}"\nkeys = ["key-0"]\ncameras = ["c"]\n'
        f'[[outlet]]\nname = "visitor"\nendpoint = "{free_endpoint()}"\nkeys = ["key-1"]\ncameras = ["c/1"]\n'
    )
    Broker(config=path).run()


def _count(pipe: Connection, subscribers: str, way: Way, seconds: float) -> None:
    context: zmq.Context[Any] = zmq.Context()
    socket = _socket(context, zmq.SUB)
    if way.folder is not None:
        _secure(socket, way.folder)
    socket.subscribe(b"cam/")
    socket.connect(subscribers)
    copy = way.size_bytes < _SMALL_BYTES
    pid: int = pipe.recv()
    socket.recv_multipart(copy=copy)
    for window_s in (0.3, seconds):
        begun, cpu, count = time.monotonic(), cpu_ns(pid), 0
        while (elapsed_s := time.monotonic() - begun) < window_s:
            socket.recv_multipart(copy=copy)
            count += 1
    used_us = (cpu_ns(pid) - cpu) / 1e3
    pipe.send({
        "rate": count / elapsed_s, "mb_s": count * way.size_bytes / elapsed_s / 1e6, "cpu_us": used_us / max(count, 1)
    })  # fmt: skip


def measure(run: Callable[..., None], way: Way, seconds: float) -> Figures:
    """Messages a second that come out of a relay, and its CPU for each in microseconds."""
    publishers, subscribers = free_endpoint(), free_endpoint()
    with contextlib.ExitStack() as stack:
        if way.folder is not None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "keys"
            keys = KeyFolder.make(folder)
            for name in ("broker", *(f"key-{n}" for n in range(_KEYS))):
                keys.new(name)
            way = replace(way, folder=folder)
        stage = stack.enter_context(Stage())
        between = stage.start(relay, run, (publishers, subscribers, way))
        between.answer()
        counter = stage.start(_count, subscribers, way, seconds)
        stage.start(_send, publishers, way).answer()
        counter.pipe.send(between.pid)
        figures: Figures = counter.answer(15 + seconds)
    return figures


def _rows(way: Way) -> list[Variant]:
    admission = ", ThreadAuthenticator, two I/O threads" if way.folder is not None else ""
    buffer = f", SNDBUF {SNDBUF // 1024} kB" if way.size_bytes >= _LARGE_BYTES else ""
    return [
        Variant(way.label, CAMFABRIC, "camfabric broker", functools.partial(measure, _broker, way)),
        Variant(
            way.label, _PROXY, f"XSUB to XPUB, HWM {_HWM}{buffer}{admission}", functools.partial(measure, _proxy, way)
        ),
    ]


_WITH_KEYS: Final = Path("keys")
_KEYED: Final = tuple(Way(size, 50, _WITH_KEYS) for size in (30_000, 250_000))
_PLAIN: Final = tuple(Way(size, cameras) for size in (1_000, 30_000, 250_000) for cameras in (1, 50, 1000))


def _variants(plan: Plan) -> list[Variant]:
    ways = (_PLAIN[3], _PLAIN[7], _KEYED[0]) if plan.is_quick else (*_PLAIN, *_KEYED)
    return [row for way in ways for row in _rows(way)]


def _share(label: str, result: Result) -> float | None:
    share = result.ratio(label, "rate", _PROXY)
    return None if share is None else share.median


RELAY: Final = Case(
    name="relay",
    title="A broker against zmq.proxy",
    about="Messages of three parts as fast as one sender gives them, through one process to one receiver. "
    "`zmq.proxy` does nothing but pass them on, in C; the broker checks each one, keeps the last frame of each "
    "camera and bounds each peer. All three processes share the machine's cores.",
    metrics=(
        Metric("rate", "messages/s", "/s", "more"),
        Metric("mb_s", "MB/s", "MB/s", "more"),
        Metric("cpu_us", "relay's CPU a message", "µs", "less"),
    ),
    variants=_variants,
    full=Plan(rounds=5, seconds=1.5, is_quick=False),
    quick=Plan(rounds=1, seconds=0.6, is_quick=True),
    bars=(
        *(
            Bar(f"broker over zmq.proxy, {way.label}", "at least", 0.95, functools.partial(_share, way.label))
            for way in _PLAIN
            if way.size_bytes >= 30_000
        ),
        *(
            Bar(f"broker over zmq.proxy, {way.label}", "at least", 0.85, functools.partial(_share, way.label))
            for way in _KEYED
        ),
    ),
    plotted=("rate",),
)
