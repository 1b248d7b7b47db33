"""Text on pictures, in any script where OpenCV has its own font (from 5.0), in ASCII before."""

from __future__ import annotations

import functools
from typing import Any

__all__ = ["put_text", "text_width"]


@functools.cache
def _font() -> Any:
    import cv2

    return cv2.FontFace("sans") if hasattr(cv2, "FontFace") else None


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()


def put_text(
    image: Any,
    text: str,
    *,
    left_px: int,
    base_px: int,
    height_px: int,
    color: tuple[int, int, int],
    bold: bool = False,
) -> None:
    """Draw a line of text into a (H, W, 3) uint8 BGR picture. `base_px` is the row of the text's foot."""
    import cv2

    font = _font()
    if font is not None:
        cv2.putText(image, text, (left_px, base_px), color, font, height_px, 700 if bold else 400)
        return
    scale, thickness = height_px / 30, 2 if bold else 1
    where = (left_px, base_px)
    cv2.putText(image, _ascii(text), where, cv2.FONT_HERSHEY_SIMPLEX, scale, color, thickness, cv2.LINE_AA)


def text_width(text: str, *, height_px: int, bold: bool = False) -> int:
    """How wide `put_text` draws a text, in px."""
    import cv2

    font = _font()
    if font is not None:
        _, _, width, _ = cv2.getTextSize((0, 0), text, (0, 0), font, height_px, 700 if bold else 400)
        return int(width)
    (width, _), _ = cv2.getTextSize(_ascii(text), cv2.FONT_HERSHEY_SIMPLEX, height_px / 30, 2 if bold else 1)
    return int(width)
