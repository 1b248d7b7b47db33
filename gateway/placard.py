"""The placard: what MJPEG shows where there is no picture, so that the last one never looks live."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from camfabric.common.codecs import decode
from camfabric.common.frame import Frame
from camfabric.common.labels import put_text, text_width
from camfabric.gateway.pictures import to_jpeg

__all__ = ["placard"]

_WHITE: Final = (235, 235, 235)
_RED: Final = (70, 70, 230)
_LEAST_PX: Final = 9


def placard(last: Frame, why: str) -> memoryview:
    """A JPEG of a camera's last picture, grey and dark, with why there is none, and since when.

    Args:
        last: the last picture, in JPEG.
        why: a few words.

    Raises:
        CodecError: the last picture is damaged.
    """
    import cv2

    image = decode(last)
    grey = (image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)) // 3
    canvas = cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
    height, width = canvas.shape[:2]
    since = datetime.fromtimestamp(last.captured_ns / 1e9, UTC)
    lines = (
        (last.camera, height // 12, _RED, True),
        (why, height // 18, _WHITE, False),
        (f"last picture {since:%Y-%m-%d %H:%M:%S} UTC", height // 22, _WHITE, False),
    )
    base = height // 2 - height // 12
    for text, size, color, bold in lines:
        size = max(size, _LEAST_PX)
        while size > _LEAST_PX and text_width(text, height_px=size, bold=bold) > width - 16:
            size -= 1
        left = max((width - text_width(text, height_px=size, bold=bold)) // 2, 4)
        put_text(canvas, text, left_px=left, base_px=base, height_px=size, color=color, bold=bold)
        base += max(height // 10, 2 * _LEAST_PX)
    return to_jpeg(canvas)
