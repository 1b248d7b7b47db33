"""`Publisher`: what it sends, to whom, and when not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import zmq

from camfabric.common import wire
from camfabric.common.errors import CodecError, ConfigError, EndpointError, WireError
from camfabric.common.frame import Codec
from camfabric.common.status import unpack_status
from camfabric.common.topics import request_topic
from camfabric.publisher import Publisher
from camfabric.subscriber import Subscriber

from .attacker import plain, said

ANY = "tcp://127.0.0.1:*"


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
@pytest.mark.parametrize("shape", [(48, 64, 3), (48, 64)])
def test_a_picture_arrives_as_it_was_sent(codec: str, shape: tuple[int, ...]) -> None:
    sent = np.full(shape, 90, np.uint8)
    sent[10:20, 10:30] = 200
    with Publisher("cam/1", bind=ANY, codec=codec) as publisher, Subscriber(publisher.endpoint) as subscriber:
        publisher.send(sent, extra={"zone": 3, "name": "Hof", "blob": b"\0\1"})
        frame = subscriber.read(timeout=5)
    assert frame.image.shape == shape
    assert np.abs(frame.image.astype(int) - sent).mean() <= (0 if codec == "raw" else 3)
    assert frame.extra == {"zone": 3, "name": "Hof", "blob": b"\0\1"}
    assert (frame.camera, frame.width, frame.height, frame.seq, frame.missed, frame.dropped) == (
        "cam/1",
        64,
        48,
        0,
        0,
        0,
    )
    assert 0 <= frame.age_ms < 5000


def test_16_bit_grey_travels_raw_and_not_as_jpeg() -> None:
    depth = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 21
    with Publisher("depth", bind=ANY, codec="raw") as publisher, Subscriber(publisher.endpoint) as subscriber:
        publisher.send(depth)
        frame = subscriber.read(timeout=5)
        assert np.array_equal(frame.image, depth)
        assert not frame.image.flags.writeable
    with Publisher("depth", bind=ANY) as publisher, pytest.raises(CodecError, match="uint16") as caught:
        publisher.send(depth)
    assert "(48, 64)" in str(caught.value)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4,), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
        [[1, 2], [3, 4]],
        None,
    ],
)
def test_what_is_no_picture_is_refused_with_its_shape_and_dtype(bad: Any) -> None:
    with Publisher("cam/1", bind=ANY) as publisher, pytest.raises(CodecError) as caught:
        publisher.send(bad)
    if isinstance(bad, np.ndarray):
        assert str(bad.shape) in str(caught.value)
        assert str(bad.dtype) in str(caught.value)
    assert "(H, W, 3) uint8 BGR" in str(caught.value)


def test_times_that_cannot_travel_are_refused_where_they_are_given(picture: Callable[..., Any]) -> None:
    with Publisher("cam/1", bind=ANY) as publisher, Subscriber(publisher.endpoint) as subscriber:
        for captured_ns in (1.7e18, 1 << 70):
            with pytest.raises(WireError):
                publisher.send(picture(), captured_ns=captured_ns)  # type: ignore[arg-type]
        publisher.send(picture())
        assert subscriber.read(timeout=5).seq == 0


def test_extra_fields_that_cannot_travel_are_refused_where_they_are_given(picture: Callable[..., Any]) -> None:
    with Publisher("cam/1", bind=ANY) as publisher:
        for extra in ({"f": object()}, {"lock": threading.Lock()}, {3: "x"}, {"big": b"x" * 70_000}):
            with pytest.raises(WireError):
                publisher.send(picture(), extra=extra)  # type: ignore[arg-type]


def test_wrong_arguments_are_refused_before_anything_starts() -> None:
    for arguments in (
        {"camera": "a//b"},
        {"camera": "a b"},
        {"codec": "h265x"},
        {"quality": 0},
        {"quality": 101},
        {"quality": True},
        {"to": "127.0.0.1:5550"},
        {"to": "tcp://192.0.2.1:5550"},
        {"bind": "tcp://0.0.0.0:5550"},
        {"to": ANY},
        {"to": "tcp://127.0.0.1:1", "bind": ANY},
        {"size": (1, 1)},
        {"size": (640.5, 480)},
        {"size": (640,)},
        {"size": "640x480"},
    ):
        with pytest.raises(ConfigError):
            Publisher(**({"camera": "cam/1"} | arguments))


def test_a_taken_port_is_said_in_one_line() -> None:
    with Publisher("cam/1", bind=ANY) as publisher, pytest.raises(EndpointError, match="taken"):
        Publisher("cam/2", bind=publisher.endpoint)


def test_a_living_ipc_endpoint_is_not_taken_over(tmp_path: Any) -> None:
    endpoint = f"ipc://{tmp_path}/camera"
    with Publisher("cam/1", bind=endpoint), pytest.raises(EndpointError, match="taken"):
        Publisher("cam/2", bind=endpoint)
    with Publisher("cam/3", bind=endpoint):  # its owner is gone
        pass


def test_nothing_is_encoded_while_nobody_watches(picture: Callable[..., Any], eventually: Any) -> None:
    with Publisher("cam/1", bind=ANY) as publisher:
        for number in range(50):
            publisher.send(picture(number))
        assert publisher.status().sent == 0
        with Subscriber(publisher.endpoint) as subscriber:
            assert subscriber.read(timeout=5).seq == 0
            eventually(lambda: publisher.watched)
        eventually(lambda: not publisher.watched)
        sent = publisher.status().sent
        for number in range(50):
            publisher.send(picture(number))
        assert publisher.status().sent == sent


def test_a_first_subscriber_gets_the_newest_picture_of_a_slow_camera_at_once(picture: Callable[..., Any]) -> None:
    with Publisher("cam/1", bind=ANY, codec="raw") as publisher:
        publisher.send(picture(7))
        for _ in range(3):  # the first one, and those that come after it has been sent
            with Subscriber(publisher.endpoint) as subscriber:
                assert subscriber.read(timeout=5).image[0, 0, 2] == 7


def test_a_second_subscriber_gets_it_by_replay_while_the_first_is_there(picture: Callable[..., Any]) -> None:
    with (
        Publisher("cam/1", bind=ANY, codec="raw") as publisher,
        Subscriber(publisher.endpoint) as first,
        Subscriber(publisher.endpoint) as second,
    ):
        publisher.send(picture(7))
        assert first.read(timeout=5).seq == 0
        assert second.read(timeout=5).seq == 0
        with Subscriber(publisher.endpoint) as third:
            assert third.read(timeout=5).seq == 0
        with pytest.raises(TimeoutError):
            first.read(timeout=0.2)  # nobody gets it twice


def test_extra_fields_may_be_changed_after_send(picture: Callable[..., Any]) -> None:
    zones: list[Any] = [1]
    with Publisher("cam/1", bind=ANY) as publisher:
        publisher.send(picture(), extra={"zones": zones})
        zones.append(object())
        with Subscriber(publisher.endpoint) as subscriber:
            assert subscriber.read(timeout=5).extra == {"zones": [1]}


def test_a_picture_that_cannot_be_encoded_costs_no_other(
    picture: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, eventually: Any
) -> None:
    from camfabric.common.codecs import jpeg

    encode = jpeg.encode

    def refuse(image: Any, *, quality: int) -> memoryview:
        if image[0, 0, 2] == 13:
            raise CodecError("unlucky", codec="jpeg")
        return encode(image, quality=quality)

    monkeypatch.setattr(jpeg, "encode", refuse)
    # Not from memory, where nothing is encoded.
    with Publisher("cam/1", bind=ANY) as publisher, Subscriber(publisher.endpoint, local="off") as subscriber:
        for number in (12, 13, 14):
            publisher.send(picture(number))
            if number == 13:
                eventually(lambda: "unlucky" in caplog.text)
            else:
                subscriber.read(timeout=5)


def test_packets_are_never_held_back(eventually: Any) -> None:
    """All of them are needed; and whoever does not keep up with them is not to seem as if he did."""
    with Publisher("a", bind=ANY, codec="copy") as publisher, plain(publisher.endpoint, b"SUB") as stuck:
        stuck.send(said(b"\x01cam/a/"))
        backlog = publisher._sender._audience.backlog
        eventually(lambda: publisher.watched)
        for _ in range(3):
            publisher.send_packet(bytes(3_000_000), codec=Codec.H264, size=(64, 48), keyframe=True)
        eventually(lambda: publisher.status().sent == 3)
        assert len(backlog._held) > 0
        assert not backlog._held_back
        assert not publisher._main.is_held


def test_a_flood_of_subscriptions_does_not_silence_it(feed: Any) -> None:
    context = zmq.Context()
    flood = context.socket(zmq.XSUB)
    flood.sndhwm = 0
    try:
        with Publisher("cam/1", bind=ANY) as publisher, Subscriber(publisher.endpoint, mode="every") as subscriber:
            feed(publisher, fps=50)
            flood.connect(publisher.endpoint)
            subscriber.read(timeout=5)
            for number in range(30_000):
                flood.send(b"\x01status/" if number % 2 else b"\x01x%d" % number)
            frames = [subscriber.read(timeout=2) for _ in range(50)]
            assert sum(frame.missed for frame in frames) == 0
    finally:
        flood.close(0)
        context.term()


def test_the_callers_array_may_be_written_again_after_send(picture: Callable[..., Any]) -> None:
    image = picture(1)
    with Publisher("cam/1", bind=ANY, codec="raw") as publisher, Subscriber(publisher.endpoint) as subscriber:
        publisher.send(image)
        image[:] = 0
        assert subscriber.read(timeout=5).image[0, 0, 2] == 1


def test_size_scales_the_picture(picture: Callable[..., Any]) -> None:
    with (
        Publisher("cam/1", bind=ANY, size=(32, 24)) as publisher,
        Subscriber(publisher.endpoint) as subscriber,
    ):
        publisher.send(picture())
        frame = subscriber.read(timeout=5)
        assert (frame.width, frame.height) == (32, 24)
        assert frame.image.shape == (24, 32, 3)


def test_capture_time_can_be_given(picture: Callable[..., Any]) -> None:
    import time

    with Publisher("cam/1", bind=ANY) as publisher, Subscriber(publisher.endpoint) as subscriber:
        publisher.send(picture(), captured_ns=time.time_ns() - 60_000_000_000)
        assert 60_000 <= subscriber.read(timeout=5).age_ms < 65_000


def test_the_status_says_why_a_camera_is_not_live(picture: Callable[..., Any], eventually: Any) -> None:
    with (
        Publisher("cam/1", bind=ANY) as publisher,
        Subscriber(publisher.endpoint, channel=None) as subscriber,
    ):
        eventually(lambda: subscriber.cameras().get("cam/1") and subscriber.cameras()["cam/1"].state == "stalled")
        assert subscriber.cameras()["cam/1"].reason == "no picture yet"
        publisher.send(picture())
        eventually(lambda: subscriber.cameras()["cam/1"].state == "live")
        publisher.report("offline", "the cable is out")
        eventually(lambda: subscriber.cameras()["cam/1"].reason == "the cable is out")
        publisher.send(picture())
        eventually(lambda: subscriber.cameras()["cam/1"].state == "live")
        eventually(lambda: subscriber.cameras()["cam/1"].state == "stalled")  # no picture for two seconds
        assert "no picture for" in subscriber.cameras()["cam/1"].reason
        publisher.close()
        eventually(lambda: subscriber.cameras()["cam/1"].reason == "its publisher ended")


def test_a_plain_zeromq_subscriber_gets_frames_status_clock_and_replay(picture: Callable[..., Any]) -> None:
    context = zmq.Context()
    plain = context.socket(zmq.SUB)
    plain.rcvtimeo = 5000
    try:
        with Publisher("cctv/lobby", bind=ANY, codec="raw") as publisher:
            plain.connect(publisher.endpoint)
            plain.subscribe(b"cam/cctv/")
            publisher.send(picture(5))
            frame = wire.unpack_frame(*plain.recv_multipart())
            assert (frame.camera, frame.width, len(frame.payload)) == ("cctv/lobby", 64, 64 * 48 * 3)
            plain.unsubscribe(b"cam/cctv/")
            plain.subscribe(b"status/")
            status = unpack_status(*plain.recv_multipart())
            assert (status.camera, status.epoch) == ("cctv/lobby", publisher.epoch)
            plain.unsubscribe(b"status/")
            asked = request_topic("replay", "0123456789abcdef", "cam/cctv/lobby")
            plain.subscribe(asked)
            replayed = wire.unpack_replay(plain.recv_multipart(), b"cam/cctv/lobby/")
            assert [again.seq for again in replayed] == [frame.seq]
            plain.subscribe(request_topic("clock", "0123456789abcdef"))
            topic, answer = plain.recv_multipart()
            assert topic == b"clock/0123456789abcdef/cctv/lobby/"
            assert wire.unpack_clock(answer).epoch == publisher.epoch
    finally:
        plain.close(0)
        context.term()


def test_a_replay_request_before_any_picture_is_answered_with_nothing() -> None:
    context = zmq.Context()
    plain = context.socket(zmq.SUB)
    plain.rcvtimeo = 5000
    try:
        with Publisher("cctv/lobby", bind=ANY) as publisher:
            plain.connect(publisher.endpoint)
            plain.subscribe(request_topic("replay", "ab", "cam/cctv/lobby"))
            assert wire.unpack_replay(plain.recv_multipart(), b"cam/cctv/lobby/") == []
    finally:
        plain.close(0)
        context.term()


def test_closing_twice_and_sending_after_it(picture: Callable[..., Any]) -> None:
    publisher = Publisher("cam/1", bind=ANY)
    publisher.close()
    publisher.close()
    with pytest.raises(ConfigError, match="closed"):
        publisher.send(picture())
