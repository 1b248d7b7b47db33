"""Peers: whose message it is where descriptors are used again, and what a lost connection takes with it."""

from __future__ import annotations

import contextlib
import itertools
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from zmq.utils.monitor import parse_monitor_message

from camfabric.common.audience import Audience
from camfabric.common.endpoint import parse_endpoint
from camfabric.common.keys import KeyFolder
from camfabric.common.peers import Peers
from camfabric.common.sockets import bind, is_readable, make_xpub, make_xsub, receive, secure_client, secure_server
from camfabric.common.zap import Gate

_ANY = parse_endpoint("tcp://127.0.0.1:*", bind=True)


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    context: zmq.Context[Any] = zmq.Context()
    yield context
    context.destroy(0)


class _Keyed:
    """A socket for publishers, with keys, and its peers."""

    def __init__(self, context: zmq.Context[Any], folder: KeyFolder, *names: str) -> None:
        self.server = folder.new("broker")
        self.pairs = {name: folder.new(name) for name in names}
        self.names = {pair.public.decode(): name for name, pair in self.pairs.items()}
        self.gate = Gate(context)
        self.gate.admit("publishers", self.names, label="publishers")
        self.socket = make_xsub(context)
        self.peers = Peers(self.socket, label="publishers", bound=True, keyed=True, takes_frames=True)
        secure_server(self.socket, self.server, "publishers")
        self.endpoint = bind(self.socket, _ANY)
        self.socket.send(b"\x01")

    def close(self) -> None:
        self.peers.close()
        self.socket.close(0)
        self.gate.close()

    def take(self) -> list[tuple[str, str | None]]:
        """For each message who has proved to have sent it, and who its connection is thought to be."""
        taken = []
        while (parts := receive(self.socket)) is not None:
            peer = self.peers.of(parts[0])
            taken.append((self.names[self.peers.key(parts[0])], None if peer is None else self.names.get(peer.key)))
        return taken

    @contextlib.contextmanager
    def publisher(self, name: str, eventually: Callable[..., Any]) -> Iterator[Any]:
        """A publisher that is heard."""
        other: zmq.Context[Any] = zmq.Context()
        publisher = make_xpub(other)
        secure_client(publisher, self.pairs[name], self.server.public)
        publisher.connect(self.endpoint)

        def is_subscribed() -> bool:
            self.gate.answer()
            self.socket.poll(0)
            return is_readable(publisher)

        try:
            eventually(is_subscribed)
            yield publisher
        finally:
            publisher.close(1000)
            other.term()


def test_a_message_is_never_taken_for_another_keys(context: Any, tmp_path: Path, eventually: Any) -> None:
    keyed = _Keyed(context, KeyFolder.make(tmp_path / "keys"), "alpha", "beta")
    with keyed.publisher("alpha", eventually) as alpha:
        for _ in range(20):
            alpha.send(b"cam/a/")
        eventually(lambda: is_readable(keyed.socket))
    # Nobody reads what alpha has left behind before beta is there, on the same descriptor.
    with keyed.publisher("beta", eventually) as beta:
        keyed.peers.accept()
        left = keyed.take()
        assert {proved for proved, _ in left} == {"alpha"}
        beta.send(b"cam/b/")
        eventually(lambda: is_readable(keyed.socket))
        for proved, known in keyed.take():
            assert known in (proved, None)
        assert {keyed.names.get(peer.key, "") for peer in keyed.peers if not peer.is_cut} <= {"", "beta"}
    keyed.close()


class _Site:
    """A socket that connects, and a broker's in its place that is cut off and comes back."""

    def __init__(self, context: zmq.Context[Any]) -> None:
        self.broker = make_xsub(context)
        self._monitor = self.broker.get_monitor_socket(zmq.EVENT_ACCEPTED)
        self.endpoint = bind(self.broker, _ANY)
        self._socket = make_xpub(context)
        self.peers = Peers(self._socket, label="broker", bound=False, keyed=False)
        self._audience = Audience(self._socket, self.peers, is_admitted=lambda key: True)
        self._socket.connect(self.endpoint)
        self.held: set[bytes] = set()
        self._accepted()

    def _accepted(self) -> None:
        while True:
            event = parse_monitor_message(self._monitor.recv_multipart())
            if event["event"] == zmq.EVENT_ACCEPTED:
                self._descriptor = int(event["value"])
                return

    def cut(self) -> None:
        """Lose the connection, and wait for the next one."""
        connection = socket.socket(fileno=self._descriptor)
        connection.shutdown(socket.SHUT_RDWR)
        connection.detach()
        self._accepted()

    def hear(self) -> set[bytes]:
        """What is subscribed to, once there is nothing more to hear."""
        self.peers.look()
        for subscription in self._audience.hear():
            (self.held.add if subscription.peer is not None else self.held.discard)(subscription.prefix)
        return self.held

    def is_back(self) -> bool:
        """Whether the broker has been given the connection, and has said what it wants."""
        self.broker.poll(10)
        return self._socket.poll(10) != 0

    def close(self) -> None:
        self.peers.close()
        self.broker.disable_monitor()
        for each in (self._monitor, self.broker, self._socket):
            each.close(0)


@pytest.mark.parametrize("busy_s", [0.0, 0.5])
def test_who_is_busy_while_the_broker_comes_back_stays_subscribed(context: Any, eventually: Any, busy_s: float) -> None:
    site = _Site(context)
    wanted = {b"cam/a/", b"status/"}
    for prefix in wanted:
        site.broker.send(b"\x01" + prefix)
    eventually(lambda: site.is_back() and site.hear() == wanted)
    for _ in range(3):
        site.cut()
        # Then libzmq tells of the new subscriptions first, and of the lost ones behind them.
        site.broker.poll(int(busy_s * 1000))
        eventually(lambda: site.is_back() or True)
        for _ in range(40):
            site.broker.poll(5)
            site.hear()
        assert site.hear() == wanted
    site.close()


def test_whole_messages_that_wait_to_be_read_are_no_endless_one(
    context: Any, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the program is busy elsewhere, and its memory grows there."""
    memory = itertools.count(10**9, 10**9)
    monkeypatch.setattr("camfabric.common.peers.memory_bytes", lambda: next(memory))
    socket = make_xsub(context)
    passed = itertools.count(0.0, 0.1)
    peers = Peers(socket, label="publishers", bound=True, keyed=False, takes_frames=True, clock=lambda: next(passed))
    publisher = make_xpub(context)
    publisher.connect(bind(socket, _ANY))
    socket.send(b"\x01")
    eventually(lambda: not is_readable(socket) and is_readable(publisher) and publisher.recv())

    def is_read() -> bool:
        while (parts := receive(socket)) is not None:
            assert peers.of(parts[0]) is not None
        return not is_readable(socket)

    for _ in range(5):
        for _ in range(10):
            publisher.send(bytes(500_000))
        eventually(lambda: is_readable(socket))
        peers.look()
        assert not any(peer.is_cut for peer in peers)
        eventually(is_read)
        peers.look()
    assert not peers.complaints.counts
    peers.close()
    socket.close(0)
    publisher.close(0)


def test_a_connection_to_another_endpoint_is_nobody_here(context: Any, eventually: Any) -> None:
    """libzmq tells of a connection when it has ended already, and its descriptor is another's."""
    socket, other = make_xsub(context), make_xsub(context)
    peers, others = (Peers(each, label="publishers", bound=True, keyed=False) for each in (socket, other))
    bind(socket, _ANY)
    publisher = make_xpub(context)
    publisher.connect(bind(other, _ANY))
    other.send(b"\x01")
    eventually(lambda: not is_readable(other) and is_readable(publisher) and publisher.recv())
    publisher.send(b"cam/a/")
    eventually(lambda: is_readable(other))
    message = receive(other)
    assert message is not None
    assert peers.of(message[0]) is None
    assert not len(peers)
    assert others.of(message[0]) is not None
    peers.close()
    others.close()
    for each in (socket, other, publisher):
        each.close(0)


def test_what_one_leaves_behind_is_taken_in_turns_with_the_others_messages(context: Any, eventually: Any) -> None:
    socket = make_xpub(context)
    peers = Peers(socket, label="outlet", bound=True, keyed=False)
    audience = Audience(socket, peers, is_admitted=lambda key: True)
    subscriber = make_xsub(context)
    subscriber.connect(bind(socket, _ANY))
    wanted = {b"cam/%d/" % number for number in range(3000)}
    for prefix in wanted:
        subscriber.send(b"\x01" + prefix)
    held: set[bytes] = set()

    def hear() -> int:
        before = len(held)
        for subscription in audience.hear():
            (held.discard if subscription.peer is None else held.add)(subscription.prefix)
            time.sleep(0.0002)  # what it costs to take it back upstream
        return before - len(held)

    eventually(lambda: hear() is not None and held == wanted, within_s=30, every_s=0)
    subscriber.close(0)
    peers.cut_all(peers)
    assert 0 < hear() < len(wanted)
    while held:
        assert audience.has_news or is_readable(socket)
        hear()
    peers.close()
    socket.close(0)
