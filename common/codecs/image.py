"""What an array must be to be a picture, and a picture of 16 bits in 8."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from camfabric.common.errors import CodecError
from camfabric.common.frame import PixelFormat
from camfabric.common.settings import LIMITS

if TYPE_CHECKING:
    from camfabric.common.frame import Image

__all__ = ["pixel_format_of", "to_8_bit"]

_WANTED: Final = "a picture is (H, W, 3) uint8 BGR, or (H, W) uint8 or uint16"


def pixel_format_of(image: Any, *, codec: str) -> PixelFormat:
    """The pixel format of a picture: (H, W, 3) uint8 BGR, or (H, W) uint8 or uint16.

    Raises:
        CodecError: it is not such an array; names its shape and dtype.
    """
    import numpy as np

    if not isinstance(image, np.ndarray):
        raise CodecError(f"got {type(image).__name__}; {_WANTED}, as a numpy array", codec=codec)
    picture: Image = image
    shape, dtype = picture.shape, picture.dtype
    # What is wrong with it is written down only then: to spell a dtype takes longer than all of this.
    if 0 in shape:
        raise CodecError(f"{_got(picture)}: it is empty; {_WANTED}", codec=codec)
    if len(shape) == 3 and shape[2] == 3 and dtype == np.uint8:
        pixel_format = PixelFormat.BGR24
    elif len(shape) == 2 and dtype == np.uint8:
        pixel_format = PixelFormat.GRAY8
    elif len(shape) == 2 and dtype == np.uint16:
        pixel_format = PixelFormat.GRAY16
    else:
        raise CodecError(f"{_got(picture)}; {_WANTED}", codec=codec)
    if shape[0] * shape[1] > LIMITS.pixels:
        raise CodecError(f"{_got(picture)}: more than {LIMITS.pixels} pixels", codec=codec)
    return pixel_format


def _got(picture: Image) -> str:
    return f"got shape {picture.shape}, dtype {picture.dtype}"


def to_8_bit(image: Image) -> Image:
    """A picture as uint8: of (H, W) uint16 the higher 8 bits, in a new array; any other is returned as it is."""
    if image.dtype.itemsize == 1:
        return image
    return (image >> 8).astype("uint8")
