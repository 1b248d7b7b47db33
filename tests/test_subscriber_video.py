"""H.264 through real sockets: right pictures in order, the newest for who is slow, mended after a cut; without PyAV."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from camfabric.common.errors import ConfigError
from camfabric.common.frame import Codec, Frame
from camfabric.publisher import Publisher
from camfabric.subscriber import AsyncSubscriber, Subscriber

ANY = "tcp://127.0.0.1:*"
_PATIENCE_S = 20.0


def _send(publisher: Publisher, frame: Frame) -> None:
    publisher.send_packet(
        frame.payload,
        codec=frame.codec,
        size=(frame.width, frame.height),
        keyframe=frame.keyframe,
        disposable=frame.disposable,
        pts=frame.pts,
        dts=frame.dts,
        time_base=frame.time_base,
        extra=frame.extra,
    )


class Camera:
    """Sends the packets of a stream over and over, at a rate, until it is stopped."""

    def __init__(self, publisher: Publisher, frames: list[Frame], fps: float) -> None:
        self._stop = threading.Event()
        self.count = 0

        def run() -> None:
            while not self._stop.wait(1 / fps):
                with contextlib.suppress(ConfigError):  # the test has closed its publisher already
                    _send(publisher, frames[self.count % len(frames)])
                self.count += 1

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._stop.set()
        self._thread.join(5)


@pytest.fixture
def camera() -> Iterator[Callable[..., Camera]]:
    """Start cameras that end with the test."""
    cameras: list[Camera] = []

    def start(publisher: Publisher, frames: list[Frame], *, fps: float = 100) -> Camera:
        cameras.append(Camera(publisher, frames, fps))
        return cameras[-1]

    yield start
    for one in cameras:
        one.stop()


class Cable:
    """A TCP way to an endpoint that can be cut, and works again at once."""

    def __init__(self, endpoint: str) -> None:
        self._port = int(endpoint.rpartition(":")[2])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
                self._ends += [near, far]
                for one, other in ((near, far), (far, near)):
                    self._threads.append(threading.Thread(target=self._carry, args=(one, other), daemon=True))
                    self._threads[-1].start()

    @staticmethod
    def _carry(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Cut what is connected now."""
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(5)
        for end in self._ends:
            end.close()


# Pictures


def test_every_gives_all_pictures_in_order_and_right(video: Any, eventually: Any) -> None:
    clean = video(Codec.H264, "bframes=2:b-adapt=0", count=120)
    with (
        Publisher("a", bind=ANY, codec="copy") as publisher,
        Subscriber(publisher.endpoint, cameras="a", mode="every") as subscriber,
    ):
        eventually(lambda: publisher.watched)
        for frame in clean.frames:
            _send(publisher, frame)
        shown = [subscriber.read(_PATIENCE_S) for _ in range(117)]
    assert [frame.extra["number"] for frame in shown] == list(range(117))
    assert all(clean.is_clean(frame) for frame in shown)
    assert not any(frame.missed or frame.dropped for frame in shown)


def test_a_slow_consumer_gets_the_newest_and_counts_add_up(video: Any, camera: Any) -> None:
    clean = video(Codec.H264, "bframes=0:keyint=30:min-keyint=30", count=240)
    work = threading.Event()
    with Publisher("a", bind=ANY, codec="copy") as publisher, Subscriber(publisher.endpoint) as subscriber:
        sending = camera(publisher, clean.frames)
        shown, lags = [], []
        for _ in range(12):
            shown.append(subscriber.read(_PATIENCE_S))
            lags.append(sending.count - shown[-1].seq)
            work.wait(0.08)  # eight packets pass meanwhile
        sending.stop()
    assert all(clean.is_clean(frame) for frame in shown)
    for before, after in pairwise(shown):
        assert after.seq - before.seq == 1 + after.missed + after.dropped
    assert sum(frame.missed for frame in shown) == 0
    assert sum(frame.dropped for frame in shown) > 40
    assert subscriber.dropped()["a"] >= sum(frame.dropped for frame in shown)
    # A queue would be some 80 packets behind at the end.
    assert sorted(lags[1:])[len(lags) // 2] <= 6


def test_pictures_that_are_encoded_here_come_in_order(feed: Any, video: Any) -> None:
    with (
        Publisher("a", bind=ANY, codec="h264", gop=20) as publisher,
        Subscriber(publisher.endpoint, mode="every") as subscriber,
    ):
        feed(publisher, fps=100)
        shown = [subscriber.read(_PATIENCE_S) for _ in range(60)]
    assert [frame.seq for frame in shown] == list(range(60))
    # A publisher that cannot keep up encodes the newest.
    assert all(before.extra["number"] < after.extra["number"] for before, after in pairwise(shown))
    for frame in shown:
        # The picture's number is its third channel's value.
        assert abs(int(frame.image[..., 2].mean()) - frame.extra["number"] % 256) <= 8


def test_a_late_joiner_begins_at_the_keyframe_before_it(video: Any, start_broker: Any, eventually: Any) -> None:
    clean = video(Codec.H264, "bframes=0:keyint=200:min-keyint=200", count=100)
    broker = start_broker()
    with Publisher("a", to=broker.to, codec="copy") as publisher, Subscriber(broker.endpoint, mode="every") as first:
        eventually(lambda: publisher.watched)
        for frame in clean.frames[:40]:
            _send(publisher, frame)
        assert [first.read(_PATIENCE_S).seq for _ in range(40)] == list(range(40))
        with Subscriber(broker.endpoint, cameras="a", mode="every") as late:
            eventually(late.cameras)
            for frame in clean.frames[40:]:
                _send(publisher, frame)
            shown = [late.read(_PATIENCE_S) for _ in range(100)]
    assert [frame.seq for frame in shown] == list(range(100))
    assert all(clean.is_clean(frame) for frame in shown)


@pytest.mark.parametrize("mode", ["latest", "every"])
def test_a_connection_that_is_cut_in_a_group_is_mended(mode: Any, video: Any, start_broker: Any, camera: Any) -> None:
    # One keyframe in all: without a replay there would be no picture after the first cut.
    clean = video(Codec.H264, "bframes=0:keyint=500:min-keyint=500", count=250)
    frames = clean.frames
    broker = start_broker()
    with (
        contextlib.closing(Cable(broker.endpoint)) as cable,
        Publisher("a", to=broker.to, codec="copy") as publisher,
        Subscriber(cable.endpoint, cameras="a", mode=mode) as subscriber,
    ):
        sending = camera(publisher, frames, fps=60)
        shown = [subscriber.read(_PATIENCE_S)]
        for _ in range(2):
            cable.cut()
            cut_at = sending.count
            while shown[-1].seq < cut_at + 20:
                shown.append(subscriber.read(_PATIENCE_S))
        sending.stop()
        assert sending.count <= len(frames)
    assert all(clean.is_clean(frame) for frame in shown)
    for before, after in pairwise(shown):
        assert after.seq - before.seq == 1 + after.missed + after.dropped
    assert sum(frame.missed for frame in shown) == 0, "the replay has brought it all"
    assert mode == "latest" or [frame.seq for frame in shown] == list(range(shown[0].seq, shown[-1].seq + 1))


def test_a_publisher_that_starts_anew_goes_on_at_its_keyframe(video: Any, start_broker: Any, eventually: Any) -> None:
    clean = video(Codec.H264, "bframes=0", count=60)
    broker = start_broker()
    shown: list[Frame] = []
    with Subscriber(broker.endpoint, mode="every") as subscriber:
        for count in (7, 30):
            with Publisher("a", to=broker.to, codec="copy") as publisher:
                eventually(lambda watched=publisher: watched.watched)
                for frame in clean.frames[:count]:
                    _send(publisher, frame)
                shown += [subscriber.read(_PATIENCE_S) for _ in range(count)]
    assert [frame.seq for frame in shown] == [*range(7), *range(30)]
    assert all(clean.is_clean(frame) for frame in shown)
    assert not any(frame.missed for frame in shown)


def test_damage_is_counted_and_logged_and_the_picture_resumes(
    video: Any, eventually: Any, caplog: pytest.LogCaptureFixture
) -> None:
    clean = video(Codec.H264, "bframes=0", count=36)
    with (
        Publisher("a", bind=ANY, codec="copy") as publisher,
        Subscriber(publisher.endpoint, mode="every") as subscriber,
    ):
        eventually(lambda: publisher.watched)
        for frame in clean.frames:
            publisher.send_packet(
                frame.payload if frame.seq != 15 else b"\0\0\0\1\x41" + bytes(20),
                codec=frame.codec,
                size=(frame.width, frame.height),
                keyframe=frame.keyframe,
                extra=frame.extra,
            )
        shown = [subscriber.read(_PATIENCE_S) for _ in range(27)]
        assert subscriber.counts() == {"picture": 1}
    assert [frame.seq for frame in shown] == [*range(15), *range(24, 36)]
    assert shown[15].missed == 9
    assert all(clean.is_clean(frame) for frame in shown)
    assert "h264 15 of a: packet is damaged" in caplog.text


# Closing


def test_forty_subscribers_that_close_in_the_middle_of_a_group_end(video: Any, camera: Any) -> None:
    clean = video(Codec.H264, "bframes=2:b-adapt=0:slices=2", count=240)
    with Publisher("a", bind=ANY, codec="copy") as publisher:
        camera(publisher, clean.frames, fps=200)
        for number in range(40):
            with Subscriber(publisher.endpoint, cameras="a") as subscriber:
                for _ in range(number % 3):
                    subscriber.read(_PATIENCE_S)


def test_a_close_while_another_thread_decodes_ends_its_iteration(video: Any, camera: Any) -> None:
    clean = video(Codec.H264, "bframes=0:slices=4", count=240)
    with Publisher("a", bind=ANY, codec="copy") as publisher:
        camera(publisher, clean.frames, fps=200)
        for _ in range(5):
            subscriber = Subscriber(publisher.endpoint)
            began = threading.Event()

            def run(subscriber: Subscriber = subscriber, began: threading.Event = began) -> None:
                for _ in subscriber:
                    began.set()

            threads = [threading.Thread(target=run) for _ in range(3)]
            for thread in threads:
                thread.start()
            assert began.wait(_PATIENCE_S)
            subscriber.close()
            for thread in threads:
                thread.join(_PATIENCE_S)
                assert not thread.is_alive()


# asyncio


def test_async_gives_pictures_in_order_however_often_it_is_cancelled(video: Any) -> None:
    clean = video(Codec.H264, "bframes=2:b-adapt=0", count=120)

    async def run() -> list[Frame]:
        shown: list[Frame] = []
        with Publisher("a", bind=ANY, codec="copy") as publisher:
            async with AsyncSubscriber(publisher.endpoint, mode="every") as subscriber:
                while not publisher.watched:
                    await asyncio.sleep(0.01)
                for frame in clean.frames:
                    _send(publisher, frame)
                    waiting = asyncio.create_task(subscriber.read())
                    await asyncio.sleep(0.001 * (frame.seq % 4))
                    waiting.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        shown.append(await waiting)
                while len(shown) < 117:
                    shown.append(await subscriber.read(timeout=_PATIENCE_S))
        return shown

    shown = asyncio.run(run())
    assert [frame.extra["number"] for frame in shown] == list(range(117))
    assert all(clean.is_clean(frame) for frame in shown)


def test_async_gives_each_picture_to_one_of_several_readers(video: Any) -> None:
    clean = video(Codec.H264, "bframes=0", count=60)

    async def run() -> list[Frame]:
        with Publisher("a", bind=ANY, codec="copy") as publisher:
            async with AsyncSubscriber(publisher.endpoint, mode="every") as subscriber:
                while not publisher.watched:
                    await asyncio.sleep(0.01)
                reading = [asyncio.create_task(subscriber.read(_PATIENCE_S)) for _ in range(60)]
                for frame in clean.frames:
                    _send(publisher, frame)
                return list(await asyncio.gather(*reading))

    shown = asyncio.run(run())
    assert sorted(frame.seq for frame in shown) == list(range(60))
    assert all(clean.is_clean(frame) for frame in shown)


# Without the extra


def test_without_pyav_an_error_names_the_extra_and_other_cameras_go_on(
    video: Any,
    camera: Any,
    feed: Any,
    start_broker: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    clean = video(Codec.H264, "bframes=0", count=60)
    broker = start_broker()
    with (
        Publisher("video", to=broker.to, codec="copy") as coded,
        Publisher("still", to=broker.to) as still,
    ):
        monkeypatch.setitem(sys.modules, "av", None)
        with Subscriber(broker.endpoint) as subscriber:
            camera(coded, clean.frames)
            feed(still)
            while not subscriber.counts().get("picture"):
                subscriber.read(_PATIENCE_S)
            assert {subscriber.read(_PATIENCE_S).camera for _ in range(30)} == {"still"}
            assert "pip install 'camfabric[video]'" in caplog.text
        with Subscriber(broker.endpoint, cameras="video") as subscriber:
            with pytest.raises(TimeoutError, match=r"video sends h264, which needs the extra 'video': pip install"):
                _read_until_it_is_known(subscriber)
            with Subscriber(broker.endpoint, cameras="video", decode=False) as undecoded:
                assert undecoded.read(_PATIENCE_S).codec is Codec.H264


def _read_until_it_is_known(subscriber: Subscriber) -> None:
    while True:
        try:
            subscriber.read(0.2)
        except TimeoutError:
            if subscriber.counts():
                raise
