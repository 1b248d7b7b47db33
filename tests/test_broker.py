"""The broker: forwarding, subscriptions upstream, last pictures and statuses, name conflicts, circles."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import zmq

from camfabric.broker import Broker
from camfabric.common import wire
from camfabric.common.errors import ConfigError, EndpointError
from camfabric.common.frame import Codec, Frame
from camfabric.common.status import Status, pack_status, unpack_status
from camfabric.common.topics import request_topic, topic
from camfabric.publisher import Publisher
from camfabric.subscriber import Subscriber

ANY = "tcp://127.0.0.1:*"


@pytest.mark.parametrize("brokers", [1, 3])
def test_frames_and_subscriptions_cross_brokers(feed: Any, start_broker: Any, eventually: Any, brokers: int) -> None:
    chain = [start_broker()]
    for _ in range(brokers - 1):
        chain.append(start_broker(publishers=[], upstreams=[chain[-1].endpoint]))
    with Publisher("cctv/lobby", to=chain[0].to) as publisher, Publisher("cctv/gate", to=chain[0].to) as other:
        feed(publisher)
        feed(other)
        with Subscriber(chain[-1].endpoint, cameras="cctv/lobby", local="off") as subscriber:
            frame = subscriber.read(timeout=10)
            assert (frame.camera, frame.hops) == ("cctv/lobby", brokers)
            assert publisher.watched
            assert not other.watched
        eventually(lambda: not publisher.watched)


def test_an_upstream_may_be_a_publisher_that_binds(feed: Any, start_broker: Any) -> None:
    with Publisher("a", bind=ANY) as publisher:
        feed(publisher)
        broker = start_broker(publishers=[], upstreams=[publisher.endpoint])
        with Subscriber(broker.endpoint) as subscriber:
            assert subscriber.read(timeout=5).camera == "a"


def test_start_order_does_not_matter(feed: Any, start_broker: Any, free_port: Callable[[], int]) -> None:
    to, endpoint = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
    with Subscriber(endpoint) as subscriber, Publisher("a", to=to) as publisher:
        feed(publisher)
        start_broker(publishers=[to], subscribers=[endpoint])
        assert subscriber.read(timeout=5).camera == "a"


def test_the_last_status_is_there_at_once_for_a_late_subscriber(start_broker: Any, eventually: Any) -> None:
    broker = start_broker()
    context = zmq.Context()
    plain = context.socket(zmq.SUB)
    plain.rcvtimeo = 900  # a publisher speaks once a second: this is the broker's own memory
    try:
        with Publisher("a", to=broker.to), Subscriber(broker.endpoint, channel=None) as subscriber:
            eventually(subscriber.cameras)
            plain.connect(broker.endpoint)
            plain.subscribe(b"status/")
            assert unpack_status(*plain.recv_multipart()).camera == "a"
    finally:
        plain.close(0)
        context.term()


def test_fields_of_a_status_that_a_broker_does_not_know_pass_it(start_broker: Any, eventually: Any) -> None:
    import msgpack

    broker = start_broker()
    context = zmq.Context()
    publisher, plain = context.socket(zmq.XPUB), context.socket(zmq.SUB)
    plain.rcvtimeo = 5000
    try:
        publisher.connect(broker.to)
        plain.connect(broker.endpoint)
        plain.subscribe(b"status/")
        eventually(lambda: b"\x01status/" in _drain(publisher))
        publisher.send_multipart([b"status/a/", msgpack.packb({"v": 1, "epoch": 5, "heat": 3, "state": "dusty"})])
        content = msgpack.unpackb(plain.recv_multipart()[1])
        assert (content["heat"], content["state"], content["hops"]) == (3, "dusty", 1)
    finally:
        publisher.close(0)
        plain.close(0)
        context.term()


def test_a_late_subscriber_of_a_slow_camera_gets_the_last_picture_from_the_broker(
    picture: Callable[..., Any], start_broker: Any
) -> None:
    broker = start_broker()
    with (
        Publisher("a", to=broker.to, codec="raw") as publisher,
        Subscriber(broker.endpoint) as first,
    ):
        publisher.send(picture(9))
        assert first.read(timeout=5).seq == 0
        with Subscriber(broker.endpoint) as late:
            frame = late.read(timeout=5)
            assert (frame.seq, frame.image[0, 0, 2]) == (0, 9)
        assert publisher.status().sent == 1


def test_an_old_picture_is_not_kept_once_nobody_watches(
    picture: Callable[..., Any], start_broker: Any, eventually: Any
) -> None:
    broker = start_broker()
    with Publisher("a", to=broker.to, codec="raw") as publisher:
        with Subscriber(broker.endpoint) as first:
            publisher.send(picture(1))
            first.read(timeout=5)
        eventually(lambda: not publisher.watched)
        publisher.send(picture(2))
        with Subscriber(broker.endpoint) as late:
            assert late.read(timeout=5).image[0, 0, 2] == 2


def test_of_a_camera_that_has_gone_nobody_gets_an_old_picture(
    start_broker: Any, picture: Callable[..., Any], eventually: Any
) -> None:
    broker = start_broker()
    with Subscriber(broker.endpoint) as watcher:
        with Publisher("a", to=broker.to, codec="raw") as publisher:
            eventually(lambda: publisher.watched)
            publisher.send(picture())
            watcher.read(timeout=5)
        eventually(lambda: (status := watcher.cameras().get("a")) and status.state == "offline")
        with Subscriber(broker.endpoint) as late:
            eventually(lambda: late.cameras().get("a"))
            with pytest.raises(TimeoutError, match="a is offline"):
                late.read(timeout=0.5)


def test_a_publisher_that_vanishes_is_offline_everywhere(start_broker: Any, eventually: Any, camfabric: Any) -> None:
    broker = start_broker()
    process = camfabric("publish", "test://?size=64x48", "--camera", "a", "--to", broker.to)
    with Subscriber(broker.endpoint, channel=None) as subscriber:
        eventually(lambda: subscriber.cameras().get("a") and subscriber.cameras()["a"].state == "live", within_s=20)
        process.kill()
        eventually(lambda: subscriber.cameras()["a"].state == "offline")
        with Subscriber(broker.endpoint, channel=None) as late:
            eventually(lambda: late.cameras().get("a"))
            assert late.cameras()["a"].state == "offline"
            assert late.cameras()["a"].reason


def test_of_two_publishers_with_one_name_the_newer_wins_and_it_is_reported(
    feed: Any, start_broker: Any, eventually: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    broker = start_broker()
    with ExitStack() as stack:
        old = stack.enter_context(Publisher("cctv/lobby", to=broker.to))
        feed(old)
        subscriber = stack.enter_context(Subscriber(broker.endpoint, mode="every"))
        assert subscriber.read(timeout=5).epoch == old.epoch
        new = stack.enter_context(Publisher("cctv/lobby", to=broker.to))
        feed(new)
        epochs: list[int] = []
        while epochs.count(new.epoch) < 150:
            epochs.append(subscriber.read(timeout=5).epoch)
        assert epochs == sorted(epochs, key=lambda epoch: epoch == new.epoch), "interleaved"
        eventually(lambda: "two publishers claim camera cctv/lobby" in caplog.text)
        eventually(lambda: subscriber.cameras()["cctv/lobby"].rivals == 1)
        assert caplog.text.count("two publishers claim") == 1
        new.close()
        eventually(lambda: subscriber.read(timeout=5).epoch == old.epoch)


def test_a_restart_is_no_conflict(
    feed: Any, start_broker: Any, eventually: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    broker = start_broker()
    with Subscriber(broker.endpoint, mode="every") as subscriber:
        for _ in range(3):
            with Publisher("a", to=broker.to) as publisher:
                feed(publisher)
                eventually(lambda: subscriber.read(timeout=5).epoch == publisher.epoch)
    assert "two publishers" not in caplog.text


def test_brokers_in_a_circle_are_refused(
    feed: Any, start_broker: Any, eventually: Any, caplog: pytest.LogCaptureFixture, free_port: Callable[[], int]
) -> None:
    caplog.set_level(logging.ERROR)
    one, two = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
    broker = start_broker(subscribers=[one], upstreams=[two])
    start_broker(subscribers=[two], upstreams=[one])
    eventually(lambda: caplog.text.count("leads back to this broker: refused") >= 1)
    assert broker.broker.publishers == [broker.to], "a refused upstream is no endpoint for publishers"
    with Publisher("a", to=broker.to) as publisher, Subscriber(broker.endpoint, mode="every") as subscriber:
        feed(publisher)
        seqs = [subscriber.read(timeout=5).seq for _ in range(50)]
        assert seqs == sorted(set(seqs))


def test_a_message_that_came_through_too_many_brokers_is_dropped(start_broker: Any, eventually: Any) -> None:
    broker = start_broker()
    context = zmq.Context()
    publisher = context.socket(zmq.XPUB)
    try:
        publisher.connect(broker.to)
        with Subscriber(broker.endpoint, decode=False) as subscriber:
            for hops, seq in ((8, 1), (7, 2)):
                frame = Frame(camera="a", codec=Codec.JPEG, width=8, height=8, epoch=1, seq=seq, hops=hops)
                eventually(lambda: b"\x01cam/" in _drain(publisher) or seq == 2)  # noqa: B023
                publisher.send_multipart([b"cam/a/", wire.pack_header(frame), b"x"])
            got = subscriber.read(timeout=5)
            assert (got.seq, got.hops) == (2, 8)
    finally:
        publisher.close(0)
        context.term()


def _drain(socket: Any) -> list[bytes]:
    messages = []
    while socket.poll(0):
        messages.append(socket.recv())
    return messages


def test_garbage_from_anyone_is_counted_and_harms_nobody(
    feed: Any, start_broker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    broker = start_broker()
    frame = wire.pack_header(Frame(camera="evil", codec=Codec.JPEG, width=8, height=8, epoch=1))
    bad_publisher_messages = [
        [b""],
        [b"\xff\xfe"],
        [b"cam/"],
        [b"cam/a/"],
        [b"cam/a/", b"", b""],
        [b"cam/a/", b"\x81\xa1m\xc4\x60" + b"\0" * 96, b"x"],
        [b"cam/../", frame, b"x"],
        [b"cam/evil/", frame, b"x", b"more"],
        [b"cam/evil/", frame[:40], b"x"],
        [b"status/evil/", b"\xc1"],
        [b"status/evil/", b"\x80" * 5000],
        [b"status/evil/", pack_status(Status(camera="evil", hops=9))],
        [b"replay/x/cam/evil/", b"\x80"],
        [b"clock/"],
        [b"broker/evil/", b"\x93"],
        [b"nonsense/a/", b"x"],
        [b"x"] * 2000,
    ]
    bad_subscriber_messages = [b"", b"\x02", b"\x01" + b"\xff" * 300, b"hello", b"\x01\xff\xfe", b"\x00never"]
    context = zmq.Context()
    evil_publisher, evil_subscriber = context.socket(zmq.XPUB), context.socket(zmq.XSUB)
    try:
        evil_publisher.connect(broker.to)
        evil_subscriber.connect(broker.endpoint)
        with Publisher("good", to=broker.to, codec="raw") as publisher:
            with Subscriber(broker.endpoint, mode="every", cameras="good") as subscriber:
                feed(publisher, fps=100)
                frames = [subscriber.read(timeout=5)]
                for _ in range(3):
                    for message in bad_publisher_messages:
                        evil_publisher.send_multipart(message)
                    for data in bad_subscriber_messages:
                        evil_subscriber.send(data)
                    frames += [subscriber.read(timeout=5) for _ in range(20)]
            assert sum(frame.missed for frame in frames) == 0
        assert caplog.text.count("on publishers (") == 1  # once a peer and minute
    finally:
        evil_publisher.close(0)
        evil_subscriber.close(0)
        context.term()


def test_garbage_on_a_publishers_and_a_subscribers_own_ports(feed: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    context = zmq.Context()
    evil_subscriber, evil_publisher = context.socket(zmq.XSUB), context.socket(zmq.XPUB)
    port = evil_publisher.bind_to_random_port("tcp://127.0.0.1")
    try:
        with Publisher("good", bind=ANY) as publisher:
            feed(publisher, fps=100)
            evil_subscriber.connect(publisher.endpoint)
            endpoints = [publisher.endpoint, f"tcp://127.0.0.1:{port}"]
            with Subscriber(endpoints, mode="every") as subscriber:
                subscriber.read(timeout=5)
                for message in ([b"cam/x/"], [b"cam/x/", b"", b""], [b"status/x/", b"1"], [b"cam/x", b"", b""]):
                    evil_publisher.send_multipart(message)
                for data in (b"", b"\x07", b"\x01replay/../cam/good/", b"\x01" + b"\xff" * 200):
                    evil_subscriber.send(data)
                frames = [subscriber.read(timeout=5) for _ in range(50)]
                assert sum(frame.missed for frame in frames) == 0
                assert sum(subscriber.counts().values()) >= 3
        assert "bad message from" in caplog.text
    finally:
        evil_subscriber.close(0)
        evil_publisher.close(0)
        context.term()


def test_raw_bytes_on_its_ports_do_no_harm(feed: Any, start_broker: Any) -> None:
    import socket

    broker = start_broker()
    with Publisher("good", to=broker.to) as publisher, Subscriber(broker.endpoint) as subscriber:
        feed(publisher)
        subscriber.read(timeout=5)
        for endpoint in (broker.to, broker.endpoint):
            host, port = endpoint.removeprefix("tcp://").split(":")
            for data in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 4096, b""):
                with socket.create_connection((host, int(port))) as raw:
                    raw.sendall(data)
        seq = subscriber.read(timeout=5).seq
        while subscriber.read(timeout=5).seq < seq + 10:
            pass


def test_repeated_subscriptions_of_one_peer_end_with_it(feed: Any, start_broker: Any, eventually: Any) -> None:
    broker = start_broker()
    context = zmq.Context()
    with Publisher("a", to=broker.to) as publisher:
        feed(publisher)
        plain = context.socket(zmq.SUB)
        plain.rcvtimeo = 5000
        plain.connect(broker.endpoint)
        for _ in range(3):
            plain.subscribe(b"cam/a/")
        plain.recv_multipart()
        plain.close(0)
        eventually(lambda: not publisher.watched)
    context.term()


def test_answers_go_on_once_though_they_come_twice(start_broker: Any, eventually: Any) -> None:
    broker = start_broker()
    context = zmq.Context()
    publisher, plain = context.socket(zmq.XPUB), context.socket(zmq.SUB)
    asked = request_topic("replay", "00ff", "cam/a")
    try:
        publisher.connect(broker.to)
        plain.connect(broker.endpoint)
        plain.subscribe(asked)
        plain.subscribe(topic("cam", "a"))
        eventually(lambda: b"\x01" + topic("cam", "a") in _drain(publisher))
        answer = wire.pack_replay(asked, [])
        publisher.send_multipart(answer)
        publisher.send_multipart(answer)
        frame = Frame(camera="a", codec=Codec.JPEG, width=8, height=8, epoch=1)
        publisher.send_multipart([topic("cam", "a"), wire.pack_header(frame), b"x"])
        plain.rcvtimeo = 5000
        assert [plain.recv_multipart()[0] for _ in range(2)] == [asked, topic("cam", "a")]
    finally:
        publisher.close(0)
        plain.close(0)
        context.term()


def _xpub_upstream(broker: Any, eventually: Any, context: Any) -> Any:
    """A publisher made of a bare socket, connected, without any limit of its own."""
    publisher = context.socket(zmq.XPUB)
    publisher.sndhwm = 0
    publisher.connect(broker.to)
    eventually(lambda: b"\x01status/" in _drain(publisher))
    publisher.send_multipart([topic("status", "a"), pack_status(Status(camera="a", epoch=1))])
    return publisher


def test_a_burst_loses_nothing_whatever_came_before_it(start_broker: Any, eventually: Any) -> None:
    """A high-water mark that follows the size of the messages loses frames, or stalls a connection for good."""
    broker = start_broker()
    context = zmq.Context()
    publisher = _xpub_upstream(broker, eventually, context)
    seq = 0

    def send(count: int, payload_bytes: int) -> list[int]:
        nonlocal seq
        seqs = list(range(seq, seq + count))
        for seq in seqs:
            frame = Frame(camera="a", codec=Codec.JPEG, width=8, height=8, epoch=1, seq=seq)
            publisher.send_multipart([topic("cam", "a"), wire.pack_header(frame), b"x" * payload_bytes])
        seq += 1
        return seqs

    try:
        with Subscriber(broker.endpoint, mode="every", decode=False) as subscriber:
            eventually(lambda: b"\x01cam/" in _drain(publisher))
            for count, payload_bytes in ((400, 300), (20, 3_000_000), (400, 300)):
                sent = send(count, payload_bytes)
                got: list[int] = []
                while not got or got[-1] < sent[-1]:
                    frame = subscriber.read(timeout=5)
                    assert frame.missed == 0
                    got.append(frame.seq)
    finally:
        publisher.close(0)
        context.term()


def test_wrong_and_taken_endpoints(start_broker: Any) -> None:
    wrong: list[dict[str, Any]] = [
        {"publishers": ["tcp://*:5550"]},
        {"subscribers": ["nonsense"]},
        {"upstreams": ["tcp://127.0.0.1:*"]},
        {"subscribers": []},
        {"publishers": [], "upstreams": []},
    ]
    for settings in wrong:
        with pytest.raises(ConfigError):
            Broker(**({"publishers": [ANY], "subscribers": [ANY]} | settings))
    running = start_broker()
    for taken in ({"publishers": [running.to]}, {"subscribers": [running.endpoint]}):
        with pytest.raises(EndpointError, match="taken"):
            Broker(**({"publishers": [ANY], "subscribers": [ANY]} | taken))


def test_stopping_is_quick_and_frees_the_ports(start_broker: Any) -> None:
    broker = start_broker()
    broker.stop()
    again = start_broker(publishers=[broker.to], subscribers=[broker.endpoint])
    assert again.to == broker.to


def test_many_cameras_come_and_go(picture: Callable[..., Any], start_broker: Any, eventually: Any) -> None:
    broker = start_broker()
    with Subscriber(broker.endpoint, channel=None) as subscriber:
        done = threading.Event()
        with ExitStack() as stack:
            for number in range(40):
                stack.enter_context(Publisher(f"farm/{number}", to=broker.to)).send(picture(number))
            eventually(lambda: len(subscriber.cameras()) == 40)
            done.set()
        eventually(lambda: all(status.state == "offline" for status in subscriber.cameras().values()))
