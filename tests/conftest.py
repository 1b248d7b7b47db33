"""What the tests share: processes that are ended, brokers in threads, waiting for conditions, and no leaks."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from camfabric.broker import Broker
from camfabric.common.errors import ConfigError

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
