"""The mosaic: pictures of several cameras in one, with what is known of each, and the word where it is dead."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

from camfabric.common.codecs.image import to_8_bit
from camfabric.common.frame import Frame
from camfabric.common.labels import put_text, text_width
from camfabric.common.stats import Rate
from camfabric.common.status import IDLE, LIVE, OFFLINE, Status

if TYPE_CHECKING:
    from camfabric.common.frame import Image

__all__ = ["Mosaic"]

_BACKGROUND: Final = (24, 22, 20)
_BAR: Final = (36, 33, 30)
_TEXT: Final = (235, 235, 235)
_DIM: Final = (150, 150, 150)
_GREEN: Final = (90, 200, 80)
_AMBER: Final = (40, 170, 245)
_RED: Final = (70, 70, 230)
_GAP: Final = 4
_LATE_MS: Final = 2000.0


@dataclass(slots=True)
class _Tile:
    frame: Frame | None = None
    status: Status | None = None
    rate: Rate = field(default_factory=Rate)
    fps: float | None = None
    fitted: Any = None
    fitted_for: tuple[int, int, int, int] | None = None
    since: float = 0.0
    """When its state began, as far as was heard."""
    saw_change: bool = False
    """Its state began while this looked on; otherwise it has lasted longer."""


class Mosaic:
    """Keeps the newest picture of each camera and draws them all: (height, width, 3) uint8 BGR."""

    def __init__(self, *, width: int = 1280, height: int = 720, clock: Callable[[], float] = time.monotonic) -> None:
        self.width = width
        self.height = height
        self._clock = clock
        self._tiles: dict[str, _Tile] = {}
        self.enlarged: str | None = None
        """The one camera that is drawn, or None for all."""

    def update(self, frame: Frame, *, fps: float | None = None) -> None:
        """Take in a decoded frame. `fps` is its camera's rate; without, it is that of these calls.

        One that is older than what is shown, as where a stream catches up, is left out.
        """
        tile = self._tile(frame.camera)
        before = tile.frame
        if (
            before is not None
            and before.epoch == frame.epoch
            and before.captured_monotonic_ns > frame.captured_monotonic_ns
        ):
            return
        tile.frame = frame
        tile.fps = fps
        tile.rate.tick()

    def hear(self, status: Status) -> None:
        """Take in a camera's status."""
        tile = self._tile(status.camera)
        if tile.status is None or tile.status.state != status.state:
            tile.since = self._clock()
            tile.saw_change = tile.status is not None
        tile.status = status

    def _tile(self, camera: str) -> _Tile:
        tile = self._tiles.get(camera)
        if tile is None:
            tile = self._tiles[camera] = _Tile()
            self._tiles = dict(sorted(self._tiles.items()))
        return tile

    def draw(self) -> Image:
        """The mosaic as it is now."""
        canvas = np.full((self.height, self.width, 3), _BACKGROUND, np.uint8)
        places = self._places()
        if not places:
            _centred(canvas, "waiting for cameras", self.height // 2, max(self.height // 24, 12), _DIM)
        for camera, (left, top, right, bottom) in places.items():
            inset = _GAP // 2 if len(places) > 1 else 0
            view = canvas[top + inset : bottom - inset, left + inset : right - inset]
            self._draw_tile(view, camera, self._tiles[camera])
        return canvas

    def _places(self) -> dict[str, tuple[int, int, int, int]]:
        """Where each tile is drawn: (left, top, right, bottom) in px."""
        shown = [camera for camera in self._tiles if self.enlarged in (None, camera)]
        if not shown:
            return {}
        columns = _columns(len(shown), self.width / self.height)
        rows = math.ceil(len(shown) / columns)
        places = {}
        for index, camera in enumerate(shown):
            row, column = divmod(index, columns)
            places[camera] = (
                column * self.width // columns,
                row * self.height // rows,
                (column + 1) * self.width // columns,
                (row + 1) * self.height // rows,
            )
        return places

    def camera_at(self, x: int, y: int) -> str | None:
        """The camera whose tile is at that column and row of the drawing, or None."""
        for camera, (left, top, right, bottom) in self._places().items():
            if left <= x < right and top <= y < bottom:
                return camera
        return None

    def camera_number(self, number: int) -> str | None:
        """The camera of the tile of that number, from 1, or None."""
        cameras = list(self._places())
        return cameras[number - 1] if 0 < number <= len(cameras) else None

    def _draw_tile(self, view: Any, camera: str, tile: _Tile) -> None:
        height = view.shape[0]
        bar = max(min(height // 10, 34), 14)
        picture = view[: height - bar]
        state, color, word = self._state(tile)
        if tile.frame is not None:
            fitted, top, left = _fit(tile, picture.shape[1], picture.shape[0])
            target = picture[top : top + fitted.shape[0], left : left + fitted.shape[1]]
            if word:
                # Whatever is not of this moment must not look as if it were.
                grey = cv2.cvtColor(fitted, cv2.COLOR_BGR2GRAY) // 3
                target[:] = grey[..., None]
            else:
                target[:] = fitted
        if word:
            self._draw_word(picture, state, word, color)
        self._draw_bar(view[height - bar :], camera, tile, color, is_live=not word)

    def _state(self, tile: _Tile) -> tuple[str, tuple[int, int, int], str]:
        """What to call it, in which colour, and what to write across the picture."""
        status, frame = tile.status, tile.frame
        if status is not None and status.state != LIVE:
            lasted = _lasting(self._clock() - tile.since)
            since = "" if status.state == IDLE else f" for {lasted}" if tile.saw_change else f" for over {lasted}"
            color = _RED if status.state == OFFLINE else _AMBER
            return status.state.upper() + since, color, status.reason or status.state
        if frame is None:
            return "NO PICTURE YET", _AMBER, "waiting for the first picture"
        late_ms = max(_LATE_MS, 3000 / status.fps_in) if status is not None and status.fps_in else _LATE_MS
        if frame.age_ms > late_ms:
            why = "its publisher gives no status" if status is None else "the camera is live, but nothing comes from it"
            return f"NO NEW PICTURE for {_lasting(frame.age_ms / 1000)}", _AMBER, why
        return LIVE, _GREEN, ""

    def _draw_word(self, picture: Any, state: str, word: str, color: tuple[int, int, int]) -> None:
        height, width = picture.shape[:2]
        big, small = max(height // 12, 12), max(height // 22, 9)
        middle = height // 2
        band = picture[max(middle - int(big * 1.6), 0) : middle + int(small * 2.2)]
        band[:] = band // 3
        _centred(picture, state, middle - small // 3, big, color, bold=True)
        while len(word) > 8 and text_width(word, height_px=small) > width - 12:
            word = word[: int(len(word) * 0.9) - 1] + "…"
        _centred(picture, word, middle + int(small * 1.3), small, _TEXT)

    def _draw_bar(self, bar: Any, camera: str, tile: _Tile, color: tuple[int, int, int], *, is_live: bool) -> None:
        height, width = bar.shape[:2]
        bar[:] = _BAR
        size_px = int(height * 0.52)
        base = int(height * 0.72)
        cv2.circle(bar, (height // 2, height // 2), max(height // 6, 2), color, -1, cv2.LINE_AA)
        put_text(bar, camera, left_px=height, base_px=base, height_px=size_px, color=_TEXT, bold=True)
        if tile.frame is None:
            return
        age, size = _age(tile.frame.age_ms), f"{tile.frame.width}x{tile.frame.height}"
        fps = f"{tile.rate.per_second() if tile.fps is None else tile.fps:.1f} fps"
        # Where there is no room for all, the age is what must not be missing.
        for facts in ((fps, age, size), (fps, age), (age,)) if is_live else ((f"{age} old", size), (f"{age} old",)):
            text = "   ".join(facts)
            left = width - text_width(text, height_px=size_px) - height // 3
            if left > height + text_width(camera, height_px=size_px, bold=True) + size_px:
                put_text(bar, text, left_px=left, base_px=base, height_px=size_px, color=_DIM if is_live else color)
                return


def _columns(tiles: int, aspect: float) -> int:
    """How many columns make the tiles' pictures largest, for pictures of 16:9."""

    def picture_width(columns: int) -> float:
        rows = math.ceil(tiles / columns)
        return min(aspect / columns, 16 / 9 / rows)

    return max(range(tiles, 0, -1), key=picture_width)  # side by side where it makes no difference


def _fit(tile: _Tile, width: int, height: int) -> tuple[Any, int, int]:
    """The tile's picture scaled into a space, and where it goes: made once a frame, not once a drawing."""
    assert tile.frame is not None  # noqa: S101  (the caller has looked)
    wanted = (id(tile.frame), tile.frame.seq, width, height)
    if tile.fitted_for != wanted:
        image: Any = to_8_bit(tile.frame.image)
        scale = min(width / image.shape[1], height / image.shape[0])
        size = (max(int(image.shape[1] * scale), 1), max(int(image.shape[0] * scale), 1))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        tile.fitted = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image
        tile.fitted_for = wanted
    fitted = tile.fitted
    return fitted, (height - fitted.shape[0]) // 2, (width - fitted.shape[1]) // 2


def _age(age_ms: float) -> str:
    if age_ms < 1000:
        return f"{age_ms:.0f} ms"
    return f"{age_ms / 1000:.1f} s" if age_ms < 10_000 else _lasting(age_ms / 1000)


def _lasting(seconds: float) -> str:
    """How long something lasts, as one says it: in its largest unit."""
    for unit, unit_s in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * unit_s:
            return f"{int(seconds // unit_s)} {unit}"
    return f"{seconds:.0f} s"


def _centred(
    image: Any, text: str, base_px: int, height_px: int, color: tuple[int, int, int], *, bold: bool = False
) -> None:
    left = (image.shape[1] - text_width(text, height_px=height_px, bold=bold)) // 2
    put_text(image, text, left_px=max(left, 4), base_px=base_px, height_px=height_px, color=color, bold=bold)
