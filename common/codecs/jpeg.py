"""JPEG, by OpenCV's libjpeg-turbo. A picture's size is read from its header before anything is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from camfabric.common.codecs.image import pixel_format_of
from camfabric.common.errors import CodecError
from camfabric.common.frame import Frame, PixelFormat
from camfabric.common.settings import LIMITS

if TYPE_CHECKING:
    from camfabric.common.frame import Image

__all__ = ["check", "decode", "encode", "has_huffman_tables", "size_of"]

# Start of frame: 0xC0 to 0xCF without DHT (C4), JPG (C8) and DAC (CC). ITU-T T.81, table B.1.
_SOF: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# What may stand before it: tables (DHT, DAC, DQT, DRI), application data and comments.
_SEGMENTS: Final = frozenset({0xC4, 0xCC, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)})
_DHT: Final = 0xC4
_SOS: Final = 0xDA
_MAX_SIDE: Final = 65500
"""libjpeg's limit."""
_MAX_SCANS: Final = 100
"""A progressive picture has about ten. Each costs a pass over all pixels, and may have ten bytes."""
_MAX_SEGMENTS: Final = 5000
"""Segments and fill bytes in front of the picture data."""


def check(image: Any) -> PixelFormat:
    """The picture's format.

    Raises:
        CodecError: it cannot be sent as JPEG.
    """
    pixel_format = pixel_format_of(image, codec="jpeg")
    if pixel_format is PixelFormat.GRAY16:
        raise CodecError(
            f"got shape {image.shape}, dtype {image.dtype}: JPEG has 8 bits a channel; use codec='raw' for uint16",
            codec="jpeg",
        )
    if max(image.shape) > _MAX_SIDE:
        raise CodecError(f"got shape {image.shape}: JPEG has at most {_MAX_SIDE} px a side", codec="jpeg")
    return pixel_format


def encode(image: Image, *, quality: int) -> memoryview:
    """A JPEG of the picture, quality 1 to 100.

    Raises:
        CodecError: OpenCV cannot encode it.
    """
    import cv2

    try:
        done, coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    except cv2.error as error:
        raise CodecError(f"JPEG of shape {image.shape}: {error.err}", codec="jpeg") from error
    if not done:
        raise CodecError(f"JPEG of shape {image.shape} cannot be made", codec="jpeg")
    return coded.data.cast("B")


def decode(frame: Frame) -> Image:
    """The picture: (H, W, 3) uint8 BGR, or (H, W) uint8 for a grey one.

    Raises:
        CodecError: it is no JPEG, damaged, not of the size that the frame states, or made to take long.
    """
    import cv2
    import numpy as np

    width, height, channels = size_of(frame.payload)
    if (width, height) != (frame.width, frame.height):
        raise CodecError(
            f"JPEG of {width} x {height} px where {frame.camera} states {frame.width} x {frame.height}", codec="jpeg"
        )
    if width * height > LIMITS.pixels:
        raise CodecError(f"JPEG of {width} x {height} px: more than {LIMITS.pixels} pixels", codec="jpeg")
    if bytes(frame.payload).count(bytes((0xFF, _SOS))) > _MAX_SCANS:
        raise CodecError(f"JPEG of {frame.camera} has more than {_MAX_SCANS} scans", codec="jpeg")
    # IGNORE_ORIENTATION: the size that was checked is the size that comes out.
    mode = (cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(frame.payload, np.uint8), mode)
    except cv2.error as error:
        raise CodecError(f"JPEG of {frame.camera}: {error.err}", codec="jpeg") from error
    if image is None:
        raise CodecError(f"JPEG of {frame.camera} is damaged", codec="jpeg")
    picture: Image = image
    return picture


def size_of(data: bytes | memoryview) -> tuple[int, int, int]:
    """(width, height, channels) of a JPEG, from its header alone. ITU-T T.81, annex B.

    Raises:
        CodecError: it is no JPEG.
    """
    if bytes(data[:2]) != b"\xff\xd8":
        raise CodecError("not a JPEG", codec="jpeg")
    for marker, at in _segments(data):
        if marker in _SOF:
            height, width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
            return width, height, data[at + 9]
        if marker not in _SEGMENTS:
            # What stands alone or is reserved has no place here; decoders differ in what they skip.
            break
    raise CodecError("JPEG without a frame header where one has to be", codec="jpeg")


def has_huffman_tables(data: bytes | memoryview) -> bool:
    """Whether the tables stand in front of the picture data. Motion JPEG may leave out the standard ones."""
    for marker, _ in _segments(data):
        if marker == _DHT:
            return True
        if marker == _SOS:
            break
    return False


def _segments(data: bytes | memoryview) -> Iterator[tuple[int, int]]:
    """(marker, where it stands) of each segment behind the start of the image."""
    at = 2
    for _ in range(_MAX_SEGMENTS):
        if at + 9 >= len(data) or data[at] != 0xFF:
            return
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        yield marker, at
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
