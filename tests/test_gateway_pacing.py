"""How much is sent to a viewer, and what of it: the window on links of some widths, lanes, timelines, budgets."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from camfabric.common.budget import Budget
from camfabric.common.frame import Codec, Frame
from camfabric.gateway.feeds import Feeds
from camfabric.gateway.lane import Lane
from camfabric.gateway.packet import Packet, Timeline
from camfabric.gateway.pictures import Workshop
from camfabric.gateway.protocol import WatchedStream
from camfabric.gateway.settings import WEB_LIMITS, WEB_TIMES
from camfabric.gateway.window import Window


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock that is set by hand."""
    return Clock()


# Window


def _run_link(
    clock: Clock, window: Window, *, bytes_s: float, round_trip_s: float, size: int, seconds: float
) -> tuple[list[float], int]:
    """Send all the time over a link of that width. Returns how long each message took, and how many arrived."""
    under_way: deque[tuple[int, float, float]] = deque()
    free_at, took, count = clock.now, list[float](), 0
    end = clock.now + seconds
    while clock.now < end:
        while window.has_room():
            free_at = max(free_at, clock.now) + size / bytes_s
            under_way.append((window.next_n(), clock.now, free_at + round_trip_s))
            window.sent(size)
        n, sent_at, back_at = under_way.popleft()
        clock.now = max(clock.now, back_at)
        took.append(clock.now - sent_at)
        count += 1
        assert window.acknowledged(n)
    return took, count


def test_a_window_knows_for_how_long_nothing_was_acknowledged(clock: Clock) -> None:
    window = Window(clock=clock)
    assert window.unanswered_s == 0
    for _ in range(3):
        window.sent(100)
        clock.now += 2
    assert window.unanswered_s == 6
    assert window.acknowledged(1)
    assert window.unanswered_s == 0
    clock.now += 5
    assert not window.acknowledged(1)
    assert window.unanswered_s == 5
    assert window.acknowledged(3)
    clock.now += 5
    assert window.unanswered_s == 0
    window.sent(100)
    assert window.unanswered_s == 0


@pytest.mark.parametrize("round_trip_s", [0.002, 0.05])
def test_on_a_thin_link_little_is_under_way(clock: Clock, round_trip_s: float) -> None:
    window = Window(clock=clock)
    took, count = _run_link(clock, window, bytes_s=125_000, round_trip_s=round_trip_s, size=20_000, seconds=20)
    # A message takes 0.16 s on that link; at the first window it would be 2 s.
    assert max(took[len(took) // 2 :]) < 0.6
    assert count * 20_000 / 20 > 0.85 * 125_000


def test_on_a_wide_link_nothing_waits_for_the_window(clock: Clock) -> None:
    window = Window(clock=clock)
    _, count = _run_link(clock, window, bytes_s=50e6, round_trip_s=0.02, size=50_000, seconds=10)
    assert count * 50_000 / 10 > 0.8 * 50e6
    assert window.allowed_bytes <= WEB_LIMITS.window_bytes


def test_a_link_that_gets_thin_and_wide_again_is_followed(clock: Clock) -> None:
    window = Window(clock=clock)
    _run_link(clock, window, bytes_s=20e6, round_trip_s=0.01, size=50_000, seconds=5)
    wide = window.allowed_bytes
    took, _ = _run_link(clock, window, bytes_s=500e3, round_trip_s=0.01, size=50_000, seconds=10)
    assert window.allowed_bytes < wide / 2
    assert max(took[len(took) // 2 :]) < 0.6
    _, count = _run_link(clock, window, bytes_s=20e6, round_trip_s=0.01, size=50_000, seconds=20)
    assert count * 50_000 / 20 > 0.5 * 20e6


def test_without_acknowledgements_the_window_is_bounded(clock: Clock) -> None:
    window = Window(clock=clock)
    sent = 0
    while window.has_room():
        window.sent(100)
        sent += 1
    assert sent == WEB_LIMITS.window_messages
    window = Window(clock=clock)
    sent = 0
    while window.has_room():
        window.sent(100_000)
        sent += 1
    assert sent == -(-WEB_LIMITS.window_first_bytes // 100_000)


def test_one_message_may_always_be_under_way(clock: Clock) -> None:
    window = Window(clock=clock)
    for _ in range(50):
        assert window.has_room()
        window.sent(50_000_000)
        assert not window.has_room()
        clock.now += 3
        assert window.acknowledged(window.last_n)
    assert window.allowed_bytes <= WEB_LIMITS.window_bytes


def test_acknowledgements_are_cumulative_and_news_once(clock: Clock) -> None:
    window = Window(clock=clock)
    for _ in range(5):
        window.sent(10)
    assert window.acknowledged(3)
    assert window.pending == 2
    assert not window.acknowledged(3)
    assert not window.acknowledged(1)
    assert window.acknowledged(5)
    assert window.pending == 0


# Lane


def _frame(seq: int, *, codec: Codec = Codec.H264, keyframe: bool | None = None, size: int = 100, **more: Any) -> Frame:
    keyframe = codec.is_intra or seq % 10 == 0 if keyframe is None else keyframe
    return Frame(
        camera="a", codec=codec, width=64, height=48, keyframe=keyframe, epoch=1, seq=seq, payload=bytes(size), **more
    )


class Taker:
    """A lane, and what it called."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.ready = 0
        self.dropped = 0
        self.lane = Lane(WatchedStream(1, "a", "cam", "any"), self._mark, self._count, clock)

    def _mark(self, _: Lane) -> None:
        self.ready += 1

    def _count(self, count: int) -> None:
        self.dropped += count

    def take(self, frames: Iterable[Frame], *, breaks: bool = False) -> None:
        """Take frames in."""
        for frame in frames:
            self.lane.take(Packet(frame, 0, breaks))

    def pop_all(self) -> list[tuple[int, bool, int]]:
        """(number, whether it is broken, lost) of each that waits."""
        popped = []
        while self.lane:
            packet, broken, lost = self.lane.pop()
            popped.append((packet.frame.seq, broken, lost))
        return popped


def test_of_pictures_the_newest_waits_and_the_others_are_counted(clock: Clock) -> None:
    taker = Taker(clock)
    taker.take(_frame(seq, codec=Codec.JPEG) for seq in range(5))
    assert taker.pop_all() == [(4, True, 0)]  # before the first one nothing was lost
    assert taker.dropped == 4
    taker.take([_frame(5, codec=Codec.JPEG), _frame(8, codec=Codec.JPEG, missed=2)])
    assert taker.pop_all() == [(8, False, 3)]


def test_packets_wait_from_a_keyframe_on_in_order(clock: Clock) -> None:
    taker = Taker(clock)
    taker.take(_frame(seq) for seq in range(7, 16))
    assert taker.pop_all() == [(10, True, 0), *((seq, False, 0) for seq in range(11, 16))]


@pytest.mark.parametrize("over", ["packets", "bytes", "time"])
def test_a_queue_over_its_bound_resumes_at_the_next_keyframe(clock: Clock, over: str) -> None:
    taker = Taker(clock)
    size = WEB_LIMITS.queue_bytes // 8 if over == "bytes" else 10
    taker.take([_frame(0, size=size)])
    seq = 0
    while taker.lane:
        seq += 1
        clock.now += WEB_TIMES.queue_s / 64 if over == "time" else 0
        taker.take([_frame(seq, keyframe=False, size=size)])
        assert seq <= WEB_LIMITS.queue_packets
    assert seq == {"packets": WEB_LIMITS.queue_packets, "bytes": 8, "time": 64}[over]
    taker.take(_frame(number, keyframe=False) for number in range(seq + 1, seq + 5))
    assert not taker.lane
    taker.take([_frame(seq + 5, keyframe=True), _frame(seq + 6, keyframe=False)])
    assert taker.pop_all() == [(seq + 5, True, 0), (seq + 6, False, 0)]
    assert taker.dropped == seq


def test_a_keyframe_replaces_what_has_waited_and_not_what_came_just_now(clock: Clock) -> None:
    taker = Taker(clock)
    taker.take(_frame(seq) for seq in range(20, 23))
    taker.pop_all()
    taker.take(_frame(seq) for seq in range(28, 31))
    assert taker.pop_all() == [(28, False, 0), (29, False, 0), (30, False, 0)]
    taker.take(_frame(seq) for seq in range(38, 40))
    clock.now += WEB_TIMES.late_s * 1.1
    taker.take([_frame(40)])
    assert taker.pop_all() == [(40, True, 2)]


def test_another_stream_in_the_same_lane_begins_at_its_keyframe(clock: Clock) -> None:
    taker = Taker(clock)
    taker.take([_frame(0), _frame(1)])
    taker.take([replace(_frame(57), epoch=2)], breaks=True)
    assert not taker.lane
    taker.take([replace(_frame(60), epoch=2)])
    assert taker.pop_all()[0][:2] == (60, True)


# Timeline


def _video(seq: int, **more: Any) -> Frame:
    times: dict[str, Any] = {
        "pts": seq * 3000,
        "time_base": (1, 90_000),
        "captured_monotonic_ns": 5_000_000_000 + seq * 33_000_000,
    }
    return _frame(seq, **(times | more))


def test_pictures_have_the_time_when_they_were_captured() -> None:
    timeline = Timeline()
    packets = [timeline.place(_frame(seq, codec=Codec.JPEG, captured_ns=10**18 + seq)) for seq in (1, 2, 5)]
    assert [packet.time_us for packet in packets] == [10**15] * 3
    assert not any(packet.breaks for packet in packets)


def test_packets_have_the_times_of_their_stream() -> None:
    timeline = Timeline()
    packets = [timeline.place(_video(seq)) for seq in range(10, 25)]
    assert [packet.time_us for packet in packets] == [seq * 3000 * 1_000_000 // 90_000 for seq in range(10, 25)]
    assert [packet.breaks for packet in packets] == [True] + [False] * 14


def test_packets_without_times_are_placed_by_their_capture_and_a_change_is_a_break() -> None:
    timeline = Timeline()
    none = {"pts": None, "time_base": None}
    first = [timeline.place(_video(seq, **none)) for seq in range(10)]
    assert [packet.time_us for packet in first] == [5_000_000 + seq * 33_000 for seq in range(10)]
    group = [timeline.place(_video(10)), timeline.place(_video(11, **none)), timeline.place(_video(12))]
    assert [packet.breaks for packet in group] == [True, False, False]
    assert group[1].time_us == group[0].time_us + 33_000
    assert group[2].time_us == 12 * 33_333 + 4


@pytest.mark.parametrize("change", [{"epoch": 2}, {"width": 128}, {"codec": Codec.H265}, {"seq": 12}, {"pts": 0}])
def test_what_does_not_go_on_is_a_break(change: dict[str, Any]) -> None:
    timeline = Timeline()
    for seq in range(10):
        assert timeline.place(_video(seq)).breaks == (seq == 0)
    assert timeline.place(replace(_video(10), **change)).breaks


# Budget


def test_a_budget_is_spent_and_filled_up(clock: Clock) -> None:
    budget = Budget(3, 2.0, clock)
    assert [budget.spend() for _ in range(4)] == [True, True, True, False]
    assert budget.wait_s() == pytest.approx(0.5)
    clock.now += 0.5
    assert budget.spend()
    assert not budget.spend()
    clock.now += 1000
    assert budget.wait_s() == 0
    assert [budget.spend() for _ in range(4)] == [True, True, True, False]


# Feeds


def _begun(wanted: list[tuple[str, str]], known: frozenset[str]) -> frozenset[str]:
    """Which of (camera, holder) are subscribed to at once."""
    told: list[frozenset[str]] = []

    async def work() -> None:
        workshop = Workshop()
        feeds = Feeds(lambda _, cameras: told.append(frozenset(cameras)), workshop, is_known=known.__contains__)
        for camera, holder in wanted:
            feeds.join(("cam", camera), _Nobody(), "any", holder=holder)
        await asyncio.sleep(0)
        feeds.close()
        workshop.close()

    asyncio.run(work())
    return told[0]


class _Nobody:
    def take(self, packet: Packet) -> None:
        """Take a packet."""


def test_cameras_that_are_there_are_begun_before_invented_ones() -> None:
    known = frozenset(f"real{number}" for number in range(100))
    begun = _begun([(f"no{n}", "") for n in range(WEB_LIMITS.starts)] + [(name, "") for name in known], known)
    assert known <= begun
    assert len(begun) == WEB_LIMITS.starts


def test_one_user_does_not_spend_the_streams_of_another() -> None:
    share = WEB_LIMITS.starts // WEB_LIMITS.shares
    names = [f"a{number}" for number in range(2, 1002)]
    wanted = [*((name, "anna") for name in names), ("a1", "anna"), ("b", "boris"), ("a1", "boris")]
    begun = _begun(wanted, frozenset(names) | {"a1", "b"})
    assert "b" in begun
    assert share <= len(begun - {"b", "a1"}) <= share + 1
    assert "a1" in begun  # also wanted by one who has not spent his share
