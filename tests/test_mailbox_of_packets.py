"""The mailbox with inter-coded streams: groups of packets, overflow, leases, and that all adds up."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camfabric.common.frame import Codec, Frame
from camfabric.common.mailbox import Closed, Mailbox, Mode
from camfabric.common.settings import Limits

_SOME = settings(max_examples=200, deadline=None)
_PATIENCE_S = 20.0


def _packet(seq: int, *, keyframe: bool = False, camera: str = "a", missed: int = 0, size: int = 1) -> Frame:
    return Frame(camera=camera, codec=Codec.H264, seq=seq, keyframe=keyframe, missed=missed, payload=bytes(size))


def _still(seq: int, *, camera: str = "a", size: int = 1) -> Frame:
    return Frame(camera=camera, codec=Codec.JPEG, seq=seq, payload=bytes(size))


def _drained(mailbox: Mailbox) -> list[Frame]:
    frames = []
    while True:
        try:
            frames.append(mailbox.get(0))
        except (TimeoutError, Closed):
            return frames


# Groups


def test_packets_are_kept_from_the_newest_keyframe_on() -> None:
    mailbox = Mailbox()
    for seq in range(7):
        mailbox.put(_packet(seq, keyframe=seq in (0, 4)))
    frames = _drained(mailbox)
    assert [frame.seq for frame in frames] == [4, 5, 6]
    assert [frame.dropped for frame in frames] == [4, 0, 0]
    assert mailbox.dropped == {"a": 4}
    assert mailbox._bytes == 0


def test_what_a_keyframe_drops_owes_what_it_missed() -> None:
    mailbox = Mailbox()
    mailbox.put(_packet(3, keyframe=True, missed=3))
    mailbox.put(_packet(4))
    mailbox.put(_packet(10, keyframe=True, missed=5))
    assert [(frame.seq, frame.missed, frame.dropped) for frame in _drained(mailbox)] == [(10, 8, 2)]


def test_a_still_takes_the_place_of_packets_and_a_keyframe_that_of_a_still() -> None:
    mailbox = Mailbox()
    mailbox.put(_packet(0, keyframe=True))
    mailbox.put(_packet(1))
    mailbox.put(_still(2))
    mailbox.put(_packet(3, keyframe=True))
    mailbox.put(_packet(4))
    assert [(frame.seq, frame.dropped) for frame in _drained(mailbox)] == [(3, 3), (4, 0)]


# Overflow


@pytest.mark.parametrize("limits", [Limits(backlog_frames=3), Limits(backlog_bytes=30)], ids=["frames", "bytes"])
def test_an_overflow_empties_the_box_until_a_keyframe(limits: Limits) -> None:
    mailbox = Mailbox(limits=limits)
    for seq in range(6):
        mailbox.put(_packet(seq, keyframe=seq == 0, size=10))
    assert mailbox.overflowed() == set(), "its consumer is not back"
    with pytest.raises(TimeoutError):
        mailbox.get(0)
    assert mailbox.overflowed() == {"a"}
    assert mailbox.overflowed() == set(), "named once"
    mailbox.put(_packet(6, size=10))
    with pytest.raises(TimeoutError):
        mailbox.get(0)
    mailbox.put(_packet(7, keyframe=True, size=10))
    mailbox.put(_packet(8, size=10))
    assert [(frame.seq, frame.dropped) for frame in _drained(mailbox)] == [(7, 7), (8, 0)]
    assert mailbox.dropped == {"a": 7}
    assert mailbox._bytes == 0


def test_an_overflow_is_named_also_where_other_cameras_keep_the_consumer_busy() -> None:
    mailbox = Mailbox(limits=Limits(backlog_frames=2))
    for seq in range(4):
        mailbox.put(_packet(seq, keyframe=seq == 0))
        mailbox.put(_still(seq, camera="busy"))
    assert mailbox.get(0).camera == "busy"
    assert mailbox.overflowed() == {"a"}


def test_a_keyframe_makes_an_overflow_forgotten() -> None:
    mailbox = Mailbox(limits=Limits(backlog_frames=2))
    for seq in range(4):
        mailbox.put(_packet(seq, keyframe=seq == 0))
    with pytest.raises(TimeoutError):
        mailbox.get(0)
    mailbox.put(_packet(4, keyframe=True))
    assert mailbox.overflowed() == set(), "a replay would bring again what is there"


def test_stills_of_other_cameras_use_up_no_room_for_packets() -> None:
    mailbox = Mailbox(limits=Limits(backlog_bytes=100))
    for number in range(10):
        mailbox.put(_still(0, camera=f"still/{number}", size=90))
    for seq in range(5):
        mailbox.put(_packet(seq, keyframe=seq == 0, size=10))
    assert [frame.seq for frame in _drained(mailbox) if frame.camera == "a"] == [0, 1, 2, 3, 4]
    assert mailbox._bytes == 0


def test_where_all_cameras_have_too_much_the_largest_box_is_emptied_and_nobody_is_asked_to_fill_it() -> None:
    mailbox = Mailbox(limits=Limits(backlog_bytes=10))
    mailbox.put(_packet(0, keyframe=True, camera="large", size=6))
    mailbox.put(_packet(0, keyframe=True, camera="small", size=3))
    mailbox.put(_packet(1, camera="small", size=3))
    assert mailbox.dropped == {"large": 1}
    assert [mailbox.get(0).camera, mailbox.get(0).camera] == ["small", "small"]
    with pytest.raises(TimeoutError):
        mailbox.get(0)
    assert mailbox.overflowed() == {"large"}
    mailbox.put(_packet(1, keyframe=True, camera="large", size=6))
    mailbox.put(_packet(2, camera="large", size=5))
    mailbox.put(_packet(2, keyframe=True, camera="small", size=6))
    with pytest.raises(TimeoutError):
        _ = mailbox.get(0), mailbox.get(0)
    mailbox.put(_packet(3, keyframe=True, camera="small", size=6))
    assert mailbox.overflowed() == set()


def test_what_a_replay_brings_again_was_not_dropped() -> None:
    mailbox = Mailbox(limits=Limits(backlog_frames=6))
    mailbox.put(_packet(0, keyframe=True))
    assert mailbox.get(0).seq == 0
    for seq in range(1, 12):
        mailbox.put(_packet(seq, keyframe=seq == 4))
    with pytest.raises(TimeoutError):
        mailbox.get(0)
    assert mailbox.dropped == {"a": 11}
    for seq in range(4, 9):
        mailbox.put(_packet(seq, keyframe=seq == 4))
    assert [(frame.seq, frame.dropped) for frame in _drained(mailbox)] == [(4, 3), (5, 0), (6, 0), (7, 0), (8, 0)]
    assert mailbox.dropped == {"a": 3}


# Leases


def test_a_leased_camera_goes_to_nobody_else_until_it_is_released() -> None:
    mailbox = Mailbox()
    mailbox.put(_packet(0, keyframe=True))
    mailbox.put(_packet(1))
    assert mailbox.get(0, lease=True).seq == 0
    with pytest.raises(TimeoutError):
        mailbox.get(0, lease=True)
    mailbox.put(_packet(2))
    with pytest.raises(TimeoutError):
        mailbox.get(0, lease=True)
    mailbox.put(_packet(0, keyframe=True, camera="b"))
    assert mailbox.get(0, lease=True).camera == "b"
    assert mailbox.has_more("a")
    following = mailbox.get_more("a")
    assert following is not None
    assert following.seq == 1
    mailbox.release("a")
    assert mailbox.get(0, lease=True).seq == 2
    assert not mailbox.has_more("a")
    assert mailbox.get_more("a") is None


def test_a_still_is_not_leased_and_not_given_to_who_decodes_packets() -> None:
    mailbox = Mailbox()
    mailbox.put(_packet(0, keyframe=True))
    assert mailbox.get(0, lease=True).seq == 0
    mailbox.put(_still(1))
    assert not mailbox.has_more("a")
    assert mailbox.get_more("a") is None
    with pytest.raises(TimeoutError):
        mailbox.get(0, lease=True)
    mailbox.release("a")
    assert mailbox.get(0, lease=True).seq == 1
    mailbox.put(_still(2))
    assert mailbox.get(0, lease=True).seq == 2


def test_every_waits_at_the_head_for_a_leased_camera() -> None:
    mailbox = Mailbox(mode="every")
    for packet in (_packet(0, keyframe=True), _packet(1), _packet(0, camera="b", keyframe=True)):
        mailbox.put(packet)
    assert mailbox.get(0, lease=True).seq == 0
    with pytest.raises(TimeoutError):
        mailbox.get(0, lease=True)
    assert not mailbox.has_more("a")
    mailbox.release("a")
    assert (mailbox.get(0, lease=True).seq, mailbox.get_more("a")) == (1, None)
    mailbox.release("a")
    assert mailbox.get(0, lease=True).camera == "b"


@pytest.mark.parametrize("mode", ["latest", "every"])
def test_a_close_while_leased_lets_the_rest_be_taken_and_then_ends(mode: Mode) -> None:
    mailbox = Mailbox(mode=mode)
    for seq in range(3):
        mailbox.put(_packet(seq, keyframe=seq == 0))
    assert mailbox.get(0, lease=True).seq == 0
    ended: list[object] = []

    def wait() -> None:
        try:
            ended.append(mailbox.get(lease=True).seq)
            mailbox.release("a")
            ended.append(mailbox.get(lease=True).seq)
            mailbox.release("a")
            mailbox.get(lease=True)
        except Closed:
            ended.append(Closed)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    mailbox.close()
    assert waiting.is_alive()
    assert ended == []
    mailbox.release("a")
    waiting.join(_PATIENCE_S)
    assert ended == [1, 2, Closed]


@pytest.mark.parametrize("mode", ["latest", "every"])
def test_many_threads_have_each_camera_one_at_a_time_and_in_order(mode: Mode) -> None:
    cameras, count = ["a", "b", "c"], 1500
    mailbox = Mailbox(mode=mode, limits=Limits(backlog_frames=count * 4))
    holders: Counter[str] = Counter()
    got: dict[str, list[Frame]] = {camera: [] for camera in cameras}
    faults: list[str] = []

    def produce(camera: str) -> None:
        for seq in range(count):
            mailbox.put(_packet(seq, keyframe=seq % 50 == 0, camera=camera, size=seq % 7 + 1))

    def consume() -> None:
        while True:
            try:
                frame: Frame | None = mailbox.get(lease=True)
            except Closed:
                return
            assert frame is not None
            camera = frame.camera
            holders[camera] += 1
            if holders[camera] != 1:
                faults.append(camera)
            while frame is not None:
                got[camera].append(frame)
                time.sleep(0)  # another thread's turn
                frame = mailbox.get_more(camera)
            holders[camera] -= 1
            mailbox.release(camera)

    consumers = [threading.Thread(target=consume) for _ in range(4)]
    producers = [threading.Thread(target=produce, args=(camera,)) for camera in cameras]
    for thread in (*consumers, *producers):
        thread.start()
    for thread in producers:
        thread.join()
    mailbox.close()
    for thread in consumers:
        thread.join(_PATIENCE_S)
        assert not thread.is_alive()
    assert faults == []
    for camera in cameras:
        seqs = [frame.seq for frame in got[camera]]
        assert seqs == sorted(set(seqs))
        assert (
            sum(1 + frame.dropped for frame in got[camera])
            + mailbox.dropped.get(camera, 0)
            - sum(frame.dropped for frame in got[camera])
            == count
        )
        assert mode == "latest" or seqs == list(range(count))
        following = pairwise(got[camera])
        assert all(after.keyframe or after.seq == before.seq + 1 for before, after in following)
    assert mailbox._bytes == 0


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from("ab"), st.sampled_from(["key", "packet", "packet", "still"]), st.integers(0, 30)),
        st.sampled_from(["get", "more", "release"]),
    ),
    max_size=80,
)


@_SOME
@given(
    steps=_STEPS,
    most_frames=st.integers(1, 6),
    most_bytes=st.integers(1, 100),
    mode=st.sampled_from(["latest", "every"]),
)
def test_each_number_is_got_or_dropped_and_bytes_come_back_to_none(
    steps: list[Any], most_frames: int, most_bytes: int, mode: Mode
) -> None:
    mailbox = Mailbox(mode=mode, limits=Limits(backlog_frames=most_frames, backlog_bytes=most_bytes))
    last = dict.fromkeys("ab", -1)
    got = dict.fromkeys("ab", -1)
    leased: list[str] = []

    def take(frame: Frame) -> None:
        assert frame.seq - got[frame.camera] == 1 + frame.dropped
        got[frame.camera] = frame.seq

    for step in steps:
        if isinstance(step, tuple):
            camera, kind, size = step
            last[camera] += 1
            make = _still if kind == "still" else _packet
            frame = make(last[camera], camera=camera, size=size)
            mailbox.put(replace(frame, keyframe=kind != "packet"))
        elif step == "get":
            try:
                frame = mailbox.get(0, lease=True)
            except TimeoutError:
                continue
            assert frame.camera not in leased
            take(frame)
            if not frame.codec.is_intra:
                leased.append(frame.camera)
        elif leased and step == "more":
            if (following := mailbox.get_more(leased[-1])) is not None:
                assert mode == "latest"
                take(following)
        elif leased:
            mailbox.release(leased.pop())
    for camera in leased:
        mailbox.release(camera)
    for frame in _drained(mailbox):
        take(frame)
    assert mailbox._bytes == 0
