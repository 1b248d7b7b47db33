"""The backlog: who is behind, and who only seems to be."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any, Final

import pytest
import zmq

from camfabric.common.audience import Audience
from camfabric.common.backlog import Backlog, _unsent_bytes
from camfabric.common.endpoint import parse_endpoint
from camfabric.common.peers import Peers
from camfabric.common.settings import TIMES
from camfabric.common.sockets import bind, make_xpub

from .attacker import plain, said

_FRAME: Final = bytes(10_000_000)
"""More than the kernel takes of a connection that is not read."""
_SENT_BYTES: Final = 2 + len(b"cam/a/") + 9 + len(_FRAME)
"""Of ZMTP."""
_CHECK_S: Final = 0.25


class _Fed:
    """A socket that sends, one subscriber, and a clock that stands still."""

    def __init__(self, context: zmq.Context[Any]) -> None:
        self.now = 1000.0
        self._socket = make_xpub(context)
        self.peers = Peers(self._socket, label="outlet", bound=True, keyed=False)
        self._audience = Audience(self._socket, self.peers, is_admitted=lambda key: True)
        self.backlog = Backlog(self.peers, clock=lambda: self.now)
        endpoint = bind(self._socket, parse_endpoint("tcp://127.0.0.1:*", bind=True))
        self.subscriber = plain(endpoint, b"SUB")
        self.subscriber.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self.subscriber.send(said(b"\x01cam/"))

    def hears(self) -> bool:
        """Whether the subscriber is there."""
        return bool(list(self._audience.hear()))

    def send(self) -> None:
        """Give it a frame."""
        self._socket.send(b"cam/a/", zmq.SNDMORE)
        self._socket.send(self.backlog.counted(_FRAME), copy=False)

    def send_counted(self, frame: bytes) -> None:
        """Give it a frame of a stream, which may be counted with others."""
        self._socket.send(b"cam/a/", zmq.SNDMORE)
        self._socket.send(self.backlog.counted(frame, b"cam/a/"), copy=False)

    def is_taking(self) -> bool:
        """Whether the kernel has something for the subscriber that it does not take."""
        return bool(_unsent_bytes(next(iter(self.peers)).descriptor))

    def take(self) -> None:
        """Let it take the frame."""
        self.subscriber.take(_SENT_BYTES)

    @property
    def is_cut(self) -> bool:
        """Whether the subscriber was cut off."""
        return any(peer.is_cut for peer in self.peers)

    def close(self) -> None:
        """End it."""
        self.subscriber.__exit__()
        self.peers.close()
        self._socket.close(0)


@pytest.fixture
def fed(eventually: Any) -> Iterator[_Fed]:
    """What is looked at."""
    context: zmq.Context[Any] = zmq.Context()
    fed = _Fed(context)
    eventually(fed.hears)
    yield fed
    fed.close()
    context.destroy(0)


def test_who_has_taken_everything_each_time_before_the_next_frame_is_not_behind(fed: _Fed, eventually: Any) -> None:
    """It is met while it takes one, at each check: just after a frame was sent."""
    for _ in range(2 * int(TIMES.behind_s / _CHECK_S)):
        fed.backlog.look()
        fed.send()
        eventually(fed.is_taking)
        fed.backlog.check()
        fed.take()
        fed.now += _CHECK_S
    assert not fed.is_cut


def test_who_takes_nothing_is_cut_off_after_a_while(fed: _Fed, eventually: Any) -> None:
    begin = fed.now
    fed.send()
    eventually(fed.is_taking)
    while not fed.is_cut:
        fed.backlog.look()
        fed.backlog.check()
        fed.now += _CHECK_S
        assert fed.now - begin < 2 * TIMES.behind_s
    assert fed.now - begin >= TIMES.behind_s


def test_a_frame_stands_for_those_of_its_stream_before_it(fed: _Fed, eventually: Any) -> None:
    """Each of the frames is told of by itself, or by one that follows it on the same connection."""
    frame = bytes(300_000)
    for _ in range(40):
        fed.send_counted(frame)
    assert 20 * len(frame) <= fed.backlog.held_bytes() <= 40 * len(frame)  # the kernel has taken some of them
    fed.subscriber.take(40 * (len(frame) + len(b"cam/a/") + 11))
    eventually(lambda: fed.backlog.held_bytes() == 0)


def test_what_many_streams_hold_uncounted_is_bounded_in_all(fed: _Fed) -> None:
    frame = bytes(300_000)
    for number in range(200):
        fed.backlog.counted(frame, b"cam/%d/" % number)
    kept = [fed.backlog.counted(frame, b"cam/%d/" % number) for number in range(200)]
    assert all(isinstance(payload, zmq.Frame) for payload in kept)
