"""Codecs: what is a picture, what comes back of it, and what is refused before anything is decoded."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camfabric.common.codecs import Encoding, by_name, decode, jpeg, make_encoder, names, raw
from camfabric.common.codecs.image import to_8_bit
from camfabric.common.errors import CodecError, ConfigError
from camfabric.common.frame import Codec, Frame, PixelFormat
from camfabric.common.settings import LIMITS

_SOME = settings(max_examples=150, deadline=None)


def _ramp(height: int, width: int, channels: int = 3) -> Any:
    """A smooth picture, which JPEG keeps well."""
    rows, columns = np.mgrid[0:height, 0:width]
    planes = [rows * 200 // height, columns * 200 // width, (rows + columns) * 200 // (height + width)]
    picture = np.stack(planes[:channels], axis=-1).astype(np.uint8)
    return picture if channels == 3 else picture[..., 0]


def _frame(codec: Codec, image: Any, **fields: Any) -> Frame:
    encoder = make_encoder(Encoding(codec=codec, quality=90))
    (made,) = encoder.encode(Frame(camera="cctv/1"), image, keyframe=True)
    return replace(made, **fields)


def _jpeg(data: bytes, width: int = 64, height: int = 48) -> Frame:
    return Frame(camera="cctv/1", codec=Codec.JPEG, width=width, height=height, payload=data)


@pytest.fixture(scope="module")
def colour() -> bytes:
    """A JPEG of 64 x 48 px."""
    return bytes(jpeg.encode(_ramp(48, 64), quality=90))


@pytest.fixture(scope="module")
def grey() -> bytes:
    """A grey JPEG of 64 x 48 px."""
    return bytes(jpeg.encode(_ramp(48, 64, 1), quality=90))


# What is a picture


@pytest.mark.parametrize(
    ("shape", "dtype", "pixel_format"),
    [
        ((4, 6, 3), np.uint8, PixelFormat.BGR24),
        ((4, 6), np.uint8, PixelFormat.GRAY8),
        ((4, 6), np.uint16, PixelFormat.GRAY16),
        ((1, 1, 3), np.uint8, PixelFormat.BGR24),
        ((1, 1), np.uint8, PixelFormat.GRAY8),
    ],
)
def test_these_are_pictures(shape: tuple[int, ...], dtype: Any, pixel_format: PixelFormat) -> None:
    image = np.zeros(shape, dtype)
    assert raw.check(image) is pixel_format
    if pixel_format is not PixelFormat.GRAY16:
        assert jpeg.check(image) is pixel_format


@pytest.mark.parametrize("codec", list(Codec))
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((4, 6, 3), "float32"),
        ((4, 6, 3), "uint16"),
        ((4, 6, 3), "int8"),
        ((4, 6), "float64"),
        ((4, 6), "int16"),
        ((4, 6), "bool"),
        ((4, 6), ">u2"),
        ((4, 6), "object"),
        ((4, 6, 4), "uint8"),
        ((4, 6, 1), "uint8"),
        ((3, 4, 6), "uint8"),
        ((1, 4, 6, 3), "uint8"),
        ((24,), "uint8"),
        ((), "uint8"),
        ((0, 6, 3), "uint8"),
        ((4, 0), "uint8"),
    ],
    ids=str,
)
def test_these_are_none_and_the_error_names_shape_and_dtype(codec: Codec, shape: tuple[int, ...], dtype: str) -> None:
    image = np.zeros(shape, dtype)
    with pytest.raises(CodecError) as caught:
        make_encoder(Encoding(codec=codec)).check(image)
    assert str(shape) in str(caught.value)
    assert str(image.dtype) in str(caught.value)
    assert "(H, W, 3) uint8 BGR" in str(caught.value)
    assert caught.value.codec == codec.name.lower()


@pytest.mark.parametrize("thing", [None, b"abc", [[0, 1], [2, 3]], 7], ids=str)
def test_what_is_no_array_is_refused_by_its_type(thing: Any) -> None:
    with pytest.raises(CodecError, match=f"got {type(thing).__name__}; .*numpy array"):
        raw.check(thing)


def test_16_bits_go_raw_alone() -> None:
    with pytest.raises(CodecError, match=r"\(4, 6\), dtype uint16: .*codec='raw'"):
        jpeg.check(np.zeros((4, 6), np.uint16))


def test_of_16_bits_the_higher_8_are_a_picture() -> None:
    depth = np.array([[0, 0x00FF, 0x0100], [0x7FFF, 0x8000, 0xFFFF]], "<u2")
    got = to_8_bit(depth)
    assert got.dtype == np.uint8
    assert got.tolist() == [[0, 0, 1], [0x7F, 0x80, 0xFF]]
    for image in (_ramp(4, 6), _ramp(4, 6, 1)):
        assert to_8_bit(image) is image


def test_too_many_pixels_are_refused() -> None:
    # A view that takes no memory.
    image = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (8193, 8192), (0, 0), writeable=False)
    assert image.shape[0] * image.shape[1] > LIMITS.pixels
    for codec in Codec:
        with pytest.raises(CodecError, match="more than"):
            make_encoder(Encoding(codec=codec)).check(image)


def test_too_long_a_side_is_no_jpeg() -> None:
    image = np.zeros((1, 65501), np.uint8)
    assert raw.check(image) is PixelFormat.GRAY8
    with pytest.raises(CodecError, match="65500 px a side"):
        jpeg.check(image)


def test_codecs_have_names() -> None:
    assert names() == ["raw", "jpeg", "h264", "h265"]
    assert [by_name(name) for name in names()] == list(Codec)
    with pytest.raises(ConfigError, match=r"'JPEG'.*raw, jpeg") as caught:
        by_name("JPEG")
    assert caught.value.setting == "codec"


# Raw


@pytest.mark.parametrize(("channels", "dtype"), [(3, np.uint8), (1, np.uint8), (1, np.uint16)])
def test_raw_comes_back_bit_by_bit(channels: int, dtype: Any) -> None:
    image = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, (5, 7, channels), dtype, endpoint=True)
    image = image if channels == 3 else image[..., 0]
    got = decode(_frame(Codec.RAW, image))
    assert got.dtype == image.dtype
    np.testing.assert_array_equal(got, image)


def test_raw_takes_pictures_that_do_not_lie_in_one_piece() -> None:
    image = _ramp(20, 30)
    for view in (image[::2, ::-1], image[3:9, 4:11], image[..., ::-1], np.asfortranarray(image)):
        np.testing.assert_array_equal(decode(_frame(Codec.RAW, view)), view)


def test_raw_copies_on_neither_side() -> None:
    image = _ramp(20, 30)
    payload = raw.encode(image, quality=1)
    got = decode(Frame(camera="a", pixel_format=PixelFormat.BGR24, width=30, height=20, payload=payload))
    assert np.shares_memory(got, image)
    assert not got.flags.writeable
    assert image.flags.writeable


def test_raw_16_bits_are_little_endian() -> None:
    assert bytes(raw.encode(np.array([[1, 256]], np.uint16), quality=1)) == b"\x01\x00\x00\x01"


@pytest.mark.parametrize("size", [0, 1, 17, 19, 36])
@pytest.mark.parametrize("pixel_format", [PixelFormat.GRAY8, PixelFormat.GRAY16, PixelFormat.BGR24])
def test_raw_of_another_size_is_refused(pixel_format: PixelFormat, size: int) -> None:
    fitting = 6 * {PixelFormat.GRAY8: 1, PixelFormat.GRAY16: 2, PixelFormat.BGR24: 3}[pixel_format]
    assert size != fitting
    with pytest.raises(CodecError, match="raw picture of cctv/1"):
        decode(Frame(camera="cctv/1", pixel_format=pixel_format, width=3, height=2, payload=bytes(size)))


# JPEG


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_comes_back_much_the_same(channels: int) -> None:
    image = _ramp(48, 64, channels)
    got = decode(_frame(Codec.JPEG, image))
    assert got.shape == image.shape
    assert got.dtype == np.uint8
    assert np.abs(got.astype(int) - image).max() < 16


def test_less_quality_is_fewer_bytes() -> None:
    image = np.random.default_rng(1).integers(0, 255, (48, 64, 3), np.uint8)
    sizes = [len(jpeg.encode(image, quality=quality)) for quality in (1, 50, 100)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2]


@_SOME
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 3]), st.booleans())
def test_the_size_is_read_from_the_header(width: int, height: int, channels: int, progressive: bool) -> None:
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)]
    data = cv2.imencode(".jpg", _ramp(height, width, channels), options)[1].tobytes()
    assert jpeg.size_of(data) == (width, height, channels)
    assert jpeg.size_of(memoryview(data)) == (width, height, channels)
    assert decode(_jpeg(data, width, height)).shape[:2] == (height, width)


def test_the_size_is_found_behind_other_segments(colour: bytes) -> None:
    comment = b"\xff\xfe\x00\x06\xff\xc0\x00\x01"  # one that looks like a frame header inside
    padded = colour[:2] + b"\xff\xff" + comment + b"\xff" + comment + colour[2:]
    assert jpeg.size_of(padded) == (64, 48, 3)
    assert decode(_jpeg(padded)).shape == (48, 64, 3)


@pytest.mark.parametrize("size", [(64, 47), (48, 64), (128, 96), (1, 1)])
def test_another_size_than_stated_is_refused(colour: bytes, size: tuple[int, int]) -> None:
    with pytest.raises(CodecError, match=f"64 x 48 px where cctv/1 states {size[0]} x {size[1]}"):
        decode(_jpeg(colour, *size))


def _resized(data: bytes, width: int, height: int) -> bytes:
    """The same JPEG with another size in its header."""
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


class _NoDecoder:
    def __call__(self, *_: object) -> None:
        raise AssertionError("decoded")


def test_a_picture_bomb_is_refused_before_it_is_decoded(colour: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "imdecode", _NoDecoder())
    with pytest.raises(CodecError, match="65500 x 65500 px"):
        decode(_jpeg(_resized(colour, 65500, 65500)))


@pytest.mark.parametrize("marker", [0x00, 0x02, 0xBF, 0xD8, 0xD9])
def test_a_picture_bomb_behind_a_marker_without_a_length_is_refused(
    colour: bytes, marker: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A decoder passes over FF 00 and finds the first size; who takes what follows for a length finds the second.
    hidden = _resized(colour, 30000, 30000)[2:]
    bomb = b"\xff\xd8\xff" + bytes([marker]) + struct.pack(">H", len(hidden) + 2) + hidden + colour[2:]
    monkeypatch.setattr(cv2, "imdecode", _NoDecoder())
    with pytest.raises(CodecError):
        decode(_jpeg(bomb))


def _oriented(data: bytes, orientation: int) -> bytes:
    """The same JPEG with an EXIF orientation."""
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    body = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + entry + bytes(4)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_turns_no_picture(colour: bytes, grey: bytes, orientation: int) -> None:
    for data in (colour, grey):
        plain = decode(_jpeg(data))
        turned = decode(_jpeg(_oriented(data, orientation)))
        np.testing.assert_array_equal(turned, plain)


def test_a_truncated_jpeg_is_refused(colour: bytes, grey: bytes) -> None:
    for data in (colour, grey):
        for size in (0, 1, 2, 3, 20, 160, len(data) // 2, len(data) * 9 // 10):
            with pytest.raises(CodecError):
                decode(_jpeg(data[:size]))


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n" + bytes(50), bytes(200), b"\xff" * 200],
    ids=lambda data: data[:4].hex() or "empty",
)
def test_what_is_no_jpeg_is_refused(data: bytes) -> None:
    with pytest.raises(CodecError):
        jpeg.size_of(data)
    with pytest.raises(CodecError):
        decode(_jpeg(data))


@_SOME
@given(st.binary(max_size=200))
def test_any_bytes_have_a_size_or_are_refused(tail: bytes) -> None:
    try:
        width, height, channels = jpeg.size_of(b"\xff\xd8\xff" + tail)
    except CodecError:
        return
    assert 0 <= width < 65536
    assert 0 <= height < 65536
    assert 0 <= channels < 256


@_SOME
@given(st.data())
def test_a_damaged_jpeg_is_refused_or_has_the_stated_size(colour: bytes, data: st.DataObject) -> None:
    damaged = bytearray(colour)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = decode(_jpeg(bytes(damaged)))
    except CodecError as error:
        assert error.codec == "jpeg"  # noqa: PT017
        return
    assert image.shape[:2] == (48, 64)
    assert image.dtype == np.uint8


# Frames


@pytest.mark.parametrize("codec", list(Codec))
def test_a_frame_without_a_payload_is_refused(codec: Codec) -> None:
    with pytest.raises(CodecError):
        decode(Frame(camera="a", codec=codec, pixel_format=PixelFormat.GRAY8, width=1, height=1))


def test_a_frame_that_is_not_decoded_says_so(colour: bytes) -> None:
    frame = _jpeg(colour)
    with pytest.raises(CodecError, match="decode=True") as caught:
        _ = frame.image
    assert caught.value.codec == "jpeg"
    assert replace(frame, decoded=decode(frame)).image.shape == (48, 64, 3)
