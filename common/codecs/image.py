"""What an array must be to be a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from camfabric.common.errors import CodecError
from camfabric.common.frame import PixelFormat
from camfabric.common.settings import LIMITS

if TYPE_CHECKING:
    from camfabric.common.frame import Image

__all__ = ["pixel_format_of"]


def pixel_format_of(image: Any, *, codec: str) -> PixelFormat:
    """The pixel format of a picture: (H, W, 3) uint8 BGR, or (H, W) uint8 or uint16.

    Raises:
        CodecError: it is not such an array; names its shape and dtype.
    """
    import numpy as np

    wanted = "a picture is (H, W, 3) uint8 BGR, or (H, W) uint8 or uint16"
    if not isinstance(image, np.ndarray):
        raise CodecError(f"got {type(image).__name__}; {wanted}, as a numpy array", codec=codec)
    picture: Image = image
    if 0 in picture.shape:
        raise CodecError(f"{_said(picture)}: it is empty; {wanted}", codec=codec)
    if picture.ndim == 3 and picture.shape[2] == 3 and picture.dtype == np.uint8:
        pixel_format = PixelFormat.BGR24
    elif picture.ndim == 2 and picture.dtype == np.uint8:
        pixel_format = PixelFormat.GRAY8
    elif picture.ndim == 2 and picture.dtype == np.uint16:
        pixel_format = PixelFormat.GRAY16
    else:
        raise CodecError(f"{_said(picture)}; {wanted}", codec=codec)
    if picture.shape[0] * picture.shape[1] > LIMITS.pixels:
        raise CodecError(f"{_said(picture)}: more than {LIMITS.pixels} pixels", codec=codec)
    return pixel_format


def _said(picture: Image) -> str:
    # Not before it is needed: the name of a dtype takes 4 µs.
    return f"got shape {picture.shape}, dtype {picture.dtype}"
