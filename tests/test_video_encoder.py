"""Encoding with low delay: a packet for each picture at once, keyframes where they are asked for, clear refusals."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from camfabric.common.codecs import Encoding, VideoDecoder, make_encoder
from camfabric.common.codecs.annexb import is_instantaneous, parameter_sets
from camfabric.common.codecs.video_encoder import encoders_there
from camfabric.common.errors import CodecError, ConfigError
from camfabric.common.frame import Codec, Frame

_CODECS = [Codec.H264, Codec.H265]


def _captured(number: int) -> Frame:
    return Frame(camera="a", seq=number, captured_monotonic_ns=10**9 + number * 33_000_000, extra={"number": number})


def _encoded(
    codec: Codec, pictures: list[Any], keyframes: tuple[int, ...] = (0,), **settings: Any
) -> tuple[list[Frame], list[Frame]]:
    """The packets, and the pictures that come of them."""
    encoder = make_encoder(Encoding(codec=codec, **settings))
    decoder = VideoDecoder()
    packets, shown = [], []
    for number, image in enumerate(pictures):
        made = encoder.encode(_captured(number), image, keyframe=number in keyframes)
        assert len(made) == 1, "none is held back"
        packets += made
        shown += [decoded.converted() for decoded in decoder.feed(made[0])]
    return packets, shown


@pytest.mark.parametrize("codec", _CODECS)
def test_each_picture_gives_its_packet_at_once_and_comes_back(codec: Codec, picture: Callable[..., Any]) -> None:
    pictures = [picture(number * 6, width=160, height=96) for number in range(30)]
    packets, shown = _encoded(codec, pictures, bit_rate=4_000_000)
    assert [frame.extra["number"] for frame in shown] == list(range(30)), "nor does the decoder hold one back"
    for frame, image in zip(shown, pictures, strict=True):
        assert abs(frame.image.astype(int) - image).mean() < 12
    assert [frame.keyframe for frame in packets] == [True] + [False] * 29
    times = [frame.pts or 0 for frame in packets]
    assert times == sorted(set(times))
    assert [frame.dts for frame in packets] == times
    assert {(frame.codec, frame.width, frame.height, frame.time_base) for frame in packets} == {
        (codec, 160, 96, (1, 90_000))
    }


@pytest.mark.parametrize("codec", _CODECS)
def test_a_keyframe_is_made_where_it_is_asked_for_and_after_a_gop(codec: Codec, picture: Callable[..., Any]) -> None:
    packets, _ = _encoded(codec, [picture(number) for number in range(30)], (0, 5, 6), gop=10)
    keyframes = [place for place, frame in enumerate(packets) if frame.keyframe]
    assert keyframes == [0, 5, 6, 16, 26]
    for place in keyframes:
        assert parameter_sets(codec, packets[place].payload), "it can be joined here"
        assert is_instantaneous(codec, packets[place].payload)
        assert not packets[place].disposable


@pytest.mark.parametrize("codec", _CODECS)
def test_a_change_of_size_begins_anew_and_odd_sizes_are_cut(codec: Codec, picture: Callable[..., Any]) -> None:
    sizes = [(64, 48)] * 3 + [(97, 65)] * 3 + [(64, 48)] * 2
    pictures = [picture(number, width=width, height=height) for number, (width, height) in enumerate(sizes)]
    packets, shown = _encoded(codec, pictures)
    assert [place for place, frame in enumerate(packets) if frame.keyframe] == [0, 3, 6]
    assert [(frame.width, frame.height) for frame in packets] == [(w // 2 * 2, h // 2 * 2) for w, h in sizes]
    assert [frame.image.shape[1::-1] for frame in shown] == [(w // 2 * 2, h // 2 * 2) for w, h in sizes]


def test_grey_pictures_and_views_are_encoded(picture: Callable[..., Any]) -> None:
    image = picture(9, width=128, height=96)
    for view in (image[..., 1], image[::-1], image[:, 10:90], np.asfortranarray(image)):
        _, shown = _encoded(Codec.H264, [view] * 2)
        expected = view if view.ndim == 3 else np.dstack([view] * 3)
        assert abs(shown[1].image.astype(int) - expected).mean() < 12


def test_pictures_of_one_moment_still_have_times_that_rise(picture: Callable[..., Any]) -> None:
    encoder = make_encoder(Encoding(codec=Codec.H264))
    times = []
    for _ in range(5):
        times += [frame.pts or 0 for frame in encoder.encode(_captured(0), picture(1), keyframe=False)]
    assert times == sorted(set(times))
    assert len(times) == 5


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (np.zeros((48, 64), np.uint16), "8 bits a channel"),
        (np.zeros((8, 64, 3), np.uint8), "at least 16 px"),
        (np.zeros((48, 64, 4), np.uint8), r"\(48, 64, 4\)"),
    ],
)
def test_what_cannot_be_encoded_is_refused(image: Any, text: str) -> None:
    with pytest.raises(CodecError, match=text):
        make_encoder(Encoding(codec=Codec.H264)).check(image)


@pytest.mark.parametrize("name", ["h264_nowhere", "libx265", "jpeg", "", "h264\x00", "mpeg4"])
def test_an_encoder_that_is_not_there_is_refused_and_those_that_are_listed(name: str) -> None:
    if not name:
        assert "libx264" in encoders_there(Codec.H264)
        assert "libx265" in encoders_there(Codec.H265)
        return
    with pytest.raises(ConfigError, match=r"for h264 there are: libx264"):
        make_encoder(Encoding(codec=Codec.H264, encoder=name))


@pytest.mark.parametrize("codec", _CODECS)
def test_without_pyav_the_extra_is_named(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"pip install 'camfabric\[video\]'"):
        make_encoder(Encoding(codec=codec))
