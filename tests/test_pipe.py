"""`camfabric subscribe --pipe`: what other programs get of one camera, and how it ends."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from camfabric.cli.forms import _Clock, _rate
from camfabric.cli.pipe import _Continuity
from camfabric.common.frame import Codec, Frame
from camfabric.publisher import Publisher

_needs_ffmpeg = pytest.mark.skipif(
    not all(map(shutil.which, ("ffmpeg", "ffprobe"))), reason="no ffmpeg and ffprobe: apt-get install ffmpeg"
)


class _Piped:
    """`camfabric subscribe --pipe` with a reader that is the test."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "camfabric.cli", "subscribe", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        self.out: Any = self.process.stdout

    def end(self) -> tuple[int, list[str]]:
        """Wait for its end. Returns its status and what it said."""
        _, said = self.process.communicate(timeout=20)
        return self.process.returncode, said.decode().splitlines()


@pytest.fixture
def piped() -> Iterator[Callable[..., _Piped]]:
    """Start `camfabric subscribe --pipe`."""
    running: list[_Piped] = []

    def run(*arguments: str) -> _Piped:
        running.append(_Piped(*arguments))
        return running[-1]

    yield run
    for each in running:
        each.process.kill()
        each.process.communicate()


def _noise(number: int) -> Any:
    """A picture that cannot be made small: (120, 160, 3) uint8 BGR, with its number in a corner."""
    image = np.random.default_rng(number).integers(0, 256, (120, 160, 3), np.uint8)
    image[:16, :16] = number % 256
    return image


def _probe(data: bytes, *options: str) -> str:
    """What ffprobe says of a pipe without having been told what it is."""
    command = ["ffprobe", "-v", "error", *options, "-of", "csv=p=0", "-"]
    probed = subprocess.run(command, input=data, capture_output=True, timeout=30, check=True)
    assert probed.stderr == b""
    return probed.stdout.decode().strip()


def _decode(data: bytes, *options: str) -> int:
    """How many pictures FFmpeg decodes; fails on any error."""
    return int(_probe(data, *options, "-count_frames", "-show_entries", "stream=nb_read_frames"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--pipe", "raw"], "one camera"),
        (["a", "b", "--pipe", "raw"], "one camera"),
        (["a//b", "--pipe", "raw"], "empty segment"),
        (["a", "--pipe", "raw", "--json"], "--json"),
        (["a", "--pipe", "nut", "--save", "x"], "--save"),
        (["a", "--pipe", "encoded", "--every", "2"], "--every"),
        (["a", "--pipe", "mp4"], "nut"),
    ],
)
def test_wrong_usage_is_one_line(refused: Callable[..., str], options: list[str], says: str) -> None:
    assert says in refused("subscribe", *options)
    assert not Path("x").exists()


def test_a_terminal_is_refused() -> None:
    ours, theirs = pty.openpty()
    try:
        command = [sys.executable, "-m", "camfabric.cli", "subscribe", "a", "--pipe", "nut"]
        refused = subprocess.run(
            command, stdout=theirs, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=20, check=False
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert refused.returncode == 2
    assert b"is a terminal; put `| ffplay -`" in refused.stderr


@pytest.mark.parametrize("codec", ["jpeg", "h264", "raw"])
def test_raw_is_pixels_and_says_which(
    piped: Any, start_broker: Any, feed: Any, picture: Callable[..., Any], codec: str
) -> None:
    broker = start_broker()
    with Publisher("cctv/lobby", to=broker.to, codec=codec) as publisher:
        feed(publisher, fps=30)
        process = piped("cctv/lobby", "--from", broker.endpoint, "--pipe", "raw", "--frames", "5")
        data = process.out.read()
        status, said = process.end()
    assert (status, len(said)) == (0, 1), said
    assert "-f rawvideo -pixel_format bgr24 -video_size 64x48" in said[0]
    assert said[0].endswith("-i -")
    images = np.frombuffer(data, np.uint8).reshape(5, 48, 64, 3)
    for image in images:
        # Blue grows from left to right, green from above to below.
        assert abs(image[..., :2].astype(int) - picture()[..., :2]).mean() < 12
    reds = [image[..., 2].mean() for image in images]
    assert reds == sorted(reds)
    assert reds[0] < reds[-1]


@_needs_ffmpeg
@pytest.mark.parametrize(("codec", "name"), [("jpeg", "mjpeg"), ("h264", "h264"), ("h265", "hevc")])
def test_ffmpeg_knows_what_it_is_and_decodes_all_of_it(
    piped: Any, start_broker: Any, feed: Any, codec: str, name: str
) -> None:
    broker = start_broker()
    command = ("cctv/lobby", "--from", broker.endpoint, "--frames", "40", "--mode", "every", "--pipe")
    with Publisher("cctv/lobby", to=broker.to, codec=codec, gop=10) as publisher:
        feed(publisher, fps=60, make=_noise)
        contained, bare = piped(*command, "nut"), piped(*command, "encoded")
        nut, encoded = contained.out.read(), bare.out.read()
    for process, how in ((contained, "ffplay -i -"), (bare, f"ffplay -f {name} ")):
        status, said = process.end()
        assert (status, len(said)) == (0, 1), said
        assert f"{codec} 160x120 to standard output, for: {how}" in said[0]
    assert _probe(nut, "-show_entries", "stream=codec_name,width,height") == f"{name},160,120"
    assert _probe(encoded, "-f", name, "-show_entries", "stream=codec_name,width,height") == f"{name},160,120"
    assert _decode(nut) == _decode(encoded, "-f", name) == 40
    times = [float(line) for line in _probe(nut, "-show_entries", "packet=pts_time").split()]
    assert times == sorted(set(times))
    assert 0.3 < times[-1] - times[0] < 8  # 39 pictures at 60 a second, on a busy machine


def test_encoded_is_what_was_published_byte_for_byte(piped: Any, start_broker: Any, feed: Any) -> None:
    broker = start_broker()
    with Publisher("a", to=broker.to, codec="jpeg") as publisher:
        feed(publisher, fps=30, make=_noise)
        data = (process := piped("a", "--from", broker.endpoint, "--pipe", "encoded", "--frames", "3")).out.read()
        assert process.end()[0] == 0
    parts = [b"\xff\xd8" + part for part in data.split(b"\xff\xd8\xff\xe0") if part]
    assert len(parts) == 3
    for part in parts:
        image: Any = cv2.imdecode(np.frombuffer(b"\xff\xd8\xff\xe0" + part[2:], np.uint8), cv2.IMREAD_COLOR)
        number = round(image[4:12, 4:12].mean())
        expected: Any = cv2.imencode(".jpg", _noise(number), [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
        assert b"\xff\xd8\xff\xe0" + part[2:] == expected.tobytes()


def test_a_reader_that_goes_is_a_quiet_end(start: Any, start_broker: Any, feed: Any) -> None:
    broker = start_broker()
    with Publisher("a", to=broker.to, codec="h264") as publisher:
        feed(publisher, fps=30, make=_noise)
        command = f"{sys.executable} -m camfabric.cli subscribe a --from {broker.endpoint} --pipe"
        forms = ("nut", "encoded", "raw")
        processes = [
            start("bash", "-c", f"set -o pipefail; {command} {form} | head -c 30000 | wc -c") for form in forms
        ]
        for process in processes:
            assert process.wait(30) == 0
            assert process.out == ["30000"]
            assert all(" INFO a: " in line or "packets left out" in line for line in process.err), process.err


def test_a_reader_that_goes_while_the_camera_is_silent_ends_it_too(
    piped: Any, start_broker: Any, picture: Callable[..., Any]
) -> None:
    broker = start_broker()
    with Publisher("a", to=broker.to) as publisher:
        publisher.send(picture())
        process = piped("a", "--from", broker.endpoint, "--pipe", "raw")
        assert len(process.out.read(64 * 48 * 3)) == 64 * 48 * 3
        process.out.close()
        assert process.process.wait(10) == 0


@pytest.mark.parametrize("how", ["SIGTERM", "--duration"])
def test_it_ends_although_its_reader_has_stopped(
    piped: Any, start_broker: Any, feed: Any, eventually: Any, how: str
) -> None:
    broker = start_broker()
    with Publisher("a", to=broker.to, codec="raw") as publisher:
        feeder = feed(publisher, fps=60, make=_noise)
        options = ["--duration", "2"] if how == "--duration" else []
        process = piped("a", "--from", broker.endpoint, "--pipe", "encoded", *options)
        process.out.read(1)
        if how == "SIGTERM":
            begun = feeder.count
            eventually(lambda: feeder.count > begun + 20)  # the pipe is full
            process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(10) == 0


@pytest.mark.parametrize(("form", "codec"), [("raw", "jpeg"), ("encoded", "raw")])
def test_a_picture_of_another_size_ends_a_pipe_of_pixels(
    piped: Any, start_broker: Any, picture: Callable[..., Any], form: str, codec: str
) -> None:
    broker = start_broker()
    with Publisher("a", to=broker.to, codec=codec) as publisher:
        publisher.send(picture(1))
        process = piped("a", "--from", broker.endpoint, "--pipe", form)
        assert len(process.out.read(64 * 48 * 3)) == 64 * 48 * 3
        publisher.send(picture(2, width=128, height=96))
        assert process.out.read() == b""
        status, said = process.end()
    assert status == 1
    assert said[-1].startswith("camfabric: a sends 128x96 bgr24 now, 64x48 bgr24 before")
    assert len(said) == 2


def test_another_codec_ends_it_and_a_new_start_does_not(piped: Any, start_broker: Any, feed: Any) -> None:
    broker = start_broker()
    process = piped("a", "--from", broker.endpoint, "--pipe", "encoded")
    for codec in ("h264", "h264", "jpeg"):
        with Publisher("a", to=broker.to, codec=codec) as publisher:
            feeder = feed(publisher, fps=60, make=_noise)
            if codec == "jpeg":
                break_at = process.out.read()
                feeder.stop()
            else:
                # Across a start code, so that what is read is of this publisher.
                data = process.out.read(60_000)
                assert b"\x00\x00\x01\x67" in data or b"\x00\x00\x00\x01\x67" in data
                feeder.stop()
    status, said = process.end()
    assert status == 1
    assert break_at[-2:] != b"\xff\xd9"
    assert said[-1] == "camfabric: a sends jpeg now, h264 before: start anew"


def test_a_slow_reader_gets_the_newest_picture(piped: Any, start_broker: Any, feed: Any, eventually: Any) -> None:
    broker = start_broker()
    size = 64 * 48 * 3
    with Publisher("a", to=broker.to, codec="raw") as publisher:
        make = lambda number: np.full((48, 64, 3), number % 256, np.uint8)  # noqa: E731
        feeder = feed(publisher, fps=60, make=make)
        process = piped("a", "--from", broker.endpoint, "--pipe", "raw")
        begun = process.out.read(size)[0]
        for _ in range(3):
            begun = feeder.count
            eventually(lambda begun=begun: feeder.count > begun + 60)
            # What the pipe holds, one that is being written, and Python's own buffer.
            shown = [process.out.read(size)[0] for _ in range(5)]
            assert (shown[-1] - begun) % 256 > 50, (shown, begun % 256)


def test_a_slow_reader_of_h264_gets_no_broken_stream(piped: Any, start_broker: Any, feed: Any, eventually: Any) -> None:
    broker = start_broker()
    with Publisher("a", to=broker.to, codec="h264", gop=10, bit_rate=20_000_000) as publisher:
        feeder = feed(publisher, fps=60, make=_noise)
        process = piped("a", "--from", broker.endpoint, "--pipe", "encoded", "--frames", "60")
        data = process.out.read(10)
        for _ in range(3):
            begun = feeder.count
            eventually(lambda begun=begun: feeder.count > begun + 40)
            data += process.out.read(200_000)
        data += process.out.read()
        status, said = process.end()
    assert status == 0
    assert any("packets left out: the reader is slow" in line for line in said), said
    assert data.startswith((b"\x00\x00\x00\x01", b"\x00\x00\x01"))
    if shutil.which("ffmpeg"):
        assert _decode(data, "-err_detect", "explode", "-f", "h264") == 60


def test_a_leading_part_of_names_is_told_from_a_camera(piped: Any, start_broker: Any, feed: Any) -> None:
    broker = start_broker()
    with Publisher("cctv/lobby", to=broker.to) as publisher:
        feed(publisher)
        process = piped("cctv", "--from", broker.endpoint, "--pipe", "nut")
        assert process.out.read() == b""
        status, said = process.end()
    assert status == 1
    assert said == ["camfabric: there is no camera cctv, but cctv/lobby: --pipe takes one camera's name"]


# Without sockets


def _decoded(codec: Codec, frames: list[Frame]) -> dict[int, Any]:
    """What FFmpeg, which knows of no numbers of packets, makes of them, by number of the picture."""
    import av

    decoder: Any = av.CodecContext.create("h264" if codec is Codec.H264 else "hevc", "r")
    decoder.thread_count = 1
    pictures = []
    for frame in frames:
        packet = av.Packet(frame.payload)
        packet.pts = frame.extra["number"]
        pictures += decoder.decode(packet)
    pictures += decoder.decode(None)
    return {picture.pts: picture.to_ndarray(format="bgr24") for picture in pictures}


@pytest.mark.parametrize("codec", [Codec.H264, Codec.H265])
@pytest.mark.parametrize("options", ["bframes=0", "bframes=3:b-adapt=0:open-gop=1"])
def test_after_a_hole_it_goes_on_with_what_can_be_decoded(
    video: Callable[..., Any], codec: Codec, options: str
) -> None:
    stream = video(codec, options, count=60)
    continuity = _Continuity()
    kept = [frame for frame in stream.frames[3:] if not 30 <= frame.seq < 34]
    admitted = [frame for frame in kept if continuity.admits(frame)]
    keyframes = [frame.seq for frame in stream.frames if frame.keyframe]
    assert admitted[0].seq == next(seq for seq in keyframes if seq >= 3)
    assert not any(30 <= frame.seq < next(seq for seq in keyframes if seq >= 34) for frame in admitted)
    assert len(admitted) > 25
    pictures = _decoded(codec, admitted)
    assert pictures.keys() == {frame.extra["number"] for frame in admitted}
    assert all(np.array_equal(image, stream.clean[number]) for number, image in pictures.items())


def test_a_replay_of_what_went_on_before_leaves_no_repeat(video: Callable[..., Any]) -> None:
    stream = video(count=40)
    continuity = _Continuity()
    again = [*stream.frames[:20], *stream.frames[12:40]]
    assert [frame.seq for frame in again if continuity.admits(frame)] == list(range(40))


def test_whoever_begins_late_is_brought_up_to_date_in_order() -> None:
    now_ns = time.monotonic_ns()
    captured = [now_ns - 8_000_000_000 + place * 33_000_000 for place in range(600)]
    frames = [Frame(camera="a", captured_monotonic_ns=each_ns) for each_ns in captured]
    quick, true = _Clock(catches_up=True), _Clock(catches_up=False)
    ticks = [quick.ticks(frame) for frame in frames]
    assert ticks == sorted(ticks)
    assert ticks[240] < 90_000
    assert abs(ticks[599] - (captured[599] - now_ns) * 9 // 100_000) < 9000  # live again: late by nothing
    assert [true.ticks(frame) for frame in frames][599] == (captured[599] - captured[0]) * 9 // 100_000


def test_a_measured_rate_is_said_as_the_camera_has_it() -> None:
    assert [_rate(fps) for fps in (0.0, 28.4, 14.9, 0.5, 7.0)] == [
        "",
        " -framerate 30",
        " -framerate 15",
        " -framerate 0.5",
        " -framerate 7",
    ]
