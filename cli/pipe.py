"""`camfabric subscribe --pipe`: one camera's pictures to standard output, for FFmpeg and other programs."""

from __future__ import annotations

import logging
import select
import sys
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from camfabric.cli.forms import Form, make_sink, require_nut
from camfabric.cli.output import OutputClosed
from camfabric.cli.signals import stopped_by_signals
from camfabric.common.errors import ConfigError, FabricError
from camfabric.common.frame import Codec, Frame
from camfabric.common.settings import TIMES
from camfabric.common.sockets import Waker
from camfabric.common.topics import CAM, check_camera

if TYPE_CHECKING:
    from camfabric.common.mailbox import Mode
    from camfabric.subscriber import Subscriber

__all__ = ["Pipe", "require_pipe"]

logger = logging.getLogger(__name__)

_STATUS_S: Final = 0.3
"""How long the first frame waits for the camera's status, which tells its rate."""
_OTHERS_S: Final = 1.0
"""After this long with other cameras' frames alone, the name is taken for one that is no camera's."""
_PATIENCE_S: Final = 0.5
"""How long the frame that is being written may take when this is to end: half a frame is of no use to anybody."""


def require_pipe(camera_filters: list[str] | None, form: Form) -> str:
    """The one camera that was asked for, where standard output is none that a person looks at.

    Raises:
        ConfigError: it is a terminal, or closed, or what was given is not one camera's name, or PyAV is missing.
    """
    if not camera_filters or len(camera_filters) != 1:
        raise ConfigError("--pipe takes one camera: give its name, such as cctv/lobby", setting="--pipe")
    if sys.stdout is None:
        raise ConfigError("--pipe: standard output is closed", setting="--pipe")
    if sys.stdout.isatty():
        raise ConfigError(
            "--pipe: standard output is a terminal; put `| ffplay -` or `> FILE` behind it", setting="--pipe"
        )
    if form == "nut":
        require_nut()
    return check_camera(camera_filters[0])


class _Continuity:
    """Which packets go on: from a keyframe, in order, and after a hole from the next keyframe that needs nothing of it.

    Intra-coded frames all do.
    """

    def __init__(self) -> None:
        self._last: tuple[int, int] | None = None
        self._begun_at: int | None = None
        self._next_word = 0.0

    def admits(self, frame: Frame) -> bool:
        if frame.codec.is_intra:
            return True
        if self._last is not None and self._last[0] == frame.epoch and frame.seq <= self._last[1]:
            return False  # a replay brought it again
        follows = self._last == (frame.epoch, frame.seq - 1)
        if frame.keyframe:
            self._say(frame, follows=follows)
            self._begun_at = None if follows else frame.pts
        elif not follows:
            return False
        self._last = (frame.epoch, frame.seq)
        # A leading picture: it needs what came before the keyframe.
        return frame.keyframe or self._begun_at is None or frame.pts is None or frame.pts >= self._begun_at

    def _say(self, frame: Frame, *, follows: bool) -> None:
        now = time.monotonic()
        if follows or self._last is None or self._last[0] != frame.epoch or now < self._next_word:
            return
        self._next_word = now + TIMES.complain_s
        skipped = frame.seq - self._last[1] - 1
        logger.warning("%s: %d packets left out: the reader is slow, or the link is", frame.camera, skipped)


class Pipe:
    """Writes one camera's frames to standard output until there is an end to it."""

    def __init__(self, subscriber: Subscriber, camera: str, form: Form, *, mode: Mode) -> None:
        self._subscriber = subscriber
        self._camera = camera
        self._sink = make_sink(form, mode)
        self._decodes = form == "raw"
        self._waker = Waker()
        self._failure: BaseException | None = None

    def run(self, frames: Iterable[Frame], *, count: int | None, duration: float | None) -> None:
        """Write `count` of the frames, or all; for `duration` seconds at most, whether they are read or not.

        A thread writes, because nothing else ends the wait for a reader that has stopped.

        Raises:
            OutputClosed: nobody reads any more.
            FabricError: what comes cannot go on in the same stream.
            TimeoutError: nothing comes.
        """
        stopped = threading.Event()

        def stop() -> None:
            stopped.set()
            self._subscriber.ask_close()
            self._waker.wake()

        writer = threading.Thread(target=self._work, args=(frames, count), name="pipe", daemon=True)
        poller = select.poll()
        poller.register(self._waker.fileno(), select.POLLIN)
        output = sys.stdout.fileno()
        poller.register(output, 0)  # errors alone: the other end was closed
        with stopped_by_signals(stop):
            writer.start()
            events = dict(poller.poll(None if duration is None else duration * 1000))
        if not events:
            stop()
        self._waker.close()
        if stopped.is_set():
            writer.join(_PATIENCE_S)
        elif output in events:
            raise OutputClosed
        else:
            writer.join()
        if self._failure is not None:
            raise self._failure

    def _work(self, frames: Iterable[Frame], count: int | None) -> None:
        try:
            self._write(frames, count)
        except BaseException as error:  # raised again by the thread that waits
            self._failure = error
        finally:
            self._waker.wake()

    def _write(self, frames: Iterable[Frame], count: int | None) -> None:
        continuity = _Continuity()
        first: Codec | None = None
        others_until = time.monotonic() + _OTHERS_S
        written = 0
        for taken in frames:
            frame: Frame | None = taken
            if self._decodes:
                frame = self._subscriber.decoded(taken)
            if frame is None:
                continue
            if frame.camera != self._camera:
                if first is None and time.monotonic() > others_until:
                    self._require_camera(frame)
                continue
            if not self._decodes and not continuity.admits(frame):
                continue
            if first is None:
                first = frame.codec
                self._begin(frame)
            if not self._decodes and frame.codec is not first:
                raise FabricError(f"{frame.camera} sends {frame.codec.label} now, {first.label} before: start anew")
            self._sink.write(frame)
            written += 1
            if written == count:
                return

    def _require_camera(self, other: Frame) -> None:
        if self._camera not in self._subscriber.cameras():
            raise FabricError(f"there is no camera {self._camera}, but {other.camera}: --pipe takes one camera's name")

    def _begin(self, frame: Frame) -> None:
        end = time.monotonic() + (_STATUS_S if self._sink.wants_fps else 0.0)
        while (status := self._subscriber.cameras().get(self._camera)) is None and time.monotonic() < end:
            time.sleep(0.01)
        fps = status.fps_in if status is not None and frame.channel == CAM else 0.0
        how = self._sink.begin(frame, fps)
        logger.info(
            "%s: %s %dx%d to standard output, for: ffplay %s-i -",
            frame.camera, frame.codec.label, frame.width, frame.height, how and how + " ",
        )  # fmt: skip
