"""Raw: the pixels as they lie in memory, without a copy on either side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from camfabric.common.codecs.image import pixel_format_of
from camfabric.common.errors import CodecError
from camfabric.common.frame import Frame, PixelFormat

if TYPE_CHECKING:
    from camfabric.common.frame import Image

__all__ = ["check", "decode", "encode", "shaped"]


def check(image: Any) -> PixelFormat:
    """The picture's format.

    Raises:
        CodecError: it cannot be sent raw.
    """
    return pixel_format_of(image, codec="raw")


def encode(image: Image, *, quality: int) -> memoryview:
    """The bytes of a picture; a view of `image` where its rows lie one behind the other. `quality` means nothing."""
    import numpy as np

    little = image.astype("<u2", copy=False) if image.dtype == np.uint16 else image
    return np.ascontiguousarray(little).data.cast("B")


def decode(frame: Frame) -> Image:
    """A read-only view of the payload.

    Raises:
        CodecError: the payload's size does not fit.
    """
    return shaped(frame, frame.payload)


def shaped(frame: Frame, pixels: Any) -> Image:
    """A read-only view of bytes as the picture that a frame states. Raises as `decode` does."""
    import numpy as np

    shape: tuple[int, ...] = (frame.height, frame.width)
    if frame.pixel_format is PixelFormat.BGR24:
        shape = (frame.height, frame.width, 3)
    dtype = np.dtype("<u2") if frame.pixel_format is PixelFormat.GRAY16 else np.dtype(np.uint8)
    try:
        image: Image = np.frombuffer(pixels, dtype).reshape(shape)
    except ValueError as error:
        raise CodecError(f"raw picture of {frame.camera}: {error}", codec="raw") from error
    image.flags.writeable = False
    return image
