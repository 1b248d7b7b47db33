"""`Subscriber.watch`: filters that change while it runs, up to the camera."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from camfabric.common.errors import ConfigError
from camfabric.common.status import LIVE
from camfabric.publisher import Publisher
from camfabric.subscriber import Subscriber

from .conftest import Eventually, RunningBroker, StartBroker


@pytest.fixture
def cameras(start_broker: StartBroker, feed: Callable[..., Any]) -> Iterator[tuple[RunningBroker, list[Publisher]]]:
    """A broker and two cameras, a/one and a/two."""
    broker = start_broker()
    publishers = [Publisher(name, to=broker.to) for name in ("a/one", "a/two")]
    for publisher in publishers:
        feed(publisher, fps=50)
    yield broker, publishers
    for publisher in publishers:
        publisher.close()


def test_what_is_watched_begins_and_ends_up_to_the_camera(
    cameras: tuple[RunningBroker, list[Publisher]], eventually: Eventually
) -> None:
    broker, (one, two) = cameras
    with Subscriber(broker.endpoint, cameras=None, decode=False) as subscriber:
        with pytest.raises(TimeoutError):
            subscriber.read(0.3)
        assert not one.watched
        assert subscriber.filters == []
        subscriber.watch(["a/one"])
        assert subscriber.read(5).camera == "a/one"
        assert [publisher.watched for publisher in (one, two)] == [True, False]
        subscriber.watch(["a/two"])
        eventually(lambda: two.watched and not one.watched)
        eventually(lambda: subscriber.read(5).camera == "a/two")
        subscriber.watch([])
        eventually(lambda: not two.watched)
        # What had come already is read, and then there is no more.
        eventually(lambda: subscriber.take_now() is None)
        with pytest.raises(TimeoutError):
            subscriber.read(0.2)


def test_an_empty_filter_is_every_camera(cameras: tuple[RunningBroker, list[Publisher]]) -> None:
    broker, _ = cameras
    with Subscriber(broker.endpoint, cameras=None, decode=False) as subscriber:
        subscriber.watch([""])
        seen: set[str] = set()
        while len(seen) < 2:
            seen.add(subscriber.read(5).camera)


def test_a_camera_under_another_filter_still_goes_on(cameras: tuple[RunningBroker, list[Publisher]]) -> None:
    broker, (one, _) = cameras
    with Subscriber(broker.endpoint, cameras=["a", "a/one"], decode=False) as subscriber:
        before = subscriber.read(5)
        subscriber.watch(["a"])
        frames = [frame for frame in itertools.islice(subscriber, 40) if frame.camera == before.camera]
        assert len(frames) > 5
        assert sum(frame.missed for frame in frames) == 0
        assert one.watched


def test_a_camera_that_was_let_go_is_not_called_offline(
    cameras: tuple[RunningBroker, list[Publisher]], eventually: Eventually
) -> None:
    broker, _ = cameras
    heard: list[tuple[str, str]] = []
    with Subscriber(
        broker.endpoint,
        cameras=["a/one", "a/two"],
        decode=False,
        on_status=lambda status: heard.append((status.camera, status.state)),
    ) as subscriber:
        eventually(lambda: set(subscriber.cameras()) == {"a/one", "a/two"})
        subscriber.watch(["a/one"])
        eventually(lambda: set(subscriber.cameras()) == {"a/one"})
        heard.clear()
        # Longer than it takes until a silent camera is offline.
        eventually(lambda: len(heard) >= 4)
        assert set(heard) == {("a/one", LIVE)}


def test_watched_again_a_video_begins_at_a_keyframe_at_once(
    start_broker: StartBroker, feed: Callable[..., Any]
) -> None:
    pytest.importorskip("av")
    broker = start_broker()
    with Publisher("v", to=broker.to, codec="h264", gop=10_000) as publisher:
        feed(publisher, fps=50)
        with (
            Subscriber(broker.endpoint, cameras="v", decode=False, mode="every") as other,
            Subscriber(broker.endpoint, cameras=None, decode=False, mode="every") as subscriber,
        ):
            first = other.read(5)
            for _ in range(3):
                subscriber.watch(["v"])
                frames = [subscriber.read(5) for _ in range(30)]
                # The one keyframe that there ever was: a new one would be made only where nobody had watched.
                assert (frames[0].keyframe, frames[0].seq, frames[0].epoch) == (True, first.seq, first.epoch)
                assert [frame.seq for frame in frames] == list(range(first.seq, first.seq + 30))
                subscriber.watch([])
                while subscriber.take_now() is not None or _comes(subscriber):
                    pass


def _comes(subscriber: Subscriber) -> bool:
    try:
        subscriber.read(0.3)
    except TimeoutError:
        return False
    return True


def test_many_changes_end_where_the_last_one_said(
    cameras: tuple[RunningBroker, list[Publisher]], eventually: Eventually
) -> None:
    broker, (one, two) = cameras
    with Subscriber(broker.endpoint, cameras=None, decode=False) as subscriber:
        for number in range(500):
            subscriber.watch([["a/one"], ["a/two"], ["a"], []][number % 4])
        subscriber.watch(["a/two"])
        eventually(lambda: two.watched and not one.watched)
        eventually(lambda: subscriber.read(5).camera == "a/two")


def test_a_filter_that_is_none_changes_nothing(cameras: tuple[RunningBroker, list[Publisher]]) -> None:
    broker, _ = cameras
    with Subscriber(broker.endpoint, cameras="a/one", decode=False) as subscriber:
        with pytest.raises(ConfigError, match="filter"):
            subscriber.watch(["a/two", "no//name"])
        assert subscriber.filters == ["a/one"]
        assert {subscriber.read(5).camera for _ in range(10)} == {"a/one"}


def test_a_broker_that_says_nothing_is_told(start_broker: StartBroker, eventually: Eventually) -> None:
    broker = start_broker()
    with Subscriber(broker.endpoint, channel=None) as subscriber:
        eventually(lambda: subscriber.brokers() == 1)
        assert subscriber.unheard(1.5) == []
        broker.stop()
        eventually(lambda: subscriber.unheard(1.5) == [broker.endpoint])


def test_a_publisher_and_not_a_broker_can_be_asked_too(feed: Callable[..., Any], eventually: Eventually) -> None:
    with Publisher("b", bind="tcp://127.0.0.1:*") as publisher:
        feed(publisher)
        assert publisher.endpoint is not None
        with Subscriber(publisher.endpoint, cameras=None, decode=False) as subscriber:
            subscriber.watch(["b"])
            assert subscriber.read(5).camera == "b"
            subscriber.watch([])
            eventually(lambda: not publisher.watched)
