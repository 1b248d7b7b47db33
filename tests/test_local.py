"""Cameras of this host: subscribers take their pictures from memory by themselves, and lose none where that fails."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import zmq

from camfabric.broker.permissions import Cameras
from camfabric.common import shared as shared_memory
from camfabric.common import wire
from camfabric.common.doorbell import Doorbell
from camfabric.common.errors import ConfigError
from camfabric.common.frame import Codec, Frame, PixelFormat
from camfabric.common.mailbox import Mailbox
from camfabric.common.settings import LIMITS, TIMES
from camfabric.common.shared import host, make_host
from camfabric.common.shared_pictures import SharedPictures
from camfabric.common.status import Status, pack_status
from camfabric.common.topics import parse_topic, shared_channel, split_shared, topic
from camfabric.publisher import Publisher, sender
from camfabric.publisher import shared as publisher_shared
from camfabric.publisher.shared import SharedStream, Written
from camfabric.subscriber import AsyncSubscriber, Subscriber, door, receiver
from camfabric.subscriber import local as local_module
from camfabric.subscriber.local import Local

from .conftest import Eventually, StartBroker

_FOLDER: Final = Path("/dev/shm")  # noqa: S108

pytestmark = pytest.mark.skipif(not make_host(), reason="no shared memory here")


@pytest.fixture
def publisher() -> Iterator[Callable[..., Publisher]]:
    """Publishers that the test's end closes."""
    made: list[Publisher] = []

    def make(camera: str = "a/b", **settings: Any) -> Publisher:
        if "to" not in settings:
            settings.setdefault("bind", "tcp://127.0.0.1:*")
        made.append(Publisher(camera, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


def _pictures(subscriber: Subscriber) -> SharedPictures:
    pictures = subscriber._decoding._shared
    assert pictures is not None
    return pictures


def _file(subscriber: Subscriber, camera: str) -> Path:
    """The file in which a subscriber has a camera's pictures. Other tests have theirs beside it."""
    return _FOLDER / f"camfabric-{_pictures(subscriber)._readers[camera].file:016x}"


def _read_until(subscriber: Subscriber, wanted: Callable[[Frame], bool], *, within_s: float = 15.0) -> list[Frame]:
    """The frames until one that is wanted."""
    end = time.monotonic() + within_s
    frames: list[Frame] = []
    while not frames or not wanted(frames[-1]):
        frames.append(replace(subscriber.read(timeout=within_s), decoded=None, payload=b""))
        assert time.monotonic() < end, [(frame.camera, frame.channel) for frame in frames[-10:]]
    return frames


def _is_shared(frame: Frame) -> bool:
    return frame.channel == "shm"


def _only_forward(frames: list[Frame]) -> bool:
    numbers = [frame.extra["number"] for frame in frames]
    return all(later > earlier for earlier, later in itertools.pairwise(numbers))


def _saw(wanted: set[tuple[str, str]]) -> Callable[[Frame], bool]:
    """Whether all of these have come: cameras and their channels."""
    seen: set[tuple[str, str]] = set()

    def is_complete(frame: Frame) -> bool:
        seen.add((frame.camera, frame.channel))
        return wanted <= seen

    return is_complete


# Taking pictures from memory


def test_a_subscriber_takes_pictures_from_memory_by_itself_and_nothing_is_encoded(
    publisher: Callable[..., Publisher], feed: Callable[..., Any], eventually: Eventually
) -> None:
    camera = publisher()
    feeder = feed(camera)
    with Subscriber(camera.endpoint) as subscriber:
        frames = _read_until(subscriber, _is_shared)
        assert _only_forward(frames)
        eventually(lambda: not camera._main.watched)
        encoded = camera.status().encoded
        frame = subscriber.read(timeout=5)
        frames = _read_until(subscriber, lambda frame: frame.seq > 30)
        assert all(map(_is_shared, frames))
        assert _only_forward(frames)
        assert camera.status().encoded == encoded
        assert camera.status().watched
        assert frame.codec is Codec.RAW
        assert not frame.image.flags.writeable
        assert len(frame.payload) == frame.image.nbytes
        assert frame.age_ms < 5000
        assert (frame.image[..., 2] == frame.extra["number"] % 256).all()
        feeder.stop()
    shared = camera._shared
    assert shared is not None
    eventually(lambda: not camera.watched and shared._ring is None)


def test_many_subscribers_and_a_broker_share_one_ring(
    publisher: Callable[..., Publisher], feed: Callable[..., Any], start_broker: StartBroker
) -> None:
    broker = start_broker()
    camera = publisher(to=broker.to)
    feed(camera)
    with Subscriber(broker.endpoint) as one, Subscriber(broker.endpoint, cameras="a") as other:
        for subscriber in (one, other):
            assert _only_forward(_read_until(subscriber, _is_shared))
        assert _file(one, "a/b") == _file(other, "a/b")
        assert _file(one, "a/b").exists()
        assert all(map(_is_shared, _read_until(one, lambda frame: frame.seq > 20)))
        assert all(map(_is_shared, _read_until(other, lambda frame: frame.seq > 20)))
        assert one.counts() == other.counts() == {}


def test_what_each_picture_says_is_right_while_it_is_held(
    publisher: Callable[..., Publisher], feed: Callable[..., Any]
) -> None:
    camera = publisher(codec="raw")
    feed(camera, fps=500)
    with Subscriber(camera.endpoint) as subscriber:
        _read_until(subscriber, _is_shared)
        held = [subscriber.read(timeout=5) for _ in range(40)]
        _read_until(subscriber, lambda frame: frame.seq > held[-1].seq + 50)
        assert [int(frame.image[0, 0, 2]) for frame in held] == [frame.extra["number"] % 256 for frame in held]
        assert camera._shared is not None
        assert camera._shared._ring is not None
        assert camera._shared._ring.slots <= LIMITS.shared_held + 4


def test_the_array_may_be_written_to_as_soon_as_it_is_sent(publisher: Callable[..., Publisher]) -> None:
    camera = publisher()
    image = np.zeros((480, 640, 3), np.uint8)
    with Subscriber(camera.endpoint) as subscriber:
        for number in range(200):
            image[:] = number
            camera.send(image, extra={"number": number})
            image[:] = 255
            try:
                frame = subscriber.read(timeout=0.02)
            except TimeoutError:
                continue
            if frame.channel == "shm":
                assert (frame.image == frame.extra["number"]).all()


def test_sizes_and_formats_change_on_the_way(publisher: Callable[..., Publisher], feed: Callable[..., Any]) -> None:
    shapes = ((48, 64, 3), (60, 80, 3), (48, 64), (3, 5), (200, 300, 3))
    camera = publisher(codec="raw")

    def make(number: int) -> Any:
        shape = shapes[number // 40 % len(shapes)]
        return np.full(shape, number, np.uint16 if len(shape) == 2 else np.uint8)

    feed(camera, make=make, fps=200)
    with Subscriber(camera.endpoint) as subscriber:
        _read_until(subscriber, _is_shared)
        first = _file(subscriber, "a/b")
        seen: set[tuple[int, ...]] = set()
        end = time.monotonic() + 15
        while len(seen) < len(shapes) and time.monotonic() < end:
            frame = subscriber.read(timeout=5)
            number = frame.extra["number"]
            wanted = make(number)
            assert frame.image.shape == wanted.shape
            assert np.array_equal(frame.image, wanted)
            seen.add(frame.image.shape)
        assert seen == set(shapes)
        assert not first.exists()


def test_resized_and_drawn_pictures_come_as_the_main_stream_has_them(publisher: Callable[..., Publisher]) -> None:
    camera = publisher(size=(32, 24))
    drawn = []

    def draw() -> Any:
        drawn.append(1)
        return np.full((48, 64, 3), 9, np.uint8)

    with (
        Subscriber(camera.endpoint) as subscriber,
        Subscriber(camera.endpoint, local="off") as remote,
    ):
        sent = 0
        channels: set[str] = set()
        while channels != {"shm", "cam"} and sent < 500:
            camera.send_drawn(draw, size=(64, 48), captured_monotonic_ns=time.monotonic_ns())
            sent += 1
            for each, channel in ((subscriber, "shm"), (remote, "cam")):
                try:
                    frame = each.read(timeout=0.05)
                except TimeoutError:
                    continue
                assert frame.image.shape == (24, 32, 3)
                if frame.channel == channel:
                    channels.add(channel)
        assert channels == {"shm", "cam"}
        assert len(drawn) <= sent


def test_an_async_subscriber_does_likewise(publisher: Callable[..., Publisher], feed: Callable[..., Any]) -> None:
    import asyncio

    camera = publisher()
    feed(camera)

    async def run() -> Frame:
        async with AsyncSubscriber(camera.endpoint) as subscriber:
            while (frame := await subscriber.read(timeout=10)).channel != "shm":
                pass
            return frame

    frame = asyncio.run(run())
    assert (frame.image[..., 2] == frame.extra["number"] % 256).all()


@pytest.mark.parametrize(
    "settings", [{"local": "off"}, {"decode": False}, {"mode": "every"}, {"channel": "low"}], ids=str
)
def test_who_does_not_want_it_gets_the_stream(
    publisher: Callable[..., Publisher], feed: Callable[..., Any], settings: dict[str, Any]
) -> None:
    camera = publisher()
    feed(camera)
    with Subscriber(camera.endpoint, **settings) as subscriber:
        frames = _read_until(subscriber, lambda frame: frame.seq > 8)
        assert not any(map(_is_shared, frames))
        assert {frame.codec for frame in frames} == {Codec.JPEG}


def test_a_wrong_word_is_said() -> None:
    with pytest.raises(ConfigError, match="local 'on': it is 'auto' or 'off'"):
        Subscriber(local="on")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="codec 'copy' has packets"):
        Publisher("a", codec="copy", shared=True)


def test_keys_keep_memory_to_themselves_unless_asked(tmp_path: Path, publisher: Callable[..., Publisher]) -> None:
    subprocess.run(
        [sys.executable, "-m", "camfabric.cli", "keys", "new", "broker", "--keys", str(tmp_path)], check=True
    )
    assert publisher("a", keys=tmp_path).status().shared == ""
    assert publisher("b", keys=tmp_path, shared=True).status().shared == host()
    assert publisher("c", shared=False).status().shared == ""
    assert publisher("d", codec="copy").status().shared == ""
    assert publisher("e").status().shared == host()


# Doorbells


def _woken(subscriber: Subscriber, *cameras: str) -> bool:
    local = subscriber._receiver._local
    return local is not None and all(map(local.is_woken, cameras))


def test_once_it_was_woken_no_message_comes_for_a_picture(
    publisher: Callable[..., Publisher], feed: Callable[..., Any], start_broker: StartBroker, eventually: Eventually
) -> None:
    broker = start_broker()
    camera = publisher(to=broker.to)
    feed(camera, fps=200)
    shared = camera._shared
    assert shared is not None
    with Subscriber(broker.endpoint) as subscriber, Subscriber(broker.endpoint) as other:
        for each in (subscriber, other):
            _read_until(each, lambda frame, each=each: _is_shared(frame) and _woken(each, "a/b"))  # type: ignore[misc]
        eventually(lambda: not shared._subscriptions and not camera._main.watched)
        before = camera._sender.sent_bytes
        frames = _read_until(subscriber, lambda frame: True)
        frames += _read_until(subscriber, lambda frame: frame.seq > frames[-1].seq + 100)
        assert camera._sender.sent_bytes == before
        assert all(map(_is_shared, frames))
        assert _only_forward(frames)
        eventually(lambda: camera.status().fps_out > 20)
        assert camera.status().sent >= frames[-1].seq
    eventually(lambda: not shared._doorbells and not camera.watched and shared._ring is None)


def test_a_publisher_whose_pictures_come_before_its_status_is_asked_for_no_announcements_for_long(
    publisher: Callable[..., Publisher], feed: Callable[..., Any], eventually: Eventually
) -> None:
    camera = publisher()
    feed(camera, fps=100)
    with Subscriber(camera.endpoint) as subscriber:
        _read_until(subscriber, lambda frame: _is_shared(frame) and _woken(subscriber, "a/b"))
        local = subscriber._receiver._local
        assert local is not None
        local._cameras["a/b"].epoch += 1  # as if it had not been heard of
        _read_until(subscriber, lambda _: local._cameras["a/b"].epoch == camera.epoch)
        _read_until(subscriber, lambda frame: _is_shared(frame) and _woken(subscriber, "a/b"))
        assert camera._shared is not None
        eventually(lambda: camera._shared is not None and not camera._shared._subscriptions)


@pytest.mark.parametrize("whose", ["subscriber", "publisher", "too many"])
def test_without_a_doorbell_announcements_go_on(
    whose: str, publisher: Callable[..., Publisher], feed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise PermissionError("no")

    if whose == "subscriber":
        monkeypatch.setattr(receiver, "Doorbell", refuse)
    elif whose == "publisher":
        monkeypatch.setattr(publisher_shared, "open_doorbell", refuse)
    camera = publisher()
    assert camera._shared is not None
    if whose == "too many":
        camera._shared._limits = replace(LIMITS, shared_doorbells=0)
    feed(camera)
    with Subscriber(camera.endpoint) as subscriber:
        frames = _read_until(subscriber, _is_shared)
        then = _read_until(subscriber, lambda frame: frame.seq > frames[-1].seq + 40)
        assert all(map(_is_shared, then))
        assert _only_forward(frames + then)
        assert not _woken(subscriber, "a/b")
        assert camera._shared._subscriptions


def test_what_a_slow_consumer_is_not_shown_was_dropped_and_not_missed(publisher: Callable[..., Publisher]) -> None:
    camera = publisher()
    image = np.zeros((48, 64, 3), np.uint8)
    with Subscriber(camera.endpoint) as subscriber:
        number = 0
        frames: list[Frame] = []
        while len(frames) < 60:
            for _ in range(1 + number % 7):
                camera.send(image, extra={"number": number})
                number += 1
            try:
                frames.append(subscriber.read(timeout=0.05))
            except TimeoutError:
                continue
            if not (_is_shared(frames[-1]) and _woken(subscriber, "a/b")):
                frames.clear()
                before = subscriber.dropped().get("a/b", 0)
        shown, dropped = len(frames) - 1, sum(frame.dropped for frame in frames[1:])
        assert frames[-1].seq - frames[0].seq == shown + dropped
        assert dropped > 60
        assert not any(frame.missed for frame in frames)
        assert subscriber.dropped()["a/b"] - before >= dropped - 10


@pytest.mark.parametrize("is_resized", [False, True], ids=["same size", "another size"])
def test_a_consumer_that_is_away_for_long_finds_the_newest_picture_and_its_camera_in_memory(
    is_resized: bool,
    publisher: Callable[..., Publisher],
    feed: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    eventually: Eventually,
) -> None:
    often = replace(TIMES, status_s=TIMES.status_s / 5, offline_s=TIMES.offline_s / 5)
    for module in (local_module, door, sender):
        monkeypatch.setattr(module, "TIMES", often)
    camera = publisher()
    shapes = [(48, 64, 3)]
    feed(camera, fps=200, make=lambda number: np.full(shapes[-1], number % 256, np.uint8))
    statuses: list[Status] = []
    with Subscriber(camera.endpoint, on_status=statuses.append) as subscriber:
        last = _read_until(subscriber, lambda frame: _is_shared(frame) and _woken(subscriber, "a/b"))[-1]
        if is_resized:
            shapes.append((60, 80, 3))
        heard = len(statuses)
        eventually(lambda: len(statuses) > heard + 10)
        frames = _read_until(subscriber, lambda frame: frame.height == shapes[-1][0])
        assert all(map(_is_shared, frames))
        assert frames[-1].seq > last.seq + 50
        assert frames[0].dropped == frames[0].seq - last.seq - 1
        assert frames[-1].age_ms < 1000
        assert _woken(subscriber, "a/b")


@pytest.mark.parametrize("pictures", [600, 9000], ids=["nearly", "quite"])
def test_a_new_ring_is_heard_of_though_the_doorbell_was_full(
    pictures: int, publisher: Callable[..., Publisher], eventually: Eventually
) -> None:
    camera = publisher()
    small, large = np.zeros((12, 16, 3), np.uint8), np.zeros((24, 32, 3), np.uint8)
    with Subscriber(camera.endpoint) as subscriber:
        for _ in range(1000):
            camera.send(small)
            with contextlib.suppress(TimeoutError):
                subscriber.read(timeout=0.05)
            if _woken(subscriber, "a/b") and subscriber._door is not None and subscriber._door.is_attended:
                break
        for _ in range(pictures):
            camera.send(small)
        camera.send(large)  # and nothing after it
        frames = _read_until(subscriber, lambda frame: frame.height == 24)
        assert all(map(_is_shared, frames))


def test_a_doorbell_that_was_full_is_pressed_again_as_long_as_somebody_has_it() -> None:
    doorbell = Doorbell()
    shared = SharedStream("a", host=host(), epoch=1)
    asked = topic(shared_channel(doorbell.name), "a")
    image = np.zeros((48, 64, 3), np.uint8)
    try:
        shared.subscribe(asked)
        for _ in range(10_000):
            doorbell.knock()
        assert shared.write(Frame(camera="a"), image, PixelFormat.BGR24)
        assert doorbell.heard() == (set(), True)
        for _ in range(2):
            shared.pull()
        assert shared._ring is not None
        assert doorbell.heard() == ({shared._ring.file}, False)
        shared.pull()
        assert doorbell.heard() == (set(), False)
        for _ in range(10_000):
            doorbell.knock()
        assert shared.write(Frame(camera="a"), image, PixelFormat.BGR24)
        shared.unsubscribe(asked)
        assert doorbell.heard() == (set(), True)
        shared.subscribe(shared.topic)
        assert shared.write(Frame(camera="a"), image, PixelFormat.BGR24)
        shared.pull()
        assert doorbell.heard() == (set(), False)
    finally:
        shared.unwatch()
        doorbell.close()


def test_several_threads_may_read_and_none_waits_in_vain(
    publisher: Callable[..., Publisher], feed: Callable[..., Any], start_broker: StartBroker, eventually: Eventually
) -> None:
    broker = start_broker()
    names = ["a", "b", "c"]
    for name in names:
        feed(publisher(name, to=broker.to), fps=50)
    feed(publisher("far", to=broker.to, shared=False), fps=50)
    got: list[Counter[tuple[str, str]]] = [Counter() for _ in range(3)]
    with Subscriber(broker.endpoint) as subscriber:

        def consume(counter: Counter[tuple[str, str]]) -> None:
            for frame in subscriber:
                counter[frame.camera, frame.channel] += 1

        threads = [threading.Thread(target=consume, args=(counter,), daemon=True) for counter in got]
        for thread in threads:
            thread.start()
        wanted = [*((name, "shm") for name in names), ("far", "cam")]
        eventually(lambda: all(sum(counter[each] for counter in got) > 60 for each in wanted))
        assert _woken(subscriber, *names)
        subscriber.ask_close()
        for thread in threads:
            thread.join(5)
            assert not thread.is_alive()


def test_who_is_notified_is_so_for_pictures_in_memory_too(
    publisher: Callable[..., Publisher], feed: Callable[..., Any], eventually: Eventually
) -> None:
    camera = publisher()
    feed(camera)
    notified = threading.Event()
    channels: list[str] = []
    with Subscriber(camera.endpoint, notify=notified.set) as subscriber:
        end = time.monotonic() + 15
        while channels.count("shm") < 30 and time.monotonic() < end:
            assert notified.wait(5)
            notified.clear()
            try:
                channels.append(subscriber.read(timeout=0).channel)
            except TimeoutError:
                continue
    assert channels.count("shm") == 30


@pytest.mark.parametrize("notify", [None, lambda: None], ids=["waiting", "notified"])
def test_who_waits_while_the_doorbell_is_made_waits_as_long_as_asked(
    publisher: Callable[..., Publisher], notify: Callable[[], None] | None
) -> None:
    camera = publisher()
    with Subscriber(camera.endpoint, notify=notify) as subscriber:
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            subscriber.read(timeout=0.7)
        assert time.monotonic() - begun >= 0.7
        assert subscriber._door is not None
        assert subscriber._door.doorbell is not None


def test_an_extra_of_any_size_travels_in_the_ring(publisher: Callable[..., Publisher]) -> None:
    camera = publisher()
    image = np.full((48, 64, 3), 3, np.uint8)
    sizes = (0, 3000, 5000, 60_000, 10)
    with Subscriber(camera.endpoint) as subscriber:
        seen: set[int] = set()
        number = 0
        while len(seen) < len(sizes) and number < 1000:
            size = sizes[number // 20 % len(sizes)]
            camera.send(image, extra={"text": "x" * size})
            number += 1
            try:
                frame = subscriber.read(timeout=0.02)
            except TimeoutError:
                continue
            assert (frame.image == 3).all()
            if _is_shared(frame):
                seen.add(len(frame.extra["text"]))
        assert seen == set(sizes)
        assert subscriber.counts() == {}


@pytest.mark.parametrize("is_missed", [False, True], ids=["soon", "after the cameras were offline"])
def test_a_broker_that_starts_anew_costs_no_camera_its_memory(
    is_missed: bool,
    publisher: Callable[..., Publisher],
    feed: Callable[..., Any],
    start_broker: StartBroker,
    free_port: Callable[[], int],
    eventually: Eventually,
) -> None:
    ports = {"publishers": [f"tcp://127.0.0.1:{free_port()}"], "subscribers": [f"tcp://127.0.0.1:{free_port()}"]}
    broker = start_broker(**ports)
    camera = publisher(to=broker.to)
    feed(camera)
    shared = camera._shared
    assert shared is not None
    with Subscriber(broker.endpoint) as subscriber:
        _read_until(subscriber, lambda frame: _is_shared(frame) and _woken(subscriber, "a/b"))
        first = _file(subscriber, "a/b")
        broker.stop()
        eventually(lambda: not shared.watched)
        assert not first.exists()
        if is_missed:
            while _pictures(subscriber)._readers:
                with contextlib.suppress(TimeoutError):
                    subscriber.read(timeout=0.1)
            eventually(lambda: subscriber.cameras()["a/b"].state == "offline")
        start_broker(**ports)
        frames = _read_until(subscriber, lambda frame: _is_shared(frame) and _file(subscriber, "a/b") != first)
        assert _only_forward(frames)
        assert all(map(_is_shared, _read_until(subscriber, lambda frame: frame.seq > frames[-1].seq + 30)))


_SUBSCRIBER: Final = """
    import sys
    from camfabric.subscriber import Subscriber
    with Subscriber(sys.argv[1]) as subscriber:
        for frame in subscriber:
            if subscriber._door.doorbell is not None and subscriber._door.is_attended:
                print(subscriber._door.doorbell.name, flush=True)
                break
        sys.stdin.readline()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_subscriber_that_is_killed_or_stopped_costs_nobody_anything(
    how: signal.Signals, publisher: Callable[..., Publisher], feed: Callable[..., Any], eventually: Eventually
) -> None:
    camera = publisher()
    feed(camera, fps=100)
    shared = camera._shared
    assert shared is not None
    victim = subprocess.Popen(
        _python(_SUBSCRIBER, camera.endpoint), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert victim.stdout is not None
        left = _FOLDER / f"camfabric-{victim.stdout.readline().strip()}.wake"
        with Subscriber(camera.endpoint) as subscriber:
            _read_until(subscriber, lambda frame: _is_shared(frame) and _woken(subscriber, "a/b"))
            eventually(lambda: len(shared._doorbells) == 2)
            victim.send_signal(how)
            frames = _read_until(subscriber, lambda frame: frame.seq > 100)
            frames += _read_until(subscriber, lambda frame: frame.seq > frames[-1].seq + 100)
            assert all(map(_is_shared, frames))
            victim.kill()
            victim.wait()
            eventually(lambda: len(shared._doorbells) == 1)
            shared_memory.sweep()
            assert not left.exists()
            assert all(map(_is_shared, _read_until(subscriber, lambda frame: frame.seq > frames[-1].seq + 200)))
    finally:
        victim.kill()
        victim.communicate()


# What is not copied


def test_a_picture_that_is_in_memory_is_not_copied_before_somebody_wants_it(
    publisher: Callable[..., Publisher], eventually: Eventually
) -> None:
    camera = publisher(codec="raw")
    image = np.zeros((48, 64, 3), np.uint8)

    def send(value: int) -> None:
        image[:] = value
        camera.send(image)
        image[:] = 255

    with Subscriber(camera.endpoint) as subscriber:
        for number in itertools.count():
            send(number % 200)
            with contextlib.suppress(TimeoutError):
                subscriber.read(timeout=0.01)
            if _woken(subscriber, "a/b") and not camera._main.watched:
                break
        for number in range(5):
            send(number)
        with Subscriber(camera.endpoint, local="off") as remote:
            assert (remote.read(timeout=5).image == 4).all()
            send(7)
            assert (remote.read(timeout=5).image == 7).all()
        eventually(lambda: not camera._main.watched)
        send(9)
        newest = camera._main._slot._newest
        assert newest is not None
        written = getattr(newest.draw, "__self__", None)
        assert isinstance(written, Written)
        assert written._image is None
    # Its ring is gone with the last one that has looked at it, and it is not.
    eventually(lambda: camera._shared is not None and camera._shared._ring is None)
    with Subscriber(camera.endpoint, local="off") as remote:
        assert (remote.read(timeout=5).image == 9).all()


def test_a_picture_that_was_overwritten_is_not_sent_as_another_one(publisher: Callable[..., Publisher]) -> None:
    shared = SharedStream("a", host=host(), epoch=1)
    shared.subscribe(shared.topic)
    image = np.zeros((48, 64, 3), np.uint8)
    written = [shared.write(Frame(camera="a"), image + number, PixelFormat.BGR24) for number in range(6)]
    drawn = [each.draw() for each in written if each is not None]
    assert [None if each is None else int(each[0, 0, 0]) for each in drawn] == [None, None, None, None, 4, 5]
    shared.unwatch()
    assert [each.draw() is None for each in written if each is not None] == [True, True, True, True, False, False]


# Other cameras under the same filter


def test_the_others_under_a_filter_go_on_and_new_ones_come(
    publisher: Callable[..., Publisher], feed: Callable[..., Any], start_broker: StartBroker
) -> None:
    broker = start_broker()
    feed(publisher("x/here", to=broker.to))
    feed(publisher("x/there", to=broker.to, shared=False))
    feed(publisher("y/there", to=broker.to, shared=False))
    feed(publisher("z/none", to=broker.to))
    with Subscriber(broker.endpoint, cameras=["x", "y"]) as subscriber:
        wanted = {("x/here", "shm"), ("x/there", "cam"), ("y/there", "cam")}
        _read_until(subscriber, _saw(wanted))
        feed(publisher("x/new", to=broker.to, shared=False))
        feed(publisher("x/here/too", to=broker.to))
        wanted = {("x/new", "cam"), ("x/here/too", "shm"), ("x/here", "shm"), ("x/there", "cam"), ("y/there", "cam")}
        _read_until(subscriber, _saw(wanted))
        subscriber.watch(["y", "x/here"])
        _read_until(subscriber, _saw({("y/there", "cam"), ("x/here", "shm")}))
        subscriber.watch([""])
        wanted = {("z/none", "shm"), ("x/here", "shm"), ("x/there", "cam")}
        _read_until(subscriber, _saw(wanted))
        assert subscriber.counts() == {}


# What does not work out


def test_where_there_is_no_room_the_stream_goes_on_and_memory_comes_back(
    publisher: Callable[..., Publisher],
    feed: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    eventually: Eventually,
) -> None:
    class Full(shared_memory.Ring):
        def _allocate(self, offset: int, length: int) -> None:
            raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(publisher_shared, "Ring", Full)
    monkeypatch.setattr(publisher_shared, "TIMES", replace(TIMES, shared_again_s=1.5))
    camera = publisher()
    feed(camera)
    with Subscriber(camera.endpoint) as subscriber:
        frames = _read_until(subscriber, lambda _: bool(caplog.records))
        frames += _read_until(subscriber, lambda frame: frame.seq > frames[-1].seq + 30)
        assert not any(map(_is_shared, frames))
        assert all(later.seq - earlier.seq < 30 for earlier, later in itertools.pairwise(frames))
        assert "no shared memory for a/b: no room" in caplog.text
        assert camera._shared is not None
        assert camera._shared._ring is None
        monkeypatch.setattr(publisher_shared, "Ring", shared_memory.Ring)
        frames = _read_until(subscriber, _is_shared)
        assert _only_forward(frames)


@pytest.mark.parametrize("codec", ["jpeg", "h264"])
def test_it_goes_back_to_the_stream_and_over_again_without_a_picture_twice_or_backwards(
    publisher: Callable[..., Publisher], feed: Callable[..., Any], codec: str
) -> None:
    camera = publisher(codec=codec)
    feed(camera)
    with Subscriber(camera.endpoint) as subscriber:
        frames = _read_until(subscriber, _is_shared)
        assert camera._shared is not None
        for _ in range(3):
            camera._shared._withdrawn_until = time.monotonic() + 1000
            camera._waker.wake()
            frames += _read_until(subscriber, lambda frame: not _is_shared(frame))
            frames += _read_until(subscriber, lambda frame: True)
            camera._shared._withdrawn_until = 0.0
            camera._waker.wake()
            frames += _read_until(subscriber, _is_shared)
        assert _only_forward(frames)
        assert subscriber.counts() == {}


def test_readers_that_hold_every_slot_cost_the_others_a_second_and_no_camera(
    publisher: Callable[..., Publisher],
    feed: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    eventually: Eventually,
) -> None:
    monkeypatch.setattr(publisher_shared, "TIMES", replace(TIMES, shared_starved_s=0.2))
    camera = publisher()
    feed(camera, fps=100)
    greedy = [Subscriber(camera.endpoint) for _ in range(12)]
    held: list[Frame] = []
    try:
        with Subscriber(camera.endpoint) as subscriber:
            _read_until(subscriber, _is_shared)
            for each in greedy:  # one after the other, so that each holds others
                if "its readers hold every slot" in caplog.text:
                    break
                while (frame := each.read(timeout=5)).channel != "shm":
                    pass
                held += [frame, each.read(timeout=5), each.read(timeout=5)]
            eventually(lambda: "its readers hold every slot" in caplog.text)
            _read_until(subscriber, lambda frame: frame.channel == "cam")
            assert all(
                (frame.image[..., 2] == frame.extra["number"] % 256).all() for frame in held if _is_shared(frame)
            )
    finally:
        for each in greedy:
            each.close()


def _announcer(context: zmq.Context[Any]) -> tuple[Any, str]:
    socket = context.socket(zmq.XPUB)
    socket.linger = 0
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    return socket, f"tcp://127.0.0.1:{port}"


@pytest.mark.parametrize("fault", ["nothing", "no file", "short", "silent"])
def test_a_hostile_announcement_costs_nothing_but_a_line(fault: str, eventually: Eventually) -> None:
    context: zmq.Context[Any] = zmq.Context()
    socket, endpoint = _announcer(context)
    stop = threading.Event()
    image = np.full((24, 32), 8, np.uint8)
    usual = Frame(
        camera="a", codec=Codec.RAW, pixel_format=PixelFormat.GRAY8, width=32, height=24, epoch=5, payload=bytes(image)
    )
    descriptor = {"nothing": b"", "no file": wire.pack_descriptor(wire.Descriptor(1, 1, 0)), "short": bytes(23)}

    def run() -> None:
        seq = 0
        while not stop.wait(0.02):
            now = time.monotonic_ns()
            frame = replace(usual, seq=seq, captured_monotonic_ns=now, captured_ns=time.time_ns())
            seq += 1
            status = Status(camera="a", epoch=5, shared=host(), fps_in=50.0)
            socket.send_multipart([b"status/a/", pack_status(status)])
            socket.send_multipart([b"cam/a/", wire.pack_header(frame), frame.payload])
            if fault != "silent":
                name = topic(shared_channel(host()), "a")
                socket.send_multipart([name, wire.pack_header(frame), descriptor[fault]])

    thread = threading.Thread(target=run)
    thread.start()
    try:
        with Subscriber(endpoint) as subscriber:
            frames = _read_until(subscriber, lambda frame: frame.seq > 160)
            assert not any(map(_is_shared, frames))
            local = subscriber._receiver._local
            assert local is not None
            if fault in ("no file", "silent"):
                eventually(lambda: not local.is_asked("a"))
            if fault != "silent":
                assert subscriber.counts()["memory"] > 0
    finally:
        stop.set()
        thread.join()
        socket.close()
        context.term()


def test_a_publisher_that_is_killed_and_starts_anew_is_taken_from_memory_again(
    camfabric: Any, free_port: Callable[[], int], eventually: Eventually
) -> None:
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    command = ("publish", "test://?size=320x240&fps=30", "--camera", "a", "--bind", endpoint)
    first = camfabric(*command)
    with Subscriber(endpoint) as subscriber:
        epoch = _read_until(subscriber, _is_shared)[-1].epoch
        left = _file(subscriber, "a")
        first.signal(signal.SIGKILL)
        first.wait()
        second = camfabric(*command)
        frames = _read_until(subscriber, lambda frame: _is_shared(frame) and frame.epoch != epoch)
        assert frames[-1].epoch != epoch
        assert not left.exists()
        _read_until(subscriber, lambda _: _woken(subscriber, "a"))
        second.end()
    eventually(lambda: not subscriber._receiver.is_alive())


def test_memory_of_a_publisher_that_has_ended_is_given_back(
    publisher: Callable[..., Publisher], feed: Callable[..., Any], eventually: Eventually
) -> None:
    camera = publisher()
    feeder = feed(camera)
    with Subscriber(camera.endpoint) as subscriber:
        _read_until(subscriber, _is_shared)
        feeder.stop()
        camera.close()
        held = subscriber._decoding._shared
        assert held is not None
        eventually(lambda: not held._readers)


# Other users and containers

_OTHER: Final = """
    import sys
    from camfabric.common.shared import host
    from camfabric.subscriber import Subscriber
    with Subscriber(sys.argv[1]) as subscriber:
        channels = [subscriber.read(timeout=20).channel for _ in range(100)]
    print(*sorted(set(channels)), host() or "none")
"""


def _namespace() -> list[str]:
    """A command that runs another one with mounts of its own, where that is allowed."""
    for command in (["unshare", "-m"], ["unshare", "-Urm"]):
        if (
            shutil.which("unshare")
            and not subprocess.run([*command, "true"], capture_output=True, check=False).returncode
        ):
            return command
    return []


_in_namespace = pytest.mark.skipif(not _namespace(), reason="mount namespaces are not allowed here")


def _python(program: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(program), *arguments]


def _shell(text: str, command: list[str]) -> subprocess.CompletedProcess[str]:
    inside = [*_namespace(), "sh", "-c", f'{text}\nexec "$@"', "sh", *command]
    return subprocess.run(inside, capture_output=True, text=True, timeout=50, check=False)


@_in_namespace
def test_a_container_with_its_own_memory_takes_the_stream(
    publisher: Callable[..., Publisher], feed: Callable[..., Any]
) -> None:
    camera = publisher()
    feed(camera)
    run = _shell("mount -t tmpfs tmpfs /dev/shm", _python(_OTHER, camera.endpoint))
    assert run.stdout.split() == ["cam", "none"], run.stderr
    run = _shell("mount -t tmpfs tmpfs /dev/shm; printf 0123456789abcdef > /dev/shm/camfabric-host",
                 _python(_OTHER, camera.endpoint))  # fmt: skip
    assert run.stdout.split() == ["cam", "0123456789abcdef"], run.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_another_user_takes_the_stream(publisher: Callable[..., Publisher], feed: Callable[..., Any]) -> None:
    camera = publisher()
    feed(camera)
    # What it needs is loaded before it is that user, who may not see where it lies.
    program = "import os, cv2, camfabric.subscriber\nos.setgid(65534)\nos.setuid(65534)\n" + textwrap.dedent(_OTHER)
    with Subscriber(camera.endpoint) as subscriber:
        _read_until(subscriber, _is_shared)
        run = subprocess.run(_python(program, camera.endpoint), capture_output=True, text=True, timeout=50, check=False)
        assert run.stdout.split() == ["cam", host()], run.stderr
        assert all(map(_is_shared, _read_until(subscriber, lambda frame: True)))


_FULL: Final = """
    import logging, sys, threading, time
    import numpy as np
    logging.basicConfig(format="%(message)s")
    from camfabric.publisher import Publisher
    from camfabric.subscriber import Subscriber
    image = np.zeros((1080, 1920, 3), np.uint8)
    with Publisher("a", bind="tcp://127.0.0.1:*") as publisher, Subscriber(publisher.endpoint) as subscriber:
        for number in range(60):
            publisher.send(image, copy=False)
            seen = subscriber.read(timeout=20).channel
        print(seen)
"""


@_in_namespace
@pytest.mark.parametrize(("size", "fill", "wanted"), [("64m", 0, "shm"), ("20m", 0, "cam"), ("64m", 60, "cam")])
def test_a_full_dev_shm_kills_nobody(size: str, fill: int, wanted: str) -> None:
    run = _shell(
        f"mount -t tmpfs -o size={size} tmpfs /dev/shm; head -c {fill}M /dev/zero > /dev/shm/others",
        _python(_FULL),
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == wanted
    assert run.stderr.count("no room") == (wanted == "cam")


# Topics and permissions


def test_topics_of_memory_name_a_host() -> None:
    name = topic(shared_channel("0123456789abcdef"), "cctv/lobby")
    assert name == b"shm/0123456789abcdef/cctv/lobby/"
    assert parse_topic(name) == ("shm/0123456789abcdef", "cctv/lobby")
    assert split_shared(name) == (b"shm/0123456789abcdef/", b"cctv/lobby/")
    for wrong in (
        b"shm/",
        b"shm/0123456789abcde",
        b"shm/0123456789abcdeg/a/",
        b"cam/0123456789abcdef/",
        b"shm/\xff" * 4,
    ):
        assert split_shared(wrong) is None


@pytest.mark.parametrize(
    ("filters", "subscription", "cut"),
    [
        (["a"], b"", b""),
        (["a"], b"", b"/a/"),
        (["a", "b/c"], b"", None),
        (["a"], b"/a/", b"/a/"),
        (["a"], b"/a/b/", b"/a/b/"),
        (["a"], b"/b/", b"-"),
        (["a"], b"/ab/", b"-"),
        ([""], b"/", b"/"),
        ([""], b"/b/", b"/b/"),
        ([""], b"/../", b"-"),
        ([], b"/a/", b"-"),
    ],
)
def test_an_outlet_passes_on_what_is_of_its_cameras(filters: list[str], subscription: bytes, cut: bytes | None) -> None:
    head = b"shm/0123456789abcdef"
    cameras = Cameras(filters)
    if not subscription:
        # Without its closing slash it names no host.
        assert cameras.cut(head) == cameras.cut(b"shm/") == ()
        assert cameras.cut(head + b"/") == tuple(head + b"/" + name.encode() + b"/" for name in sorted(filters))
    else:
        assert cameras.cut(head + subscription) == (() if cut == b"-" else (head + (cut or b""),))


def test_an_outlet_does_not_show_another_camera_through_memory(
    publisher: Callable[..., Publisher], feed: Callable[..., Any], start_broker: StartBroker, tmp_path: Path
) -> None:
    config = tmp_path / "broker.toml"
    config.write_text(
        'publishers = ["tcp://127.0.0.1:*"]\n'
        '[[outlet]]\nname = "all"\nendpoint = "tcp://127.0.0.1:*"\ncameras = ["*"]\n'
        '[[outlet]]\nname = "some"\nendpoint = "tcp://127.0.0.1:*"\ncameras = ["seen"]\n'
    )
    broker = start_broker(config=config)
    endpoints = broker.broker.subscribers
    feed(publisher("seen", to=broker.to))
    feed(publisher("hidden", to=broker.to))
    context: zmq.Context[Any] = zmq.Context()
    plain = context.socket(zmq.SUB)
    plain.linger = 0
    plain.connect(endpoints[1])
    for prefix in (b"", b"shm/", topic(shared_channel(host())), topic(shared_channel(host()), "hidden")):
        plain.subscribe(prefix)
    try:
        with Subscriber(endpoints[0]) as everything:
            _read_until(everything, _saw({("seen", "shm"), ("hidden", "shm")}))
            topics = {plain.recv_multipart()[0] for _ in range(200)}
            assert topic(shared_channel(host()), "seen") in topics
            assert not any(b"hidden" in name for name in topics)
    finally:
        plain.close()
        context.term()


# From where to take it


def _status(**fields: Any) -> Status:
    return replace(Status(camera="a", epoch=1, shared=host(), fps_in=30.0), **fields)


class _Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_topics_change_only_once_a_picture_has_come() -> None:
    clock = _Clock()
    local = Local(clock=clock)
    memory = topic(shared_channel(host()), "a")
    assert local.topics([""], {"a", "b"}) == {b"cam/"}
    assert local.heard(_status())
    assert local.topics([""], {"a", "b"}) == {b"cam/", memory}
    assert not local.heard(_status())
    assert local.arrived("a")
    assert not local.arrived("a")
    assert local.topics([""], {"a", "b"}) == {b"cam/b/", memory}
    local.doorbell = "0123456789abcdef"
    doorbell = topic(shared_channel(local.doorbell), "a")
    assert local.topics([""], {"a", "b"}) == {b"cam/b/", memory, doorbell}
    assert local.arrived("a", is_woken=True)
    assert local.topics([""], {"a", "b"}) == {b"cam/b/", doorbell}
    assert not local.arrived("a")
    assert not local.heard(_status())
    assert local.heard(_status(epoch=2))  # who may not be able to open it
    assert local.in_memory("a")
    assert local.topics([""], {"a", "b"}) == {b"cam/b/", memory, doorbell}
    local.doorbell = ""
    assert local.topics(["b", "a"], {"a", "b"}) == {b"cam/b/", memory}
    assert local.topics(["b"], {"b"}) == {b"cam/b/"}
    assert local.heard(_status(epoch=2, shared=""))
    assert local.topics([""], {"a", "b"}) == {b"cam/"}


def test_another_host_is_not_this_one() -> None:
    local = Local()
    assert not local.heard(_status(shared="0123456789abcdef"))
    assert not local.heard(_status(shared=""))
    assert local.topics(["a"], {"a"}) == {b"cam/a/"}


def test_it_is_given_up_where_the_stream_comes_and_nothing_else() -> None:
    clock = _Clock()
    local = Local(clock=clock)
    local.heard(_status())
    for _ in range(10):
        assert not local.passed("a")
    clock.now += TIMES.shared_try_s
    assert [local.passed("a") for _ in range(3)] == [False, False, True]
    assert local.topics(["a"], {"a"}) == {b"cam/a/"}
    assert not local.heard(_status())
    assert local.heard(_status(epoch=2))
    assert not local.heard(_status(epoch=2))


def test_it_is_given_up_where_the_camera_is_live_and_nothing_comes() -> None:
    clock = _Clock()
    local = Local(clock=clock)
    local.heard(_status())
    local.arrived("a")
    for _ in range(10):
        clock.now += TIMES.status_s
        assert not local.heard(_status(state="idle", fps_in=0.0))
    clock.now += TIMES.offline_s / 2
    assert not local.heard(_status(state="offline"))
    assert not local.heard(_status())
    clock.now += TIMES.offline_s / 2 + 0.1
    assert local.heard(_status())
    assert not local.in_memory("a")


def test_it_is_not_given_up_for_what_could_not_come_while_the_publisher_was_silent() -> None:
    clock = _Clock()
    local = Local(clock=clock)
    local.heard(_status())
    local.arrived("a")
    clock.now += 2 * TIMES.offline_s
    assert not local.heard(_status())
    assert local.in_memory("a")
    for _ in range(2):
        clock.now += TIMES.status_s
        assert not local.heard(_status())
    clock.now += TIMES.status_s
    assert local.heard(_status())
    assert not local.in_memory("a")


def test_too_many_cameras_stay_where_they_are() -> None:
    local = Local(limits=replace(LIMITS, shared_cameras=3))
    local.heard(_status())
    local.arrived("a")
    local.bound({"a", "b", "c"})
    assert local.topics([""], {"a", "b", "c"}) >= {b"cam/b/", b"cam/c/"}
    local.bound({"a", "b", "c", "d"})
    assert local.topics([""], {"a", "b", "c", "d"}) == {b"cam/"}
    assert not local.in_memory("a")


def test_memory_of_too_many_cameras_is_given_back(
    publisher: Callable[..., Publisher], feed: Callable[..., Any], start_broker: StartBroker, eventually: Eventually
) -> None:
    broker = start_broker()
    for name in ("a", "b"):
        feed(publisher(name, to=broker.to))
    with Subscriber(broker.endpoint) as subscriber:
        local = subscriber._receiver._local
        assert local is not None
        local._limits = replace(LIMITS, shared_cameras=2)
        _read_until(subscriber, _saw({("a", "shm"), ("b", "shm")}))
        assert set(_pictures(subscriber)._readers) == {"a", "b"}
        feed(publisher("c", to=broker.to))
        _read_until(subscriber, _saw({("a", "cam"), ("b", "cam"), ("c", "cam")}))
        eventually(lambda: not _pictures(subscriber)._readers)
        assert not list(_pictures(subscriber).rings())
        then = [subscriber.read(timeout=5) for _ in range(30)]
        assert {frame.channel for frame in then} == {"cam"}


def test_what_is_dropped_is_not_forgiven_by_another_channels_numbers() -> None:
    mailbox = Mailbox()
    for seq in range(5):
        mailbox.put(Frame(camera="a", epoch=1, seq=seq, payload=b""))
    mailbox.put(Frame(camera="a", channel=shared_channel(host()), epoch=1, seq=0, payload=b""))
    assert mailbox.get(0).dropped == 5
