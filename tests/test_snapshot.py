"""`camfabric snapshot`: the picture of this moment in a file, or a line that says why there is none."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from camfabric.publisher import Publisher
from camfabric.subscriber import Subscriber


def _field(number: int) -> Any:
    return np.full((48, 64, 3), number % 256, np.uint8)


def _read(path: Path) -> Any:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize("codec", ["jpeg", "h264", "raw"])
def test_it_is_the_picture_of_this_moment(
    camfabric: Any, start_broker: Any, feed: Any, eventually: Any, tmp_path: Path, codec: str
) -> None:
    broker = start_broker()
    with Publisher("cctv/lobby", to=broker.to, codec=codec) as publisher:
        # A picture's brightness is its time.
        feeder = feed(publisher, fps=30, make=lambda number: _field(number * 2))
        eventually(lambda: feeder.count > 30)
        for ending in ("jpg", "png"):
            path = tmp_path / f"lobby.{ending}"
            before = feeder.count
            process = camfabric("snapshot", "cctv/lobby", "--from", broker.endpoint, "-o", str(path))
            assert process.wait() == 0, process.err
            taken = (int(_read(path).mean() + 0.5) - before * 2) % 256
            assert taken - 3 < (feeder.count - before) * 2
            (line,) = process.out
            shown = re.fullmatch(rf"{re.escape(str(path))}: cctv/lobby 64x48 (\d+\.\d) kB, (\d\.\d\d) s old", line)
            assert shown, line
            assert float(shown[1]) == round(path.stat().st_size / 1000, 1)
            assert [found.name for found in tmp_path.iterdir() if found.name.endswith(".part")] == []
            assert path.read_bytes()[:4] == (b"\x89PNG" if ending == "png" else b"\xff\xd8\xff\xe0")


def test_a_jpeg_is_written_as_it_came_and_goes_to_standard_output_too(
    start_broker: Any, feed: Any, tmp_path: Path, picture: Callable[[int], Any]
) -> None:
    broker = start_broker()
    with (
        Publisher("a", to=broker.to, quality=37) as publisher,
        Subscriber(broker.endpoint, cameras="a", decode=False, mode="every") as subscriber,
    ):
        feed(publisher, fps=20)
        command = [sys.executable, "-m", "camfabric.cli", "snapshot", "a", "--from", broker.endpoint, "-o", "-"]
        taken = subprocess.run(command, capture_output=True, timeout=20, check=True)
        sent = [bytes(subscriber.read(5).payload)]
        while taken.stdout not in sent:
            sent.append(bytes(subscriber.read(2).payload))
        assert re.search(rb"INFO a 64x48 \d\.\d kB, \d\.\d\d s old\n$", taken.stderr)


def test_a_16_bit_picture_keeps_all_of_it_as_png(camfabric: Any, start_broker: Any, tmp_path: Path) -> None:
    image = np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 20
    broker = start_broker()
    with Publisher("depth", to=broker.to, codec="raw") as publisher:
        publisher.send(image)
        command = ("snapshot", "depth", "--from", broker.endpoint, "-o")
        for name in ("a.png", "a.jpg"):
            publisher.send(image)
            process = camfabric(*command, str(tmp_path / name), "--max-age", "60")
            assert process.wait() == 0, process.err
        assert np.array_equal(_read(tmp_path / "a.png"), image)
        assert abs(_read(tmp_path / "a.jpg").astype(int) - (image >> 8)).max() < 12


def test_late_in_a_group_it_is_not_the_groups_beginning(
    camfabric: Any, start_broker: Any, feed: Any, eventually: Any, tmp_path: Path
) -> None:
    broker = start_broker()
    with (
        Publisher("a", to=broker.to, codec="h264", gop=10_000) as publisher,
        Subscriber(broker.endpoint, cameras="a", decode=False) as subscriber,
    ):
        feeder = feed(publisher, fps=60, make=lambda number: _field(number // 2))
        subscriber.read(10)
        eventually(lambda: feeder.count > 200)
        process = camfabric("snapshot", "a", "--from", broker.endpoint, "-o", str(tmp_path / "a.png"))
        assert process.wait() == 0, process.err
    age_s = float(process.out[0].split(", ")[1].split()[0])
    assert age_s <= 1.0
    assert _read(tmp_path / "a.png").mean() * 2 > 130


def test_a_stalled_cameras_picture_is_not_taken_for_a_live_one(
    camfabric: Any, start_broker: Any, eventually: Any, tmp_path: Path, picture: Callable[[int], Any]
) -> None:
    broker = start_broker()
    path = tmp_path / "a.jpg"
    path.write_bytes(b"before")
    command = ("snapshot", "a", "--from", broker.endpoint, "-o", str(path), "--timeout", "3")
    with Publisher("a", to=broker.to) as publisher:
        with Subscriber(broker.endpoint, cameras="a") as subscriber:
            eventually(lambda: publisher.watched)
            publisher.send(picture(0))
            subscriber.read(5)

            def has_stalled() -> bool:
                status = subscriber.cameras().get("a")
                return status is not None and status.sent > 0 and status.state == "stalled"

            eventually(has_stalled)
        refused, old = camfabric(*command), camfabric(*command, "--max-age", "0.5")
        assert refused.wait() == 1
        (line,) = refused.err
        assert re.fullmatch(
            r"camfabric: not saved: the newest picture of a is \d+\.\d s old \(it is stalled: .*\);"
            r" --max-age \d+ takes it",
            line,
        )
        assert old.wait() == 1
        assert "not saved" in old.err[0]
        assert path.read_bytes() == b"before"
        begun = time.monotonic()
        taken = camfabric(*command, "--timeout", "30", "--max-age", "60")
        assert taken.wait() == 0, taken.err
        assert time.monotonic() - begun < 20  # it does not wait for what will not come
        assert re.search(r", \d+\.\d\d s old, stalled$", taken.out[0])
        assert path.read_bytes().startswith(b"\xff\xd8")


def test_what_cannot_be_is_one_line_and_status_1(
    refused: Callable[..., str], start_broker: Any, feed: Any, free_port: Callable[[], int], tmp_path: Path
) -> None:
    broker = start_broker()
    nowhere = f"tcp://127.0.0.1:{free_port()}"
    path = tmp_path / "a.jpg"
    with Publisher("cctv/lobby", to=broker.to) as publisher, Publisher("silent", to=broker.to):
        feed(publisher, fps=20)
        cases = (
            (["cctv/loby"], broker.endpoint, "there is no camera cctv/loby at .*: is it cctv/lobby\\?"),
            (["cctv"], broker.endpoint, "there is no camera cctv at .*: is it cctv/lobby\\?"),
            (["zebra"], broker.endpoint, "there is no camera zebra at .*; camfabric ls shows"),
            (["silent"], broker.endpoint, "no picture of silent within 0.7 s; it is stalled: no picture yet"),
            (["a"], nowhere, "no camera and no broker answers at"),
        )
        options = ("-o", str(path), "--timeout", "0.7", "--from")
        for names, endpoint, says in cases:
            assert re.search(says, refused("snapshot", *names, *options, endpoint, status=1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["a", "-o", "a.gif"], ".jpg or .png"),
        (["a", "-o", "no/a.jpg"], "there is no folder"),
        (["a"], "--output"),
        (["-o", "a.jpg"], "CAMERA"),
        (["a//b", "-o", "a.jpg"], "empty segment"),
        (["a", "-o", "a.jpg", "--timeout", "0"], "--timeout"),
        (["a", "-o", "a.jpg", "--max-age", "-1"], "--max-age"),
        (["a", "-o", "a.jpg", "--from", "tcp://192.0.2.7:5551"], "--insecure"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(refused: Callable[..., str], options: list[str], says: str) -> None:
    assert says in refused("snapshot", *options)


def test_one_that_is_stopped_says_that_there_is_no_picture(camfabric: Any, start_broker: Any, tmp_path: Path) -> None:
    broker = start_broker()
    path = tmp_path / "a.jpg"
    with Publisher("a", to=broker.to) as publisher:
        process = camfabric("snapshot", "a", "--from", broker.endpoint, "-o", str(path), "--timeout", "30")
        while not publisher.watched:
            time.sleep(0.01)
        process.signal(signal.SIGTERM)
        assert process.wait(10) == 1
    assert process.err == ["camfabric: stopped before there was a picture"]
    assert not path.exists()
