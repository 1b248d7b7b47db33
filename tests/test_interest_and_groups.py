"""What a broker remembers: what is subscribed to, and what came since the last keyframe."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camfabric.broker import Broker
from camfabric.broker.interest import Interest
from camfabric.common.groups import Groups
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


def test_its_version_tells_whether_what_it_covers_may_have_changed() -> None:
    interest = Interest()
    interest.add(b"a", "one")
    version = interest.version
    interest.add(b"a", "another")
    interest.remove(b"a", "one")
    interest.remove(b"b", "one")
    assert interest.version == version
    interest.remove(b"a", "another")
    assert interest.version != version


# Groups


def _keep(groups: Groups, topic: bytes, seq: int, *, keyframe: bool = False, epoch: int = 1, size: int = 1) -> None:
    groups.keep(topic, epoch=epoch, seq=seq, keyframe=keyframe, header=b"h%d" % seq, payload=bytes(size))


def _kept(groups: Groups, topic: bytes = b"cam/a/") -> list[bytes]:
    return [header for header, _ in groups.get(topic)]


def test_all_since_the_last_keyframe_is_kept() -> None:
    groups = Groups()
    assert _kept(groups) == []
    _keep(groups, b"cam/a/", 4)  # in the middle of a group
    assert _kept(groups) == []
    _keep(groups, b"cam/a/", 5, keyframe=True)
    _keep(groups, b"cam/a/", 6)
    _keep(groups, b"cam/b/", 1, keyframe=True)
    assert _kept(groups) == [b"h5", b"h6"]
    _keep(groups, b"cam/a/", 7, keyframe=True)
    assert _kept(groups) == [b"h7"]
    assert groups.topics() == [b"cam/b/", b"cam/a/"]
    groups.drop(b"cam/a/")
    groups.drop(b"cam/a/")
    assert _kept(groups) == []
    assert groups.topics() == [b"cam/b/"]


def test_a_group_with_a_hole_is_none() -> None:
    groups = Groups()
    for seq, keyframe in ((1, True), (2, False), (4, False), (5, False)):
        _keep(groups, b"cam/a/", seq, keyframe=keyframe)
    assert _kept(groups) == []
    _keep(groups, b"cam/a/", 6, keyframe=True)
    _keep(groups, b"cam/a/", 7, epoch=2)
    assert _kept(groups) == []
    assert not groups.is_over(b"cam/a/")


@pytest.mark.parametrize(
    "limits",
    [
        Limits(group_bytes=10),
        Limits(replay_bytes=10),
        Limits(parts=4),
        Limits(index_bytes=16 + 2 * 5),
    ],
    ids=["group", "all", "parts", "index"],
)
def test_a_group_over_a_bound_is_not_kept_until_its_next_keyframe(limits: Limits) -> None:
    groups = Groups(limits)
    _keep(groups, b"cam/a/", 1, keyframe=True)
    _keep(groups, b"cam/a/", 2)
    assert _kept(groups) == [b"h1", b"h2"]
    _keep(groups, b"cam/a/", 3, size=9)
    assert _kept(groups) == []
    assert groups.is_over(b"cam/a/")
    _keep(groups, b"cam/a/", 4)
    assert _kept(groups) == []
    _keep(groups, b"cam/a/", 5, keyframe=True)
    assert _kept(groups) == [b"h5"]
    assert not groups.is_over(b"cam/a/")


@_SOME
@given(
    st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.none() | st.integers(0, 60), st.booleans()), max_size=60)
)
def test_groups_stay_within_their_bound(steps: list[tuple[bytes, int | None, bool]]) -> None:
    groups = Groups(Limits(replay_bytes=100))
    for seq, (topic, size, keyframe) in enumerate(steps):
        if size is None:
            groups.drop(topic)
        else:
            groups.keep(topic, epoch=1, seq=seq, keyframe=keyframe, header=b"head", payload=bytes(size))
        held = sum(len(header) + len(payload) for name in groups.topics() for header, payload in groups.get(name))
        assert held <= 100
        assert held == groups._bytes


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
