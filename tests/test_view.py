"""Windows, on a virtual screen: `view`, `demo` and `publish --preview`, with a screenshot looked at by the program."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from camfabric.subscriber import Subscriber

pytestmark = [pytest.mark.window, pytest.mark.timeout(150)]


@pytest.fixture
def screen(start: Any, eventually: Any) -> str:
    """A virtual screen of 1280 x 800; its name for DISPLAY."""
    # With -displayfd the server takes a free number and says which.
    server = start("bash", "-c", "exec Xvfb -displayfd 1 -screen 0 1280x800x24 -nolisten tcp -noreset 2>/dev/null")
    eventually(lambda: server.out, within_s=20)
    return f":{server.out[0]}"


@pytest.fixture
def screenshot(screen: str, tmp_path: Path) -> Callable[[], Any]:
    """What is on the screen: (800, 1280, 3) uint8 BGR."""

    def take() -> Any:
        dump = subprocess.run(["xwd", "-root", "-silent", "-display", screen], capture_output=True, check=True).stdout
        header = int.from_bytes(dump[:4])
        width, height = int.from_bytes(dump[16:20]), int.from_bytes(dump[20:24])
        step, line, colors = dump[47] // 8, int.from_bytes(dump[48:52]), int.from_bytes(dump[76:80])
        pixels = np.frombuffer(dump, np.uint8, height * line, header + colors * 12).reshape(height, line)
        return pixels[:, : width * step].reshape(height, width, step)[..., :3].copy()

    return take


def _is_scene(image: Any) -> bool:
    """Whether the scene's yellow clock is to be seen."""
    blue, green, red = (image[..., channel].astype(int) for channel in range(3))
    return int(((red > 220) & (green > 200) & (blue < 120)).sum()) > 400


@pytest.fixture
def show(camfabric: Any, screen: str, screenshot: Callable[[], Any], eventually: Any) -> Callable[..., Any]:
    """Start a command and wait until its window shows the scene.

    On a bare X server, without a window manager, a new window of OpenCV's stays black now and then: 1 of 59 that had
    nothing of this project in them. Then the program is started again, four times at most.
    """

    def run(*command: str, seen: Callable[[], bool] = lambda: _is_scene(screenshot())) -> Any:
        for _ in range(5):
            # CI: nobody is in front of a browser here.
            process = camfabric(*command, env={"DISPLAY": screen, "CI": "1", "BROWSER": ""})
            try:
                eventually(seen, within_s=8, every_s=0.3)
            except AssertionError:
                assert process.status is None, process.err
                process.kill()
            else:
                return process
        raise AssertionError(f"{command} showed nothing five times")

    return run


def test_view_shows_a_camera_and_says_when_it_is_dead(
    camfabric: Any, start_broker: Any, show: Any, screenshot: Any, eventually: Any, tmp_path: Path
) -> None:
    broker = start_broker()
    cameras = [camfabric("publish", "test://", "--camera", name, "--to", broker.to) for name in ("cctv/1", "cctv/2")]
    view = show("view", "cctv", "--from", broker.endpoint, "--save", str(tmp_path))

    def left_is_grey() -> bool:
        shot = screenshot()[100:600, 20:600]
        return bool(shot.std() > 5) and not _is_scene(shot)

    cameras[0].kill()
    eventually(left_is_grey, within_s=15, every_s=0.3)
    assert _is_scene(screenshot()[100:700, 640:])  # the other one goes on
    view.signal(signal.SIGTERM)
    assert view.wait() == 0
    assert view.err == []


def test_the_keys_s_and_q(
    camfabric: Any, start_broker: Any, screen: str, show: Any, eventually: Any, tmp_path: Path, start: Any
) -> None:
    broker = start_broker()
    camfabric("publish", "test://", "--camera", "a", "--to", broker.to)
    view = show("view", "--from", broker.endpoint, "--save", str(tmp_path))

    def press(key: str) -> None:
        # A bare X server has no window manager that would give the window the focus.
        command = f"xdotool search --name 'camfabric: all cameras' windowfocus --sync key {key}"
        start("bash", "-c", command, env={"DISPLAY": screen}).wait()

    press("s")
    eventually(lambda: list(tmp_path.glob("camfabric-*.png")))
    saved = cv2.imread(str(next(tmp_path.glob("camfabric-*.png"))))
    assert saved is not None
    assert saved.shape == (720, 1280, 3)
    assert _is_scene(saved)
    press("q")
    assert view.wait() == 0


def test_the_demo_opens_its_window_where_there_is_a_screen(show: Any, screenshot: Any) -> None:
    def all_four() -> bool:
        shot = screenshot()
        return all(_is_scene(shot[top : top + 360, left : left + 640]) for top in (0, 360) for left in (0, 640))

    demo = show("demo", seen=all_four)
    demo.signal(signal.SIGINT)
    assert demo.wait() == 0


@pytest.mark.parametrize("codec", ["jpeg", "copy"])
def test_the_preview_of_an_h264_file_does_not_hang(
    show: Any, screenshot: Any, eventually: Any, tmp_path: Path, codec: str
) -> None:
    # Importing PyAV before OpenCV makes OpenCV's windows hang for ever.
    import av

    from camfabric.publisher.sources.scene import Scene

    scene, path = Scene((640, 360), "preview"), tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for number in range(50):
            image = scene.draw(number, 1_700_000_000_000_000_000 + number * 40_000_000)
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    endpoint = f"ipc://{tmp_path}/s"
    source = ["publish", str(path), "--codec", codec, "--loop"]
    publish = show(*source, "--camera", "a", "--bind", endpoint, "--preview")
    first = screenshot()
    eventually(lambda: (screenshot() != first).any(), every_s=0.3)  # it moves
    publish.signal(signal.SIGINT)
    assert publish.wait() == 0


def test_without_a_screen_view_says_so(camfabric: Any, start_broker: Any) -> None:
    broker = start_broker()
    view = camfabric("view", "--from", broker.endpoint, env={"DISPLAY": "", "WAYLAND_DISPLAY": ""})
    assert view.wait() == 2
    assert len(view.err) == 1
    assert "no screen" in view.err[0]


def test_view_takes_small_pictures_for_many_tiles_and_the_main_stream_of_an_enlarged_one(
    camfabric: Any, start_broker: Any, show: Any, screen: str, eventually: Any
) -> None:
    broker = start_broker()
    names = [f"cctv/{number}" for number in range(1, 7)]
    for name in names:
        camfabric("publish", "test://?size=640x360&fps=10", "--camera", name, "--to", broker.to)
    with Subscriber(broker.endpoint, channel=None) as subscriber:
        eventually(lambda: set(subscriber.cameras()) == set(names), within_s=30)
        view = show("view", "--from", broker.endpoint)

        def watched() -> list[str]:
            return [name for name, status in subscriber.cameras().items() if status.watched]

        def click(until: list[str]) -> None:
            """Click on the second tile. A busy program on a bare X server misses a click now and then."""
            command = ["xdotool", "mousemove", "640", "180", "click", "1"]
            before = watched()
            for _ in range(3):
                subprocess.run(command, env=os.environ | {"DISPLAY": screen}, check=True)
                with contextlib.suppress(AssertionError):
                    eventually(lambda: watched() != before)
                    break
            eventually(lambda: watched() == until)

        eventually(lambda: all(status.encoded > 2 for status in subscriber.cameras().values()))
        assert watched() == []
        click(until=["cctv/2"])
        click(until=[])
    view.signal(signal.SIGINT)
    assert view.wait() == 0
