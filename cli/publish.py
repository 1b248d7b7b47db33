"""`camfabric publish`: one camera."""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from camfabric.cli.options import Insecure, positive
from camfabric.cli.signals import stopped_by_signals
from camfabric.common.redact import has_credentials
from camfabric.common.settings import BROKER_PUBLISHERS, DEFAULT_QUALITY

if TYPE_CHECKING:
    from camfabric.common.frame import Image
    from camfabric.publisher.capture import Capture

__all__ = ["publish"]

logger = logging.getLogger(__name__)

_SOURCE_VARIABLE = "CAMFABRIC_PUBLISH_SOURCE"
_END_S = 2.0


def publish(
    source: Annotated[
        str,
        typer.Argument(
            help="test://, test://?size=1920x1080&fps=30, a device (0, /dev/video0), a video file, a folder of"
            " pictures, or any URL that FFmpeg opens (rtsp://, http://, udp:// ...).",
            envvar=_SOURCE_VARIABLE,
        ),
    ],
    camera: Annotated[str, typer.Option(help="The camera's name, such as cctv/lobby.")],
    to: Annotated[
        str | None, typer.Option(help=f"The broker to connect to. Default {BROKER_PUBLISHERS}.", show_default=False)
    ] = None,
    bind: Annotated[str | None, typer.Option(help="Bind this endpoint instead; subscribers connect to it.")] = None,
    codec: Annotated[str, typer.Option(help="jpeg or raw.")] = "jpeg",
    quality: Annotated[int, typer.Option(help="Of JPEG, 1 to 100.")] = DEFAULT_QUALITY,
    fps: Annotated[float | None, typer.Option(help="At most this many pictures a second.")] = None,
    size: Annotated[str | None, typer.Option(help="Scale to WIDTHxHEIGHT.")] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Play a file or folder again and again.")] = False,
    rtsp_transport: Annotated[Literal["tcp", "udp"], typer.Option(help="How RTSP cameras send.")] = "tcp",
    preview: Annotated[bool, typer.Option("--preview", help="Show the outgoing picture in a window.")] = False,
    insecure: Insecure = False,
) -> None:
    """Publish a camera: to a broker, or at an endpoint of its own."""
    if has_credentials(source) and source in sys.orig_argv:
        _hide(source)
    from camfabric.publisher import Publisher
    from camfabric.publisher.capture import Capture
    from camfabric.publisher.sources.source import Wanted, parse_size, parse_source

    address = parse_source(source)
    positive(fps, "--fps")
    wanted_size = parse_size(size, setting="--size") if size else None
    shown = _Preview(camera, wanted_size) if preview else None
    with Publisher(
        camera,
        to=to,
        bind=bind,
        codec=codec,
        quality=quality,
        size=wanted_size,
        insecure=insecure,
        source=address.kind,
        announce_at_once=False,
    ) as publisher:
        if insecure:
            logger.warning("--insecure: anybody who reaches %s can see and send pictures", publisher.endpoint)
        if bind is not None:
            logger.info("subscribers connect to %s", publisher.endpoint)
        wanted = Wanted(label=publisher.camera, fps=fps, size=wanted_size, loop=loop, rtsp_transport=rtsp_transport)
        capture = Capture(address, publisher, wanted, on_image=shown.put if shown else None)
        run = _Run(capture)
        with stopped_by_signals(run.stop):
            run.start()
            if shown is not None:
                shown.show(run)
            run.ended.wait()
            run.join(_END_S)
        if run.is_alive():
            # The source hangs in a call that nothing can interrupt; say goodbye, and do not wait for it.
            publisher.close()
            logging.shutdown()
            os._exit(0)
        if run.error is not None:
            publisher.close(str(run.error))
            raise run.error


def _hide(source: str) -> None:
    """Start again with the address in the environment, which other users cannot read, and not among the arguments."""
    os.environ[_SOURCE_VARIABLE] = source
    arguments = [argument for argument in sys.orig_argv[1:] if argument != source]
    os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606


class _Run(threading.Thread):
    """The capture in a thread: a source may hang in a call, and the main thread has to hear signals all the same."""

    def __init__(self, capture: Capture) -> None:
        super().__init__(name="capture", daemon=True)
        self._capture = capture
        self.ended = threading.Event()
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._capture.run()
        except Exception as error:
            self.error = error
        finally:
            self.ended.set()

    def stop(self) -> None:
        self._capture.stop()
        self.ended.set()


class _Preview:
    """A window with the outgoing picture, in the main thread as the window system wants it."""

    def __init__(self, camera: str, size: tuple[int, int] | None) -> None:
        from camfabric.cli.window import Window

        self._window = Window(f"{camera} (outgoing)")
        self._size = size
        self._image: Any = None
        self._lock = threading.Lock()

    def put(self, image: Image) -> None:
        with self._lock:
            self._image = image

    def show(self, run: _Run) -> None:
        import cv2

        while not run.ended.is_set() and self._window.is_open:
            with self._lock:
                image, self._image = self._image, None
            if image is not None:
                if self._size is not None:
                    image = cv2.resize(image, self._size, interpolation=cv2.INTER_AREA)
                self._window.show(image)
            if self._window.key(15) == "q":
                break
        self._window.close()
        run.stop()
