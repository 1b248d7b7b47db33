"""Decoding real H.264 and H.265: each picture is the right one, and after a loss or a change none is broken."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import pytest

from camfabric.common.codecs import VideoDecoder
from camfabric.common.codecs.annexb import is_disposable, is_instantaneous
from camfabric.common.errors import CodecError
from camfabric.common.frame import Codec, Frame

_H264, _H265 = Codec.H264, Codec.H265
_KINDS: dict[str, tuple[Codec, str, dict[str, Any]]] = {
    "h264": (_H264, "bframes=0", {}),
    "h264 with B-frames": (_H264, "bframes=3:b-adapt=0", {}),
    "h264 with B-frames that nothing needs": (_H264, "bframes=3:b-adapt=0:b-pyramid=none", {}),
    "h264 open GOP": (_H264, "bframes=3:b-adapt=0:open-gop=1", {}),
    "h264 intra refresh": (_H264, "bframes=0:intra-refresh=1", {}),
    "h264 of several slices": (_H264, "bframes=0:slices=4", {}),
    "h264 interlaced": (_H264, "bframes=0:interlaced=1", {}),
    "h264 of odd sizes": (_H264, "bframes=1:b-adapt=0", {"size": (127, 95), "pixels": "yuv444p"}),
    "h264 cropped": (_H264, "bframes=0", {"size": (134, 90)}),
    "h264 grey": (_H264, "bframes=0", {"pixels": "gray"}),
    "h265": (_H265, "bframes=0", {}),
    "h265 with B-frames": (_H265, "bframes=3:b-adapt=0:open-gop=0", {}),
    "h265 open GOP": (_H265, "bframes=3:b-adapt=0:open-gop=1", {}),
    "h265 of temporal layers": (_H265, "bframes=3:b-adapt=0:temporal-layers=3", {}),
    "h265 grey": (_H265, "bframes=0", {"pixels": "gray"}),
}
_HELD = 4
"""Pictures that these streams' decoder holds back at most."""


def _decoded(frames: list[Frame], decoder: VideoDecoder | None = None) -> tuple[list[Frame], list[int]]:
    """The pictures, and the packets that raised."""
    decoder = decoder or VideoDecoder()
    shown, refused = [], []
    for frame in frames:
        try:
            shown += [decoded.converted() for decoded in decoder.feed(frame)]
        except CodecError:
            refused.append(frame.seq)
    return shown, refused


def _numbers(frames: list[Frame]) -> list[int]:
    return [frame.extra["number"] for frame in frames]


def _keyframes(frames: list[Frame]) -> list[int]:
    return [place for place, frame in enumerate(frames) if frame.keyframe]


@pytest.fixture(params=_KINDS)
def stream(request: pytest.FixtureRequest, video: Any) -> Any:
    """Each kind of stream in turn."""
    codec, options, more = _KINDS[request.param]
    return video(codec, options, **more)


# Right pictures


def test_the_streams_are_what_they_are_called(video: Any) -> None:
    def is_reordered(name: str) -> bool:
        codec, options, more = _KINDS[name]
        numbers = _numbers(video(codec, options, **more).frames)
        return numbers != sorted(numbers)

    assert [name for name in _KINDS if is_reordered(name)] == [
        name for name in _KINDS if "B-frames" in name or "open" in name or "odd" in name or "layers" in name
    ]
    for name in ("h264 open GOP", "h265 open GOP"):
        codec, options, _ = _KINDS[name]
        frames = video(codec, options).frames
        assert frames[_keyframes(frames)[1] + 1].pts < frames[_keyframes(frames)[1]].pts
    assert any(frame.disposable for frame in video(_H264, _KINDS["h264 with B-frames"][1]).frames)


def test_each_picture_is_the_right_one_in_the_order_of_showing(stream: Any) -> None:
    shown, refused = _decoded(stream.frames)
    assert refused == []
    assert _numbers(shown) == list(range(len(shown)))
    assert len(shown) >= len(stream.frames) - _HELD
    assert all(stream.is_clean(frame) for frame in shown)
    assert [stream.number_in(frame.image) for frame in shown] == _numbers(shown)
    assert all(frame.image.shape[:2] == (frame.height, frame.width) for frame in shown)


def test_who_starts_in_the_middle_of_a_group_sees_the_next_one_whole(stream: Any) -> None:
    first = _keyframes(stream.frames)[1]
    for begin in (3, first, first + 1):
        shown, refused = _decoded(stream.frames[begin:])
        assert refused == []
        assert all(stream.is_clean(frame) for frame in shown)
        assert _numbers(shown) == list(range(_numbers(shown)[0], _numbers(shown)[0] + len(shown)))
        keyframe = next(frame for frame in stream.frames[begin:] if frame.keyframe)
        # With intra refresh a picture is whole some time behind the keyframe; no other one is late.
        assert keyframe.extra["number"] <= _numbers(shown)[0] <= keyframe.extra["number"] + 6


@pytest.mark.parametrize("lost", [1, 2, 5, 11, 12, 13, 14, 20])
def test_after_a_loss_nothing_is_shown_until_a_keyframe(lost: int, stream: Any) -> None:
    shown, refused = _decoded([frame for frame in stream.frames if frame.seq != lost])
    assert refused == []
    assert all(stream.is_clean(frame) for frame in shown)
    again = next(place for place in _keyframes(stream.frames) if place > lost)
    assert not [frame.seq for frame in shown if lost <= frame.seq < again]
    assert _numbers(shown)[-1] >= len(stream.frames) - _HELD - 1


def test_what_no_other_packet_needs_can_be_left_out(video: Any) -> None:
    for name in ("h264 with B-frames", "h264 with B-frames that nothing needs", "h265 with B-frames", "h265 open GOP"):
        codec, options, _ = _KINDS[name]
        clean = video(codec, options)
        decoder = VideoDecoder()
        shown = []
        for frame in clean.frames:
            if frame.disposable:
                decoder.skip(frame)
            else:
                shown += [decoded.converted() for decoded in decoder.feed(frame)]
        assert all(clean.is_clean(frame) for frame in shown)
        needed = sorted(_numbers([frame for frame in clean.frames if not frame.disposable]))
        assert _numbers(shown) == needed[: len(shown)]
        assert len(shown) >= len(needed) - _HELD


def test_a_packet_that_is_left_out_behind_a_gap_does_not_hide_it(video: Any) -> None:
    codec, options, _ = _KINDS["h264 with B-frames"]
    frames = video(codec, options).frames
    lost = next(place for place in range(2, 12) if frames[place].disposable and not frames[place - 1].disposable) - 1
    decoder = VideoDecoder()
    for frame in frames[:lost]:
        decoder.feed(frame)
    decoder.skip(frames[lost + 1])
    assert decoder.feed(frames[lost + 2]) == []
    assert decoder.waiting


def test_a_keyframe_without_times_begins_a_stream(stream: Any) -> None:
    for first in (0, _keyframes(stream.frames)[1]):
        frames = list(stream.frames[first:])
        frames[0] = replace(frames[0], pts=None, dts=None)
        shown, _ = _decoded(frames)
        assert all(stream.is_clean(frame) for frame in shown)
        # At worst, with an open GOP, what comes before the second keyframe is given up.
        assert _numbers(shown)[-1] >= len(stream.frames) - _HELD - 1


def test_packets_without_any_times_are_decoded(stream: Any) -> None:
    shown, refused = _decoded([replace(frame, pts=None, dts=None, time_base=None) for frame in stream.frames])
    assert refused == []
    assert _numbers(shown) == list(range(len(shown)))
    assert all(stream.is_clean(frame) for frame in shown)


def test_a_payload_may_be_any_buffer(video: Any) -> None:
    clean = video(_H264, "bframes=0")
    for kind in (bytes, bytearray, memoryview):
        shown, _ = _decoded([replace(frame, payload=kind(frame.payload)) for frame in clean.frames[:6]])
        assert [clean.is_clean(frame) for frame in shown] == [True] * 6


# Pictures that were lost before the packets were numbered


def _closed_up(frames: list[Frame]) -> list[Frame]:
    """What is left, numbered as if nothing had been lost."""
    return [replace(frame, seq=seq) for seq, frame in enumerate(frames)]


_UNSEEN: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (options, more) for name, (codec, options, more) in _KINDS.items() if codec is _H264},
    # The last number of a group of 18 is 1, as that of the picture behind the next keyframe.
    "numbers that meet": ("bframes=0:keyint=18:min-keyint=18", {}),
    "B-frames that others need": ("bframes=8:b-adapt=0:b-pyramid=normal:ref=4:tff=1:slices=4", {}),
}


@pytest.mark.parametrize("name", _UNSEEN)
def test_a_lost_picture_that_no_number_of_a_packet_tells_of_is_missed(name: str, video: Any) -> None:
    options, more = _UNSEEN[name]
    clean = video(_H264, options, **more)
    for lost in range(1, 28):
        frames = _closed_up(clean.frames[:lost] + clean.frames[lost + 1 : 44])
        shown, refused = _decoded(frames)
        assert all(clean.is_clean(frame) for frame in shown), lost
        if is_disposable(_H264, clean.frames[lost].payload):
            assert refused == []
            assert len(shown) >= len(frames) - _HELD - 4
        elif frames[lost].keyframe:
            # It begins anew: what came before is shown, and nothing of what is shown before the keyframe and needs it.
            assert refused == []
            numbers = [frame.extra["number"] for frame in frames[:lost]]
            assert set(numbers) <= set(_numbers(shown))
            assert is_instantaneous(_H264, frames[lost].payload) or len(shown) < len(frames) - _HELD
        else:
            assert refused == [lost]
            again = next(place for place in _keyframes(frames) if place > lost)
            assert not [frame.seq for frame in shown if lost <= frame.seq < again]


def test_what_came_before_a_picture_that_was_lost_in_front_of_a_keyframe_is_shown(video: Any) -> None:
    clean = video(_H264, _KINDS["h264 open GOP"][1])
    again = _keyframes(clean.frames)[1]
    lost = max(place for place in range(again) if not clean.frames[place].disposable)
    shown, refused = _decoded(_closed_up(clean.frames[:lost] + clean.frames[again:]))
    assert refused == []
    assert all(clean.is_clean(frame) for frame in shown)
    begun = clean.frames[again].extra["number"]
    assert [number for number in _numbers(shown) if number < begun] == sorted(_numbers(clean.frames[:lost]))
    assert _numbers(shown)[-1] >= len(clean.frames) - _HELD - 1


def test_the_error_says_that_a_picture_is_missing(video: Any) -> None:
    frames = video(_H264, "bframes=0").frames
    decoder = VideoDecoder()
    for frame in frames[:3]:
        decoder.feed(frame)
    with pytest.raises(CodecError, match="h264 3 of a: a picture before it is missing"):
        decoder.feed(replace(frames[4], seq=3))
    assert decoder.waiting


def test_in_a_long_group_whose_numbers_begin_anew_nothing_is_missed(video: Any) -> None:
    for options in ("bframes=0", "bframes=3:b-adapt=0:b-pyramid=normal:ref=4", "bframes=3:b-adapt=0:b-pyramid=none"):
        clean = video(_H264, f"{options}:keyint=400:min-keyint=400", count=120)
        for left_out in (False, True):
            decoder = VideoDecoder()
            shown = []
            for frame in clean.frames:
                if left_out and frame.disposable:
                    decoder.skip(frame)
                else:
                    shown += decoder.feed(frame)
            needed = [frame for frame in clean.frames if not (left_out and frame.disposable)]
            assert len(shown) >= len(needed) - _HELD


def test_gaps_in_every_group_are_their_makers_until_a_group_has_none(video: Any) -> None:
    clean = video(_H264, "bframes=0", count=132)
    gaps = {4, 16, 28, 40, 52, 76, 88}  # in groups 0 to 4, and in 6 and 7
    decoder = VideoDecoder()
    shown, refused = _decoded(_closed_up([frame for frame in clean.frames if frame.seq not in gaps]), decoder)
    assert refused == [4, 15, 26, 76 - 5, 88 - 6]
    numbers = _numbers(shown)
    assert set(range(36, 76)) - gaps <= set(numbers)
    assert [number for number in numbers if 76 < number < 84 or 88 < number < 96] == []
    assert all(clean.is_clean(frame) for frame in shown if not 40 <= frame.extra["number"] < 60)


def test_who_passes_over_other_faults_still_misses_a_picture(video: Any) -> None:
    clean = video(_H264, "bframes=0", count=96)
    faulty = _faulty(clean.frames)
    decoder = VideoDecoder()
    assert _decoded(faulty[:50], decoder)[1] == [1, 13, 25]
    _, refused = _decoded([replace(frame, seq=frame.seq - 1) for frame in faulty[51:]], decoder)
    assert refused == [50]


# Changes


@pytest.mark.parametrize("after", ["size", "codec", "start"])
@pytest.mark.parametrize("before", ["h264", "h264 with B-frames", "h265 with B-frames"])
def test_a_change_in_the_middle_shows_all_of_both(before: str, after: str, video: Any) -> None:
    codec, options, _ = _KINDS[before]
    first = video(codec, options, count=20)
    other = _H265 if codec is _H264 else _H264
    second = {
        "size": lambda: video(codec, options, count=20, first=100, size=(160, 64)),
        "codec": lambda: video(other, "bframes=2:b-adapt=0", count=20, first=100),
        "start": lambda: video(codec, options, count=20, first=100),
    }[after]()
    behind = second.renumbered(20, epoch=2 if after == "start" else 1)
    shown, refused = _decoded(first.frames + behind)
    assert refused == []
    numbers = _numbers(shown)
    assert numbers[numbers.index(100) :] == list(range(100, 100 + len(numbers) - numbers.index(100)))
    # Only a new start, which does not follow, costs what the decoder held back.
    assert numbers[: numbers.index(100)] == list(range(20 if after != "start" else numbers.index(100)))
    assert numbers.index(100) >= 20 - _HELD
    assert all((first if frame.extra["number"] < 100 else second).is_clean(frame) for frame in shown)


def test_a_size_that_changes_without_the_header_is_not_shown(video: Any) -> None:
    first, second = video(_H264, "bframes=0", count=20), video(_H264, "bframes=0", count=20, size=(160, 64))
    lying = [replace(frame, width=128, height=96) for frame in second.renumbered(20)]
    shown, refused = _decoded(first.frames + lying + first.renumbered(40))
    assert refused == [20, 32]
    assert _numbers(shown) == [*range(20), *range(20)]


def test_no_more_is_decoded_than_the_header_states(video: Any) -> None:
    huge = video(_H264, "bframes=0", count=2, size=(1920, 1088))
    decoder = VideoDecoder()
    with pytest.raises(CodecError, match="packet is damaged"):  # by FFmpeg itself, before there is a picture
        decoder.feed(replace(huge.frames[0], width=128, height=96))
    assert decoder.waiting
    small = video(_H264, "bframes=0", count=20)
    assert len(_decoded(small.renumbered(1), decoder)[0]) == 20
    with pytest.raises(CodecError, match="packet is damaged"):
        decoder.feed(replace(huge.renumbered(21)[0], width=128, height=96))
    huge = video(_H265, "bframes=0", count=2, size=(1920, 1088))
    with pytest.raises(CodecError, match="packet is damaged"):
        decoder.feed(replace(huge.renumbered(22)[0], width=128, height=96))


# Faults of their maker


def _faulty(frames: list[Frame]) -> list[Frame]:
    """Each group has a packet with a NAL unit that is against the rules, and harms no picture."""
    return [
        replace(frame, payload=frame.payload + b"\0\0\1\x65\x88") if place and frames[place - 1].keyframe else frame
        for place, frame in enumerate(frames)
    ]


def test_a_stream_with_faults_in_every_group_is_shown_after_three(video: Any) -> None:
    clean = video(_H264, "bframes=0", count=96)
    decoder = VideoDecoder()
    shown, refused = _decoded(_faulty(clean.frames), decoder)
    assert refused == [1, 13, 25]
    assert _numbers(shown)[:3] == [0, 12, 24]
    assert [number for number in _numbers(shown) if number >= 36][:20] != []


def test_faults_now_and_then_do_not_make_it_lenient(video: Any) -> None:
    clean = video(_H264, "bframes=0", count=120)
    faulty = _faulty(clean.frames)
    # Two groups of three.
    mixed = [faulty[seq] if seq // 12 % 3 else frame for seq, frame in enumerate(clean.frames)]
    shown, refused = _decoded(mixed)
    assert refused == [seq for seq in range(120) if seq % 12 == 1 and seq // 12 % 3]
    assert all(clean.is_clean(frame) for frame in shown)


# Its end


@pytest.mark.parametrize("name", ["h264 of several slices", "h264 with B-frames", "h265 open GOP"])
def test_many_decoders_that_are_dropped_in_the_middle_end(name: str, video: Any) -> None:
    codec, options, _ = _KINDS[name]
    frames = video(codec, options).frames
    for number in range(40):
        decoder = VideoDecoder()
        for frame in frames[: 1 + number % 20]:
            decoder.feed(frame)
        del decoder
    gc.collect()
