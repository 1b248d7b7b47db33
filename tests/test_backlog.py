"""The backlog: who is behind, and who only seems to be."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import pytest
import zmq

from camfabric.common.audience import Audience
from camfabric.common.backlog import Backlog, _unsent_bytes
from camfabric.common.connections import acknowledged_bytes
from camfabric.common.endpoint import parse_endpoint
from camfabric.common.peers import Peers
from camfabric.common.settings import LIMITS, TIMES
from camfabric.common.sockets import bind, make_xpub

from .attacker import Raw, plain, said

_FRAME: Final = bytes(10_000_000)
"""More than the kernel takes of a connection that is not read."""
_SENT_BYTES: Final = 2 + len(b"cam/a/") + 9 + len(_FRAME)
"""Of ZMTP."""
_CHECK_S: Final = 0.25


class _Fed:
    """A socket that sends, one subscriber, and a clock that stands still."""

    def __init__(self, context: zmq.Context[Any], **limits: int) -> None:
        self.now = 1000.0
        self._socket = make_xpub(context)
        self.peers = Peers(self._socket, label="outlet", bound=True, keyed=False)
        self._audience = Audience(self._socket, self.peers, is_admitted=lambda key: True)
        self.backlog = Backlog(self.peers, limits=replace(LIMITS, **limits), clock=lambda: self.now)
        endpoint = bind(self._socket, parse_endpoint("tcp://127.0.0.1:*", bind=True))
        self._endpoint = endpoint
        self.subscriber = self.another()

    def another(self, topic: bytes = b"cam/a/") -> Raw:
        """A subscriber that takes nothing by itself."""
        subscriber = plain(self._endpoint, b"SUB")
        subscriber.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        subscriber.send(said(b"\x01" + topic))
        return subscriber

    def hears(self) -> bool:
        """Whether the subscriber is there."""
        return bool(list(self._audience.hear()))

    def send(self, frame: bytes = _FRAME, topic: bytes = b"cam/a/") -> None:
        """Give it a frame."""
        self._socket.send(topic, zmq.SNDMORE)
        self._socket.send(self.backlog.counted(topic, frame), copy=False)

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


@pytest.mark.parametrize(("round_trip_s", "limit_s"), [(0.2, TIMES.behind_s + 8 * 0.2), (60.0, TIMES.behind_far_s)])
def test_on_a_long_link_there_is_time_to_get_up_to_speed(
    fed: _Fed, monkeypatch: pytest.MonkeyPatch, eventually: Any, round_trip_s: float, limit_s: float
) -> None:
    monkeypatch.setattr("camfabric.common.backlog.round_trip_s", lambda descriptor: round_trip_s)
    begin = fed.now
    fed.send()
    eventually(fed.is_taking)
    while not fed.is_cut:
        fed.backlog.check()
        fed.now += _CHECK_S
        assert fed.now - begin < limit_s + 3 * _CHECK_S
    assert fed.now - begin >= limit_s


def test_whoever_goes_on_taking_a_picture_is_not_cut_off_before_he_stops(fed: _Fed, eventually: Any) -> None:
    """Begun anew, one that takes longer than that would never be there. The next one is held back meanwhile."""
    fed.send()
    eventually(fed.is_taking)
    assert fed.backlog.holds_back(b"cam/a/")
    for _ in range(3 * int(TIMES.behind_s / _CHECK_S)):
        fed.backlog.look()
        fed.backlog.check()
        fed.subscriber.take(len(_FRAME) // 20)
        fed.now += _CHECK_S
    was_cut, (peer,) = fed.is_cut, fed.peers
    assert not was_cut
    # The kernels go on until both are full, while the clock stands still.
    seen: list[int | None] = []

    def is_still() -> bool:
        seen.append(acknowledged_bytes(peer.descriptor))
        return len(seen) > 1 and seen[-1] == seen[-2]

    eventually(is_still, every_s=0.1)
    stopped = fed.now
    while not fed.is_cut:
        fed.backlog.check()
        fed.now += _CHECK_S
        assert fed.now - stopped < 3 * TIMES.behind_s
    assert fed.now - stopped >= TIMES.behind_s


def _go_on_until_cut(fed: _Fed, *subscribers: Raw) -> None:
    """Until somebody is cut off, while each takes a little."""
    begin = fed.now
    while not fed.is_cut:
        for subscriber in subscribers:
            subscriber.take(200_000)
        fed.backlog.look()
        fed.backlog.check()
        fed.now += _CHECK_S
        assert fed.now - begin < 3 * TIMES.behind_s


def test_whoever_takes_a_picture_slowly_is_cut_off_where_the_next_is_not_held_back(fed: _Fed, eventually: Any) -> None:
    fed.send()
    eventually(fed.is_taking)
    _go_on_until_cut(fed, fed.subscriber)


def test_whoever_takes_many_pictures_slowly_is_cut_off(
    fed: _Fed, monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    """The one that is tracked stands for others."""
    monkeypatch.setattr("random.expovariate", lambda rate: 1 / rate)
    frame = bytes(1_000_000)
    for _ in range(60):
        fed.send(frame)
    eventually(lambda: fed.backlog.holds_back(b"cam/a/"))
    while len(fed.backlog._held) > 1:
        fed.subscriber.take(len(frame))
        fed.backlog.held_bytes()
    _go_on_until_cut(fed, fed.subscriber)


def test_whoever_is_behind_is_cut_off_though_another_takes_a_picture(fed: _Fed, eventually: Any) -> None:
    with fed.another(b"cam/b/") as other:
        eventually(fed.hears)
        for _ in range(400):
            fed.send(bytes(50_000), b"cam/b/")
        fed.send()
        eventually(lambda: fed.backlog.holds_back(b"cam/a/"))
        _go_on_until_cut(fed, fed.subscriber, other)
        assert [peer.is_cut for peer in fed.peers] == [False, True]


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize(("bound", "limit_s"), [(10 * len(_FRAME), TIMES.behind_s), (len(_FRAME), TIMES.behind_busy_s)])
def test_a_long_link_that_is_full_is_cut_off(
    fed: _Fed, monkeypatch: pytest.MonkeyPatch, eventually: Any, bound: int, limit_s: float, is_first: bool
) -> None:
    """All that the kernel has is under way there, and nothing unsent: he seems to have taken everything."""
    monkeypatch.setattr("camfabric.common.backlog._unsent_bytes", lambda descriptor: 0)
    fed.backlog._limits = replace(LIMITS, queue_bytes=bound)
    with fed.another() as another:
        eventually(lambda: fed.hears() or len(fed.peers) == 2)
        quick = another if is_first else fed.subscriber
        begin = fed.now
        for _ in range(2):
            fed.send()
            quick.take(_SENT_BYTES)
        while not fed.is_cut:
            fed.backlog.look()
            fed.backlog.check()
            fed.now += 0.1
            assert fed.now - begin < limit_s + 1
        assert fed.now - begin >= limit_s
        assert [peer.is_cut for peer in fed.peers] == [is_first, not is_first]


def test_nobody_is_cut_off_because_this_process_was_stopped(
    fed: _Fed, monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    monkeypatch.setattr("camfabric.common.backlog._unsent_bytes", lambda descriptor: 0)
    for _ in range(2):
        fed.send()
    fed.now += 60
    fed.backlog.check()
    assert not fed.is_cut


def test_a_few_frames_stand_for_all(fed: _Fed, eventually: Any) -> None:
    frame = bytes(300_000)
    for _ in range(100):
        fed.send(frame)
    # The last 12 MB at most are not counted yet, and the kernel has taken some.
    assert 40 * len(frame) <= fed.backlog.held_bytes() <= 100 * len(frame)
    fed.subscriber.take(100 * (len(frame) + len(b"cam/a/") + 11))
    eventually(lambda: fed.backlog.held_bytes() == 0)


def test_no_camera_of_those_that_come_in_turn_is_left_out(fed: _Fed, eventually: Any) -> None:
    """The subscriber has but one of 50 cameras: what waits for it is counted for what it is, whichever that is."""
    frame = bytes(300_000)
    for _ in range(600):
        fed.send(frame)
        for other in range(49):
            fed.send(frame, b"cam/%d/" % other)
    # Of a sample: 22 of the subscriber's are tracked, give or take 5. Of the others nobody has any.
    eventually(lambda: fed.backlog.held_bytes() <= 2.5 * 600 * len(frame))
    assert fed.backlog.held_bytes() >= 0.3 * 600 * len(frame)


def test_a_picture_waits_where_all_that_take_it_are_busy(fed: _Fed, eventually: Any) -> None:
    assert not fed.backlog.holds_back(b"cam/a/")
    fed.send()
    eventually(lambda: fed.backlog.holds_back(b"cam/a/"))
    assert not fed.backlog.holds_back(b"low/a/")  # nobody takes it
    assert fed.backlog.holds_back(b"cam/a/")
    there_is_room = threading.Event()
    fed.backlog.on_room = there_is_room.set
    fed.take()
    assert there_is_room.wait(10)
    eventually(lambda: not fed.backlog.holds_back(b"cam/a/"))


def test_a_picture_does_not_wait_for_another_stream_of_its_camera(fed: _Fed, eventually: Any) -> None:
    with fed.another(b"low/a/"):
        eventually(fed.hears)
        fed.send()
        eventually(lambda: fed.backlog.holds_back(b"cam/a/"))
        assert not fed.backlog.holds_back(b"low/a/")


def test_whoever_goes_on_taking_what_he_is_given_one_by_one_is_not_cut_off(fed: _Fed, eventually: Any) -> None:
    """His link is busy at each look, but never has more than a frame to do."""
    fed.send()
    for _ in range(2 * int(TIMES.behind_s / _CHECK_S)):
        eventually(lambda: fed.backlog.holds_back(b"cam/a/"))
        fed.backlog.holds_back(b"low/a/")  # which is another question
        fed.backlog.check()
        fed.now += _CHECK_S
        fed.take()
        eventually(lambda: not fed.backlog.holds_back(b"cam/a/"))
        fed.send()
    assert not fed.is_cut


def test_one_more_may_wait_where_that_does_not_take_long(fed: _Fed, eventually: Any) -> None:
    """Else the link idles from one to the next."""
    fed.send()
    eventually(lambda: fed.backlog.holds_back(b"cam/a/"))
    fed.now += 0.002
    fed.take()
    eventually(lambda: not fed.backlog.holds_back(b"cam/a/"))
    fed.send()
    assert not fed.backlog.holds_back(b"cam/a/")
    fed.send()
    assert fed.backlog.holds_back(b"cam/a/")
    fed.now += 2.0
    there_is_room = threading.Event()
    fed.backlog.on_room = there_is_room.set
    fed.take()
    assert there_is_room.wait(10)
    assert fed.backlog.holds_back(b"cam/a/")  # the link is slow now
    fed.take()
    eventually(lambda: not fed.backlog.holds_back(b"cam/a/"))


def test_a_picture_that_is_let_go_while_it_is_asked_for_is_not_held_back(fed: _Fed, eventually: Any) -> None:
    """Nobody would say that there is room: it is said while the question is answered."""
    fed.send()
    eventually(lambda: fed.backlog.holds_back(b"cam/a/"))
    eventually(fed.is_taking)
    fed.backlog._held_back.clear()
    waiting, asked = fed.backlog._waiting, []

    def _waiting(stream: bytes) -> list[int]:
        asked.append(waiting(stream))
        if len(asked) == 1:
            fed.now += 1.0
            fed.take()
            eventually(lambda: not fed.backlog.held_bytes())
        return asked[-1]

    fed.backlog._waiting = _waiting  # type: ignore[method-assign]
    assert not fed.backlog.holds_back(b"cam/a/")
    assert asked == [[len(_FRAME)], []]


def test_what_waits_for_somebody_who_has_unsubscribed_holds_nobody_up(fed: _Fed, eventually: Any) -> None:
    with fed.another() as quick:
        eventually(fed.hears)
        fed.send()
        quick.take(_SENT_BYTES)
        fed.subscriber.send(said(b"\x00cam/a/"))
        eventually(lambda: fed.hears() or sum(bool(peer.prefixes) for peer in fed.peers) == 1)
        eventually(lambda: not fed.backlog.holds_back(b"cam/a/"))
        assert fed.backlog.held_bytes() == len(_FRAME)  # it still waits for the other one


def test_what_waits_is_bounded_though_somebody_keeps_up(eventually: Any) -> None:
    """That he does is seen at a glance at what the kernel has for him, which says nothing of what ZeroMQ has."""
    context: zmq.Context[Any] = zmq.Context()
    fed = _Fed(context, queue_bytes=2 * len(_FRAME))
    eventually(fed.hears)
    with fed.another() as quick:
        eventually(fed.hears)
        for _ in range(3):
            eventually(lambda: not fed.backlog.holds_back(b"cam/a/"))
            fed.send()
            quick.take(_SENT_BYTES)
        assert fed.backlog.holds_back(b"cam/a/")
        for _ in range(3):
            fed.take()
        eventually(lambda: not fed.backlog.holds_back(b"cam/a/"))
    fed.close()
    context.destroy(0)


def test_somebody_who_keeps_up_is_not_held_up_by_others(fed: _Fed, eventually: Any) -> None:
    with fed.another() as quick:
        eventually(fed.hears)
        fed.send()
        quick.take(_SENT_BYTES)
        eventually(lambda: not fed.backlog.holds_back(b"cam/a/"))
        assert fed.backlog.held_bytes() == len(_FRAME)  # it still waits for the other one
