"""What is encoded when nobody watches: nothing; and what whoever comes is given at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from camfabric.common import wire
from camfabric.common.codecs import VideoDecoder
from camfabric.common.frame import Codec, Frame
from camfabric.common.topics import request_topic
from camfabric.publisher import Publisher, stream
from camfabric.publisher.capture import Capture
from camfabric.publisher.sources import parse_source
from camfabric.publisher.sources.scene import Scene
from camfabric.publisher.sources.source import Wanted
from camfabric.subscriber import Subscriber

ANY = "tcp://127.0.0.1:*"


class PlainSubscriber:
    """A ZeroMQ socket, and nothing of the fabric's."""

    def __init__(self, endpoint: str) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self.socket = self._context.socket(zmq.SUB)
        self.socket.rcvtimeo = 10_000
        self.socket.connect(endpoint)

    def frame(self) -> Frame:
        """The next message, which is a frame."""
        return wire.unpack_frame(*self.socket.recv_multipart())

    def replay(self, topic: str) -> list[Frame]:
        """What is kept of a stream."""
        asked = request_topic("replay", "0123456789abcdef", topic)
        self.socket.subscribe(asked)
        try:
            while True:
                parts = self.socket.recv_multipart()
                if parts[0] == asked:
                    return wire.unpack_replay(parts, f"{topic}/".encode())
        finally:
            self.socket.unsubscribe(asked)

    def close(self) -> None:
        """End it."""
        self.socket.close(0)
        self._context.term()


@pytest.fixture
def plain() -> Iterator[Callable[[str], PlainSubscriber]]:
    """Connect plain subscribers."""
    sockets: list[PlainSubscriber] = []

    def run(endpoint: str) -> PlainSubscriber:
        sockets.append(PlainSubscriber(endpoint))
        return sockets[-1]

    yield run
    for socket in sockets:
        socket.close()


def _count_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The topics of the streams whose encoder was called."""
    calls: list[str] = []
    original = stream.Stream._coded

    def counted(self: stream.Stream, captured: Any) -> Any:
        calls.append(self.topic.decode())
        return original(self, captured)

    monkeypatch.setattr(stream.Stream, "_coded", counted)
    return calls


def _settled(publisher: Publisher, eventually: Any) -> None:
    """Wait until the sender has taken in what was sent: it has answered a request that came later."""
    context: zmq.Context[Any] = zmq.Context()
    socket = context.socket(zmq.SUB)
    socket.rcvtimeo = 10_000
    try:
        socket.connect(publisher.endpoint)
        socket.subscribe(request_topic("clock", "0123456789abcdef"))
        socket.recv_multipart()
    finally:
        socket.close(0)
        context.term()


@pytest.mark.parametrize("codec", ["jpeg", "raw", "h264", "h265"])
def test_nobody_watches_and_nothing_is_encoded(
    codec: str, picture: Any, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _count_calls(monkeypatch)
    with Publisher("a", bind=ANY, codec=codec) as publisher:
        for number in range(50):
            publisher.send(picture(number))
        # Statuses, other cameras' frames and clocks are nothing that one watches.
        with (
            Subscriber(publisher.endpoint, channel=None) as statuses,
            Subscriber(publisher.endpoint, cameras=["b"]) as others,
        ):
            eventually(lambda: "a" in statuses.cameras())
            for number in range(50):
                publisher.send(picture(number))
            _settled(publisher, eventually)
            assert others.cameras() == {}
        status = publisher.status()
        assert (status.encoded, status.sent, status.watched, status.dropped) == (0, 0, False, 0)
        assert status.fps_in > 0
        assert calls == []
        with Subscriber(publisher.endpoint, cameras=["a"]) as subscriber:
            assert subscriber.read(timeout=10).seq == 0
        assert publisher.status().encoded == 1
        eventually(lambda: not publisher.watched)
        for number in range(50):
            publisher.send(picture(number))
        _settled(publisher, eventually)
        assert calls == ["cam/a/"]
        assert publisher.status().encoded == 1


def test_the_scene_is_drawn_only_while_somebody_watches(eventually: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    draw = Scene.draw

    def counted(self: Scene, number: int, captured_ns: int) -> Any:
        drawn.append(number)
        return draw(self, number, captured_ns)

    monkeypatch.setattr(Scene, "draw", counted)
    with Publisher("a", bind=ANY) as publisher:
        capture = Capture(parse_source("test://?size=64x48&fps=200"), publisher, Wanted(label="a"))
        thread = threading.Thread(target=capture.run)
        thread.start()
        try:
            eventually(lambda: publisher.status().fps_in > 50)
            assert drawn == []
            with Subscriber(publisher.endpoint) as subscriber:
                subscriber.read(timeout=10)
            eventually(lambda: not publisher.watched)
            _settled(publisher, eventually)
            count = len(drawn)
            before = publisher.status()
            eventually(lambda: publisher.status().uptime_ms > before.uptime_ms + 200)
            assert len(drawn) == count > 0
        finally:
            capture.stop()
            thread.join(10)


@pytest.mark.parametrize("topic", ["cam", "low"])
@pytest.mark.parametrize("codec", ["jpeg", "h264"])
def test_one_channel_watched_does_not_encode_the_other(
    codec: str, topic: str, feed: Any, plain: Any, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _count_calls(monkeypatch)
    with Publisher("a", bind=ANY, codec=codec) as publisher:
        feeder = feed(publisher, fps=200)
        watching = plain(publisher.endpoint)
        watching.socket.subscribe(f"{topic}/a/".encode())
        for _ in range(3):
            assert watching.frame().channel == topic
        count = feeder.count
        eventually(lambda: feeder.count > count + 50)
        assert set(calls) == {f"{topic}/a/"}
        assert publisher.status().watched is (topic == "cam")


@pytest.mark.parametrize("codec", ["jpeg", "raw", "h264", "h265"])
@pytest.mark.parametrize("through", ["directly", "broker"])
def test_the_first_viewer_gets_the_newest_picture_at_once(
    codec: str, through: str, picture: Any, plain: Any, start_broker: Any, eventually: Any
) -> None:
    """Without a replay, and where the camera gives no further picture; each time that somebody is the first."""
    broker = start_broker() if through == "broker" else None
    where = {"to": broker.to} if broker else {"bind": ANY}
    with Publisher("door/1", codec=codec, **where) as publisher:
        for number in range(5):
            publisher.send(picture(number), extra={"number": number})
        _settled_status(publisher, broker)
        for turn in range(3):
            viewer = plain(broker.endpoint if broker else publisher.endpoint)
            viewer.socket.subscribe(b"cam/door/1/")
            frame = viewer.frame()
            assert frame.extra == {"number": 4}
            assert frame.keyframe
            image = _decoded(frame)
            assert image.shape == (48, 64, 3)
            assert abs(int(image[24, 32, 2]) - 4) < 12
            viewer.socket.unsubscribe(b"cam/door/1/")
            eventually(lambda: not publisher.watched)
            assert publisher.status().sent == turn + 1


def _settled_status(publisher: Publisher, broker: Any) -> None:
    """Wait until the broker knows the camera: what is subscribed to then goes to its publisher."""
    if broker is not None:
        with Subscriber(broker.endpoint, channel=None) as subscriber:
            while "door/1" not in subscriber.cameras():
                threading.Event().wait(0.01)


def _decoded(frame: Frame) -> Any:
    from camfabric.common.codecs import decode

    if frame.codec.is_intra:
        return decode(frame)
    decoder = VideoDecoder()
    (shown,) = decoder.feed(frame)
    return shown.converted().image


def test_a_keyframe_is_made_when_a_stream_becomes_watched_again(picture: Any, plain: Any, eventually: Any) -> None:
    numbers = iter(range(1000))
    with Publisher("a", bind=ANY, codec="h264", gop=10_000) as publisher:
        for turn in range(4):
            viewer = plain(publisher.endpoint)
            viewer.socket.subscribe(b"cam/")
            eventually(lambda: publisher.watched)
            frames = [viewer.frame()] if turn else []  # what was the last one
            for number in [next(numbers) for _ in range(5)]:
                publisher.send(picture(number), extra={"number": number})
                frames.append(viewer.frame())
                assert frames[-1].extra == {"number": number}
            assert [frame.keyframe for frame in frames] == [True] + [False] * (len(frames) - 1)
            seqs = [frame.seq for frame in frames]
            assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
            decoder = VideoDecoder()
            shown = [decoded.frame for frame in frames for decoded in decoder.feed(frame)]
            assert [frame.extra for frame in shown] == [frame.extra for frame in frames]
            viewer.socket.unsubscribe(b"cam/")
            eventually(lambda: not publisher.watched)


def test_a_replay_of_what_nobody_watches_costs_one_picture(picture: Any, plain: Any) -> None:
    with Publisher("a", bind=ANY, codec="h264") as publisher:
        asking = plain(publisher.endpoint)
        for number in range(5):
            publisher.send(picture(number), extra={"number": number})
            publisher.send(picture(number), extra={"number": number})
            for _ in range(3):
                (kept,) = asking.replay("cam/a")
                assert (kept.extra, kept.keyframe) == ({"number": number}, True)
        assert publisher.status().encoded == 5
        assert not publisher.watched
        assert not publisher.demands["cam"].is_set()
        viewer = plain(publisher.endpoint)
        viewer.socket.subscribe(b"cam/a/")
        first = viewer.frame()
        assert (first.extra, first.keyframe) == ({"number": 4}, True)


def test_packets_after_pictures_take_their_place(video: Any, picture: Any, plain: Any, eventually: Any) -> None:
    """A camera whose codec can be carried, after a fault, and could not before it."""
    packets = video(Codec.H264, "bframes=0").frames
    with Publisher("a", bind=ANY, codec="copy") as publisher:
        publisher.send(picture(1))
        _send(publisher, packets[0])
        _send(publisher, packets[1])
        viewer = plain(publisher.endpoint)
        assert [frame.codec for frame in viewer.replay("cam/a")] == [Codec.H264] * 2
        viewer.socket.subscribe(b"cam/a/")
        eventually(lambda: publisher.watched)
        _send(publisher, packets[2])
        assert viewer.frame().codec is Codec.H264
        publisher.send(picture(2))
        assert viewer.frame().codec is Codec.JPEG
        assert [frame.codec for frame in viewer.replay("cam/a")] == [Codec.JPEG]
        assert publisher.status().codec == "jpeg"


def _send(publisher: Publisher, packet: Frame) -> None:
    publisher.send_packet(
        packet.payload,
        codec=packet.codec,
        size=(packet.width, packet.height),
        keyframe=packet.keyframe,
        disposable=packet.disposable,
        pts=packet.pts,
        dts=packet.dts,
        time_base=packet.time_base,
    )
