"""Annex B: NAL units found in any bytes, and what they say of a packet, held against what real encoders make."""

from __future__ import annotations

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
