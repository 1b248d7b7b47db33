"""The processes of `camfabric demo`: a broker, a publisher for each camera, the gateway, and who looks at its page."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

from camfabric.cli.extras import has_web
from camfabric.common.endpoint import parse_endpoint
from camfabric.common.errors import EndpointError, FabricError
from camfabric.common.settings import BROKER_PUBLISHERS, BROKER_SUBSCRIBERS

__all__ = ["CAMERAS", "Fabric", "has_browser"]

logger = logging.getLogger(__name__)

CAMERAS: Final = ("cctv/lobby", "cctv/gate", "drone/1", "drone/2")
_SOURCE: Final = "test://?size=1280x720&fps=30"
_LOW: Final = "640x360@5"
"""Four of them fill a screen."""
_PAGE: Final = "tcp://127.0.0.1:8080"
_END_S: Final = 3.0
_PR_SET_PDEATHSIG: Final = 1


class _Ports:
    """Which ports to take: the usual ones, but where they are taken, or another demo is about to."""

    def __init__(self) -> None:
        # Of all demos on this machine one has this name, for as long as it runs.
        self._claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._claim.bind("\0camfabric demo")
            self._is_first = True
        except OSError:
            self._is_first = False

    def free(self, wanted: str) -> str:
        """The endpoint, or one with another port."""
        endpoint = parse_endpoint(wanted)
        for port in (endpoint.port or 0, 0) if self._is_first else (0,):
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((endpoint.host, port))
                return f"tcp://{endpoint.host}:{probe.getsockname()[1]}"
        raise EndpointError(f"no free port at {endpoint.host}", endpoint=wanted)

    def close(self) -> None:
        self._claim.close()


def has_browser() -> bool:
    """Whether there is a browser to open the page in, and somebody in front of it."""
    if os.environ.get("BROWSER"):
        return True  # it was said; editors set it in their containers, for the browser outside
    has_screen = sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    in_container = any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv"))
    if not has_screen or in_container or os.environ.get("CI"):
        return False
    try:
        # Of that very class are those for terminals, which would take this one.
        return type(webbrowser.get()) is not webbrowser.GenericBrowser
    except webbrowser.Error:
        return False


class Fabric:
    """The processes: a broker, a publisher for each camera, and the gateway where what it needs is installed."""

    def __init__(self) -> None:
        self._ports = _Ports()
        publishers = self._ports.free(BROKER_PUBLISHERS)
        self.subscribers: Final = self._ports.free(BROKER_SUBSCRIBERS)
        has_page = has_web()
        self.page: Final = self._ports.free(_PAGE).removeprefix("tcp://") if has_page else ""
        """HOST:PORT, or "" without the gateway."""
        self.open_when_there = False
        """Whether the page is to be opened in a browser as soon as it is there."""
        self._browser: subprocess.Popen[bytes] | None = None
        self._logs: dict[str, IO[bytes]] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._commands = {"broker": ["broker", "--publishers", publishers, "--subscribers", self.subscribers]} | {
            camera: ["publish", _SOURCE, "--camera", camera, "--low", _LOW, "--to", publishers] for camera in CAMERAS
        }
        if has_page:
            self._commands["gateway"] = ["web", "--from", self.subscribers, "--listen", self.page]

    def __enter__(self) -> Fabric:
        try:
            for name, command in self._commands.items():
                # Kept open for as long as the process runs.
                log = self._logs[name] = tempfile.TemporaryFile()
                self.processes[name] = subprocess.Popen(  # noqa: S603  (our own command)
                    [sys.executable, "-m", "camfabric.cli", "--log-level", "warning", *command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    # What is set for other commands, such as keys, is not meant for these.
                    env={name: value for name, value in os.environ.items() if not name.startswith("CAMFABRIC_")},
                    start_new_session=True,  # Ctrl-C goes to a whole group; the demo ends these itself, in order
                    preexec_fn=_tied_to(os.getpid()),
                )
        except BaseException:
            self.__exit__()
            raise
        return self

    def check(self) -> None:
        """Raise FabricError where a process ended by itself with an error, with what it said."""
        for name, process in self.processes.items():
            if process.poll() is not None and process.returncode > 0:
                self._logs[name].seek(0)
                lines = self._logs[name].read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
                raise FabricError(f"{name} ended with status {process.returncode}: {lines[-1]}")
        if self._browser is not None:
            self._browser.poll()
        elif self.open_when_there and _answers(self.page):
            self._browser = subprocess.Popen(  # noqa: S603  (our own command)
                [sys.executable, "-m", "webbrowser", f"http://{self.page}/"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # it stays when this ends
                preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, ()) and None,
            )

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + _END_S
        for name, process in self.processes.items():
            try:
                process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                logger.warning("%s does not end: killed", name)
                process.kill()
                process.wait()
        for log in self._logs.values():
            log.close()
        self._ports.close()


def _answers(address: str) -> bool:
    """Whether somebody listens at HOST:PORT of this machine."""
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 0.2):
        return True
    return False


def _tied_to(parent: int) -> Callable[[], None]:
    """What a child does before it starts its program: it will end when the demo does, even where that is killed."""
    libc = ctypes.CDLL(None)

    def tie() -> None:
        if sys.platform == "linux":
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended between the fork and the line above
            os._exit(1)

    return tie
