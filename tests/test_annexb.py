"""Annex B: NAL units found in any bytes, and what they say of a packet, held against what real encoders make.

H.264's numbers of pictures are held against headers that are written here, as no encoder at hand makes all of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camfabric.common.codecs.annexb import (
    is_disposable,
    is_instantaneous,
    nal_units,
    parameter_sets,
    slices,
    sub_layers,
)
from camfabric.common.codecs.frame_numbers import FrameNumbers
from camfabric.common.frame import Codec

_SOME = settings(max_examples=300, deadline=None)
# As encoders make them: no start code within, and no zero at the end.
_UNITS = st.lists(
    st.binary(min_size=1, max_size=12)
    .map(lambda unit: unit.replace(b"\0", b"\3") + b"\x80")
    .flatmap(lambda unit: st.sampled_from([unit, unit[:1] + b"\0\0\3" + unit[1:]])),
    max_size=6,
)


@_SOME
@given(
    units=_UNITS, starts=st.lists(st.sampled_from([b"\0\0\1", b"\0\0\0\1", b"\0\0\0\0\0\1"]), min_size=6, max_size=6)
)
def test_nal_units_are_those_that_were_joined(units: list[bytes], starts: list[bytes]) -> None:
    data = b"".join(start + unit for start, unit in zip(starts, units, strict=False))
    assert [data[begin:end] for begin, end in nal_units(data)] == units
    assert [data[begin:end] for begin, end in nal_units(data + b"\0\0")] == units


@_SOME
@given(data=st.lists(st.sampled_from([b"\0", b"\1", b"\0\0\1", b"\x65", b"\x67", b"\x41", b"\x40"])).map(b"".join))
def test_any_bytes_are_read_without_an_error(data: bytes) -> None:
    units = list(nal_units(data))
    assert all(begin < end <= len(data) and data[begin - 3 : begin] == b"\0\0\1" for begin, end in units)
    assert all(before[1] <= after[0] for before, after in pairwise(units))
    for codec in (Codec.H264, Codec.H265):
        assert len(slices(codec, data)) <= len(units)
        assert not (is_disposable(codec, data) and is_instantaneous(codec, data)) or codec is Codec.H264
        sets = parameter_sets(codec, data)
        assert parameter_sets(codec, sets) == sets
    assert 1 <= sub_layers(data) <= 8


@pytest.mark.parametrize("codec", [Codec.H264, Codec.H265])
def test_keyframes_have_their_sets_and_every_packet_its_slices(codec: Codec, video: Any) -> None:
    frames = video(codec, "bframes=2:b-adapt=0:open-gop=0").frames
    for frame in frames:
        sets = parameter_sets(codec, frame.payload)
        assert bool(sets) == frame.keyframe
        assert len(list(nal_units(sets))) == (0 if not sets else 2 if codec is Codec.H264 else 3)
        assert len(slices(codec, frame.payload)) == 1
        assert is_instantaneous(codec, frame.payload) == frame.keyframe
    assert len(slices(Codec.H264, video(Codec.H264, "bframes=0:slices=4").frames[3].payload)) == 4


@pytest.mark.parametrize("codec", [Codec.H264, Codec.H265])
def test_a_keyframe_of_an_open_gop_is_not_instantaneous(codec: Codec, video: Any) -> None:
    keyframes = [frame for frame in video(codec, "bframes=3:b-adapt=0:open-gop=1").frames if frame.keyframe]
    assert [is_instantaneous(codec, frame.payload) for frame in keyframes[1:]] == [False] * (len(keyframes) - 1)


def test_what_is_disposable_is_never_a_reference(video: Any) -> None:
    """There are some, and none where none can be. That leaving them out changes nothing: test_video_decoder.py."""
    assert sum(frame.disposable for frame in video(Codec.H264, "bframes=3:b-adapt=0:b-pyramid=none").frames) == 40
    assert sum(frame.disposable for frame in video(Codec.H265, "bframes=3:b-adapt=0:open-gop=0").frames) > 20
    for codec in (Codec.H264, Codec.H265):
        assert not any(frame.disposable for frame in video(codec, "bframes=0").frames)


def test_temporal_sub_layers_are_read(video: Any) -> None:
    assert sub_layers(video(Codec.H265, "bframes=0").frames[0].payload) == 1
    assert sub_layers(video(Codec.H265, "bframes=3:b-adapt=0:temporal-layers=3").frames[0].payload) == 3
    assert sub_layers(b"") == 7


# Numbers of pictures


class _Written:
    """A NAL unit as it is written, bit by bit."""

    def __init__(self, first: int) -> None:
        self._first = bytes([first])
        self._bits = ""

    def u(self, count: int, value: int = 0) -> _Written:
        self._bits += f"{value:0{count}b}" if count else ""
        return self

    def ue(self, *values: int) -> _Written:
        for value in values:
            self._bits += "0" * ((value + 1).bit_length() - 1) + f"{value + 1:b}"
        return self

    def se(self, *values: int) -> _Written:
        return self.ue(*(2 * value - 1 if value > 0 else -2 * value for value in values))

    def unit(self) -> bytes:
        """With its start code, a stop bit, and emulation prevention."""
        bits = self._bits + "1"
        data = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8))
        return b"\0\0\1" + self._first + re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", data)


@dataclass(frozen=True)
class _Stream:
    """What a stream's parameter sets say. ITU-T H.264, 7.3.2.1.1 and 7.3.2.2."""

    profile: int = 66
    ident: int = 0
    number_bits: int = 4
    chroma: int = 1
    planes: int = 0
    scaling: bool = False
    order: int = 2
    gaps: int = 0
    frames_only: int = 1
    weighted: int = 0
    field_order: int = 0
    redundant: int = 0
    offsets: list[int] = field(default_factory=list)

    @property
    def has_planes(self) -> bool:
        return self.profile != 66 and self.chroma == 3 and self.planes == 1

    def sets(self) -> bytes:
        sps = _Written(0x67).u(8, self.profile).u(16, 30).ue(self.ident)
        if self.profile != 66:
            sps.ue(self.chroma).u(1 if self.chroma == 3 else 0, self.planes).ue(0, 0).u(1).u(1, self.scaling)
            for number in range((12 if self.chroma == 3 else 8) if self.scaling else 0):
                sps.u(1, number % 2)
                if number % 4 == 1:
                    sps.se(-8)  # the next one would be 0: the default list
                elif number % 4 == 3:
                    sps.se(*[1, -1] * (8 if number < 6 else 32))
        sps.ue(self.number_bits - 4, self.order)
        if self.order == 0:
            sps.ue(4)
        elif self.order == 1:
            sps.u(1).se(-70_000, 70_000).ue(len(self.offsets)).se(*self.offsets)
        sps.ue(4).u(1, self.gaps).ue(7, 5).u(1, self.frames_only)
        if not self.frames_only:
            sps.u(1)
        sps.u(1, 1).u(2)
        pps = _Written(0x68).ue(0, self.ident).u(1).u(1, self.field_order).ue(0, 1, 0).u(1, self.weighted)
        pps.u(2, self.weighted).se(0, 0, 0).u(2).u(1, self.redundant)
        return sps.unit() + pps.unit()

    def picture(
        self,
        number: int,
        *,
        needed: bool = True,
        idr: bool = False,
        kind: int = 0,
        part: int | None = None,
        **more: Any,
    ) -> bytes:
        """A slice: 7.3.3. `kind` is slice_type; `part`, if it is a field, is bottom_field_flag."""
        unit = _Written(0x65 if idr else 0x41 if needed else 0x01).ue(more.get("place", 0), kind, 0)
        unit.u(2 * self.has_planes).u(self.number_bits, number)
        if not self.frames_only:
            unit.u(1, part is not None).u(0 if part is None else 1, part or 0)
        if idr:
            unit.ue(3)
        deltas = 2 if self.field_order and part is None else 1
        if self.order == 0:
            unit.u(8, 77).se(*[-1] * (deltas - 1))
        elif self.order == 1:
            unit.se(*[5, -1][:deltas])
        if self.redundant:
            unit.ue(0)
        if kind < 2:
            unit.u(kind).u(1, 1).ue(*[2, 1][: kind + 1])  # three references, and two
            for _ in range(kind + 1):
                unit.u(1, 1).ue(0, 4, 1, 3, 3)
            if self.weighted:
                self._weigh(unit, 3 + 2 * kind)
        if needed and not idr:
            operations = more.get("operations", [])
            unit.u(1, bool(operations)).ue(*operations)
        elif idr:
            unit.u(2)
        return unit.ue(9, 9).unit()

    def _weigh(self, unit: _Written, count: int) -> None:
        has_chroma = self.profile == 66 or (self.chroma > 0 and not self.has_planes)
        unit.ue(*[5, 5][: 1 + has_chroma])
        for number in range(count):
            unit.u(1, number % 2).se(*[-3, 4] * (number % 2))
            if has_chroma:
                unit.u(1, 1).se(1, 2, -3, 4)


def _missed(packets: list[bytes], keyframes: tuple[int, ...] = (0,)) -> list[int]:
    """The packets before which a picture is missing."""
    numbers = FrameNumbers()
    return [
        place
        for place, packet in enumerate(packets)
        if numbers.is_missing(packet, keyframe=place in keyframes, follows=place > 0)
    ]


_RESET = [1, 2, 2, 0, 3, 4, 1, 4, 2, 6, 0, 5, 0]
"""Each memory_management_control_operation there is, with what belongs to it."""
_STREAMS = st.builds(
    _Stream,
    profile=st.sampled_from([66, 100, 244]),
    ident=st.sampled_from([0, 31]),
    number_bits=st.integers(4, 16),
    chroma=st.sampled_from([0, 1, 3]),
    planes=st.integers(0, 1),
    scaling=st.booleans(),
    order=st.integers(0, 2),
    weighted=st.integers(0, 1),
    field_order=st.integers(0, 1),
    redundant=st.integers(0, 1),
    frames_only=st.integers(0, 1),
    offsets=st.lists(st.integers(-70_000, 70_000), max_size=3),
)


@_SOME
@given(data=st.data(), stream=_STREAMS, lost=st.integers(1, 19))
def test_only_the_loss_of_a_picture_that_others_need_is_found(data: st.DataObject, stream: _Stream, lost: int) -> None:
    packets, needed = [stream.sets() + stream.picture(0, idr=True, kind=7)], [True]
    number = 1
    kinds = st.sampled_from(["P", "P", "b", "b", "I", "reset", "IDR"] + ["fields"] * (not stream.frames_only))
    for kind in data.draw(st.lists(kinds, min_size=20, max_size=20)):
        number %= 1 << stream.number_bits
        needed.append(kind != "b")
        if kind == "fields":  # in two packets
            packets += [stream.picture(number, part=0), stream.picture(number, part=1, kind=1)]
            needed.append(True)
        elif kind == "reset":
            packets.append(stream.picture(number, operations=_RESET, kind=data.draw(st.integers(0, 2))))
            number = 0
        elif kind == "IDR":
            packets.append(stream.picture(0, idr=True, kind=7))
            number = 0
        else:
            slice_type = {"P": 0, "b": 1, "I": 2}[kind]
            first = stream.picture(number, needed=kind != "b", kind=slice_type, operations=[1, 3, 0] * (kind == "P"))
            packets.append(first + stream.picture(number, needed=kind != "b", kind=slice_type, place=20))
        number += needed[-1]
    assert _missed(packets) == []
    assert _missed([packet for packet, is_needed in zip(packets, needed, strict=True) if is_needed]) == []
    found = _missed(packets[:lost] + packets[lost + 1 :])
    # What is needed by none may have the number of a keyframe before.
    next_needed = next((place - 1 for place in range(lost + 1, len(needed)) if needed[place]), lost)
    assert found in ([], [lost], [next_needed])
    if not needed[lost]:
        assert found == []


@_SOME
@given(stream=_STREAMS, lost=st.integers(1, 40), run=st.integers(1, 14))
def test_each_loss_but_for_a_whole_round_of_numbers_is_found(stream: _Stream, lost: int, run: int) -> None:
    count = 1 << stream.number_bits
    numbers = [0, *range(count - 30, count), *range(30)] if count > 100 else range(70)
    packets = [stream.picture(number % count, kind=number % 3) for number in numbers]
    packets[0] = stream.sets() + stream.picture(0, idr=True, kind=7)
    # Of many numbers, the first and the last: the jump between them is found, too.
    jump = [1] if count > 100 else []
    assert _missed(packets) == jump
    assert _missed(packets[: lost + 1] + packets[lost + 1 + run :]) == [*jump, lost + 1]


def test_a_second_picture_in_a_packet_is_not_missing() -> None:
    stream = _Stream()
    pictures = [stream.picture(number % 16) for number in range(1, 60)]
    packets = [stream.sets() + stream.picture(0, idr=True, kind=7)]
    packets += [first + second for first, second in zip(pictures[::2], pictures[1::2], strict=False)]
    assert _missed(packets) == []
    assert _missed(packets[:7] + packets[8:]) == [7]


def test_a_repeated_number_is_that_of_a_field_or_of_what_no_other_needs() -> None:
    frames, fields = _Stream(), _Stream(frames_only=0)
    for stream, packets, missed in (
        (frames, [frames.picture(1), frames.picture(1)], [2]),
        (frames, [frames.picture(1), frames.picture(1, needed=False)], []),
        (frames, [frames.picture(1), frames.picture(1, place=20)], []),
        (fields, [fields.picture(1), fields.picture(1)], [2]),
        (fields, [fields.picture(1, part=0), fields.picture(1, part=1)], []),
    ):
        assert _missed([stream.sets() + stream.picture(0, idr=True, kind=7), *packets]) == missed


def test_nothing_is_missed_where_the_headers_do_not_tell() -> None:
    stream = _Stream()
    sets, keyframe, behind = stream.sets(), stream.picture(0, idr=True, kind=7), stream.picture(5)
    assert _missed([sets + keyframe, behind]) == [1]
    for first in (
        keyframe,
        _Stream(gaps=1).sets() + keyframe,
        sets + _Stream(ident=1).sets() + keyframe,
        sets[:6] + keyframe,
        sets + b"\0\0\1\x67\x42" + keyframe,
        _Stream(number_bits=17).sets() + keyframe,
    ):
        assert _missed([first, behind]) == []
    assert _missed([sets + keyframe, behind[:4], behind]) == []  # a header that is cut off
    assert _missed([sets + keyframe, _Stream(number_bits=5).sets() + stream.picture(9)]) == []
    numbers = FrameNumbers()
    other = _Stream(ident=3)
    assert not numbers.is_missing(other.sets() + keyframe, keyframe=True, follows=False)
    assert not numbers.is_missing(sets + keyframe, keyframe=True, follows=False)
    assert not numbers.is_missing(behind, keyframe=False, follows=False)
    assert not numbers.is_missing(sets + keyframe, keyframe=True, follows=False)
    assert numbers.is_missing(behind, keyframe=False, follows=True)


@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("part", [None, 0, 1])
def test_numbers_begin_anew_behind_a_picture_that_says_so(kind: int, order: int, part: int | None) -> None:
    for weighted in (0, 1):
        stream = _Stream(order=order, frames_only=int(part is None), field_order=1, redundant=1, weighted=weighted)
        packets = [stream.sets() + stream.picture(0, idr=True, kind=7), stream.picture(1), stream.picture(2)]
        for operations, missed in ((_RESET, []), ([*_RESET[:-2], 0], [4]), ([], [4])):
            last = stream.picture(3, kind=kind, part=part, operations=operations)
            assert _missed([*packets, last, stream.picture(1), stream.picture(2)]) == missed
            assert _missed([*packets, last, stream.picture(2)]) == [4]


def test_headers_are_read_without_emulation_prevention() -> None:
    far = (1 << 30) - 1
    for gaps in (0, 1):
        stream = _Stream(order=1, offsets=[1 << 29, -1 << 29], gaps=gaps)
        pictures = [stream.picture(number, place=far) for number in (1, 2, 4)]
        assert all(b"\0\0\3" in written for written in [stream.sets(), *pictures])
        packets = [stream.sets() + stream.picture(0, idr=True, kind=7), *pictures]
        assert _missed(packets) == ([] if gaps else [3])


def test_where_it_cannot_be_read_whether_the_numbers_began_anew_they_may_have() -> None:
    stream = _Stream(weighted=1)
    sets, keyframe = stream.sets(), stream.picture(0, idr=True, kind=7)
    without_pps = sets[: sets.index(b"\0\0\1\x68")]
    lost = [stream.picture(1), stream.picture(2), stream.picture(1)]
    assert _missed([sets + keyframe, *lost]) == [3]
    assert _missed([without_pps + keyframe, *lost]) == []
    assert _missed([without_pps + keyframe, stream.picture(1), stream.picture(3)]) == [2]


@_SOME
@given(
    packets=st.lists(
        st.lists(
            st.one_of(
                st.sampled_from([_Stream(profile=244, chroma=3, scaling=True).sets(), _Stream().picture(3), b"\0\0\1"]),
                st.sampled_from([b"\x67", b"\x68", b"\x65", b"\x41", b"\0\0\3"]),
                st.binary(max_size=9),
            ),
            max_size=8,
        ).map(b"".join),
        max_size=8,
    )
)
def test_numbers_are_looked_for_in_any_bytes_without_an_error(packets: list[bytes]) -> None:
    _missed(packets)
