"""The small picture, `low/`: of what size and how often, made of what, and while whom."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camfabric.common.errors import ConfigError
from camfabric.common.frame import Codec, Frame
from camfabric.publisher import Low, Publisher
from camfabric.publisher.capture import Capture
from camfabric.publisher.low import Reducer, shrunk
from camfabric.publisher.sources import parse_source
from camfabric.publisher.sources.source import Wanted
from camfabric.subscriber import Subscriber

ANY = "tcp://127.0.0.1:*"


@pytest.fixture
def pace() -> Iterator[Callable[..., None]]:
    """Call something at a rate, with a number that grows, until the test ends."""
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def start(call: Callable[[int], None], fps: float) -> None:
        def run() -> None:
            number = 0
            while not stop.wait(1 / fps):
                try:
                    call(number)
                except ConfigError:
                    return  # the test has closed its publisher
                number += 1

        threads.append(threading.Thread(target=run))
        threads[-1].start()

    yield start
    stop.set()
    for thread in threads:
        thread.join(5)


def _send(publisher: Publisher, packet: Frame, channel: Any = "cam") -> None:
    publisher.send_packet(
        packet.payload,
        codec=packet.codec,
        size=(packet.width, packet.height),
        keyframe=packet.keyframe,
        disposable=packet.disposable,
        pts=packet.pts,
        dts=packet.dts,
        time_base=packet.time_base,
        extra=packet.extra,
        channel=channel,
    )


def _reducers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if isinstance(thread, Reducer)]


@pytest.mark.parametrize(
    ("size", "box", "becomes"),
    [
        ((1920, 1080), (320, 180), (320, 180)),
        ((640, 480), (320, 180), (240, 180)),
        ((1080, 1920), (320, 180), (101, 180)),
        ((4000, 100), (320, 180), (320, 8)),
        ((16384, 16), (320, 180), (320, 1)),
        ((320, 180), (320, 180), (320, 180)),
        ((64, 48), (320, 180), (64, 48)),
        ((65, 47), (64, 64), (64, 46)),
    ],
)
@pytest.mark.parametrize("channels", [3, 1])
def test_it_fits_and_keeps_its_shape(
    size: tuple[int, int], box: tuple[int, int], becomes: tuple[int, int], channels: int
) -> None:
    image = np.zeros((size[1], size[0], 3) if channels == 3 else (size[1], size[0]), np.uint8)
    image[: size[1] // 2] = 200
    small = shrunk(image, box)
    assert (small.shape[1], small.shape[0]) == becomes
    assert small.ndim == image.ndim
    if becomes[1] > 7:
        assert int(small[0].mean()) == 200
        assert int(small[-1].mean()) == 0


@pytest.mark.parametrize("codec", ["jpeg", "raw", "h264"])
def test_pictures_become_small_ones(codec: str, picture: Any, pace: Any) -> None:
    with (
        Publisher("a", bind=ANY, codec=codec) as publisher,
        Subscriber(publisher.endpoint, channel="low", mode="every") as low,
    ):
        begun_ns = time.monotonic_ns()

        def send(number: int) -> None:
            image = picture(number % 200, width=640, height=480)
            # A camera of exactly 50 pictures a second, whatever the machine is busy with.
            publisher.send(image, extra={"n": number}, captured_monotonic_ns=begun_ns + number * 20_000_000)

        pace(send, 200)
        frames = [low.read(timeout=10) for _ in range(6)]
        assert publisher.status().low
        assert publisher.status().encoded >= 6
        assert publisher.status().sent == 0  # that counts the main stream
    for number, frame in enumerate(frames):
        assert (frame.channel, frame.codec, frame.width, frame.height) == ("low", Codec.JPEG, 240, 180)
        assert frame.image.shape == (180, 240, 3)
        assert abs(int(frame.image[90, 120, 2]) - frame.extra["n"] % 200) < 8
        assert frame.seq == number
    # The first is the newest there was, whenever it was; of the others there are five a second.
    times = [frame.captured_monotonic_ns for frame in frames[1:]]
    assert all(after - before >= 180_000_000 for before, after in itertools.pairwise(times))


@pytest.mark.parametrize("options", ["bframes=0", "bframes=2"])
def test_packets_become_small_pictures_only_while_they_are_watched(
    video: Any, pace: Any, eventually: Any, options: str
) -> None:
    film = video(Codec.H264, options, count=240, size=(256, 192))
    with Publisher("a", bind=ANY, codec="copy", low=Low(size=(160, 90), fps=20)) as publisher:

        def send(number: int) -> None:
            packet = film.frames[number % 240]
            _send(publisher, replace(packet, extra={**packet.extra, "turn": number // 240}))

        pace(send, 100)
        for _ in range(2):
            eventually(lambda: publisher.status().kept > 2)
            assert _reducers() == []
            with Subscriber(publisher.endpoint, channel="cam", decode=False) as main:
                main.read(timeout=10)
                assert _reducers() == []
            with Subscriber(publisher.endpoint, channel="low", mode="every") as low:
                frames = [low.read(timeout=10) for _ in range(6)]
                assert len(_reducers()) == 1
            for frame in frames:
                assert (frame.codec, frame.width, frame.height) == (Codec.JPEG, 120, 90)
                assert frame.keyframe
                assert (frame.pts, frame.dts, frame.time_base) == (None, None, None)
                assert film.number_in(frame.image) == frame.extra["number"]
            shown = [frame.extra["turn"] * 240 + frame.extra["number"] for frame in frames]
            assert shown == sorted(shown)
            assert len(set(shown)) >= 5  # the one that was there may be decoded once more
            eventually(lambda: _reducers() == [])
        assert publisher.status().codec == "h264"


def test_the_first_small_picture_needs_no_further_packet(video: Any, eventually: Any) -> None:
    film = video(Codec.H264, "bframes=0", size=(256, 192))
    with Publisher("a", bind=ANY, codec="copy") as publisher:
        for packet in film.frames[:18]:
            _send(publisher, packet)
        eventually(lambda: publisher.status().kept == 6)
        with Subscriber(publisher.endpoint, channel="low") as low:
            frame = low.read(timeout=10)
            while frame.extra["number"] != 17:
                frame = low.read(timeout=10)
            assert film.number_in(frame.image) == 17


def test_motion_jpeg_becomes_small_pictures(picture: Any, pace: Any, eventually: Any) -> None:
    import cv2

    jpegs = [cv2.imencode(".jpg", picture(number * 10, width=640, height=360))[1].tobytes() for number in range(20)]
    with Publisher("a", bind=ANY, codec="copy") as publisher:

        def send(number: int) -> None:
            publisher.send_packet(
                jpegs[number % 20], codec=Codec.JPEG, size=(640, 360), keyframe=True, extra={"n": number % 20}
            )

        pace(send, 100)
        with Subscriber(publisher.endpoint, channel="low") as low:
            frames = [low.read(timeout=10) for _ in range(4)]
            assert len(_reducers()) == 1
        for frame in frames:
            assert frame.image.shape == (180, 320, 3)
            assert abs(int(frame.image[90, 160, 2]) - frame.extra["n"] * 10) < 8
        eventually(lambda: _reducers() == [])


def test_no_more_pictures_are_decoded_than_are_wanted(video: Any, pace: Any, eventually: Any) -> None:
    film = video(Codec.H264, "bframes=0", count=240, size=(256, 192))
    sent: list[int] = []
    with Publisher("a", bind=ANY, codec="copy", low=Low(fps=0.01)) as publisher:

        def send(number: int) -> None:
            _send(publisher, film.frames[number % 240])
            sent.append(number)

        pace(send, 200)
        with Subscriber(publisher.endpoint, channel="low", mode="every") as low:
            low.read(timeout=10)
            count = len(sent)
            eventually(lambda: len(sent) > count + 100)
            with pytest.raises(TimeoutError):
                low.read(timeout=0)  # the next one is due in a hundred seconds
        assert publisher.status().encoded == 1
        eventually(lambda: _reducers() == [])  # nor does anybody wait for that


def test_damaged_packets_give_no_small_picture_and_stop_nothing(video: Any, pace: Any) -> None:
    film = video(Codec.H264, "bframes=0", count=240, size=(256, 192))

    def send(number: int) -> None:
        packet = film.frames[number % 240]
        if number % 24 == 7:
            damaged = bytearray(packet.payload)
            damaged[10:] = bytes(len(damaged) - 10)
            publisher.send_packet(bytes(damaged), codec=Codec.H264, size=(256, 192), keyframe=False, extra=packet.extra)
        else:
            _send(publisher, packet)

    with Publisher("a", bind=ANY, codec="copy", low=Low(fps=50)) as publisher:
        pace(send, 200)
        with Subscriber(publisher.endpoint, channel="low") as low:
            for _ in range(15):
                frame = low.read(timeout=10)
                assert film.number_in(frame.image) == frame.extra["number"]


@pytest.mark.parametrize("turn", range(5))
def test_closing_while_packets_are_decoded(video: Any, pace: Any, turn: int) -> None:
    film = video(Codec.H264, "bframes=2", count=240, size=(256, 192))
    publisher = Publisher("a", bind=ANY, codec="copy", low=Low(fps=1000))
    with Subscriber(publisher.endpoint, channel="low") as low:
        pace(lambda number: _send(publisher, film.frames[number % 240]), 400)
        for _ in range(turn + 1):
            low.read(timeout=10)
        publisher.close()
        assert _reducers() == []


def test_grey_pictures_and_those_of_16_bits(eventually: Any) -> None:
    grey = np.full((480, 640), 90, np.uint8)
    with Publisher("a", bind=ANY) as publisher, Subscriber(publisher.endpoint, channel="low") as low:
        publisher.send(grey)
        frame = low.read(timeout=10)
        assert (frame.image.shape, str(frame.image.dtype), int(frame.image.mean())) == ((180, 240), "uint8", 90)
    depth = np.full((480, 640), 40_000, np.uint16)
    with Publisher("a", bind=ANY, codec="raw") as publisher, Subscriber(publisher.endpoint, channel="low") as low:
        publisher.send(depth)
        frame = low.read(timeout=10)  # JPEG has 8 bits
        assert (frame.codec, frame.image.shape, str(frame.image.dtype)) == (Codec.RAW, (180, 240), "uint16")
        assert int(frame.image.mean()) == 40_000
        # The next one is due a fifth of a second after it.
        publisher.send(grey, captured_monotonic_ns=frame.captured_monotonic_ns + 300_000_000)
        assert low.read(timeout=10).codec is Codec.JPEG


def test_none_at_all(picture: Any, eventually: Any) -> None:
    with Publisher("a", bind=ANY, low=None) as publisher:
        publisher.send(picture())
        assert not publisher.status().low
        with Subscriber(publisher.endpoint, channel="low") as low:
            eventually(lambda: "a" in low.cameras())
            assert not low.cameras()["a"].low
            with pytest.raises(TimeoutError):
                low.read(timeout=0.05)
        assert publisher.status().encoded == 0


@pytest.mark.parametrize(
    "wrong",
    [{"size": (320, 1)}, {"size": (0, 180)}, {"size": (320.0, 180)}, {"size": (99999, 9)}, {"fps": 0}, {"fps": -1}],
)
def test_wrong_values_are_said(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="low"):
        Low(**wrong)


def test_an_own_source_is_passed_on(video: Any, eventually: Any) -> None:
    film = video(Codec.H264, "bframes=2", size=(64, 48))
    with (
        Publisher("a", bind=ANY, codec="copy", low=Low(own_source=True)) as publisher,
        Subscriber(publisher.endpoint, channel="low", mode="every", decode=False) as low,
    ):
        eventually(publisher.demands["low"].is_set)
        assert not publisher.demands["cam"].is_set()
        for packet in film.frames:
            _send(publisher, packet, "low")
        frames = [low.read(timeout=10) for _ in film.frames]
        assert [bytes(frame.payload) for frame in frames] == [packet.payload for packet in film.frames]
        assert [(frame.pts, frame.dts) for frame in frames] == [(packet.pts, packet.dts) for packet in film.frames]
        status = publisher.status()
        assert (status.state, status.encoded, status.fps_in) == ("stalled", 0, 0)  # that is the main stream's
    with Publisher("a", bind=ANY, codec="copy") as publisher, pytest.raises(ConfigError, match="own_source"):
        _send(publisher, film.frames[0], "low")


def test_an_own_source_that_fails_does_not_end_the_camera(
    tmp_path: Path, eventually: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with (
        Publisher("a", bind=ANY, low=Low(own_source=True)) as publisher,
        Subscriber(publisher.endpoint) as subscriber,
    ):
        wanted = Wanted(label="a", packets=True)
        captures = [
            Capture(parse_source("test://?size=64x48&fps=50"), publisher, Wanted(label="a")),
            Capture(parse_source("rtsp://admin:s3cret@127.0.0.1:1/low"), publisher, wanted, channel="low"),
        ]
        threads = [threading.Thread(target=capture.run) for capture in captures]
        for thread in threads:
            thread.start()
        try:
            eventually(lambda: "connection refused; trying again" in caplog.text)
            subscriber.read(timeout=10)
            assert publisher.status().state == "live"
            assert all(thread.is_alive() for thread in threads)
        finally:
            for capture, thread in zip(captures, threads, strict=True):
                capture.stop()
                thread.join(10)
    assert "s3cret" not in caplog.text
