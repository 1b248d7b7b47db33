"""`camfabric publish`, as a process: codecs, encoders and the small picture; wrong values; hidden credentials."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from camfabric.common.frame import Codec
from camfabric.subscriber import Subscriber

av: Any = import_module("av")  # with its own types, each stream would be one of three kinds

_SECRET: Final = "s3cretpassword"
_HERE: Final = ["--camera", "a", "--bind", "tcp://127.0.0.1:*"]
_WRONG: Final = [
    (["test://", "--codec", "copy"], "test sources have no packets to pass on; use jpeg or h264"),
    (["rtsp://h/x", "--codec", "copy", "--size", "64x48"], "leave out --size"),
    (["a.mp4", "--codec", "copy", "--quality", "50"], "leave out --quality"),
    (["0", "--codec", "copy", "--size", "64x48", "--fps", "5"], "leave out --size and --fps"),
    (["test://", "--codec", "h26"], "there are raw, jpeg, h264, h265, copy"),
    (["test://", "--codec", "h264", "--encoder", "nonsense"], "is not in this FFmpeg; for h264 there are: libx264"),
    (["test://", "--codec", "h264", "--encoder", "libx265"], "does not make h264"),
    (["test://", "--codec", "h264", "--encoder", "h264_nvenc"], "for h264 there are: libx264"),
    (["test://", "--encoder", "libx264"], "--encoder: they go with --codec h264 or h265, not jpeg"),
    (["rtsp://h/x", "--gop", "5", "--bitrate", "4M"], "--bitrate and --gop: they go with --codec h264 or h265"),
    (["test://", "--codec", "h264", "--bitrate", "fast"], "such as 800k or 4M"),
    (["test://", "--codec", "h264", "--bitrate", "0"], "from 10000"),
    (["test://", "--codec", "h264", "--gop", "0"], "gop 0: it is a whole number from 1"),
    (["test://", "--low", "small"], "--low 'small': it is WIDTHxHEIGHT@FPS, such as 320x180@5, a URL, or off"),
    (["test://", "--low", "320x180@0"], "low 0 pictures a second"),
    (["test://", "--low", "4x4@5"], "--low"),
    (["test://", "--low", "gopher://x/y"], "unknown scheme"),
    (["test://", "--low", f"rtsp://admin:{_SECRET}/x@h:port/"], "names no host"),
]


@pytest.mark.parametrize(("options", "says"), _WRONG)
def test_wrong_values_are_one_line_and_status_2(refused: Callable[..., str], options: list[str], says: str) -> None:
    line = refused("publish", *options, *_HERE)
    assert says in line
    assert _SECRET not in line


def _film(path: Path, encoder: str = "libx264") -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=25, options={"g": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(30):
            image = np.full((48, 64, 3), 40 + number * 5, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("options", "codec"),
    [
        (["test://?size=64x48"], Codec.JPEG),
        (["test://?size=64x48", "--codec", "h264", "--bitrate", "300k", "--gop", "10"], Codec.H264),
        (["test://?size=64x48", "--codec", "h265", "--encoder", "libx265"], Codec.H265),
        (["FILM"], Codec.JPEG),
        (["FILM", "--codec", "copy"], Codec.H264),
        (["FILM", "--codec", "h265", "--size", "32x24", "--fps", "10"], Codec.H265),
    ],
)
def test_codecs(camfabric: Any, start_broker: Any, tmp_path: Path, options: list[str], codec: Codec) -> None:
    film = _film(tmp_path / "a.mp4")
    broker = start_broker()
    arguments = [str(film) if option == "FILM" else option for option in options]
    process = camfabric("publish", *arguments, "--loop", "--camera", "a", "--to", broker.to)
    size = (24, 32, 3) if "--size" in options else (48, 64, 3)
    with Subscriber(broker.endpoint, cameras=["a"], local="off") as subscriber:
        for _ in range(3):
            frame = subscriber.read(timeout=30)
            assert (frame.codec, frame.image.shape) == (codec, size)
    assert process.end() == 0
    assert not any("Traceback" in line for line in process.err)


def test_what_cannot_be_carried_is_said_in_a_line(camfabric: Any, start_broker: Any, tmp_path: Path) -> None:
    film = _film(tmp_path / "a.avi", "mpeg4")
    broker = start_broker()
    process = camfabric("publish", str(film), "--codec", "copy", "--loop", "--camera", "a", "--to", broker.to)
    with Subscriber(broker.endpoint, cameras=["a"]) as subscriber:
        assert subscriber.read(timeout=30).codec is Codec.JPEG
    assert process.end() == 0
    assert sum("mpeg4" in line for line in process.err) == 1


def test_the_substream_of_a_camera_is_passed_on(camfabric: Any, start_broker: Any, tmp_path: Path) -> None:
    film = _film(tmp_path / "a.mp4")
    broker = start_broker()
    scene, low = "test://?size=320x240", f"file://{film}"
    camfabric("publish", scene, "--camera", "a", "--to", broker.to, "--low", low, "--loop")
    with (
        Subscriber(broker.endpoint, cameras=["a"]) as main,
        Subscriber(broker.endpoint, cameras=["a"], channel="low") as small,
    ):
        assert main.read(timeout=30).image.shape == (240, 320, 3)
        frame = small.read(timeout=30)
        assert (frame.codec, frame.image.shape) == (Codec.H264, (48, 64, 3))


def test_low_off(camfabric: Any, start_broker: Any, eventually: Any) -> None:
    broker = start_broker()
    camfabric("publish", "test://?size=64x48", "--camera", "a", "--to", broker.to, "--low", "off")
    camfabric("publish", "test://?size=64x48", "--camera", "b", "--to", broker.to, "--low", "32x32@2")
    with Subscriber(broker.endpoint, channel="low") as low:
        eventually(lambda: len(low.cameras()) == 2, within_s=30)
        assert {name: status.low for name, status in low.cameras().items()} == {"a": False, "b": True}
        frame = low.read(timeout=10)
        assert (frame.camera, frame.image.shape) == ("b", (24, 32, 3))


@pytest.mark.parametrize("style", ["two words", "one word", "environment", "also the source"])
def test_no_password_is_shown(camfabric: Any, start_broker: Any, eventually: Any, style: str) -> None:
    broker = start_broker()
    low = f"rtsp://admin:{_SECRET}@127.0.0.1:1/low?token={_SECRET}"
    source = "test://?size=64x48"
    env = {}
    if style == "environment":
        env, options = {"CAMFABRIC_PUBLISH_LOW": low}, []
    elif style == "one word":
        options = [f"--low={low}"]
    else:
        options = ["--low", low]
    if style == "also the source":
        source = low
    process = camfabric(
        "--log-level", "debug", "publish", source, "--camera", "a", "--to", broker.to, *options, env=env
    )
    if style == "also the source":
        assert process.wait(30) == 1
    else:
        eventually(lambda: process.said("trying again"), within_s=30)
        with Subscriber(broker.endpoint) as subscriber:
            assert subscriber.read(timeout=10).image.shape == (48, 64, 3)
            eventually(lambda: "a" in subscriber.cameras())
            assert _SECRET not in repr(subscriber.cameras())
            assert subscriber.cameras()["a"].state == "live"
        assert _SECRET.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        assert process.end() == 0
    assert _SECRET not in " ".join(process.err + process.out)
    assert any("***" in line for line in process.err)


def test_a_substream_without_pyav_is_said_and_the_camera_goes_on(
    start: Any, start_broker: Any, eventually: Any
) -> None:
    code = "import sys; sys.modules['av'] = None; from camfabric.cli.main import main; sys.exit(main())"
    broker = start_broker()
    options = ["--camera", "a", "--to", broker.to, "--low", "rtsp://127.0.0.1:1/low"]
    process = start(sys.executable, "-c", code, "publish", "test://?size=64x48", *options)
    with Subscriber(broker.endpoint) as subscriber:
        assert subscriber.read(timeout=30).image.shape == (48, 64, 3)
    eventually(lambda: process.said(r"no small picture: .*camfabric\[video\]"))
    assert process.end() == 0
