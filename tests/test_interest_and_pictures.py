"""What a broker remembers: what is subscribed to, and the last pictures."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from camfabric.broker import Broker
from camfabric.broker.interest import Interest
from camfabric.broker.pictures import Pictures
from camfabric.common.settings import Limits
from camfabric.publisher import Publisher
from camfabric.subscriber import Subscriber

_SOME = settings(max_examples=200, deadline=None)
_PATIENCE_S = 20.0


# Interest


def test_a_prefix_covers_what_begins_with_it() -> None:
    interest = Interest()
    assert not interest.covers(b"cam/a/")
    assert interest.add(b"cam/cctv/")
    assert interest.covers(b"cam/cctv/")
    assert interest.covers(b"cam/cctv/lobby/")
    assert not interest.covers(b"cam/cctv2/")
    assert not interest.covers(b"cam/")
    assert b"cam/cctv/" in interest
    assert b"cam/" not in interest


def test_the_empty_prefix_covers_everything() -> None:
    interest = Interest()
    interest.add(b"")
    assert interest.covers(b"")
    assert interest.covers(b"anything")


def test_adding_and_removing_say_whether_they_changed_something() -> None:
    interest = Interest()
    assert interest.add(b"a")
    assert not interest.add(b"a")
    assert interest.remove(b"a")
    assert not interest.remove(b"a")
    assert not interest.covers(b"a")


_PREFIXES = st.binary(max_size=4).map(lambda data: bytes(byte % 3 for byte in data))


@_SOME
@given(st.lists(st.tuples(st.booleans(), _PREFIXES), max_size=40), st.lists(_PREFIXES, max_size=10))
def test_it_is_a_set_of_prefixes(changes: list[tuple[bool, bytes]], topics: list[bytes]) -> None:
    interest = Interest()
    model: set[bytes] = set()
    for adds, prefix in changes:
        if adds:
            assert interest.add(prefix) is (prefix not in model)
            model.add(prefix)
        else:
            assert interest.remove(prefix) is (prefix in model)
            model.discard(prefix)
        assert len(interest) == len(model)
    for topic in topics:
        assert interest.covers(topic) is any(topic.startswith(prefix) for prefix in model)


def test_it_is_bounded() -> None:
    interest = Interest()
    added = sum(interest.add(b"%d" % number) for number in range(100_010))
    assert added == len(interest) == 100_000
    assert interest.remove(b"5")
    assert interest.add(b"one more")


# Pictures


def test_the_last_picture_is_kept() -> None:
    pictures = Pictures()
    assert pictures.get(b"cam/a/") is None
    pictures.keep(b"cam/a/", b"h1", b"p1")
    pictures.keep(b"cam/a/", b"h2", b"p2")
    pictures.keep(b"cam/b/", b"h3", b"p3")
    assert pictures.get(b"cam/a/") == (b"h2", b"p2")
    assert pictures.topics() == [b"cam/a/", b"cam/b/"]
    pictures.drop(b"cam/a/")
    pictures.drop(b"cam/a/")
    assert pictures.get(b"cam/a/") is None
    assert pictures.topics() == [b"cam/b/"]


def test_a_picture_without_a_payload_is_one() -> None:
    pictures = Pictures()
    pictures.keep(b"cam/a/", b"", b"")
    assert pictures.get(b"cam/a/") == (b"", b"")


def test_what_does_not_fit_is_not_kept_and_nothing_older_is_given_for_it() -> None:
    pictures = Pictures(Limits(replay_bytes=10))
    pictures.keep(b"cam/a/", b"h", b"12345")
    pictures.keep(b"cam/a/", b"h", b"1234567890")
    assert pictures.get(b"cam/a/") is None
    pictures.keep(b"cam/b/", b"h", b"123456789")
    assert pictures.get(b"cam/b/") is not None


@_SOME
@given(st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.none() | st.integers(0, 60)), max_size=40))
def test_pictures_stay_within_their_bound(steps: list[tuple[bytes, int | None]]) -> None:
    pictures = Pictures(Limits(replay_bytes=100))
    model: dict[bytes, int] = {}
    for topic, size in steps:
        model.pop(topic, None)
        if size is None:
            pictures.drop(topic)
        else:
            pictures.keep(topic, b"head", bytes(size))
            if sum(model.values()) + 4 + size <= 100:
                model[topic] = 4 + size
        assert {kept: len(head) + len(payload) for kept, (head, payload) in _kept(pictures).items()} == model
        assert sum(model.values()) <= 100


def _kept(pictures: Pictures) -> dict[bytes, tuple[bytes, bytes]]:
    return {topic: kept for topic in pictures.topics() if (kept := pictures.get(topic)) is not None}


# Both, in a broker with two endpoints for subscribers


@contextmanager
def _running(broker: Broker) -> Iterator[None]:
    thread = threading.Thread(target=broker.run)
    thread.start()
    try:
        yield
    finally:
        broker.stop()
        thread.join()


def _until(condition: Callable[[], bool]) -> None:
    waiting = threading.Event()
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        waiting.wait(0.01)


def test_who_leaves_one_endpoint_takes_nothing_from_those_at_another() -> None:
    image = np.zeros((24, 32, 3), np.uint8)
    any_port = "tcp://127.0.0.1:*"
    broker = Broker(publishers=[any_port], subscribers=[any_port, any_port])
    with (
        _running(broker),
        Publisher("a", to=broker.publishers[0]) as publisher,
        Subscriber(broker.subscribers[0], cameras=["a"]) as stays,
    ):
        with Subscriber(broker.subscribers[1], cameras=["a"]) as leaves:
            for subscriber in (stays, leaves):
                publisher.send(image)
                assert subscriber.read(_PATIENCE_S).camera == "a"
        # Who comes to the second endpoint and is served comes after the other one's end.
        with Subscriber(broker.subscribers[1], cameras=["a"], channel=None) as later:
            _until(lambda: "a" in later.cameras())
        for _ in range(20):
            publisher.send(image)
            assert stays.read(5.0).camera == "a"
        assert publisher.watched
