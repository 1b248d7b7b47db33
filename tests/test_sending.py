"""Who sends: the thread that calls, where nothing is to be encoded, and what may go wrong between two threads."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pytest

from camfabric.common import connections
from camfabric.common.errors import ConfigError
from camfabric.common.frame import Codec
from camfabric.publisher import Publisher, sender
from camfabric.publisher.low import Low
from camfabric.subscriber import Subscriber

ANY: Final = "tcp://127.0.0.1:*"
_SIZE: Final = (64, 48)


def _send_packet(publisher: Publisher, payload: bytes = b"\xff\xd8 a packet \xff\xd9", channel: str = "cam") -> None:
    publisher.send_packet(payload, codec=Codec.JPEG, size=_SIZE, keyframe=True, channel=channel)


class _Senders:
    """The names of the threads that send frames."""

    def __init__(self, publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: set[str] = set()
        audience = publisher._sender._audience
        send = audience.send

        def noted(parts: Any) -> None:
            self.names.add(threading.current_thread().name)
            send(parts)

        monkeypatch.setattr(audience, "send", noted)


@pytest.mark.parametrize(
    ("codec", "is_own"), [("copy", True), ("raw", True), ("jpeg", False)], ids=["packets", "raw", "jpeg"]
)
def test_who_sends(
    codec: str, is_own: bool, picture: Callable[..., Any], eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Publisher("a", bind=ANY, codec=codec, shared=False) as publisher:

        def send() -> None:
            if codec == "copy":
                _send_packet(publisher)
            else:
                publisher.send(picture(0))

        send()
        with Subscriber(publisher.endpoint, cameras="a", decode=False) as subscriber:
            subscriber.read(timeout=10)
            senders = _Senders(publisher, monkeypatch)

            def has_sent() -> bool:
                send()
                subscriber.read(timeout=10)
                return (threading.current_thread().name in senders.names) == is_own and bool(senders.names)

            eventually(has_sent)
            assert is_own or senders.names == {"publish a"}


def test_packets_arrive_in_order_whoever_sends_them(picture: Callable[..., Any]) -> None:
    """The sender's thread is busy now and then, and another thread sends on the other channel."""
    with Publisher("a", bind=ANY, codec="copy", low=Low(own_source=True)) as publisher:
        _send_packet(publisher, b"first")
        with (
            Subscriber(publisher.endpoint, cameras="a", mode="every", decode=False) as subscriber,
            Subscriber(publisher.endpoint, cameras="a", channel="low", decode=False) as small,
        ):
            assert subscriber.read(timeout=10).payload == b"first"
            _send_packet(publisher, b"low", "low")
            assert small.read(timeout=10).payload == b"low"
            is_done = threading.Event()

            def disturb() -> None:
                for number in itertools.count():
                    if is_done.is_set():
                        return
                    _send_packet(publisher, b"low", "low")
                    publisher.report("live", str(number % 2))

            thread = threading.Thread(target=disturb)
            thread.start()
            try:
                for number in range(3000):
                    _send_packet(publisher, b"%d" % number)
                    if number % 100 == 99:
                        frames = [subscriber.read(timeout=10) for _ in range(100)]
                        assert [int(bytes(frame.payload)) for frame in frames] == list(range(number - 99, number + 1))
                        assert not any(frame.missed or frame.dropped for frame in frames)
            finally:
                is_done.set()
                thread.join()
            assert subscriber.counts() == {}


class _Interrupted:
    """A socket in whose `send` Ctrl-C is pressed before the second part of a message."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.is_pressed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def send(self, part: Any, *args: Any, **kwargs: Any) -> Any:
        if not self.is_pressed and threading.current_thread() is threading.main_thread() and part != b"cam/a/":
            self.is_pressed = True
            raise KeyboardInterrupt
        return self._real.send(part, *args, **kwargs)


def test_ctrl_c_between_two_parts_costs_one_message(monkeypatch: pytest.MonkeyPatch, eventually: Any) -> None:
    with Publisher("a", bind=ANY, codec="copy") as publisher:
        _send_packet(publisher, b"before")
        with Subscriber(publisher.endpoint, cameras="a", mode="every", decode=False) as subscriber:
            assert subscriber.read(timeout=10).payload == b"before"
            interrupted = _Interrupted(publisher._sender._audience._socket)
            monkeypatch.setattr(publisher._sender._audience, "_socket", interrupted)
            while not interrupted.is_pressed:
                with contextlib.suppress(KeyboardInterrupt):
                    _send_packet(publisher, b"lost")
                if not interrupted.is_pressed:
                    assert subscriber.read(timeout=10).payload == b"lost"  # the sender's thread was quicker
            _send_packet(publisher, b"after")
            frame = subscriber.read(timeout=10)
            assert frame.payload == b"after"
            assert frame.missed == 1
            assert subscriber.counts() == {"parts": 1}


@pytest.mark.parametrize("says_something", [False, True])
def test_what_the_other_side_has_said_is_heard_though_the_caller_took_its_sign(
    says_something: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Publisher("a", bind=ANY, codec="copy") as publisher:
        _send_packet(publisher)
        woken: list[int] = []
        with publisher._sender._lock:  # the sender's thread waits; this is what the caller does without one
            monkeypatch.setattr(publisher._sender._waker, "wake", lambda: woken.append(1))
            monkeypatch.setattr(sender, "is_readable", lambda socket: says_something)
            assert publisher._sender._push(publisher._main, pictures=False) == (not says_something)
        monkeypatch.undo()
        _send_packet(publisher)


def _send_until_it_fails(publisher: Publisher, errors: list[BaseException]) -> None:
    try:
        while True:
            _send_packet(publisher)
    except BaseException as error:
        errors.append(error)


def test_closing_while_another_thread_sends() -> None:
    for _ in range(20):
        publisher = Publisher("a", bind=ANY, codec="copy")
        errors: list[BaseException] = []

        thread = threading.Thread(target=_send_until_it_fails, args=(publisher, errors))
        with Subscriber(publisher.endpoint, cameras="a", decode=False) as subscriber:
            thread.start()
            subscriber.read(timeout=10)
            publisher.close()
            thread.join(10)
        assert [type(error) for error in errors] == [ConfigError]


# What the kernel holds


def _send_buffer(descriptor: int) -> int:
    with socket.socket(fileno=os.dup(descriptor)) as own:
        return own.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


def test_on_one_host_the_kernel_holds_no_more_than_the_caches_do() -> None:
    image = np.zeros((1080, 1920, 3), np.uint8)
    with (
        Publisher("a", bind=ANY, codec="raw", shared=False) as publisher,
        Subscriber(publisher.endpoint, cameras="a") as subscriber,
    ):
        publisher.send(image)
        for _ in range(30):
            subscriber.read(timeout=10)
            publisher.send(image)
        peers = list(publisher._sender._audience.peers)
        assert len(peers) == 1
        assert _send_buffer(peers[0].descriptor) <= 2 * connections._SEND_BUFFER_BYTES


def test_what_goes_to_another_address_is_left_to_the_kernel() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.bind(("127.0.0.2", 0))
        client.connect(server.getsockname())
        connection, _ = server.accept()
        with connection:
            before = _send_buffer(connection.fileno())
            connections.bound_within_host(connection.fileno())
            assert _send_buffer(connection.fileno()) == before
    first, second = socket.socketpair()
    with first, second:
        before = _send_buffer(first.fileno())
        connections.bound_within_host(first.fileno())
        assert _send_buffer(first.fileno()) == before
