"""What a viewer takes: small pictures for many tiles, the main stream for a large one; and where the tiles are."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest

from camfabric.cli.options import Access
from camfabric.cli.top import _kept_cell
from camfabric.cli.watching import Watching
from camfabric.common.frame import Frame
from camfabric.common.status import Status
from camfabric.publisher import Low, Publisher
from camfabric.subscriber.mosaic import Mosaic

_OPEN = Access(key=None, server_key=None, keys=None, insecure=False)


def _mosaic(cameras: int) -> Mosaic:
    mosaic = Mosaic(width=600, height=300)
    for number in range(cameras):
        image = np.full((90, 160, 3), 20 * (number + 1), np.uint8)
        mosaic.update(Frame(camera=f"c/{number}", captured_monotonic_ns=time.monotonic_ns(), decoded=image))
    return mosaic


def test_every_point_of_the_mosaic_is_of_the_camera_that_is_drawn_there() -> None:
    mosaic = _mosaic(6)
    assert mosaic.camera_at(0, 0) == "c/0"
    assert mosaic.camera_at(599, 0) == "c/2"
    assert mosaic.camera_at(599, 299) == "c/5"
    assert mosaic.camera_at(600, 0) is None
    assert mosaic.camera_at(-1, 0) is None
    assert [mosaic.camera_number(number) for number in (0, 1, 6, 7)] == [None, "c/0", "c/5", None]
    assert Mosaic().camera_at(0, 0) is None


def test_an_enlarged_camera_has_the_whole_drawing() -> None:
    mosaic = _mosaic(6)
    assert (mosaic.draw()[60, 100] == 20).all()
    mosaic.enlarged = "c/4"
    assert mosaic.camera_at(0, 0) == mosaic.camera_at(599, 299) == mosaic.camera_number(1) == "c/4"
    assert (mosaic.draw()[120, 300] == 100).all()
    mosaic.enlarged = None
    assert (mosaic.draw()[60, 100] == 20).all()


def test_a_tile_never_goes_back_in_time_but_at_a_new_start() -> None:
    mosaic = _mosaic(1)
    now_ns = time.monotonic_ns()
    old = Frame(
        camera="c/0", captured_monotonic_ns=now_ns - 5_000_000_000, decoded=np.full((90, 160, 3), 200, np.uint8)
    )
    mosaic.update(old)
    assert (mosaic.draw()[120, 300] == 20).all()
    mosaic.update(replace(old, epoch=2, captured_monotonic_ns=now_ns - 1_000_000_000))
    assert (mosaic.draw()[40, 300] == 200).all()


@pytest.mark.parametrize("state", ["stalled", "offline", "idle"])
def test_a_picture_that_is_not_live_is_grey_and_says_since_when(state: str) -> None:
    now = 1000.0
    mosaic = Mosaic(width=600, height=300, clock=lambda: now)
    image = np.zeros((90, 160, 3), np.uint8)
    image[..., 2] = 200
    mosaic.update(Frame(camera="a", width=160, height=90, captured_monotonic_ns=time.monotonic_ns(), decoded=image))
    mosaic.hear(Status(camera="a"))
    assert (mosaic.draw()[30, 300] == (0, 0, 200)).all()
    mosaic.hear(Status(camera="a", state=state, reason="no picture for 2 s"))
    now += 75
    blue, green, red = mosaic.draw()[30, 300]
    assert blue == green == red < 40
    word, _, reason = mosaic._state(mosaic._tiles["a"])
    assert word == ("IDLE" if state == "idle" else f"{state.upper()} for 75 s")
    assert reason == "no picture for 2 s"
    mosaic.hear(Status(camera="a"))
    assert (mosaic.draw()[30, 300] == (0, 0, 200)).all()


def test_what_was_dead_before_one_looked_has_been_so_for_longer() -> None:
    now = 1000.0
    mosaic = Mosaic(clock=lambda: now)
    mosaic.hear(Status(camera="a", state="offline", reason="gone"))
    now += 3 * 3600
    assert mosaic._state(mosaic._tiles["a"])[0] == "OFFLINE for over 3 h"


def test_a_frozen_picture_of_a_camera_that_calls_itself_live_is_grey_too() -> None:
    mosaic = Mosaic(width=600, height=300)
    image = np.zeros((90, 160, 3), np.uint8)
    image[..., 2] = 200
    old_ns = time.monotonic_ns() - 60_000_000_000
    mosaic.update(Frame(camera="a", width=160, height=90, captured_monotonic_ns=old_ns, decoded=image))
    mosaic.hear(Status(camera="a", fps_in=25.0))
    blue, green, red = mosaic.draw()[30, 300]
    assert blue == green == red < 40
    assert mosaic._state(mosaic._tiles["a"])[0] == "NO NEW PICTURE for 60 s"


@pytest.mark.parametrize(
    ("cameras", "channel", "wanted"),
    [
        (4, "auto", "cam"),
        (5, "auto", "low"),
        (5, "cam", "cam"),
        (1, "low", "low"),
    ],
)
def test_the_channel_fits_the_number_of_tiles(
    start_broker: Any,
    eventually: Any,
    picture: Callable[..., Any],
    cameras: int,
    channel: Literal["auto", "cam", "low"],
    wanted: str,
) -> None:
    broker = start_broker()
    with ExitStack() as stack:
        for number in range(cameras):
            publisher = stack.enter_context(Publisher(f"c/{number}", to=broker.to))
            publisher.send(picture(number, width=640, height=480))
        with Watching([broker.endpoint], ["c"], channel=channel, access=_OPEN) as watching:
            seen: dict[str, Frame] = {}

            def settled() -> bool:
                # The first cameras may be there before the others, and fewer of them have larger tiles.
                seen.update({frame.camera: frame for frame in watching.frames(0.05)})
                return len(seen) == cameras and {frame.channel for frame in seen.values()} == {wanted}

            eventually(settled)
            assert {frame.image.shape for frame in seen.values()} == {
                (180, 240, 3) if wanted == "low" else (480, 640, 3)
            }
            assert watching.is_small is (wanted == "low")


def test_who_has_no_small_picture_is_taken_from_its_main_stream_and_so_is_who_is_enlarged(
    start_broker: Any, eventually: Any, feed: Any, picture: Callable[..., Any]
) -> None:
    broker = start_broker()
    with ExitStack() as stack:
        publishers = [
            stack.enter_context(Publisher(f"c/{number}", to=broker.to, low=Low() if number else None))
            for number in range(6)
        ]
        for publisher in publishers:
            feed(publisher, fps=5, make=lambda number: picture(number, width=640, height=480))
        with Watching([broker.endpoint], [], channel="auto", local="off", access=_OPEN) as watching:
            seen: dict[str, str] = {}

            def settled() -> bool:
                seen.update({frame.camera: frame.channel for frame in watching.frames(0.05)})
                return seen == {"c/0": "cam"} | {f"c/{number}": "low" for number in range(1, 6)}

            eventually(settled)
            watching.enlarged = "c/3"
            eventually(lambda: [frame.channel for frame in watching.frames(0.05)] == ["cam"])
            eventually(lambda: [publisher.watched for publisher in publishers] == [False] * 3 + [True] + [False] * 2)
            watching.enlarged = None
            seen.clear()
            eventually(settled)


def test_the_table_says_where_too_much_came_since_the_last_keyframe() -> None:
    status = Status(camera="a", kept=210)
    assert _kept_cell(status) == "210"
    assert "too much" in _kept_cell(replace(status, kept=0, kept_over=True))


def test_video_is_saved_as_pictures_and_small_pictures_are_subscribed_to(
    camfabric: Any, start_broker: Any, feed: Any, tmp_path: Path, picture: Callable[..., Any]
) -> None:
    broker = start_broker()
    with Publisher("c/1", to=broker.to, codec="h264") as publisher:
        feed(publisher, fps=20, make=lambda number: picture(number, width=640, height=480))
        command = ("subscribe", "c/1", "--from", broker.endpoint, "--json")
        saves = camfabric(*command, "--frames", "5", "--save", str(tmp_path))
        small = camfabric(*command, "--frames", "2", "--channel", "low")
        assert saves.wait() == 0, saves.err
        assert small.wait() == 0, small.err
    assert all('"codec": "h264"' in line and '"bytes": 0' not in line for line in saves.out)
    assert all('"codec": "jpeg"' in line and '"width": 240' in line for line in small.out)
    saved = sorted((tmp_path / "c" / "1").iterdir())
    assert len(saved) == 5
    for path in saved:
        image: Any = cv2.imread(str(path))
        assert image.shape == (480, 640, 3)
        assert abs(int(image[240, 320, 0]) - int(picture(0, width=640, height=480)[240, 320, 0])) < 12
