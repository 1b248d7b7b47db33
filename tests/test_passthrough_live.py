"""Passthrough of what comes over HTTP or from a device, and what is decoded and sent as JPEG instead."""

from __future__ import annotations

import http.server
import logging
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from camfabric.common.codecs.jpeg import has_huffman_tables
from camfabric.common.errors import SourceError
from camfabric.common.frame import Codec, Frame
from camfabric.publisher import Publisher
from camfabric.publisher.capture import Capture
from camfabric.publisher.sources import parse_source
from camfabric.publisher.sources.media import MjpegDeviceSource
from camfabric.publisher.sources.source import Wanted
from camfabric.subscriber import Subscriber

av: Any = import_module("av")  # with its own types, each stream would be one of three kinds

ANY = "tcp://127.0.0.1:*"


def _jpeg(number: int, *, size: tuple[int, int] = (160, 120)) -> bytes:
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]]
    image = np.dstack([columns % 256, (rows + number * 3) % 256, np.full_like(rows, number * 4 % 256)])
    return cv2.imencode(".jpg", image.astype(np.uint8))[1].tobytes()


def _without_tables(jpeg: bytes) -> bytes:
    """A JPEG as many USB cameras send it: the standard Huffman tables are left out."""
    kept, at = jpeg[:2], 2
    while jpeg[at + 1] != 0xDA:
        size = 2 + int.from_bytes(jpeg[at + 2 : at + 4])
        if jpeg[at + 1] != 0xC4:
            kept += jpeg[at : at + size]
        at += size
    return kept + jpeg[at:]


def _pixels(jpeg: Any) -> Any:
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)


def _film(path: Path, encoder: str, *, count: int = 30, size: tuple[int, int] = (64, 48), rate: int = 100) -> Path:
    with av.open(str(path), "w") as container:
        options = {"x264-params": "keyint=10:scenecut=0:bframes=0"} if encoder == "libx264" else {"g": "10"}
        stream = container.add_stream(encoder, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(count):
            image = np.full((size[1], size[0], 3), 20 + number * 5, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode(None))
    return path


class HttpCamera:
    """Serves what it is given: once a connection, or, if it is Motion JPEG, for ever."""

    def __init__(self, kind: str, content: list[bytes]) -> None:
        outer = self
        self.connections = 0
        self.closing = threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.connections += 1
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.end_headers()
                try:
                    while not outer.closing.is_set():
                        for part in content:
                            self.wfile.write(part)
                            outer.closing.wait(0.005)
                        if "multipart" not in kind:
                            return
                except (BrokenPipeError, ConnectionResetError):
                    return

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/cam"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@pytest.fixture
def http_camera() -> Iterator[Callable[..., HttpCamera]]:
    """Start a camera."""
    cameras: list[HttpCamera] = []

    def run(content: list[bytes], kind: str = "") -> HttpCamera:
        if not kind:
            content = [
                f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(part)}\r\n\r\n".encode() + part + b"\r\n"
                for part in content
            ]
        cameras.append(HttpCamera(kind or "multipart/x-mixed-replace; boundary=frame", content))
        return cameras[-1]

    yield run
    for camera in cameras:
        camera.close()


@pytest.fixture
def frames_of(eventually: Any) -> Callable[..., list[Frame]]:
    """The first frames of a source that is published with `--codec copy`."""

    def run(
        source: Path | str, count: int, *, loop: bool = False, decode: bool = False, encodes: bool = False
    ) -> list[Frame]:
        with (
            Publisher("a", bind=ANY, codec="copy") as publisher,
            Subscriber(publisher.endpoint, mode="every", decode=decode) as subscriber,
        ):
            eventually(lambda: publisher.watched)
            capture = Capture(parse_source(str(source)), publisher, Wanted(label="a", loop=loop, packets=True))
            thread = threading.Thread(target=capture.run)
            thread.start()
            try:
                frames = [subscriber.read(timeout=15) for _ in range(count)]
            finally:
                capture.stop()
                thread.join(10)
            assert not thread.is_alive()
            encoded = publisher.status().encoded
        assert (encoded > 0) is encodes
        return frames

    return run


def test_motion_jpeg_over_http_arrives_unchanged(http_camera: Any, frames_of: Any) -> None:
    pictures = [_jpeg(number, size=(160, 120) if number % 3 else (96, 64)) for number in range(12)]
    camera = http_camera(pictures)
    frames = frames_of(camera.url, 36)
    assert {frame.codec for frame in frames} == {Codec.JPEG}
    first = pictures.index(bytes(frames[0].payload))
    for number, frame in enumerate(frames, first):
        assert bytes(frame.payload) == pictures[number % 12]
        assert (frame.width, frame.height) == ((160, 120) if number % 12 % 3 else (96, 64))
        assert frame.keyframe
        assert not frame.disposable
    captured = [frame.captured_monotonic_ns for frame in frames]
    assert captured == sorted(captured)
    assert camera.connections == 1


def test_motion_jpeg_without_huffman_tables_gets_the_standard_ones(http_camera: Any, frames_of: Any) -> None:
    pictures = [_jpeg(number) for number in range(6)]
    bare = [_without_tables(picture) for picture in pictures]
    assert not any(has_huffman_tables(picture) for picture in bare)
    for frame in frames_of(http_camera(bare).url, 12):
        assert has_huffman_tables(frame.payload)
        assert any(np.array_equal(_pixels(frame.payload), _pixels(picture)) for picture in pictures)
        assert frame.pts is not None


def test_what_is_no_jpeg_or_of_an_impossible_size_is_left_out(http_camera: Any, frames_of: Any) -> None:
    good = [_jpeg(number) for number in range(6)]
    at = good[3].index(b"\xff\xc0") + 5
    huge = good[3][:at] + b"\xff\xff\xff\xff" + good[3][at + 4 :]
    empty = good[3][:at] + b"\x00\x00" + good[3][at + 2 :]
    camera = http_camera([*good[:3], huge, good[3], empty, b"\xff\xd8 no picture", good[4], good[5]])
    frames = frames_of(camera.url, 30)
    assert {bytes(frame.payload) for frame in frames} == set(good)
    assert camera.connections == 1


def test_a_device_that_makes_jpegs_is_passed_on(tmp_path: Path) -> None:
    # There is no camera on a test machine; FFmpeg reads a file of JPEGs by the same calls.
    pictures = [_jpeg(number) for number in range(8)]
    path = tmp_path / "camera.mjpeg"
    path.write_bytes(
        b"".join(_without_tables(picture) if number % 2 else picture for number, picture in enumerate(pictures))
    )
    source = MjpegDeviceSource.open(str(path), form="mjpeg")
    assert source is not None
    shots = source.shots()
    packets = [next(shots) for _ in range(8)]
    with pytest.raises(SourceError, match="gives no more pictures"):
        next(shots)
    source.close()
    for number, packet in enumerate(packets):
        assert (packet.codec, packet.size, packet.keyframe) == (Codec.JPEG, (160, 120), True)
        assert has_huffman_tables(packet.payload)
        assert np.array_equal(_pixels(packet.payload), _pixels(pictures[number]))
        if not number % 2:
            assert packet.payload == pictures[number]


def test_a_device_that_makes_none_is_left_to_opencv(tmp_path: Path) -> None:
    assert MjpegDeviceSource.open(str(tmp_path / "not-there"), form="v4l2") is None
    film = _film(tmp_path / "a.h264", "libx264")
    assert MjpegDeviceSource.open(str(film), form="h264") is None


@pytest.mark.parametrize(
    ("name", "encoder", "says"),
    [("a.mp4", "mpeg4", "mpeg4"), ("a.webm", "libvpx", "vp8"), ("b.webm", "libvpx-vp9", "vp9")],
)
def test_what_cannot_be_carried_becomes_jpeg_and_is_said_once(
    tmp_path: Path, frames_of: Any, caplog: pytest.LogCaptureFixture, name: str, encoder: str, says: str
) -> None:
    caplog.set_level(logging.INFO)
    path = _film(tmp_path / name, encoder, count=8)
    frames = frames_of(path, 20, loop=True, encodes=True)
    assert {frame.codec for frame in frames} == {Codec.JPEG}
    assert _pixels(frames[0].payload).shape == (48, 64, 3)
    lines = [record.getMessage() for record in caplog.records if "JPEG" in record.getMessage()]
    assert len(lines) == 1, lines
    assert says in lines[0]
    assert str(path) in lines[0]


def test_vp8_over_http_becomes_jpeg(
    tmp_path: Path, http_camera: Any, frames_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    film = _film(tmp_path / "a.webm", "libvpx").read_bytes()
    camera = http_camera([film], "video/webm")
    frames = frames_of(camera.url.replace("http://", "http://admin:s3cret@"), 1, decode=True, encodes=True)
    assert frames[0].image.shape == (48, 64, 3)
    assert frames[0].codec is Codec.JPEG
    assert sum("sends vp8" in record.getMessage() for record in caplog.records) == 1
    assert "s3cret" not in caplog.text


def test_a_live_stream_with_a_damaged_packet_is_not_opened_anew(
    tmp_path: Path, http_camera: Any, frames_of: Any
) -> None:
    path = _film(tmp_path / "a.flv", "libx264")
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    data = path.read_bytes()
    at = data.index(packets[5])
    camera = http_camera([data[:at] + b"\x7f\xff\xff\xff" + data[at + 4 :]], "video/x-flv")
    frames = frames_of(camera.url, 29)
    assert [frame.pts for frame in frames] == [number * 10 for number in range(30) if number != 5]


def test_a_live_stream_that_changes_its_size_sends_new_parameter_sets(
    tmp_path: Path, http_camera: Any, frames_of: Any
) -> None:
    """FLV, as RTMP has it: they stand in packets of their own, and only where they change."""
    first = _film(tmp_path / "l.flv", "libx264", count=20, size=(128, 96)).read_bytes()
    second = _film(tmp_path / "s.flv", "libx264", count=20, size=(64, 48)).read_bytes()
    frames = frames_of(http_camera([first + second[13:]], "video/x-flv").url, 38, decode=True)
    assert [frame.image.shape for frame in frames] == [(96, 128, 3)] * 20 + [(48, 64, 3)] * 18
    assert sum(frame.missed for frame in frames) == 0
