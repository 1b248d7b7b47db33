"""The mailbox and the slot: what is dropped, what is counted, and who is woken."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camfabric.common.errors import ConfigError
from camfabric.common.frame import Frame
from camfabric.common.mailbox import Closed, Mailbox, Mode, Slot
from camfabric.common.settings import Limits

_SOME = settings(max_examples=200, deadline=None)
_PATIENCE_S = 20.0


def _frame(camera: str = "a", seq: int = 0, *, missed: int = 0, size: int = 1) -> Frame:
    return Frame(camera=camera, seq=seq, missed=missed, payload=bytes(size))


def _drained(mailbox: Mailbox) -> list[Frame]:
    frames = []
    while True:
        try:
            frames.append(mailbox.get(0))
        except (TimeoutError, Closed):
            return frames


class _Camera:
    """Makes frames as they would come: `lost` of them are missing in front of each."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.last = -1
        self.got = -1

    def next(self, lost: int, size: int = 1) -> Frame:
        self.last += 1 + lost
        return _frame(self.name, self.last, missed=lost, size=size)

    def check(self, frame: Frame) -> None:
        assert frame.seq - self.got == 1 + frame.missed + frame.dropped
        self.got = frame.seq


# What is given


def test_latest_gives_the_newest_and_counts_what_it_skipped() -> None:
    mailbox = Mailbox()
    for seq in range(5):
        mailbox.put(_frame(seq=seq))
    frame = mailbox.get(0)
    assert (frame.seq, frame.dropped, frame.missed) == (4, 4, 0)
    assert mailbox.dropped == {"a": 4}
    mailbox.put(_frame(seq=5))
    assert mailbox.get(0).dropped == 0


def test_latest_adds_up_what_skipped_frames_missed() -> None:
    mailbox = Mailbox()
    mailbox.put(_frame(seq=3, missed=3))
    mailbox.put(_frame(seq=6, missed=2))
    frame = mailbox.get(0)
    assert (frame.missed, frame.dropped) == (5, 1)


def test_a_fast_camera_does_not_starve_a_slow_one() -> None:
    mailbox = Mailbox()
    mailbox.put(_frame("slow", 0))
    got = []
    for seq in range(20):
        for repeat in range(5):
            mailbox.put(_frame("fast", seq * 5 + repeat))
        if seq == 10:
            mailbox.put(_frame("slow", 1))
        got.append(mailbox.get(0).camera)
    assert got[0] == "slow"
    assert "slow" in got[10:12]


def test_latest_gives_each_camera_its_turn() -> None:
    mailbox = Mailbox()
    names = [f"cctv/{number}" for number in range(10)]
    for seq in range(3):
        for name in reversed(names) if seq else names:
            mailbox.put(_frame(name, seq))
    frames = _drained(mailbox)
    assert [frame.camera for frame in frames] == names
    assert {frame.seq for frame in frames} == {2}


def test_every_gives_all_in_order() -> None:
    mailbox = Mailbox(mode="every")
    sent = [("a", 0), ("b", 0), ("a", 1), ("a", 2), ("b", 1)]
    for camera, seq in sent:
        mailbox.put(_frame(camera, seq))
    assert [(frame.camera, frame.seq) for frame in _drained(mailbox)] == sent
    assert mailbox.dropped == {}


def test_every_is_bounded_by_frames() -> None:
    mailbox = Mailbox(mode="every", limits=Limits(backlog_frames=3))
    for seq in range(10):
        mailbox.put(_frame(seq=seq))
    frames = _drained(mailbox)
    assert [frame.seq for frame in frames] == [7, 8, 9]
    assert [frame.dropped for frame in frames] == [7, 0, 0]
    assert mailbox.dropped == {"a": 7}


def test_every_is_bounded_by_bytes() -> None:
    mailbox = Mailbox(mode="every", limits=Limits(backlog_bytes=100))
    for seq in range(10):
        mailbox.put(_frame(seq=seq, size=30))
    assert [frame.seq for frame in _drained(mailbox)] == [7, 8, 9]


def test_every_keeps_one_frame_that_is_larger_than_the_bound() -> None:
    mailbox = Mailbox(mode="every", limits=Limits(backlog_bytes=100))
    mailbox.put(_frame(seq=0))
    mailbox.put(_frame(seq=1, size=1000))
    assert [(frame.seq, frame.dropped) for frame in _drained(mailbox)] == [(1, 1)]
    mailbox.put(_frame(seq=2, size=60))
    mailbox.put(_frame(seq=3, size=40))
    assert [frame.seq for frame in _drained(mailbox)] == [2, 3]


def test_frames_without_a_payload_are_held() -> None:
    mailbox = Mailbox(mode="every")
    mailbox.put(Frame(camera="a"))
    assert mailbox.get(0).payload is None


def test_a_wrong_mode_is_refused_and_told_what_is_right() -> None:
    mode: Any = "newest"
    with pytest.raises(ConfigError, match="'latest' or 'every'"):
        Mailbox(mode=mode)


# What adds up

_STEPS = st.lists(
    st.one_of(
        st.none(),  # the consumer takes one
        st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.integers(0, 60)),  # camera, lost on the way, bytes
    ),
    max_size=60,
)


@pytest.mark.parametrize("mode", ["latest", "every"])
@_SOME
@given(steps=_STEPS, most_frames=st.integers(1, 6), most_bytes=st.integers(1, 200))
def test_each_number_is_got_missed_or_dropped(
    mode: Mode, steps: list[tuple[str, int, int] | None], most_frames: int, most_bytes: int
) -> None:
    mailbox = Mailbox(mode=mode, limits=Limits(backlog_frames=most_frames, backlog_bytes=most_bytes))
    cameras = {name: _Camera(name) for name in "abc"}
    put: Counter[str] = Counter()
    got: Counter[str] = Counter()

    def take(frame: Frame) -> None:
        got[frame.camera] += 1
        cameras[frame.camera].check(frame)

    for step in steps:
        if step is None:
            if put.total() > got.total() + sum(mailbox.dropped.values()):
                take(mailbox.get(0))
            else:
                with pytest.raises(TimeoutError):
                    mailbox.get(0)
        else:
            name, lost, size = step
            put[name] += 1
            mailbox.put(cameras[name].next(lost, size))
    rest = _drained(mailbox)
    assert len(rest) <= (3 if mode == "latest" else most_frames)
    assert len(rest) <= 1 or mode == "latest" or sum(len(frame.payload) for frame in rest) <= most_bytes
    for frame in rest:
        take(frame)
    assert {name: put[name] - got[name] for name in put if put[name] != got[name]} == mailbox.dropped


# Waiting


def test_get_says_when_nothing_came() -> None:
    mailbox = Mailbox()
    for timeout in (0, -1, 0.01):
        with pytest.raises(TimeoutError):
            mailbox.get(timeout)


def test_what_is_there_can_be_got_after_the_close() -> None:
    mailbox = Mailbox(mode="every")
    mailbox.put(_frame(seq=0))
    mailbox.close()
    mailbox.put(_frame(seq=1))
    assert mailbox.get().seq == 0
    for _ in range(2):
        with pytest.raises(Closed):
            mailbox.get()
    mailbox.close()


@contextmanager
def _waiting(mailbox: Mailbox, count: int, results: list[object]) -> Iterator[list[threading.Thread]]:
    """Threads that wait in `get`, for ever if nobody wakes them."""

    def wait() -> None:
        try:
            results.append(mailbox.get())
        except Closed:
            results.append(Closed)

    threads = [threading.Thread(target=wait, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    yield threads
    for thread in threads:
        thread.join(_PATIENCE_S)
    assert not any(thread.is_alive() for thread in threads)


def test_a_close_wakes_all_who_wait() -> None:
    mailbox = Mailbox()
    results: list[object] = []
    with _waiting(mailbox, 5, results):
        mailbox.close()
    assert results == [Closed] * 5


def test_a_put_wakes_one_who_waits() -> None:
    mailbox = Mailbox()
    results: list[object] = []
    with _waiting(mailbox, 3, results) as threads:
        mailbox.put(_frame(seq=7))
        deadline = time.monotonic() + _PATIENCE_S
        while not results and time.monotonic() < deadline:
            threads[0].join(0.01)
        assert len(results) == 1
        mailbox.close()
    assert [result.seq for result in results if isinstance(result, Frame)] == [7]


def test_a_put_and_a_close_notify_without_the_lock() -> None:
    seen: list[str] = []

    def notify() -> None:
        try:
            seen.append(mailbox.get(0).camera)  # would hang if the lock were held
        except Closed:
            seen.append("closed")

    mailbox = Mailbox(notify=notify)
    mailbox.put(_frame("a"))
    mailbox.put(_frame("b"))
    mailbox.close()
    assert seen == ["a", "b", "closed"]


# Many threads


@pytest.mark.parametrize("mode", ["latest", "every"])
def test_nothing_is_lost_uncounted_between_many_threads(mode: Mode) -> None:
    count, consumers = 2000, 3
    mailbox = Mailbox(mode=mode, limits=Limits(backlog_frames=count * 4))
    names = ["a", "b", "c", "d"]
    got: list[list[Frame]] = [[] for _ in range(consumers)]

    def produce(name: str) -> None:
        camera = _Camera(name)
        for number in range(count):
            mailbox.put(camera.next(lost=number % 3))

    def consume(frames: list[Frame]) -> None:
        try:
            while True:
                frames.append(mailbox.get())
        except Closed:
            pass

    producing = [threading.Thread(target=produce, args=(name,)) for name in names]
    consuming = [threading.Thread(target=consume, args=(frames,)) for frames in got]
    for thread in (*consuming, *producing):
        thread.start()
    for thread in producing:
        thread.join()
    mailbox.close()
    for thread in consuming:
        thread.join()
    last = sum(1 + number % 3 for number in range(count))
    for name in names:
        frames = [frame for part in got for frame in part if frame.camera == name]
        assert sum(1 + frame.missed + frame.dropped for frame in frames) == last
        assert len({frame.seq for frame in frames}) == len(frames)
        assert max(frame.seq for frame in frames) == last - 1
        assert len(frames) + mailbox.dropped.get(name, 0) == count
        assert mode == "latest" or len(frames) == count
    for part in got:
        for name in names:
            numbers = [frame.seq for frame in part if frame.camera == name]
            assert numbers == sorted(numbers)


def test_a_full_queue_between_threads_adds_up() -> None:
    count = 3000
    mailbox = Mailbox(mode="every", limits=Limits(backlog_frames=7))

    def produce() -> None:
        camera = _Camera("a")
        for _ in range(count):
            mailbox.put(camera.next(lost=0))
        mailbox.close()

    producer = threading.Thread(target=produce)
    producer.start()
    camera = _Camera("a")
    got = 0
    try:
        while True:
            camera.check(mailbox.get())
            got += 1
    except Closed:
        pass
    producer.join()
    assert camera.got == count - 1
    assert got + mailbox.dropped.get("a", 0) == count


# The slot


def test_a_slot_holds_the_newest() -> None:
    slot: Slot[Frame] = Slot()
    assert slot.take() is None
    assert slot.put(_frame(seq=1)) is False
    assert slot.put(_frame(seq=2)) is True
    frame = slot.take()
    assert frame is not None
    assert frame.seq == 2
    assert slot.take() is None
    assert slot.put(_frame(seq=3)) is False
