"""Sequence numbers, and the arithmetic of clocks over links that the tests make up."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camfabric.common.frame import Codec, Frame
from camfabric.common.wire import ClockAnswer
from camfabric.subscriber.clocks import Clocks
from camfabric.subscriber.sequence import Sequence

_SOME = settings(max_examples=300, deadline=None)


# Sequence


def _missed(sequence: Sequence, epoch: int, seq: int) -> int | None:
    """What is missing in front of an intra-coded frame, or None where it is not passed on."""
    passed = sequence.live(Frame(camera="a", codec=Codec.JPEG, epoch=epoch, seq=seq, payload=b""))
    return passed[0].missed if passed else None


def test_frames_in_a_row_miss_nothing() -> None:
    sequence = Sequence()
    assert [_missed(sequence, 1, seq) for seq in range(5)] == [0] * 5


def test_who_joins_late_has_missed_nothing() -> None:
    assert _missed(Sequence(), 1, 1000) == 0


def test_a_gap_is_counted_once() -> None:
    sequence = Sequence()
    assert [_missed(sequence, 1, seq) for seq in (0, 1, 5, 6, 8)] == [0, 0, 3, 0, 1]


def test_repeats_and_what_is_older_are_left_out() -> None:
    sequence = Sequence()
    assert [_missed(sequence, 1, seq) for seq in (5, 5, 4, 0, 6, 6)] == [0, None, None, None, 0, None]


def test_a_new_start_has_lost_nothing_whatever_its_numbers() -> None:
    sequence = Sequence()
    assert _missed(sequence, 1, 1000) == 0
    assert _missed(sequence, 2, 0) == 0
    assert _missed(sequence, 2, 0) is None
    assert _missed(sequence, 2, 2) == 1
    assert _missed(sequence, 3, 5000) == 0


def test_the_number_0_and_the_epoch_0_are_numbers() -> None:
    sequence = Sequence()
    assert _missed(sequence, 0, 0) == 0
    assert _missed(sequence, 0, 0) is None


@_SOME
@given(st.lists(st.integers(0, 30), max_size=40))
def test_what_is_taken_goes_up_and_adds_up(numbers: list[int]) -> None:
    sequence = Sequence()
    taken: list[int] = []
    missed = 0
    for number in numbers:
        gap = _missed(sequence, 7, number)
        assert (gap is None) == bool(taken and number <= taken[-1])
        if gap is not None:
            taken.append(number)
            missed += gap
    assert taken == sorted(set(taken))
    assert not taken or taken[-1] - taken[0] + 1 == len(taken) + missed


# Clocks


def _ask(
    clocks: Clocks, *, offset_ns: int, there_ns: int, back_ns: int, at_ns: int, work_ns: int = 1000, epoch: int = 1
) -> int:
    """One request over a link with these delays; returns the round trip. `offset_ns` is here minus there."""
    received_ns = at_ns + there_ns - offset_ns
    now_ns = at_ns + there_ns + work_ns + back_ns
    clocks.answered("a", ClockAnswer(epoch, received_ns, received_ns + work_ns), at_ns, now_ns)
    return there_ns + back_ns


def _offset(clocks: Clocks, epoch: int = 1) -> int:
    return clocks.offset_ns(Frame(camera="a", epoch=epoch))


_NS = st.integers(0, 2_000_000_000)
_OFFSETS = st.integers(-(10**15), 10**15)


@_SOME
@given(offset_ns=_OFFSETS, there_ns=_NS, back_ns=_NS, at_ns=_NS, work_ns=_NS)
def test_the_error_is_at_most_half_a_round_trip(
    offset_ns: int, there_ns: int, back_ns: int, at_ns: int, work_ns: int
) -> None:
    clocks = Clocks()
    round_trip_ns = _ask(clocks, offset_ns=offset_ns, there_ns=there_ns, back_ns=back_ns, at_ns=at_ns, work_ns=work_ns)
    assert abs(_offset(clocks) - offset_ns) <= round_trip_ns / 2 + 1


@_SOME
@given(offset_ns=_OFFSETS, delay_ns=_NS)
def test_equal_ways_give_the_very_offset(offset_ns: int, delay_ns: int) -> None:
    clocks = Clocks()
    _ask(clocks, offset_ns=offset_ns, there_ns=delay_ns, back_ns=delay_ns, at_ns=0)
    assert _offset(clocks) == offset_ns


@_SOME
@given(offset_ns=_OFFSETS, delays=st.lists(st.tuples(_NS, _NS), min_size=1, max_size=8))
def test_the_shortest_round_trip_is_trusted(offset_ns: int, delays: list[tuple[int, int]]) -> None:
    clocks = Clocks()
    round_trips = [
        _ask(clocks, offset_ns=offset_ns, there_ns=there_ns, back_ns=back_ns, at_ns=number)
        for number, (there_ns, back_ns) in enumerate(delays)
    ]
    # A thousandth of a round trip is what an older measurement loses within two seconds, and more is not asked.
    assert abs(_offset(clocks) - offset_ns) <= min(round_trips) / 2 + 10e9 * 1e-4 + 1


def test_an_old_measurement_gives_way_to_a_new_one_in_time() -> None:
    clocks = Clocks()
    _ask(clocks, offset_ns=0, there_ns=100_000, back_ns=100_000, at_ns=0)
    _ask(clocks, offset_ns=3_000_000, there_ns=500_000, back_ns=500_000, at_ns=10**9)
    assert _offset(clocks) == 0, "the shorter round trip is the better one, a second later"
    _ask(clocks, offset_ns=3_000_000, there_ns=500_000, back_ns=500_000, at_ns=30 * 10**9)
    assert _offset(clocks) == 3_000_000, "but the clocks have drifted since"


def test_an_answer_before_the_question_is_not_believed() -> None:
    clocks = Clocks()
    clocks.answered("a", ClockAnswer(1, 0, 10**12), 0, 1000)
    assert not clocks.knows("a", 1)


def test_publishers_have_clocks_of_their_own() -> None:
    clocks = Clocks()
    _ask(clocks, offset_ns=5, there_ns=10, back_ns=10, at_ns=0, epoch=1)
    _ask(clocks, offset_ns=7, there_ns=10, back_ns=10, at_ns=0, epoch=2)
    assert (_offset(clocks, 1), _offset(clocks, 2)) == (5, 7)
    assert clocks.knows("a", 1)
    assert not clocks.knows("a", 3)


def test_the_clocks_of_many_publishers_are_bounded() -> None:
    clocks = Clocks()
    for epoch in range(10_100):
        _ask(clocks, offset_ns=epoch, there_ns=1, back_ns=1, at_ns=0, epoch=epoch)
    assert sum(clocks.knows("a", epoch) for epoch in range(10_100)) == 10_000
    assert _offset(clocks, 10_099) == 10_099


def test_a_measured_clock_asked_again_drives_no_other_one_out() -> None:
    clocks = Clocks()
    for epoch in range(10_000):
        _ask(clocks, offset_ns=0, there_ns=10, back_ns=10, at_ns=0, epoch=epoch)
    _ask(clocks, offset_ns=0, there_ns=1, back_ns=1, at_ns=100, epoch=5000)
    assert all(clocks.knows("a", epoch) for epoch in range(10_000))


@pytest.mark.parametrize("ahead_ns", [0, 10**15, -(10**15)])
def test_before_an_answer_the_wall_clocks_tell_the_age(ahead_ns: int) -> None:
    # A publisher whose monotonic clock differs from this one's; the wall clocks agree. Captured a second ago.
    captured_ns = time.time_ns() - 10**9
    monotonic_ns = time.monotonic_ns() - 10**9 + ahead_ns
    frame = Frame(camera="a", epoch=1, captured_ns=captured_ns, captured_monotonic_ns=monotonic_ns)
    assert abs(Clocks().offset_ns(frame) + ahead_ns) < 10**9


def test_nobody_can_answer_for_another_cameras_clock() -> None:
    clocks = Clocks()
    clocks.answered("evil", ClockAnswer(1, 10**12, 10**12), 0, 1000)
    assert not clocks.knows("a", 1)
    assert _offset(clocks) != clocks.offset_ns(Frame(camera="evil", epoch=1))
