"""Sources: files, folders, devices and the drawn scene; what is not there; reopening."""

from __future__ import annotations

import itertools
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from camfabric.common.errors import ConfigError, SourceError
from camfabric.publisher import Publisher
from camfabric.publisher.capture import Capture
from camfabric.publisher.sources import open_source, parse_source
from camfabric.publisher.sources.device import DeviceSource
from camfabric.publisher.sources.scene import read_timecode
from camfabric.publisher.sources.source import Wanted
from camfabric.subscriber import Subscriber

av: Any = import_module("av")  # with its own types, each stream would be one of three kinds

ANY = "tcp://127.0.0.1:*"
WANTED = Wanted(label="cam/1")


def _write_video(path: Path, *, frames: int, fps: int = 25, codec: str = "libx264") -> Path:
    """A video whose pictures get lighter by 4 a frame."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            image = np.full((48, 64, 3), 20 + number * 4, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def _open(text: str, wanted: Wanted = WANTED, stop: threading.Event | None = None) -> Any:
    return open_source(parse_source(text), wanted, stop=stop or threading.Event())


def test_the_scene_keeps_its_rate_and_shows_its_time_and_number() -> None:
    source = _open("test://?size=640x360&fps=50")
    shots = source.shots()
    first = next(shots)
    rest = [next(shots) for _ in range(25)]
    elapsed_s = (rest[-1].captured_monotonic_ns - first.captured_monotonic_ns) / 1e9
    assert 0.4 < elapsed_s < 2
    number_of = [read_timecode(shot.draw())[1] for shot in [first, *rest]]
    assert number_of == sorted(set(number_of))
    assert abs(read_timecode(rest[-1].draw())[0] - time.time() * 1000) < 2000
    assert first.draw().shape == (360, 640, 3)


def test_a_file_is_paced_by_its_own_timestamps_and_ends(tmp_path: Path) -> None:
    path = _write_video(tmp_path / "v.mp4", frames=13, fps=25)
    shots = list(_open(str(path)).shots())
    assert len(shots) == 13
    assert [int(shot.draw().mean()) for shot in shots] == sorted(int(shot.draw().mean()) for shot in shots)
    span_s = (shots[-1].captured_monotonic_ns - shots[0].captured_monotonic_ns) / 1e9
    assert 0.4 < span_s < 1.5


def test_a_bare_stream_without_times_is_paced_by_its_rate_and_can_be_looped(tmp_path: Path) -> None:
    path = _write_video(tmp_path / "v.h264", frames=10, fps=25)
    shots = _open(str(path), Wanted(label="x", loop=True)).shots()
    first = [next(shots) for _ in range(10)]
    assert next(shots).draw().shape == (48, 64, 3)
    assert (first[-1].captured_monotonic_ns - first[0].captured_monotonic_ns) / 1e9 > 0.25


def test_capture_times_of_reordered_pictures_are_even() -> None:
    from fractions import Fraction

    from camfabric.publisher.sources.arrivals import Arrivals

    # Shown 0 1 2 3 4 5 6, sent 0 4 2 1 3 6 5: as with a pyramid of B-frames. 40 ms a picture, 5 ms on the way.
    arrivals = Arrivals(Fraction(1, 25))
    came = {}
    for place, pts in enumerate((0, 4, 2, 1, 3, 6, 5)):
        came[pts] = 10**9 + place * 40_000_000 + 5_000_000
        arrivals.came(pts, came[pts])
    captured = [arrivals.captured_ns(pts) for pts in (0, 1, 2, 3)]
    assert [after - before for before, after in itertools.pairwise(captured)] == [40_000_000] * 3
    assert all(captured[pts] <= came[pts] for pts in range(4))


def test_a_looped_file_goes_on(tmp_path: Path) -> None:
    path = _write_video(tmp_path / "v.mp4", frames=5, fps=100)
    shots = _open(str(path), Wanted(label="x", loop=True)).shots()
    means = [int(next(shots).draw().mean()) for _ in range(12)]
    assert means[5] == means[0] == means[10]


def test_a_file_cut_off_in_the_middle_ends_where_it_is_cut(tmp_path: Path) -> None:
    whole = _write_video(tmp_path / "v.mkv", frames=30, fps=100).read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole[: len(whole) * 3 // 4])
    assert 0 < len(list(_open(str(cut)).shots())) <= 30


def test_a_folder_gives_its_pictures_in_order_and_leaves_out_what_is_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (3, 1, 2):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((20, 20, 3), number * 10, np.uint8))
    (tmp_path / "4.jpg").write_text("no picture")
    (tmp_path / "notes.txt").write_text("x")
    shots = list(_open(str(tmp_path), Wanted(label="x", fps=100)).shots())
    assert [shot.draw()[0, 0, 0] for shot in shots] == [10, 20, 30]
    assert "4.jpg is not a picture" in caplog.text


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("/nowhere/video.mp4", "is not there"),
        ("/dev/video99", "is not there"),
        ("99", "/dev/video99 is not there"),
        ("rtsp://127.0.0.1:1/x", "connection refused"),
        ("http://user:secret@127.0.0.1:1/x.mjpeg", "connection refused"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(source: str, says: str) -> None:
    with pytest.raises(SourceError) as caught:
        _open(source)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_files_that_are_no_videos_and_empty_folders(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video at all" * 100)
    with pytest.raises(SourceError, match="not a video"):
        list(_open(str(tmp_path / "a.mp4")).shots())
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="no pictures"):
        _open(str(tmp_path / "empty"))
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        for packet in stream.encode(frame):
            container.mux(packet)
    with pytest.raises(SourceError, match="no video"):
        _open(str(tmp_path / "sound.wav"))


def test_a_device_by_opencv(tmp_path: Path) -> None:
    # There is no camera on a test machine; OpenCV reads a video file by the same calls.
    path = _write_video(tmp_path / "v.avi", frames=5, codec="mpeg4")
    source = DeviceSource(str(path), backend=cv2.CAP_FFMPEG)
    shots = source.shots()
    assert [next(shots).draw().shape for _ in range(5)] == [(48, 64, 3)] * 5
    with pytest.raises(SourceError, match="gives no more pictures"):
        next(shots)
    source.close()


def test_without_pyav_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    path = _write_video(tmp_path / "v.mp4", frames=2)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"camfabric\[video\]"):
        _open(str(path))


class _FlakyServer:
    """Serves MJPEG over HTTP, hangs up after a number of pictures, and can hang or be away."""

    def __init__(self, picture: bytes) -> None:
        import http.server

        outer = self
        self.pictures = 20
        self.served = 0
        self.hang = threading.Event()
        self.stop_hanging = threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                try:
                    for _ in range(outer.pictures):
                        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
                        self.wfile.write(head.encode() + picture + b"\r\n")
                        outer.stop_hanging.wait(0.02)
                        if outer.hang.is_set():
                            outer.stop_hanging.wait(20)
                            return
                    outer.served += 1
                except (BrokenPipeError, ConnectionResetError):
                    return

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/cam.mjpeg"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.stop_hanging.set()
        self.server.shutdown()
        self.server.server_close()
        self._thread.join(5)


@pytest.fixture
def mjpeg(picture: Any) -> Any:
    server = _FlakyServer(cv2.imencode(".jpg", picture(1, width=320, height=240))[1].tobytes())
    yield server
    server.close()


def test_a_stream_that_breaks_off_is_opened_again_and_the_status_says_so(mjpeg: Any, eventually: Any) -> None:
    with (
        Publisher("cam/1", bind=ANY, source="http") as publisher,
        Subscriber(publisher.endpoint) as subscriber,
    ):
        seen: list[tuple[str, str]] = []
        capture = Capture(parse_source(mjpeg.url), publisher, WANTED)
        thread = threading.Thread(target=capture.run)
        thread.start()
        try:
            epoch = subscriber.read(timeout=10).epoch

            eventually(lambda: "cam/1" in subscriber.cameras())

            def states() -> bool:
                status = subscriber.cameras()["cam/1"]
                if not seen or seen[-1] != (status.state, status.reason):
                    seen.append((status.state, status.reason))
                return any(state == "offline" for state, _ in seen) and mjpeg.served >= 2

            eventually(states, within_s=20)
            assert subscriber.read(timeout=10).epoch == epoch
        finally:
            capture.stop()
            thread.join(10)
        assert not thread.is_alive()
    reasons = [reason for state, reason in seen if state == "offline"]
    assert "127.0.0.1" in reasons[0]


def test_a_stream_that_hangs_is_stalled_and_then_failed(
    mjpeg: Any, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mjpeg.pictures = 1000
    with (
        Publisher("cam/1", bind=ANY) as publisher,
        Subscriber(publisher.endpoint) as subscriber,
    ):
        capture = Capture(parse_source(mjpeg.url), publisher, WANTED)
        thread = threading.Thread(target=capture.run)
        thread.start()
        try:
            subscriber.read(timeout=10)
            eventually(lambda: "cam/1" in subscriber.cameras())
            mjpeg.hang.set()
            eventually(lambda: subscriber.cameras()["cam/1"].state == "stalled", within_s=8)
            eventually(lambda: subscriber.cameras()["cam/1"].state == "offline", within_s=12)
            assert "no answer in time" in subscriber.cameras()["cam/1"].reason
            mjpeg.hang.clear()
            mjpeg.stop_hanging.set()
            eventually(lambda: subscriber.cameras()["cam/1"].state == "live", within_s=20)
        finally:
            capture.stop()
            thread.join(10)


def test_a_source_that_never_was_live_fails(mjpeg: Any) -> None:
    mjpeg.close()
    with Publisher("cam/1", bind=ANY) as publisher, pytest.raises(SourceError, match="refused"):
        Capture(parse_source(mjpeg.url), publisher, WANTED).run()
