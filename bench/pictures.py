"""Test pictures that compress as a camera's do, with the time at which each was sent written into it."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FULL_HD", "HD", "Content", "Image", "decoded", "encoded", "make_pictures", "read_stamp", "stamped"]

Image: TypeAlias = "NDArray[np.uint8]"
Content: TypeAlias = Literal["pixels", "coded", "bytes"]
"""What is given to a sender and wanted of a receiver: arrays that travel raw, arrays that travel as JPEG, or JPEG."""

HD: Final = (1280, 720)
FULL_HD: Final = (1920, 1080)
_QUALITY: Final = 80
_BLOCK_PX: Final = 16
_BITS: Final = np.uint64(1) << np.arange(64, dtype=np.uint64)
_STAMP: Final = struct.Struct("<Q")


def make_pictures(size: tuple[int, int], count: int) -> list[Image]:
    """So many pictures of (width, height), (H, W, 3) uint8 BGR: smooth shapes, fine detail and a little noise."""
    width, height = size
    random = np.random.default_rng(1)
    coarse = random.integers(0, 256, (height // 60, width // 60, 3), dtype=np.uint8)
    fine = random.integers(0, 24, (height // 3, width // 3, 3), dtype=np.uint8)
    scene = cv2.add(
        cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC), cv2.resize(fine, size, interpolation=cv2.INTER_LINEAR)
    )
    return [np.ascontiguousarray(np.roll(scene, 8 * number, axis=1)).astype(np.uint8) for number in range(count)]


def encoded(image: Image) -> bytes:
    """A picture as JPEG of the quality that all share."""
    done, buffer = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:
        raise ValueError("OpenCV cannot encode the picture")
    return buffer.tobytes()


def decoded(data: Any) -> Image:
    """The picture in a JPEG, as (H, W, 3) uint8 BGR."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError("OpenCV cannot decode the picture")
    return image.astype(np.uint8, copy=False)


def stamped(picture: Any, content: Content, time_ns: int) -> Any:
    """The picture with a time: in its first eight bytes, in blocks that JPEG does not blur, or behind its end."""
    if content == "bytes":
        return b"".join((picture, _STAMP.pack(time_ns)))
    if content == "pixels":
        picture.reshape(-1)[:8].view(np.uint64)[0] = time_ns
    else:
        bits = np.where(np.uint64(time_ns) & _BITS, np.uint8(235), np.uint8(20))
        picture[:_BLOCK_PX, : 64 * _BLOCK_PX] = np.repeat(bits, _BLOCK_PX)[None, :, None]
    return picture


def read_stamp(picture: Any, content: Content) -> int:
    """The time in a picture that `stamped` made, in ns."""
    if content == "bytes":
        return int(_STAMP.unpack(memoryview(picture)[-_STAMP.size :])[0])
    if content == "pixels":
        return int(picture.reshape(-1)[:8].view(np.uint64)[0])
    middle = _BLOCK_PX // 2
    row = picture[middle, middle : 64 * _BLOCK_PX : _BLOCK_PX, 1]
    return int(_BITS[row > 128].sum())
