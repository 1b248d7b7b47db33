"""`camfabric demo`: what it shows, and that it leaves nothing behind."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import cv2
import pytest


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


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_leaves_no_process_behind(camfabric: Any, eventually: Any, how: signal.Signals) -> None:
    demo = camfabric("demo", "--no-window")
    eventually(lambda: len(_children(demo)) == 5, within_s=20)
    children = _children(demo)
    demo.signal(how)
    status = demo.wait(15)
    assert status == (-9 if how is signal.SIGKILL else 0), demo.err
    eventually(lambda: not any(_alive(pid) for pid in children), within_s=10)


def test_a_camera_that_dies_is_shown_offline_and_the_others_go_on(camfabric: Any, eventually: Any) -> None:
    import os

    demo = camfabric("demo", "--no-window", "--duration", "8", env={"COLUMNS": "120"})
    eventually(lambda: len(_children(demo)) == 5, within_s=20)
    os.kill(_children(demo)[1], signal.SIGKILL)  # the first camera; the broker was started before it
    assert demo.wait(40) in (0, 1)
    rows = {line.split()[0]: line for line in demo.out if line.strip().startswith(("cctv/", "drone/"))}
    assert "live" in rows["drone/1"]
    assert "live" not in rows["cctv/lobby"]
