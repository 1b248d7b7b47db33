"""What the tests share: processes that are ended, brokers in threads, waiting for conditions, and no leaks."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol
from unittest import mock

import numpy as np
import pytest

from camfabric.broker import Broker
from camfabric.common.codecs.annexb import is_disposable, parameter_sets, sub_layers
from camfabric.common.errors import ConfigError
from camfabric.common.frame import Codec, Frame

from .browser import chromium, have_browser

_GST_CHECK = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
_MISSING: dict[str, str] = {}


def _have_gstreamer() -> bool:
    system_python = Path("/usr/bin/python3")
    if not system_python.exists():
        return False
    found = subprocess.run([system_python, "-c", _GST_CHECK], capture_output=True, check=False).returncode == 0
    plugins = list(Path("/usr/lib").glob("*/gstreamer-1.0/libgstrtp.so"))
    return found and bool(plugins)


def _have_windows() -> bool:
    import cv2

    programs = all(shutil.which(program) for program in ("Xvfb", "xwd", "xdotool"))
    return programs and bool(cv2.currentUIFramework())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests whose Debian packages are not there."""
    wants = (
        (
            "rtsp",
            _have_gstreamer,
            "apt-get install python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-rtsp"
            " gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad",
        ),
        (
            "window",
            _have_windows,
            "apt-get install xvfb x11-apps xdotool libgl1 libglib2.0-0, and opencv-python not -headless",
        ),
        ("browser", have_browser, "apt-get install chromium libatomic1, and pip install 'camfabric[dev]'"),
    )
    for mark, have, how in wants:
        marked = [item for item in items if item.get_closest_marker(mark)]
        if marked and not have():
            _MISSING[f"{len(marked)} {mark} tests"] = how
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=how))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say in one line what was skipped for want of a package, and how to get it."""
    for what, how in _MISSING.items():
        terminalreporter.write_line(f"skipped {what}; to run them: {how}")


class Eventually(Protocol):
    """Waits for a condition."""

    def __call__(self, condition: Callable[[], Any], *, within_s: float = 10.0, every_s: float = 0.01) -> Any: ...


@pytest.fixture
def eventually() -> Eventually:
    """Wait until a condition is true and return it; fail where it is not within the time."""

    def wait(condition: Callable[[], Any], *, within_s: float = 10.0, every_s: float = 0.01) -> Any:
        pause = threading.Event()
        end = time.monotonic() + within_s
        while True:
            if result := condition():
                return result
            assert time.monotonic() < end, f"not within {within_s} s"
            pause.wait(every_s)

    return wait


class Process:
    """A `camfabric` process, or another program, whose standard error is read line by line."""

    def __init__(self, command: list[str], env: dict[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | (env or {}),
        )
        self.pid = self._process.pid
        self.out: list[str] = []
        self.err: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            for stream, lines in ((self._process.stdout, self.out), (self._process.stderr, self.err))
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream: Any, lines: list[str]) -> None:
        with stream:
            for line in stream:
                lines.append(line.rstrip("\n"))

    def said(self, pattern: str) -> re.Match[str] | None:
        """The first match in what it wrote to standard error or output."""
        for line in [*self.err, *self.out]:
            if match := re.search(pattern, line):
                return match
        return None

    @property
    def status(self) -> int | None:
        """The exit status, or None while it runs."""
        return self._process.poll()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def wait(self, timeout: float = 15.0) -> int:
        """Wait for its end. Returns the exit status."""
        status = self._process.wait(timeout)
        for reader in self._readers:
            reader.join(5)
        return status

    def end(self) -> int:
        """Ask it to end, and wait."""
        if self.status is None:
            self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """End it at once, stopped or not."""
        if self.status is None:
            self._process.kill()
        self.wait()


class StartProcess(Protocol):
    """Starts a process that the test's end ends."""

    def __call__(self, *command: str, env: dict[str, str] | None = None) -> Process: ...


@pytest.fixture
def start() -> Iterator[StartProcess]:
    """Start any program."""
    processes: list[Process] = []

    def run(*command: str, env: dict[str, str] | None = None) -> Process:
        processes.append(Process(list(command), env))
        return processes[-1]

    yield run
    for process in processes:
        process.kill()


@pytest.fixture
def camfabric(start: StartProcess) -> StartProcess:
    """Start a `camfabric` command."""

    def run(*arguments: str, env: dict[str, str] | None = None) -> Process:
        return start(sys.executable, "-m", "camfabric.cli", *arguments, env=env)

    return run


Run = Callable[..., tuple[int, list[str], list[str]]]
"""Runs a command to its end: its exit status, and the lines of standard output and error."""


@pytest.fixture
def run_here(capsys: Any, tmp_path: Path, monkeypatch: Any) -> Run:
    """Run `camfabric` in this process, as each other one takes half a second, and in an empty folder."""
    from camfabric.cli import main as cli_main

    # Blocked signals would be inherited by the processes of all tests after this one.
    monkeypatch.setattr(cli_main, "watch_signals", lambda: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CAMFABRIC_KEYS", raising=False)

    def call(*arguments: str) -> tuple[int, list[str], list[str]]:
        with mock.patch.dict(os.environ):  # what it sets there is for itself
            status = cli_main.main(list(arguments))
        written = capsys.readouterr()
        return status, written.out.splitlines(), written.err.splitlines()

    return call


@pytest.fixture
def refused(run_here: Run) -> Callable[..., str]:
    """Run `camfabric`, which is to end with a status and one line on standard error: that line. It prints nothing else,
    but for `prints`."""

    def call(*arguments: str, status: int = 2, prints: Sequence[str] = ()) -> str:
        ended, out, err = run_here(*arguments)
        assert (ended, len(err)) == (status, 1), (arguments, ended, err)
        assert out == list(prints), (arguments, out)
        assert err[0].startswith("camfabric: "), err
        return err[0]

    return call


class RunningBroker:
    """A broker in a thread."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.to = broker.publishers[0] if broker.publishers else ""
        self.endpoint = broker.subscribers[0]
        self._thread = threading.Thread(target=broker.run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self.broker.stop()
        self._thread.join(5)
        assert not self._thread.is_alive()


class StartBroker(Protocol):
    """Starts a broker on random ports."""

    def __call__(self, **settings: Any) -> RunningBroker: ...


@pytest.fixture
def start_broker() -> Iterator[StartBroker]:
    """Start a broker in a thread, on random ports where none are given."""
    running: list[RunningBroker] = []

    def run(**settings: Any) -> RunningBroker:
        defaults = {"publishers": ["tcp://127.0.0.1:*"], "subscribers": ["tcp://127.0.0.1:*"]}
        running.append(RunningBroker(Broker(**(defaults | settings))))
        return running[-1]

    yield run
    for broker in running:
        broker.stop()


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A port that was free a moment ago, for processes that have to be told one."""

    def port() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return port


@pytest.fixture
def picture() -> Callable[..., Any]:
    """A picture of noise-free gradients that differs by number: (H, W, 3) uint8."""

    def make(number: int = 0, *, width: int = 64, height: int = 48) -> Any:
        image = np.zeros((height, width, 3), np.uint8)
        image[..., 0] = np.linspace(0, 255, width, dtype=np.uint8)[None, :]
        image[..., 1] = np.linspace(0, 255, height, dtype=np.uint8)[:, None]
        image[..., 2] = number % 256
        return image

    return make


# Not for the whole session: while it is there, its thread has a running event loop, and other tests need one of theirs.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium: Playwright's `Browser`."""
    with chromium() as browser:
        yield browser


class Feeder:
    """Sends pictures at a rate in a thread."""

    def __init__(self, publisher: Any, make: Callable[[int], Any], fps: float) -> None:
        self._stop = threading.Event()
        self.count = 0

        def run() -> None:
            while not self._stop.wait(1 / fps):
                with contextlib.suppress(ConfigError):  # the test has closed its publisher already
                    publisher.send(make(self.count), extra={"number": self.count}, copy=False)
                self.count += 1

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._stop.set()
        self._thread.join(5)


@pytest.fixture
def feed(picture: Callable[[int], Any]) -> Iterator[Callable[..., Feeder]]:
    """Feed a publisher with pictures until the test ends."""
    feeders: list[Feeder] = []

    def run(publisher: Any, *, fps: float = 60, make: Callable[[int], Any] = picture) -> Feeder:
        feeders.append(Feeder(publisher, make, fps))
        return feeders[-1]

    yield run
    for feeder in feeders:
        feeder.stop()


def scene(number: int, width: int, height: int, *, grey: bool = False) -> Any:
    """A moving picture that shows its number, 0 to 255, in eight fields: (H, W, 3) uint8 BGR, or (H, W) if `grey`."""
    rows, columns = np.mgrid[0:height, 0:width]
    texture = (columns * 5 + rows * 3 + number * 7) % 128 + 64
    image = texture.astype(np.uint8) if grey else np.dstack([texture, (rows + number * 4) % 160 + 40, columns % 128])
    image[height // 2 :] = 16
    for bit in range(8):
        if number >> bit & 1:
            image[height // 2 :, bit * width // 8 : (bit + 1) * width // 8] = 235
    return image.astype(np.uint8)


@dataclass(frozen=True)
class Video:
    """A coded stream, as a publisher numbers its packets, and what a decoder of its own made of it."""

    frames: list[Frame]
    """`extra["number"]` is that of each packet's picture."""
    clean: dict[int, Any]
    """The pictures by number: (H, W, 3) uint8 BGR, or (H, W) uint8."""

    def renumbered(self, first_seq: int, *, epoch: int = 1) -> list[Frame]:
        """The packets as they come later, or after a new start."""
        return [replace(frame, seq=first_seq + place, epoch=epoch) for place, frame in enumerate(self.frames)]

    def is_clean(self, frame: Frame) -> bool:
        """Whether a frame has the very picture that belongs to it."""
        return np.array_equal(self.clean[frame.extra["number"]], frame.image)

    @staticmethod
    def number_in(image: Any) -> int:
        """The number that a picture shows."""
        fields = np.array_split(image[image.shape[0] * 5 // 8 : image.shape[0] * 7 // 8], 8, axis=1)
        return sum((field[:, 4:-4].mean() > 128) << bit for bit, field in enumerate(fields))


def _packets_of(encoder: Any, numbers: range) -> Iterator[Any]:
    pixels = "gray" if encoder.pix_fmt == "gray" else "bgr24"
    import av

    for number in numbers:
        image = scene(number, encoder.width, encoder.height, grey=pixels == "gray")
        picture = av.VideoFrame.from_ndarray(image, format=pixels).reformat(format=encoder.pix_fmt)
        picture.pts = number * 3000
        yield from encoder.encode(picture)
    yield from encoder.encode(None)


def _decoded_apart(codec: Codec, frames: list[Frame]) -> dict[int, Any]:
    import av

    decoder: Any = av.CodecContext.create("h264" if codec is Codec.H264 else "hevc", "r")
    decoder.thread_count = 1
    pictures = []
    for frame in frames:
        packet = av.Packet(frame.payload)
        packet.pts = frame.extra["number"]
        pictures += decoder.decode(packet)
    pictures += decoder.decode(None)
    return {
        picture.pts: picture.to_ndarray(format="gray" if picture.format.name == "gray" else "bgr24")
        for picture in pictures
    }


@pytest.fixture(scope="session")
def video() -> Callable[..., Video]:
    """Encode a moving scene that shows its pictures' numbers; `options` are those of x264 or x265."""

    @functools.cache
    def make(
        codec: Codec = Codec.H264,
        options: str = "",
        *,
        count: int = 60,
        first: int = 0,
        size: tuple[int, int] = (128, 96),
        pixels: str = "yuv420p",
        camera: str = "a",
    ) -> Video:
        import av

        name = "libx264" if codec is Codec.H264 else "libx265"
        encoder: Any = av.CodecContext.create(name, "w")
        encoder.width, encoder.height, encoder.pix_fmt = *size, pixels
        encoder.time_base, encoder.framerate = Fraction(1, 90_000), Fraction(30)
        params = "keyint=12:min-keyint=12:scenecut=0:threads=1:frame-threads=1:pools=none:log-level=error:" + options
        if codec is Codec.H264:
            params = params.replace("frame-threads=1:pools=none:log-level=error:", "")
        encoder.options = {"preset": "veryfast", f"{name.removeprefix('lib')}-params": params.rstrip(":")}
        frames: list[Frame] = []
        layers = 1
        for packet in _packets_of(encoder, range(first, first + count)):
            payload = bytes(packet)
            if packet.is_keyframe and not parameter_sets(codec, payload):
                payload = bytes(encoder.extradata) + payload
            if packet.is_keyframe and codec is Codec.H265:
                layers = sub_layers(payload)
            frames.append(
                Frame(
                    camera=camera,
                    codec=codec,
                    width=size[0],
                    height=size[1],
                    keyframe=packet.is_keyframe,
                    disposable=layers == 1 and not packet.is_keyframe and is_disposable(codec, payload),
                    epoch=1,
                    seq=len(frames),
                    pts=packet.pts,
                    dts=packet.dts,
                    time_base=(1, 90_000),
                    extra={"number": packet.pts // 3000},
                    payload=payload,
                )
            )
        return Video(frames, _decoded_apart(codec, frames))

    return make


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fail a test that leaves a thread of the fabric behind, and name it."""
    yield
    end = time.monotonic() + 5
    while left := [
        thread.name for thread in threading.enumerate() if thread.name.startswith(("publish ", "subscribe"))
    ]:
        assert time.monotonic() < end, f"threads left behind: {left}"
        threading.Event().wait(0.01)


class RunningGateway:
    """A browser gateway in a thread."""

    def __init__(self, settings: Any) -> None:
        from camfabric.gateway import Gateway

        self.gateway = Gateway(settings)
        self.url = ""
        self.loop: asyncio.AbstractEventLoop | None = None
        self._started = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._started.wait(10)
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        async def run() -> None:
            self.loop = asyncio.get_running_loop()
            await self.gateway.run(self._has_started)

        try:
            asyncio.run(run())
        except BaseException as error:
            self._error = error
            self._started.set()

    def _has_started(self, url: str) -> None:
        self.url = url.removesuffix("/")
        self._started.set()

    def stop(self) -> None:
        """End it."""
        self.gateway.stop()
        self._thread.join(10)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error


class StartGateway(Protocol):
    """Starts a gateway at a random port."""

    def __call__(self, endpoint: str, **settings: Any) -> RunningGateway: ...


@pytest.fixture
def start_gateway() -> Iterator[StartGateway]:
    """Start a browser gateway in a thread, on a random port."""
    from camfabric.gateway import GatewaySettings

    running: list[RunningGateway] = []

    def run(endpoint: str, **settings: Any) -> RunningGateway:
        defaults = {"endpoints": [endpoint], "listen": "127.0.0.1:0"}
        running.append(RunningGateway(GatewaySettings(**(defaults | settings))))
        return running[-1]

    yield run
    for gateway in running:
        gateway.stop()
