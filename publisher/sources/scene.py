"""`test://`: a drawn, moving scene with a clock and a frame number, which a person can read, and so can a program."""

from __future__ import annotations

import functools
import math
import threading
import time
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

from camfabric.common.labels import put_text
from camfabric.publisher.sources.source import Shot

if TYPE_CHECKING:
    from camfabric.common.frame import Image

__all__ = ["Scene", "SceneSource", "read_timecode"]

_TIME_BITS: Final = 48
_NUMBER_BITS: Final = 16
_CELLS: Final = _TIME_BITS + _NUMBER_BITS
_WHITE: Final = (245, 245, 245)


class Scene:
    """Draws the scene. `label` is written on it and chooses its colours."""

    def __init__(self, size: tuple[int, int], label: str) -> None:
        self.width, self.height = size
        self._label = label
        seed = zlib.crc32(label.encode()) >> 11
        self._phase = (seed % 628) / 100
        self._unit = max(self.height // 18, 6)
        self._strip = max(self.height // 36, 4)
        self._background = self._draw_background(seed)

    def _draw_background(self, seed: int) -> Any:
        hue = seed % 180
        rows = np.linspace(0, 1, self.height, dtype=np.float32)[:, None]
        hsv = np.empty((self.height, self.width, 3), np.uint8)
        hsv[..., 0] = hue
        hsv[..., 1] = np.broadcast_to(150 - 60 * rows, (self.height, self.width)).astype(np.uint8)
        hsv[..., 2] = np.broadcast_to(60 + 75 * rows, (self.height, self.width)).astype(np.uint8)
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
        horizon = self.height * 5 // 9
        ground = cv2.cvtColor(np.array([[[hue, 90, 52]]], np.uint8), cv2.COLOR_HSV2BGR)[0, 0]
        image[horizon:] = ground
        line = tuple(int(value) + 26 for value in ground)
        for step in range(-12, 13):
            foot = (self.width // 2 + step * self.width // 6, self.height)
            cv2.line(image, (self.width // 2 + step * self.width // 40, horizon), foot, line, 1, cv2.LINE_AA)
        for step in range(1, 7):
            row = horizon + (self.height - horizon) * step * step // 36
            cv2.line(image, (0, row), (self.width, row), line, 1)
        put_text(
            image,
            self._label,
            left_px=self._unit,
            base_px=self._unit * 2,
            height_px=int(self._unit * 1.3),
            color=_WHITE,
            bold=True,
        )
        return image

    def draw(self, number: int, captured_ns: int) -> Image:
        """The picture of a frame number and a Unix time: (H, W, 3) uint8 BGR, a new array."""
        image = self._background.copy()
        seconds = captured_ns / 1e9
        self._draw_movers(image, seconds)
        clock = time.strftime("%H:%M:%S", time.localtime(seconds)) + f".{captured_ns // 1_000_000 % 1000:03d}"
        unit = self._unit
        put_text(
            image, clock, left_px=unit, base_px=unit * 5, height_px=int(unit * 2.3), color=(80, 235, 255), bold=True
        )
        put_text(
            image,
            f"#{number:06d}   {self.width}x{self.height}",
            left_px=unit,
            base_px=int(unit * 6.8),
            height_px=unit,
            color=_WHITE,
        )
        self._draw_timecode(image, captured_ns // 1_000_000, number)
        return image  # type: ignore[no-any-return]

    def _draw_movers(self, image: Any, seconds: float) -> None:
        width, height, unit = self.width, self.height, self._unit
        for index, (speed, row, color) in enumerate(
            ((0.11, 0.62, (70, 90, 230)), (0.19, 0.74, (210, 150, 60)), (0.31, 0.88, (90, 200, 120)))
        ):
            scale = 1 + index * 0.6
            car = int(unit * 2.2 * scale)
            left = int((seconds * speed + self._phase + index / 3) % 1.0 * (width + car)) - car
            top = int(height * row) - int(unit * 0.7 * scale)
            cv2.rectangle(image, (left, top), (left + car, top + int(unit * 0.7 * scale)), color, -1)
            roof = (left + car // 4, top - int(unit * 0.45 * scale))
            cv2.rectangle(image, roof, (left + car * 3 // 4, top), color, -1)
            for wheel in (left + car // 5, left + car * 4 // 5):
                foot = (wheel, top + int(unit * 0.7 * scale))
                cv2.circle(image, foot, max(int(unit * 0.24 * scale), 2), (25, 25, 25), -1, cv2.LINE_AA)
        centre, radius = (width - unit * 4, unit * 4), unit * 3
        cv2.circle(image, centre, radius, (60, 60, 60), -1, cv2.LINE_AA)
        cv2.circle(image, centre, radius, _WHITE, max(unit // 10, 1), cv2.LINE_AA)
        angle = (seconds % 60) / 60 * 2 * math.pi
        tip = (int(centre[0] + radius * 0.85 * math.sin(angle)), int(centre[1] - radius * 0.85 * math.cos(angle)))
        cv2.line(image, centre, tip, (80, 235, 255), max(unit // 6, 1), cv2.LINE_AA)
        angle = seconds % 1 * 2 * math.pi
        spot = (int(centre[0] + radius * 0.6 * math.sin(angle)), int(centre[1] - radius * 0.6 * math.cos(angle)))
        cv2.circle(image, spot, max(unit // 4, 2), (90, 110, 250), -1, cv2.LINE_AA)

    def _draw_timecode(self, image: Any, time_ms: int, number: int) -> None:
        value = (time_ms % (1 << _TIME_BITS)) << _NUMBER_BITS | number % (1 << _NUMBER_BITS)
        bits = np.frombuffer(value.to_bytes(_CELLS // 8), np.uint8)
        cells = np.unpackbits(bits) * np.uint8(255)
        columns = np.arange(self.width) * _CELLS // self.width
        image[-self._strip :] = cells[columns][None, :, None]


def read_timecode(image: Image) -> tuple[int, int]:
    """(Unix time in ms, frame number modulo 65536) from the black and white strip at the foot of a scene's picture.

    Each of 64 cells of equal width is a bit, most significant first: 48 of time, 16 of number. It outlives JPEG and
    scaling as long as a cell has 4 px or more.
    """
    height, width = image.shape[:2]
    row = height - max(height // 36, 4) // 2 - 1
    centres = (2 * np.arange(_CELLS) + 1) * width // (2 * _CELLS)
    values = image[row, centres].reshape(_CELLS, -1).mean(axis=1)
    value = int.from_bytes(np.packbits(values > 127).tobytes())
    return value >> _NUMBER_BITS, value & ((1 << _NUMBER_BITS) - 1)


class SceneSource:
    """The scene at a steady rate."""

    def __init__(self, *, size: tuple[int, int], fps: float, label: str, stop: threading.Event) -> None:
        self._scene = Scene(size, label)
        self._interval_s = 1 / fps
        self._stop = stop

    def shots(self) -> Iterator[Shot]:
        """Pictures at the times that the rate gives. They are drawn where they are looked at."""
        start = time.monotonic()
        number = 0
        while not self._stop.wait(max(0.0, start + number * self._interval_s - time.monotonic())):
            captured_ns, monotonic_ns = time.time_ns(), time.monotonic_ns()
            draw = functools.partial(self._scene.draw, number, captured_ns)
            yield Shot(draw, (self._scene.width, self._scene.height), monotonic_ns)
            number = max(number + 1, int((time.monotonic() - start) / self._interval_s))

    def close(self) -> None:
        """Nothing to give back."""
