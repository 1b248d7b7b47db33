"""Cameras that go from their main stream to shared memory and back, whatever the capture times that they are given."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from camfabric.common.shared import make_host
from camfabric.publisher import Publisher
from camfabric.subscriber import Subscriber

pytestmark = pytest.mark.skipif(not make_host(), reason="no shared memory here")

_CAPTURED_NS: dict[str, Callable[[int], int]] = {
    "still": lambda number: 0,
    "back": lambda number: -number * 33_000_000,
    "loop": lambda number: number % 60 * 990_000_000,
}


@pytest.fixture(params=_CAPTURED_NS)
def camera(request: pytest.FixtureRequest) -> Iterator[Publisher]:
    """A publisher that is given the capture times of a recording, which do not rise."""
    captured_ns = _CAPTURED_NS[request.param]
    ended = threading.Event()
    with Publisher("a", bind="tcp://127.0.0.1:*") as publisher:

        def send() -> None:
            image = np.zeros((48, 64, 3), np.uint8)
            for number in itertools.count():
                publisher.send(image, captured_ns=1_700_000_000_000_000_000 + captured_ns(number))
                if ended.wait(0.03):
                    return

        thread = threading.Thread(target=send)
        thread.start()
        yield publisher
        ended.set()
        thread.join()


def _read_on(subscriber: Subscriber, channel: str) -> None:
    """Until pictures come that way for a while."""
    end = time.monotonic() + 15
    count = 0
    while count < 20:
        count = count + 1 if subscriber.read(timeout=5).channel == channel else 0
        assert time.monotonic() < end


def test_a_camera_whose_capture_times_do_not_rise_goes_on_both_ways(camera: Publisher) -> None:
    with Subscriber(camera.endpoint, cameras="a") as subscriber:
        _read_on(subscriber, "shm")
        shared = camera._shared
        assert shared is not None
        with shared._lock:
            shared._withdraw("the test has it so")
        _read_on(subscriber, "cam")
