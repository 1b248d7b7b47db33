"""Pacing: back-off, the rate limit and the pacer, by clocks that the tests turn."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camfabric.common.errors import SourceError
from camfabric.common.settings import TIMES
from camfabric.publisher import Publisher
from camfabric.publisher.capture import Backoff, Capture
from camfabric.publisher.rate_limit import RateLimit
from camfabric.publisher.sources import pacer as pacer_module
from camfabric.publisher.sources.pacer import Pacer
from camfabric.publisher.sources.source import Shot, Wanted, parse_source

_SOME = settings(max_examples=200, deadline=None)
_S = 1_000_000_000


# Back-off


def test_waits_double_up_to_a_bound() -> None:
    backoff = Backoff()
    nominal_s = TIMES.reopen_first_s
    for _ in range(12):
        assert nominal_s * 0.5 <= backoff.next_s() <= nominal_s
        nominal_s = min(nominal_s * 2, TIMES.reopen_max_s)
    assert nominal_s == TIMES.reopen_max_s


def test_a_success_begins_anew() -> None:
    backoff = Backoff()
    for _ in range(10):
        backoff.next_s()
    backoff.reset()
    assert backoff.next_s() <= TIMES.reopen_first_s


def test_no_two_agree() -> None:
    assert len({Backoff().next_s() for _ in range(20)}) > 1


def test_a_source_that_gives_one_picture_and_fails_each_time_is_not_opened_in_a_rush(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class OneShot:
        def shots(self) -> Iterator[Shot]:
            yield Shot.of(np.zeros((16, 16, 3), np.uint8), 1)
            raise SourceError("it ends", source="x")

        def close(self) -> None:
            pass

    waits: list[float] = []
    with Publisher("a", bind="tcp://127.0.0.1:*") as publisher:
        capture = Capture(parse_source("rtsp://127.0.0.1/x"), publisher, Wanted(label="a"))

        def wait(_reason: str, wait_s: float) -> None:
            waits.append(wait_s)
            if len(waits) == 6:
                capture.stop()

        monkeypatch.setattr("camfabric.publisher.capture.open_source", lambda *_args, **_kwargs: OneShot())
        monkeypatch.setattr(capture, "_wait", wait)
        capture.run()
    assert waits[0] <= TIMES.reopen_first_s
    assert waits[-1] > 8 * TIMES.reopen_first_s


def test_capture_times_on_the_wall_clock_go_up_with_those_on_the_monotonic_one(monkeypatch: pytest.MonkeyPatch) -> None:
    jitter_ns = iter([0, 900_000, 100_000, 500_000, 3_600_000_000_000])
    with Publisher("a", bind="tcp://127.0.0.1:*") as publisher:
        clock = SimpleNamespace(time_ns=lambda: 1_000_000_000_000 + next(jitter_ns))
        monkeypatch.setattr("camfabric.publisher.publisher.time", clock)
        walls = [publisher._wall_ns(0) for _ in range(5)]
        monkeypatch.undo()
    assert walls[:4] == [1_000_000_000_000] * 4
    assert walls[4] == 1_000_000_000_000 + 3_600_000_000_000


# The rate limit


def _admitted(fps: float | None, times_ns: list[int]) -> list[int]:
    limit = RateLimit(fps)
    return [at_ns for at_ns in times_ns if limit.admits(at_ns)]


def _steady(fps: float, count: int, start_ns: int = 1000 * _S) -> list[int]:
    return [start_ns + int(number * _S / fps) for number in range(count)]


def test_no_limit_lets_all_through() -> None:
    times = _steady(1000, 50)
    assert _admitted(None, times) == times


@pytest.mark.parametrize("fps", [30, 60, 29.97])
def test_a_source_within_the_limit_loses_nothing(fps: float) -> None:
    times = _steady(29.97, 300)
    assert _admitted(fps, times) == times


@pytest.mark.parametrize(("source_fps", "fps"), [(30, 10), (30, 15), (30, 20), (25, 12.5), (60, 1), (30, 7), (60, 25)])
def test_the_rate_is_what_was_asked_for(source_fps: float, fps: float) -> None:
    admitted = _admitted(fps, _steady(source_fps, int(source_fps * 20)))
    assert abs(len(admitted) / 20 - fps) <= 0.1 * fps


@pytest.mark.parametrize("fps", [0.1, 1, 5])
def test_the_first_two_pictures_do_not_come_in_a_rush(fps: float) -> None:
    times = _steady(30, 900)
    admitted = _admitted(fps, times)
    assert admitted[0] == times[0]
    assert all(after - before >= 0.85 * _S / fps for before, after in pairwise(admitted))


def test_after_a_pause_pictures_do_not_come_in_a_rush() -> None:
    times = _steady(30, 90) + _steady(30, 90, 1060 * _S)
    admitted = _admitted(2, times)
    assert all(after - before >= 0.4 * _S for before, after in pairwise(admitted))
    assert times[90] in admitted


def test_jitter_does_not_cost_every_second_picture() -> None:
    times = [at_ns + (number % 2) * 3_000_000 for number, at_ns in enumerate(_steady(25, 250))]
    assert len(_admitted(25, times)) == 250


@_SOME
@given(st.sampled_from([1.0, 5.0, 12.5, 30.0]), st.lists(st.integers(0, 400_000_000), min_size=1, max_size=120))
def test_in_no_second_come_more_than_were_asked_for(fps: float, gaps: list[int]) -> None:
    times, at_ns = [], 1000 * _S
    for gap in gaps:
        at_ns += gap
        times.append(at_ns)
    admitted = _admitted(fps, times)
    assert admitted[0] == times[0]
    # One more for the edge, and one for the tenth of an interval that is forgiven.
    most = fps + 2
    for first, at_ns in enumerate(admitted):
        assert sum(at_ns <= other < at_ns + _S for other in admitted[first:]) <= most


# The pacer


class _Clock(threading.Event):
    """An event whose waits take no time but turn a clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waits.append(timeout)
        self.now += timeout
        return self.is_set()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(pacer_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_a_time_that_jumps_far_ahead_begins_anew(clock: _Clock) -> None:
    pacer = Pacer(clock, max_gap_s=60)
    assert pacer.wait(0.0)
    assert pacer.wait(3600.0)
    assert pacer.wait(3600.5)
    assert clock.waits == [0.0, 0.0, 0.5]


def test_the_first_picture_is_due_at_once_whatever_its_time(clock: _Clock) -> None:
    assert Pacer(clock).wait(5000.0)
    assert clock.waits == [0.0]


def test_pictures_are_due_at_their_own_times(clock: _Clock) -> None:
    pacer = Pacer(clock)
    due = []
    for at_s in (10.0, 10.04, 10.1, 11.0):
        assert pacer.wait(at_s)
        due.append(round(clock.now - 100.0, 6))
    assert due == [0.0, 0.04, 0.1, 1.0]


def test_work_between_two_pictures_does_not_add_up(clock: _Clock) -> None:
    pacer = Pacer(clock)
    for number in range(50):
        pacer.wait(number * 0.04)
        clock.now += 0.01
    assert clock.now - 100.0 == pytest.approx(49 * 0.04 + 0.01)


def test_a_little_late_is_caught_up(clock: _Clock) -> None:
    pacer = Pacer(clock)
    pacer.wait(0.0)
    clock.now += 0.3
    pacer.wait(0.1)
    assert clock.waits[-1] == 0.0
    pacer.wait(0.4)
    assert clock.now - 100.0 == pytest.approx(0.4)


def test_after_a_pause_pictures_do_not_rush(clock: _Clock) -> None:
    pacer = Pacer(clock)
    pacer.wait(0.0)
    clock.now += 60.0
    for number in range(1, 5):
        pacer.wait(number * 0.1)
    assert clock.waits[1] == 0.0
    assert clock.waits[2:] == pytest.approx([0.1, 0.1, 0.1])


def test_times_that_jump_back_begin_anew(clock: _Clock) -> None:
    pacer = Pacer(clock)
    pacer.wait(1000.0)
    pacer.wait(0.0)
    pacer.wait(0.1)
    assert clock.waits == pytest.approx([0.0, 0.0, 0.1])


def test_a_stop_ends_the_wait(clock: _Clock) -> None:
    pacer = Pacer(clock)
    assert pacer.wait(0.0)
    clock.set()
    assert not pacer.wait(0.1)


def test_a_real_stop_ends_a_real_wait() -> None:
    stop = threading.Event()
    pacer = Pacer(stop)
    pacer.wait(0.0)
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(pacer.wait(3600.0)), daemon=True)
    thread.start()
    stop.set()
    thread.join(20)
    assert results == [False]
