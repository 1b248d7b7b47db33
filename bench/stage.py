"""The stage: processes that send, relay and take pictures, and what is measured of them in one window of time.

Each part is a process of its own, forked from a server that has the common libraries loaded and has started nothing.
A process that takes pictures measures: it reads the kernel's count of CPU time of all the others at both ends.
"""

from __future__ import annotations

import contextlib
import functools
import math
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any, Final, TypeAlias

from figures import percentile
from peers.peer import Link, Peer
from pictures import encoded, make_pictures, read_stamp, stamped
from processes import free_endpoint, rss_mb

__all__ = [
    "Failed",
    "Figures",
    "Load",
    "Relay",
    "Stage",
    "Window",
    "cpu_ns",
    "free_link",
    "ipc_endpoint",
    "relay",
    "send",
    "stream",
    "take",
]

_PRELOADED: Final = (
    "numpy", "cv2", "zmq", "msgpack", "pictures", "peers.fabric", "camfabric.broker", "camfabric.common.codecs.jpeg",
)  # fmt: skip
_PICTURES: Final = 8
"""Of the ring that a sender takes its pictures from."""
_PATIENCE_S: Final = 12.0
_GRACE_S: Final = 2.0

Figures: TypeAlias = dict[str, Any]
"""By name: numbers, and lists of (time, number) where something is watched over time."""


class Failed(Exception):
    """Something could not be measured; says why."""


@dataclass(frozen=True)
class Load:
    """What a sender sends."""

    fps: float
    """Pictures that it has each second; what cannot be sent by then waits, or is dropped, as the peer does it."""
    work_s: float = 0.0
    """What the receiver does with each picture."""


@dataclass(frozen=True)
class Relay:
    """A process between the two ends."""

    run: Callable[..., None]
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Window:
    """When it is measured."""

    seconds: float
    warm_up_s: float = 0.3


@dataclass
class _Actor:
    process: BaseProcess
    pipe: Connection

    @property
    def pid(self) -> int:
        return self.process.pid or 0

    def answer(self, patience_s: float = _PATIENCE_S) -> Any:
        """What the process says next.

        Raises:
            Failed: it ended, failed, or said nothing.
        """
        if not self.pipe.poll(patience_s):
            raise Failed(f"nothing came for {patience_s:.0f} s")
        try:
            said = self.pipe.recv()
        except EOFError:
            raise Failed("a process ended before its time") from None
        if isinstance(said, Exception):
            raise Failed(f"{type(said).__name__}: {said}"[:200])
        return said


def _server() -> BaseContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    return context


def _play(part: Callable[..., None], pipe: Connection, arguments: tuple[Any, ...]) -> None:
    """In the new process: run its part; SIGTERM ends it in order."""

    def end(*_: Any) -> None:
        raise SystemExit

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        part(pipe, *arguments)
    except Exception as error:
        with contextlib.suppress(OSError):
            pipe.send(Failed(f"{type(error).__name__}: {error}"))


class Stage:
    """Starts processes, and ends them with the `with` block."""

    def __init__(self, *, fresh: bool = False) -> None:
        self._context: Any = multiprocessing.get_context("spawn") if fresh else _server()
        self._actors: list[_Actor] = []

    def start(self, part: Callable[..., None], *arguments: Any) -> _Actor:
        """Run `part(pipe, *arguments)` in a process of its own."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_play, args=(part, theirs, arguments), daemon=True)
        process.start()
        theirs.close()
        self._actors.append(_Actor(process, ours))
        return self._actors[-1]

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        # Receivers first: whoever sends may wait for them when it ends.
        for actor in self._actors:
            actor.process.terminate()
        end = time.monotonic() + _GRACE_S
        for actor in self._actors:
            actor.process.join(max(0.0, end - time.monotonic()))
            if actor.process.is_alive():
                actor.process.kill()
                actor.process.join()
            actor.pipe.close()


def ipc_endpoint() -> str:
    """An ipc:// endpoint that nobody has; its folder goes when this process ends in order."""
    return f"ipc://{_folder().name}/{time.monotonic_ns()}"


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="camfabric-bench-")


def cpu_ns(pid: int) -> int:
    """The CPU time that all threads of a process have had, in ns (Linux: the process's own clock)."""
    return time.clock_gettime_ns((~pid << 3) | 2)


# The parts


def send(pipe: Connection, peer: Peer, link: Link, load: Load) -> None:
    ring: list[Any] = list(make_pictures(link.size, _PICTURES))
    if link.content == "bytes":
        ring = [encoded(image) for image in ring]
    with peer.sender(link) as give:
        pipe.send("open")
        due, number = time.monotonic(), 0
        while True:
            give(stamped(ring[number % _PICTURES], link.content, time.monotonic_ns()))
            number += 1
            due += 1 / load.fps
            if (wait_s := due - time.monotonic()) > 0:
                time.sleep(wait_s)
            else:
                due -= wait_s  # who cannot keep up does not try to catch up


def relay(pipe: Connection, run: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    pipe.send("open")
    run(*arguments)


@dataclass
class _Taken:
    """What a receiver has seen in its window."""

    ages_ms: list[float] = field(default_factory=list)
    at_s: list[float] = field(default_factory=list)
    rss: list[tuple[float, float]] = field(default_factory=list)


def take(pipe: Connection, peer: Peer, link: Link, load: Load, window: Window) -> None:
    with peer.receiver(link) as next_picture:
        pipe.send("open")
        next_picture()
        pipe.send("first")
        while not pipe.poll(0):
            next_picture()
        pids: dict[str, list[int]] = {**pipe.recv(), "receiver": [os.getpid()]}
        end = time.monotonic() + window.warm_up_s
        while time.monotonic() < end:
            next_picture()
        taken, watched = _Taken(), load.work_s > 0
        before = _cpu(pids)
        begun_ns = time.monotonic_ns()
        end_ns = begun_ns + int(window.seconds * 1e9)
        while (now_ns := time.monotonic_ns()) < end_ns:
            picture = next_picture()
            now_ns = time.monotonic_ns()
            taken.ages_ms.append((now_ns - read_stamp(picture, link.content)) / 1e6)
            if watched:
                taken.at_s.append((now_ns - begun_ns) / 1e9)
                taken.rss.append(((now_ns - begun_ns) / 1e9, rss_mb()))
                time.sleep(load.work_s)
        elapsed_s = (now_ns - begun_ns) / 1e9
        after = _cpu(pids)
        pipe.send(_summary(taken, elapsed_s, {name: after[name] - before[name] for name in pids}))


def _cpu(pids: dict[str, list[int]]) -> dict[str, int]:
    return {name: sum(cpu_ns(pid) for pid in each) for name, each in pids.items()}


def _summary(taken: _Taken, elapsed_s: float, cpu: dict[str, int]) -> Figures:
    count = len(taken.ages_ms)
    figures: Figures = {
        "fps": count / elapsed_s,
        "p50_ms": percentile(taken.ages_ms, 50) if count else math.nan,
        "p99_ms": percentile(taken.ages_ms, 99) if count else math.nan,
        **{f"{name}_cpu_ms": used / 1e6 / count if count else math.nan for name, used in cpu.items()},
        **{f"{name}_percent": used / 1e7 / elapsed_s for name, used in cpu.items()},
    }
    if taken.rss:
        figures |= {
            "rss_mb": max(rss for _, rss in taken.rss),
            "grown_mb": taken.rss[-1][1] - taken.rss[0][1],
            "age_over_time": list(zip(taken.at_s, taken.ages_ms, strict=True)),
            "rss_over_time": taken.rss,
        }
    return figures


# The whole


def stream(
    peer: Peer, link: Link, load: Load, window: Window, *, receivers: int = 1, relays: Sequence[Relay] = ()
) -> Figures:
    """One sender, relays if any, and receivers: what the first receiver measured; frames and ages are of all.

    Raises:
        Failed: it did not work.
    """
    with Stage() as stage:
        between = [stage.start(relay, each.run, each.arguments) for each in relays]
        for actor in between:
            actor.answer()
        takers = [stage.start(take, peer, link, load, window) for _ in range(receivers)]
        sender = stage.start(send, peer, link, load)
        for actor in takers:
            if actor.answer() != "open" or actor.answer() != "first":
                raise Failed("a receiver is out of step")
        if sender.answer() != "open":
            raise Failed("the sender is out of step")
        pids = {"sender": [sender.pid], **({"relay": [actor.pid for actor in between]} if between else {})}
        for actor in takers:
            actor.pipe.send(pids)
        figures = [actor.answer(_PATIENCE_S + window.seconds + 10 * load.work_s) for actor in takers]
    return _of_all(figures)


def _of_all(figures: list[Figures]) -> Figures:
    """What several receivers say together: the first one's, but for the worst ages and the sum of frames."""
    together = dict(figures[0])
    together["p50_ms"] = percentile([each["p50_ms"] for each in figures], 50)
    together["p99_ms"] = max(each["p99_ms"] for each in figures)
    together["least_fps"] = min(each["fps"] for each in figures)
    together["all_fps"] = sum(each["fps"] for each in figures)
    return together


def free_link(**what: Any) -> Link:
    """A direct link over TCP on loopback."""
    endpoint = free_endpoint()
    return Link(endpoint, endpoint, **what)
