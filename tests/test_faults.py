"""Processes that are killed, stopped and started again: everything flows again, and nobody else is touched.

How long it takes, and how much memory, is printed by bench/faults.py.
"""

from __future__ import annotations

import signal
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
            assert sum(frame.missed + frame.dropped for frame in frames) == 0
            assert peak - before < (64 + 20) * 1024 * 1024
            count = len(stuck.out)
            stuck.signal(signal.SIGCONT)
            eventually(lambda: len(stuck.out) > count + 10)
