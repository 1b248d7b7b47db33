"""The drawn scene, and the time that can be read from it."""

from __future__ import annotations

import threading
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camfabric.common.codecs import jpeg
from camfabric.publisher.sources.scene import Scene, SceneSource, read_timecode

_SOME = settings(max_examples=60, deadline=None)
_NOW_NS = 1_700_000_000_123_456_789
_NOW_MS = _NOW_NS // 1_000_000


def _through_jpeg(image: Any, quality: int) -> Any:
    return cv2.imdecode(np.frombuffer(jpeg.encode(image, quality=quality), np.uint8), cv2.IMREAD_COLOR)


def _half(image: Any, interpolation: int) -> Any:
    height, width = image.shape[:2]
    return cv2.resize(image, (width // 2, height // 2), interpolation=interpolation)


@pytest.mark.parametrize("size", [(1920, 1080), (1280, 720), (640, 480), (854, 480), (512, 288), (601, 401)])
@pytest.mark.parametrize("label", ["cctv/lobby", "大門"])
def test_the_time_outlives_jpeg_and_scaling(size: tuple[int, int], label: str) -> None:
    image = Scene(size, label).draw(4711, _NOW_NS)
    assert image.shape == (size[1], size[0], 3)
    assert image.dtype == np.uint8
    wanted = (_NOW_MS, 4711)
    assert read_timecode(image) == wanted
    assert read_timecode(_through_jpeg(image, 50)) == wanted
    for interpolation in (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_NEAREST):
        half = _half(image, interpolation)
        assert read_timecode(half) == wanted
        assert read_timecode(_through_jpeg(half, 50)) == wanted
    assert read_timecode(_half(_through_jpeg(image, 50), cv2.INTER_AREA)) == wanted


def test_the_time_can_be_read_from_a_grey_picture() -> None:
    image = Scene((640, 360), "a").draw(7, _NOW_NS)
    grey: Any = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    assert read_timecode(grey) == (_NOW_MS, 7)


_SCENE = Scene((512, 72), "a")


@_SOME
@given(st.integers(0, 2**48 - 1), st.integers(0, 2**20))
def test_each_time_and_number_can_be_read(time_ms: int, number: int) -> None:
    image = _SCENE.draw(number, time_ms % 2**33 * 1_000_000)
    assert read_timecode(_through_jpeg(image, 50)) == (time_ms % 2**33, number % 65536)


@pytest.mark.parametrize("size", [(16, 16), (16, 400), (400, 16), (17, 33), (4096, 16)])
def test_any_size_can_be_drawn(size: tuple[int, int]) -> None:
    image = Scene(size, "a very long name/of a camera").draw(1, _NOW_NS)
    assert image.shape == (size[1], size[0], 3)
    assert image.any()


def test_pictures_are_new_arrays_that_can_be_drawn_on() -> None:
    scene = Scene((320, 180), "a")
    one = scene.draw(1, _NOW_NS)
    same = one.copy()
    one[:] = 0
    np.testing.assert_array_equal(scene.draw(1, _NOW_NS), same)


def test_the_picture_moves_and_labels_differ() -> None:
    scene = Scene((640, 360), "a")
    above = slice(0, 340)
    now, later = scene.draw(1, _NOW_NS), scene.draw(1, _NOW_NS + 40_000_000)
    assert (now[above] != later[above]).any()
    assert (now[above] != Scene((640, 360), "b").draw(1, _NOW_NS)[above]).any()
    assert (scene.draw(2, _NOW_NS)[above] != now[above]).any(), "the number is written too"


def test_a_source_counts_its_pictures_until_it_is_stopped() -> None:
    stop = threading.Event()
    source = SceneSource(size=(256, 64), fps=1000, label="a", stop=stop)
    numbers = []
    for shot in source.shots():
        time_ms, number = read_timecode(shot.draw())
        numbers.append(number)
        assert time_ms > 0
        assert shot.captured_monotonic_ns > 0
        if len(numbers) == 10:
            stop.set()
    source.close()
    assert len(numbers) == 10
    assert numbers[0] == 0
    assert numbers == sorted(set(numbers))
