"""How a replay joins what is live: a model of a camera, its keeper of groups and lossy paths against `Sequence`."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from camfabric.common.frame import Codec, Frame
from camfabric.common.settings import Limits
from camfabric.subscriber.sequence import Sequence

_SOME = settings(max_examples=400, deadline=None)


def _packet(seq: int, *, keyframe: bool = False, epoch: int = 1, size: int = 1) -> Frame:
    return Frame(camera="a", codec=Codec.H264, epoch=epoch, seq=seq, keyframe=keyframe, payload=bytes(size))


@dataclass
class _Camera:
    """A publisher: what it has sent, and what it keeps for a replay."""

    epoch: int = 1
    seq: int = -1
    kept: list[Frame] = field(default_factory=list)

    def sends(self, *, keyframe: bool, size: int) -> Frame:
        self.seq += 1
        frame = _packet(self.seq, keyframe=keyframe, epoch=self.epoch, size=size)
        if keyframe:
            self.kept = []
        if keyframe or self.kept:
            self.kept.append(frame)
        return frame

    def starts_anew(self) -> None:
        self.epoch, self.seq, self.kept = self.epoch + 1, -1, []


class _Consumer:
    """Stands behind the sequence: a decoder that would break at anything that does not follow."""

    def __init__(self) -> None:
        self.last: Frame | None = None
        self.missed = 0
        self.first: dict[int, int] = {}
        self.got: list[tuple[int, int]] = []

    def takes(self, frames: list[Frame]) -> None:
        for frame in frames:
            last = self.last
            if last is None or last.epoch != frame.epoch:
                assert frame.keyframe
                assert frame.missed == 0
                self.first[frame.epoch] = frame.seq
                self.missed = 0
            else:
                assert frame.seq == last.seq + 1 + frame.missed, "what is missing is counted, and nothing comes again"
                assert frame.keyframe or not frame.missed, "it can be decoded"
                self.missed += frame.missed
            self.last = frame
            self.got.append((frame.epoch, frame.seq))


_LIMITS = Limits(backlog_frames=8, group_bytes=40)

_STEPS = st.lists(
    st.one_of(
        # A packet: whether it is a keyframe, its bytes, whether each of two paths brings it.
        st.tuples(st.just("packet"), st.integers(0, 5), st.integers(1, 9), st.booleans(), st.booleans()),
        # An answer to a request: lost, or made now and under way for so many steps.
        st.tuples(st.just("answer"), st.integers(0, 4)),
        st.tuples(st.just("again"), st.integers(1, 5)),
        st.tuples(st.just("new start")),
    ),
    max_size=80,
)


@_SOME
@given(steps=_STEPS)
def test_what_is_passed_on_can_be_decoded_and_adds_up(steps: list[tuple[object, ...]]) -> None:
    sequence, camera, consumer = Sequence(_LIMITS), _Camera(), _Consumer()
    second_path: list[Frame] = []
    answers: list[tuple[int, list[Frame]]] = []
    for now, step in enumerate(steps):
        match step:
            case ("packet", kind, int(size), bool(first), bool(second)):
                frame = camera.sends(keyframe=kind == 0, size=size)
                if first:
                    consumer.takes(sequence.live(frame))
                if second:
                    second_path.append(frame)
            case ("again", int(count)):
                arrived, second_path = second_path[:count], second_path[count:]
                for frame in arrived:
                    if frame.epoch == camera.epoch:  # the roster lets no other one through
                        consumer.takes(sequence.live(frame))
            case ("answer", int(delay)):
                answers.append((now + delay, list(camera.kept)))
            case _:
                camera.starts_anew()
        while answers and answers[0][0] <= now:
            frames = [frame for frame in answers.pop(0)[1] if frame.epoch == camera.epoch]
            consumer.takes(sequence.replayed(frames))
        assert len(sequence._held) <= _LIMITS.backlog_frames
        assert sum(len(frame.payload) for frame in sequence._held) == sequence._held_bytes <= _LIMITS.group_bytes
    _finish(sequence, camera, consumer)


def _finish(sequence: Sequence, camera: _Camera, consumer: _Consumer) -> None:
    """A keyframe, a loss and a replay: all is there."""
    consumer.takes(sequence.live(camera.sends(keyframe=True, size=1)))
    camera.sends(keyframe=False, size=1)
    consumer.takes(sequence.live(camera.sends(keyframe=False, size=1)))
    consumer.takes(sequence.replayed(camera.kept))
    assert not sequence.waiting
    assert consumer.got[-3:] == [(camera.epoch, camera.seq - back) for back in (2, 1, 0)]
    last = consumer.last
    assert last is not None
    taken = sum(epoch == camera.epoch for epoch, _ in consumer.got)
    assert last.seq - consumer.first[camera.epoch] + 1 == taken + consumer.missed
    assert len(set(consumer.got)) == len(consumer.got)


@_SOME
@given(before=st.integers(0, 5), within=st.integers(1, 7), behind=st.integers(0, 5), overlap=st.integers(0, 4))
def test_a_late_joiner_gets_the_group_from_its_keyframe_on_without_gap_or_repeat(
    before: int, within: int, behind: int, overlap: int
) -> None:
    camera, sequence = _Camera(), Sequence()
    for _ in range(before):
        camera.sends(keyframe=False, size=1)
    keyframe = camera.sends(keyframe=True, size=1)
    for _ in range(within):
        camera.sends(keyframe=False, size=1)
    # Live first; the replay is made while packets come, and arrives behind some more.
    live = [camera.sends(keyframe=False, size=1) for _ in range(overlap)]
    answer = list(camera.kept)
    live += [camera.sends(keyframe=False, size=1) for _ in range(behind)]
    passed = [frame for packet in live for frame in sequence.live(packet)]
    assert passed == []
    passed = sequence.replayed(answer)
    assert [frame.seq for frame in passed] == list(range(keyframe.seq, camera.seq + 1))
    assert not any(frame.missed for frame in passed)
    assert not sequence.waiting


def test_a_replay_that_is_there_first_begins_at_its_keyframe() -> None:
    sequence = Sequence()
    passed = sequence.replayed([_packet(5, keyframe=True), _packet(6)])
    assert [frame.seq for frame in passed] == [5, 6]
    assert [frame.seq for frame in sequence.live(_packet(6)) + sequence.live(_packet(7))] == [7]


def test_an_empty_replay_changes_nothing() -> None:
    sequence = Sequence()
    assert sequence.replayed([]) == []
    assert sequence.live(_packet(3)) == []
    assert sequence.replayed([]) == []
    assert sequence.waiting
    assert [frame.seq for frame in sequence.replayed([_packet(2, keyframe=True), _packet(3)])] == [2, 3]


def test_what_a_second_path_brings_late_closes_the_gap() -> None:
    sequence = Sequence()
    for seq in range(3):
        assert sequence.live(_packet(seq, keyframe=seq == 0))
    assert [sequence.live(_packet(seq)) for seq in (4, 5, 7)] == [[], [], []]
    assert sequence.waiting
    assert [frame.seq for frame in sequence.live(_packet(3))] == [3, 4, 5]
    assert sequence.waiting
    assert [frame.seq for frame in sequence.live(_packet(6))] == [6, 7]
    assert not sequence.waiting


def test_after_a_restart_all_since_the_keyframe_comes_once_more() -> None:
    sequence = Sequence()
    group = [_packet(seq, keyframe=seq == 4) for seq in range(4, 9)]
    assert [frame.seq for packet in group for frame in sequence.live(packet)] == [4, 5, 6, 7, 8]
    sequence.restart()
    assert sequence.live(_packet(9)) == []
    passed = sequence.replayed([*group, _packet(9)])
    assert [frame.seq for frame in passed] == [4, 5, 6, 7, 8, 9]
    assert not any(frame.missed for frame in passed)
    assert [frame.seq for frame in sequence.live(_packet(10))] == [10]


def test_a_replay_of_a_new_start_ends_what_was_held_of_the_old_one() -> None:
    sequence = Sequence()
    assert sequence.live(_packet(5)) == []
    replay = [_packet(0, keyframe=True, epoch=2)]
    assert sequence.replayed(replay) == replay
    assert sequence.replayed(replay) == []
    assert not sequence.waiting
    assert sequence.live(_packet(1, epoch=2)) == [_packet(1, epoch=2)]


def test_after_a_restart_a_keyframe_makes_the_replay_needless() -> None:
    sequence = Sequence()
    group = [_packet(seq, keyframe=seq == 0) for seq in range(4)]
    for packet in group:
        sequence.live(packet)
    sequence.restart()
    assert [frame.seq for frame in sequence.live(_packet(4, keyframe=True))] == [4]
    assert sequence.replayed(group) == []
    assert [frame.seq for frame in sequence.live(_packet(5))] == [5]


def test_after_a_restart_a_gap_up_to_the_replays_keyframe_is_counted() -> None:
    sequence = Sequence()
    for seq in range(3):
        sequence.live(_packet(seq, keyframe=seq == 0))
    sequence.restart()
    passed = sequence.replayed([_packet(7, keyframe=True), _packet(8)])
    assert [(frame.seq, frame.missed) for frame in passed] == [(7, 4), (8, 0)]


def test_a_replay_that_does_not_begin_at_a_keyframe_starts_nothing() -> None:
    sequence = Sequence()
    assert sequence.live(_packet(7)) == []
    assert sequence.replayed([_packet(5), _packet(6), _packet(7)]) == []
    assert sequence.waiting
    assert [frame.seq for frame in sequence.live(_packet(8, keyframe=True))] == [8]


def test_a_change_to_stills_waits_for_nothing() -> None:
    sequence = Sequence()
    sequence.live(_packet(0, keyframe=True))
    assert sequence.live(_packet(2)) == []
    still = Frame(camera="a", codec=Codec.JPEG, epoch=1, seq=3, payload=b"")
    assert [(frame.seq, frame.missed) for frame in sequence.live(still)] == [(3, 2)]
    assert not sequence.waiting
    assert sequence.live(_packet(4)) != [], "the decoder behind it says whether that can be decoded"
