"""What a publisher keeps of a camera's own packets for late joiners, and what it hands them; and its bounds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from camfabric.common import wire
from camfabric.common.frame import Codec, Frame
from camfabric.common.groups import Groups
from camfabric.common.settings import Limits
from camfabric.common.topics import request_topic
from camfabric.publisher import Publisher, stream
from camfabric.subscriber import Subscriber

ANY = "tcp://127.0.0.1:*"


@pytest.fixture
def replay() -> Iterator[Callable[[str, str], list[Frame]]]:
    """Ask for what is kept of a stream, by a plain ZeroMQ socket."""
    context: zmq.Context[Any] = zmq.Context()

    def ask(endpoint: str, topic: str = "cam/a") -> list[Frame]:
        asked = request_topic("replay", "0123456789abcdef", topic)
        with context.socket(zmq.SUB) as socket:
            socket.linger, socket.rcvtimeo = 0, 10_000
            socket.connect(endpoint)
            socket.subscribe(asked)
            return wire.unpack_replay(socket.recv_multipart(), f"{topic}/".encode())

    yield ask
    context.term()


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


def test_a_replay_has_all_since_the_keyframe(video: Any, replay: Any) -> None:
    """Whether or not somebody watched meanwhile: the publisher keeps a camera's own packets."""
    packets = video(Codec.H264, "bframes=2").frames
    with Publisher("a", bind=ANY, codec="copy") as publisher:
        assert replay(publisher.endpoint) == []
        sent = 0
        for count in (3, 12, 13, 20, 24, 30):
            for packet in packets[sent:count]:
                _send(publisher, packet)
            sent = count
            kept = replay(publisher.endpoint)
            first = (count - 1) // 12 * 12
            assert [frame.seq for frame in kept] == list(range(first, count))
            assert [bytes(frame.payload) for frame in kept] == [packet.payload for packet in packets[first:count]]
            assert [(frame.pts, frame.dts) for frame in kept] == [(p.pts, p.dts) for p in packets[first:count]]
            assert [frame.keyframe for frame in kept] == [True] + [False] * (len(kept) - 1)
        assert replay(publisher.endpoint, "low/a") == []
        status = publisher.status()
        assert (status.sent, status.encoded, status.kept, status.kept_over) == (0, 0, 6, False)


@pytest.mark.parametrize("through", ["directly", "broker"])
def test_the_first_and_the_tenth_join_without_a_gap_or_a_repeat(
    through: str, video: Any, start_broker: Any, eventually: Any
) -> None:
    packets = video(Codec.H264, "bframes=0", count=240).frames
    broker = start_broker() if through == "broker" else None
    where = {"to": broker.to} if broker else {"bind": ANY}
    stop = threading.Event()
    with Publisher("a", codec="copy", **where) as publisher:
        endpoint = broker.endpoint if broker else publisher.endpoint

        def run() -> None:
            for number in range(1_000_000):
                if stop.wait(0.002):
                    return
                _send(publisher, packets[number % 240])

        thread = threading.Thread(target=run)
        thread.start()
        try:
            eventually(lambda: publisher.status().kept > 3)
            viewers = []
            for _ in range(10):
                viewers.append(Subscriber(endpoint, cameras=["a"], mode="every", decode=False))
                frames = [viewers[-1].read(timeout=10) for _ in range(60)]
                assert frames[0].keyframe
                assert [frame.seq for frame in frames] == list(range(frames[0].seq, frames[0].seq + 60))
                assert all(bytes(f.payload) == packets[f.seq % 240].payload for f in frames)
                assert sum(frame.missed for frame in frames[1:]) == 0
            for viewer in viewers:
                frames = [viewer.read(timeout=10) for _ in range(10)]
                assert len({frame.seq for frame in frames}) == 10
                assert sum(frame.missed for frame in frames) == 0
                assert viewer.dropped() == {}
                viewer.close()
        finally:
            stop.set()
            thread.join(10)


def test_a_group_over_the_bound_is_said_and_late_joiners_begin_at_the_next_keyframe(
    video: Any, replay: Any, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    packets = video(Codec.H264, "bframes=0").frames  # keyframes at 0, 12, 24 ...
    bound = sum(len(packet.payload) + 101 for packet in packets[:6])
    monkeypatch.setattr(stream, "Groups", lambda limits: Groups(Limits(group_bytes=bound)))
    with Publisher("a", bind=ANY, codec="copy") as publisher:
        for packet in packets[:6]:
            _send(publisher, packet)
        assert len(replay(publisher.endpoint)) == 6
        assert not publisher.status().kept_over
        _send(publisher, packets[6])
        assert replay(publisher.endpoint) == []
        assert publisher.status().kept_over
        assert publisher.status().kept == 0
        with Subscriber(publisher.endpoint, cameras=["a"], mode="every", decode=False) as late:
            eventually(lambda: late.cameras().get("a") and late.cameras()["a"].kept_over and publisher.watched)
            for packet in packets[7:15]:
                _send(publisher, packet)
            frames = [late.read(timeout=10) for _ in range(3)]
            assert [frame.seq for frame in frames] == [12, 13, 14]
            eventually(lambda: not late.cameras()["a"].kept_over)
            assert len(replay(publisher.endpoint)) == 3


def test_memory_is_bounded_where_the_sender_is_stuck(video: Any, picture: Any, eventually: Any) -> None:
    packets = video(Codec.H264, "bframes=0").frames
    held, going = threading.Event(), threading.Event()

    def slow() -> Any:
        held.set()
        going.wait(20)
        return picture(1)

    with Publisher("a", bind=ANY, codec="copy") as publisher, Subscriber(publisher.endpoint, decode=False) as viewer:
        eventually(lambda: publisher.watched)
        publisher.send_drawn(slow, size=(64, 48), captured_monotonic_ns=time.monotonic_ns())
        eventually(held.is_set)
        big = bytes(1_000_000)
        for number in range(300):
            publisher.send_packet(
                packets[number % 60].payload + big,
                codec=Codec.H264,
                size=(128, 96),
                keyframe=number % 12 == 0,
            )
        waiting = list(publisher._main._packets)
        assert sum(len(packet.payload) for packet in waiting if packet is not None) < 80_000_000
        assert publisher.status().dropped > 200
        going.set()
        eventually(lambda: not publisher._main._packets)
        for number in (12, 13, 14):
            _send(publisher, packets[number])
        while bytes((frame := viewer.read(timeout=10)).payload) != packets[12].payload:
            assert frame.codec in (Codec.JPEG, Codec.H264)
        assert bytes(viewer.read(timeout=10).payload) == packets[13].payload
