"""Processes that are killed, stopped and started again: everything flows again, and nobody else is touched.

How long it takes, and how much memory, is printed by bench/faults.py.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from camfabric.publisher import Publisher
from camfabric.subscriber import Subscriber


def _rss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no memory figure of {pid}")


@pytest.fixture
def ports(free_port: Callable[[], int]) -> tuple[str, str]:
    """A broker's two endpoints."""
    return f"tcp://127.0.0.1:{free_port()}", f"tcp://127.0.0.1:{free_port()}"


def _broker(camfabric: Any, ports: tuple[str, str], eventually: Any) -> Any:
    process = camfabric("broker", "--publishers", ports[0], "--subscribers", ports[1])
    eventually(lambda: process.said("publishers connect to"))
    return process


def test_a_broker_killed_and_started_again(feed: Any, camfabric: Any, ports: tuple[str, str], eventually: Any) -> None:
    broker = _broker(camfabric, ports, eventually)
    with Publisher("a", to=ports[0]) as publisher, Subscriber(ports[1]) as subscriber:
        feed(publisher)
        epoch = subscriber.read(timeout=10).epoch
        broker.kill()
        eventually(lambda: not publisher.watched)  # it does not go on encoding for nobody
        while True:
            try:
                subscriber.read(timeout=0.2)
            except TimeoutError:
                break
        _broker(camfabric, ports, eventually)
        frame = subscriber.read(timeout=5)
        assert (frame.epoch, frame.camera) == (epoch, "a")
        assert frame.age_ms < 2000, "a stale frame came first"


def test_a_broker_killed_and_started_with_no_viewer_left(
    feed: Any, camfabric: Any, ports: tuple[str, str], eventually: Any
) -> None:
    broker = _broker(camfabric, ports, eventually)
    with Publisher("a", to=ports[0]) as publisher:
        feed(publisher)
        with Subscriber(ports[1]) as subscriber:
            subscriber.read(timeout=10)
            broker.kill()
        _broker(camfabric, ports, eventually)
        with Subscriber(ports[1], channel=None) as watcher:
            eventually(lambda: watcher.cameras().get("a"))  # the new broker has the camera ...
            sent = publisher.status().sent
            assert not publisher.watched  # ... and nobody wants its frames
            assert publisher.status().sent == sent


def test_a_link_that_dies_while_its_reader_is_behind_does_not_abort_the_process(
    camfabric: Any, start: Any, ports: tuple[str, str], eventually: Any
) -> None:
    """libzmq 4.3.5 does, where its heartbeats are on."""
    code = f"""
import time
from camfabric.subscriber import Subscriber
subscriber = Subscriber({ports[1]!r}, decode=False, on_status=lambda status: time.sleep(0.9))
while True:
    frame = subscriber.read()
    print(frame.captured_ns, flush=True)
"""
    command = ("publish", "test://?size=640x480&fps=60", "--to", ports[0])
    for number in range(2):
        camfabric(*command, "--camera", f"a/{number}")
    broker = _broker(camfabric, ports, eventually)
    reader = start(sys.executable, "-c", code)
    for _ in range(2):
        count = len(reader.out)
        eventually(lambda: len(reader.out) > count + 20 or reader.status is not None, within_s=30)  # noqa: B023
        broker.kill()
        broker = _broker(camfabric, ports, eventually)
    count = len(reader.out)
    eventually(lambda: len(reader.out) > count + 5 or reader.status is not None, within_s=30)
    assert reader.status is None, reader.err


def test_a_subscriber_on_a_thin_link_gets_fresh_frames_and_costs_the_others_none(
    camfabric: Any, start_broker: Any, free_port: Callable[[], int]
) -> None:
    """A queue would make it later and later; how late it is depends on the machine, that it does not grow does not."""
    broker = start_broker()
    camfabric("publish", "test://", "--camera", "a", "--to", broker.to)
    link = _ThinLink(broker.endpoint, bytes_per_s=700_000)  # a third of what the camera sends
    try:
        with (
            Subscriber(broker.endpoint, mode="every", decode=False) as healthy,
            Subscriber(link.endpoint, decode=False) as thin,
        ):
            missed = 0
            ages = []
            thin.read(timeout=20)
            healthy.read(timeout=5)
            for _ in range(240):  # 8 s
                missed += healthy.read(timeout=5).missed
                with contextlib.suppress(TimeoutError):
                    ages.append(thin.read(timeout=0).age_ms)
            assert missed == 0
            assert len(ages) > 10
            late = sorted(ages[len(ages) // 2 :])
            assert late[len(late) // 2] < 2000
    finally:
        link.close()


class _ThinLink:
    """A proxy that passes on what a broker sends at a bounded rate, with small buffers."""

    def __init__(self, endpoint: str, *, bytes_per_s: float) -> None:
        host, port = endpoint.removeprefix("tcp://").split(":")
        self._to = (host, int(port))
        self._bytes_per_s = bytes_per_s
        self._server = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self._closed = threading.Event()
        self._sockets: list[socket.socket] = [self._server]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                near, _ = self._server.accept()
                far = socket.socket()
                far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
                far.connect(self._to)
            except OSError:
                return
            self._sockets += [near, far]
            threading.Thread(target=self._pass, args=(far, near, self._bytes_per_s), daemon=True).start()
            threading.Thread(target=self._pass, args=(near, far, 1e9), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, bytes_per_s: float) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                sink.sendall(data)
                self._closed.wait(len(data) / bytes_per_s)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End all connections."""
        self._closed.set()
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def test_a_publisher_killed_and_started_again(camfabric: Any, start_broker: Any, eventually: Any, feed: Any) -> None:
    broker = start_broker()
    command = ("publish", "test://?size=64x48", "--camera", "a", "--to", broker.to)
    first = camfabric(*command)
    with (
        Publisher("b", to=broker.to, codec="raw") as other,
        Subscriber(broker.endpoint, cameras="a") as subscriber,
        Subscriber(broker.endpoint, cameras="b", mode="every") as bystander,
    ):
        feed(other)
        bystander.read(timeout=5)
        epoch = subscriber.read(timeout=20).epoch
        first.kill()
        camfabric(*command)
        eventually(lambda: subscriber.read(timeout=10).epoch != epoch, within_s=20)
        assert sum(bystander.read(timeout=5).missed for _ in range(60)) == 0


def test_a_stopped_subscriber_costs_the_others_nothing(
    camfabric: Any, ports: tuple[str, str], eventually: Any, feed: Any
) -> None:
    import numpy as np

    broker = _broker(camfabric, ports, eventually)
    stuck = camfabric("subscribe", "a", "--from", ports[1])
    big = np.zeros((720, 1280, 3), np.uint8)
    with Publisher("a", to=ports[0], codec="raw") as publisher:
        feed(publisher, fps=30, make=lambda _number: big)
        eventually(lambda: stuck.out, within_s=20)
        with Subscriber(ports[1], mode="every") as healthy:
            healthy.read(timeout=5)
            before = _rss_bytes(broker.pid)
            stuck.signal(signal.SIGSTOP)
            frames = []
            peak = before
            for _ in range(150):  # 5 s, 400 MB
                frames.append(healthy.read(timeout=5))
                peak = max(peak, _rss_bytes(broker.pid))
            lost = [(frame.seq, frame.missed, frame.dropped) for frame in frames if frame.missed or frame.dropped]
            assert lost == [], broker.err
            assert peak - before < (64 + 20) * 1024 * 1024
            count = len(stuck.out)
            stuck.signal(signal.SIGCONT)
            eventually(lambda: len(stuck.out) > count + 10)
