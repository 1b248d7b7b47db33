"""The command line, as processes: what it prints, saves and refuses, and how it ends."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import cv2
import pytest

from camfabric.publisher import Publisher

_WRONG: Final = [
    (["publish", "test://", "--camera", "a//b"], "empty segment"),
    (["publish", "test://", "--camera", "a", "--codec", "h26"], "there are raw, jpeg"),
    (["publish", "test://", "--camera", "a", "--quality", "101"], "from 1 to 100"),
    (["publish", "test://", "--camera", "a", "--quality", "high"], "valid integer"),
    (["publish", "test://", "--camera", "a", "--size", "big"], "1280x720"),
    (["publish", "test://", "--camera", "a", "--fps", "0"], "--fps"),
    (["publish", "test://?speed=3", "--camera", "a"], "there are size, fps"),
    (["publish", "gopher://x/y", "--camera", "a"], "unknown scheme"),
    (["publish", "rtsp:///x", "--camera", "a"], "names no host"),
    (["publish", "test://", "--camera", "a", "--to", "localhost:5550"], "tcp://HOST:PORT"),
    (["publish", "test://", "--camera", "a", "--to", "tcp://192.0.2.7:5550"], "--insecure"),
    (["publish", "test://", "--camera", "a", "--bind", "tcp://*:5550"], "--insecure"),
    (["publish", "test://"], "--camera"),
    (["publish", "test://", "--camera", "a", "--qualty", "3"], "--quality"),
    (["subscribe", "cctv/*"], "every camera under cctv/"),
    (["subscribe", "--from", "tcp://127.0.0.1"], "no port"),
    (["subscribe", "--from", "tcp://192.0.2.7:5551"], "--insecure"),
    (["subscribe", "--keep", "3"], "--save"),
    (["subscribe", "--frames", "-1"], "--frames"),
    (["subscribe", "--mode", "fastest"], "latest"),
    (["broker", "--publishers", "tcp://0.0.0.0:5550"], "--insecure"),
    (["broker", "--upstream", "tcp://127.0.0.1:*"], "port"),
    (["view", "--duration", "no"], "valid number"),
    (["demo", "--save", "/dev/null"], "exists"),
    (["--log-level", "loud", "ls"], "debug, info"),
    (["frobnicate"], "frobnicate"),
    ([], "publish, broker, subscribe"),
]


@pytest.mark.parametrize(("command", "says"), _WRONG)
def test_wrong_usage_is_one_line_and_status_2(refused: Callable[..., str], command: list[str], says: str) -> None:
    assert says in refused(*command)


def test_a_process_ends_with_that_status_and_line(camfabric: Any) -> None:
    process = camfabric("publish", "test://")
    assert process.wait() == 2
    assert process.out == []
    (line,) = process.err
    assert line.startswith("camfabric: ")
    assert "--camera" in line


def test_what_cannot_run_is_one_line_and_status_1(
    refused: Callable[..., str], start_broker: Any, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    taken = start_broker()
    nowhere = f"tcp://127.0.0.1:{free_port()}"
    for command, says in (
        (["broker", "--publishers", taken.to], "taken"),
        (["publish", "test://", "--camera", "a", "--bind", taken.to], "taken"),
        (["publish", str(tmp_path / "no.mp4"), "--camera", "a"], "is not there"),
        (["publish", "/dev/video77", "--camera", "a"], "is not there"),
        (["publish", "rtsp://u:topsecret@127.0.0.1:1/x", "--camera", "a"], "refused"),
        (["ls", "--from", nowhere, "--wait", "0.5"], "no camera and no broker answers"),
        (["subscribe", "--from", nowhere, "--timeout", "0.5"], "within 0.5 s: nobody publishes any camera"),
    ):
        line = refused(*command, status=1)
        assert says in line
        assert "topsecret" not in line
    nothing = refused("ls", "--from", taken.endpoint, "--require-live", status=1, prints=["no cameras"])
    assert "no such camera" in nothing


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_everything_cleanly(
    camfabric: Any, free_port: Callable[[], int], eventually: Any, number: signal.Signals
) -> None:
    to, endpoint = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
    broker = camfabric("broker", "--publishers", to, "--subscribers", endpoint)
    publisher = camfabric("publish", "test://?size=64x48", "--camera", "a", "--to", to)
    subscriber = camfabric("subscribe", "--from", endpoint)
    top = camfabric("top", "--from", endpoint)
    eventually(lambda: subscriber.out, within_s=20)
    for process in (subscriber, top, publisher, broker):
        process.signal(number)
        assert process.wait(5) == 0, process.err
        assert not any("Traceback" in line for line in process.err)
    again = camfabric("broker", "--publishers", to, "--subscribers", endpoint)
    eventually(lambda: again.said("publishers connect"))


def test_subscribe_prints_json_and_saves_pictures(camfabric: Any, start_broker: Any, tmp_path: Path) -> None:
    broker = start_broker()
    for camera, codec in (("cctv/lobby", "jpeg"), ("cctv/gate", "raw"), ("drone/1", "jpeg")):
        camfabric("publish", "test://?size=160x96&fps=50", "--camera", camera, "--to", broker.to, "--codec", codec)
    process = camfabric(
        "subscribe", "cctv", "--from", broker.endpoint, "--json", "--frames", "60", "--save", str(tmp_path)
    )
    assert process.wait(30) == 0
    lines = [json.loads(line) for line in process.out]
    assert len(lines) == 60
    fields = "camera channel epoch seq codec keyframe width height bytes captured_ns received_ns age_ms missed dropped"
    assert all(list(line) == fields.split() for line in lines)
    assert {line["camera"] for line in lines} == {"cctv/lobby", "cctv/gate"}
    for camera in ("cctv/lobby", "cctv/gate"):
        of_camera = [line for line in lines if line["camera"] == camera]
        seqs = [line["seq"] for line in of_camera]
        assert seqs == sorted(set(seqs))
        assert sum(line["missed"] for line in of_camera) == 0
        pictures = sorted((tmp_path / camera).iterdir())
        assert len(pictures) == len(of_camera)
        assert {path.suffix for path in pictures} == {".jpg" if camera == "cctv/lobby" else ".png"}
        assert all(getattr(cv2.imread(str(path)), "shape", None) == (96, 160, 3) for path in pictures)


def test_every_and_keep_bound_what_is_saved(camfabric: Any, tmp_path: Path) -> None:
    from camfabric.subscriber import Subscriber

    publisher = camfabric("publish", "test://?size=64x48&fps=50", "--camera", "a", "--bind", f"ipc://{tmp_path}/socket")
    with Subscriber(f"ipc://{tmp_path}/socket") as subscriber:
        subscriber.read(timeout=20)
    saving = ["--save", str(tmp_path / "p"), "--keep", "3", "--every", "0.05", "--frames", "8"]
    process = camfabric("subscribe", "--from", f"ipc://{tmp_path}/socket", *saving)
    assert process.wait(30) == 0
    assert len(process.out) == 8
    assert len(list((tmp_path / "p" / "a").iterdir())) == 3
    assert publisher.end() == 0


def test_options_come_from_the_environment(camfabric: Any, start_broker: Any) -> None:
    broker = start_broker()
    camfabric(
        "publish",
        env={
            "CAMFABRIC_PUBLISH_SOURCE": "test://?size=64x48",
            "CAMFABRIC_PUBLISH_CAMERA": "env/1",
            "CAMFABRIC_PUBLISH_TO": broker.to,
        },
    )
    process = camfabric(
        "subscribe",
        "--json",
        env={
            "CAMFABRIC_FILTER": "env",
            "CAMFABRIC_FROM": broker.endpoint,
            "CAMFABRIC_SUBSCRIBE_FRAMES": "2",
        },
    )
    assert process.wait(30) == 0
    assert [json.loads(line)["camera"] for line in process.out] == ["env/1"] * 2


def test_ls_lists_and_top_shows(camfabric: Any, start_broker: Any, feed: Any, eventually: Any) -> None:
    broker = start_broker()
    empty = camfabric("ls", "--from", broker.endpoint)
    assert (empty.wait(), empty.out) == (0, ["no cameras"])
    with Publisher("cctv/lobby", to=broker.to) as publisher, Publisher("drone/1", to=broker.to):
        feed(publisher)
        eventually(lambda: publisher.status().fps_in > 1)
        watch = ("top", "--duration", "3", "--from", broker.endpoint)
        top, narrow = (camfabric(*watch, env={"COLUMNS": columns}) for columns in ("160", "80"))
        listing = camfabric("ls", "--from", broker.endpoint)
        assert listing.wait() == 0
        assert listing.out[0].split()[:3] == ["CAMERA", "STATE", "FPS"]
        assert [line.split()[:2] for line in listing.out[1:]] == [["cctv/lobby", "live"], ["drone/1", "stalled"]]
        as_json = camfabric("ls", "--json", "drone", "--from", broker.endpoint)
        assert as_json.wait() == 0
        assert [json.loads(line)["camera"] for line in as_json.out] == ["drone/1"]
        assert camfabric("ls", "cctv", "--require-live", "--from", broker.endpoint).wait() == 0
        dead = camfabric("ls", "--require-live", "--from", broker.endpoint)
        assert dead.wait() == 1
        assert "not live: drone/1" in dead.err[-1]
        assert top.wait() == 0
        shown = "\n".join(top.out)
        assert "cctv/lobby" in shown
        assert "live" in shown
        assert "stalled: no picture yet" in shown
        assert narrow.wait() == 0
        assert any("cctv/lobby" in line and "live" in line for line in narrow.out)


def test_a_closed_pipe_is_a_quiet_end(start: Any, camfabric: Any, tmp_path: Path) -> None:
    import sys

    camfabric("publish", "test://?size=64x48", "--camera", "a", "--bind", f"ipc://{tmp_path}/s")
    command = f"{sys.executable} -m camfabric.cli subscribe --from ipc://{tmp_path}/s | head -n 2"
    piped = start("bash", "-c", f"set -o pipefail; {command}")
    assert piped.wait(30) == 0
    assert len(piped.out) == 2
    assert piped.err == []


def test_a_publisher_of_a_file_ends_with_it(camfabric: Any, start_broker: Any, tmp_path: Path, eventually: Any) -> None:
    from camfabric.subscriber import Subscriber

    cv2.imwrite(str(tmp_path / "1.png"), _grey())
    broker = start_broker()
    with Subscriber(broker.endpoint) as subscriber:
        process = camfabric("publish", str(tmp_path), "--camera", "a", "--to", broker.to, "--fps", "2")
        subscriber.read(timeout=20)
        assert process.wait() == 0
        eventually(lambda: subscriber.cameras()["a"].state == "offline", within_s=2)
        assert subscriber.cameras()["a"].reason == "its publisher ended"


def _grey() -> Any:
    import numpy as np

    return np.full((32, 32, 3), 90, np.uint8)
