"""`camfabric demo`: what it shows, and that it leaves nothing behind."""

from __future__ import annotations

import contextlib
import importlib.util
import signal
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import cv2
import pytest

from camfabric.cli.fabric import _Ports

_HAS_PAGE: Final = all(importlib.util.find_spec(module) is not None for module in ("aiohttp", "prometheus_client"))
_PROCESSES: Final = 6 if _HAS_PAGE else 5
_needs_page = pytest.mark.skipif(not _HAS_PAGE, reason="no page: pip install 'camfabric[web]'")


def _children(process: Any) -> list[int]:
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_it_shows_four_cameras_and_saves_a_contact_sheet(camfabric: Any, tmp_path: Path) -> None:
    demo = camfabric("demo", "--duration", "5", "--save", str(tmp_path), "--no-window", env={"COLUMNS": "120"})
    assert demo.wait(40) == 0, demo.err
    shown = "\n".join(demo.out)
    for camera in ("cctv/lobby", "cctv/gate", "drone/1", "drone/2"):
        row = next(line for line in demo.out if line.strip().startswith(camera))
        assert "live" in row
        assert "1280x720" in row
    assert "broker at tcp://127.0.0.1:" in shown
    sheet = cv2.imread(str(tmp_path / "camfabric-demo.png"))
    assert sheet is not None
    height, width = sheet.shape[:2]
    quarters = [sheet[:height // 2, :width // 2], sheet[:height // 2, width // 2:],
                sheet[height // 2:, :width // 2], sheet[height // 2:, width // 2:]]  # fmt: skip
    assert all(quarter.std() > 20 for quarter in quarters)


def test_two_at_once_take_different_ports() -> None:
    usual = "tcp://127.0.0.1:5550"
    with contextlib.closing(_Ports()) as first, contextlib.closing(_Ports()) as second:
        # Neither has bound it yet, as when both have just been started.
        assert second.free(usual) not in (usual, first.free(usual))


@pytest.fixture
def browser(tmp_path: Path) -> Callable[[], list[str]]:
    """A browser that writes down what it is to open, for the environment's BROWSER; returns what that was."""
    program, opened = tmp_path / "browser", tmp_path / "opened"
    program.write_text(f'#!/bin/sh\necho "$1" >>"{opened}"\n')
    program.chmod(0o755)
    return lambda: opened.read_text().split() if opened.exists() else []


@_needs_page
def test_it_opens_its_page_in_a_browser(
    camfabric: Any, eventually: Any, tmp_path: Path, browser: Callable[[], list[str]]
) -> None:
    demo = camfabric("demo", env={"BROWSER": str(tmp_path / "browser"), "DISPLAY": ""})
    (address,) = eventually(browser, within_s=20)
    assert address.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(address, timeout=5) as answer:  # noqa: S310  (an address of this machine)
        assert answer.status == 200
        assert b"<title>" in answer.read()
    demo.signal(signal.SIGINT)
    assert demo.wait(15) == 0
    assert any(f"in a browser: {address}" in line for line in demo.out)
    assert browser() == [address]


@_needs_page
def test_without_a_window_it_opens_none_and_says_where_the_page_is(
    camfabric: Any, tmp_path: Path, browser: Callable[[], list[str]]
) -> None:
    demo = camfabric("demo", "--no-window", "--duration", "8", env={"BROWSER": str(tmp_path / "browser")})
    assert demo.wait(40) == 0, demo.err
    assert any("in a browser: http://127.0.0.1:" in line for line in demo.out)
    assert browser() == []


def test_it_works_without_the_extra_web(start: Any, eventually: Any) -> None:
    program = (
        "import sys; sys.modules['aiohttp'] = None\n"
        "from camfabric.cli.main import main\n"
        "sys.exit(main(['demo', '--no-window']))"
    )
    demo = start(sys.executable, "-c", program, env={"COLUMNS": "120"})
    eventually(lambda: len(_children(demo)) == 5, within_s=20)
    demo.signal(signal.SIGINT)
    assert demo.wait(15) == 0, demo.err
    assert any("pip install 'camfabric[web]'" in line for line in demo.out)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_leaves_no_process_behind(camfabric: Any, eventually: Any, how: signal.Signals) -> None:
    demo = camfabric("demo", "--no-window")
    eventually(lambda: len(_children(demo)) == _PROCESSES, within_s=20)
    children = _children(demo)
    demo.signal(how)
    status = demo.wait(15)
    assert status == (-9 if how is signal.SIGKILL else 0), demo.err
    eventually(lambda: not any(_alive(pid) for pid in children), within_s=10)


def test_a_camera_that_dies_is_shown_offline_and_the_others_go_on(camfabric: Any, eventually: Any) -> None:
    import os

    demo = camfabric("demo", "--no-window", "--duration", "8", env={"COLUMNS": "120"})
    eventually(lambda: len(_children(demo)) == _PROCESSES, within_s=20)
    os.kill(_children(demo)[1], signal.SIGKILL)  # the first camera; the broker was started before it
    assert demo.wait(40) in (0, 1)
    rows = {line.split()[0]: line for line in demo.out if line.strip().startswith(("cctv/", "drone/"))}
    assert "live" in rows["drone/1"]
    assert "live" not in rows["cctv/lobby"]
