"""Video files, and every URL that FFmpeg opens, by PyAV (extra `video`)."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from camfabric.common.errors import ConfigError, SourceError
from camfabric.common.redact import redact
from camfabric.common.settings import TIMES
from camfabric.publisher.sources.pacer import Pacer
from camfabric.publisher.sources.source import Shot

if TYPE_CHECKING:
    import av.container
    import av.video

__all__ = ["FileSource", "UrlSource"]

_REMEMBERED: Final = 64
"""Packets whose delay is remembered."""
_MAX_DELAY_NS: Final = 2_000_000_000
_DEFAULT_FPS: Final = 25
_MAX_GAP_S: Final = 60.0
"""Timestamps of a file that jump further ahead are taken for damaged."""
_BRACKETS: Final = re.compile(r"\[Errno -?\d+\] |: '.*'$|; .*$")


def _open(address: str, options: dict[str, str], timeout: tuple[float, float] | None) -> Any:
    """An open container and its video stream.

    Raises:
        SourceError: FFmpeg cannot open it, or it has no video.
        ConfigError: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ConfigError(
            "video files and URLs need the extra 'video': pip install 'camfabric[video]'", setting="source"
        ) from error
    try:
        container = av.open(address, options=options, timeout=timeout)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise _translate(error, address, "cannot be opened") from error
    if not container.streams.video:
        container.close()
        raise SourceError(f"{redact(address)} has no video", source=redact(address))
    return container


def _translate(error: Exception, address: str, what: str) -> SourceError:
    """An FFmpeg error in one line without credentials."""
    import av

    shown = redact(address)
    match error:
        case av.error.HTTPUnauthorizedError() | av.error.HTTPForbiddenError():
            why = "the camera refuses the user name or the password"
        case av.error.ExitError() | TimeoutError():
            why = "no answer in time"
        case av.error.InvalidDataError():
            why = "it is not a video that FFmpeg knows"
        case av.error.ProtocolNotFoundError():
            why = "this FFmpeg does not speak that protocol"
        case OSError():
            why = (error.strerror or _BRACKETS.sub("", str(error))).lower()
        case _:
            why = _BRACKETS.sub("", str(error)).lower()
    return SourceError(f"{shown} {what}: {redact(why)}", source=shown)


class FileSource:
    """A video file, paced by its own timestamps, once or for ever."""

    def __init__(self, path: Path, *, loop: bool, stop: threading.Event) -> None:
        self._path = path
        self._loop = loop
        self._stop = stop
        if not path.exists():
            raise SourceError(
                f"{path} is not there: give a file, a folder, a device, test:// or a URL", source=str(path)
            )
        self._container = _open(str(path), {}, None)

    def shots(self) -> Iterator[Shot]:
        """The file's pictures when they are due.

        Raises:
            SourceError: the file is damaged from its beginning.
        """
        import av

        while True:
            stream = self._container.streams.video[0]
            interval_s = 1 / float(stream.average_rate or stream.guessed_rate or _DEFAULT_FPS)
            pacer = Pacer(self._stop, max_gap_s=_MAX_GAP_S)
            count = 0
            try:
                for picture in self._container.decode(stream):
                    image = picture.to_ndarray(format="bgr24")
                    # A bare stream, such as a .h264 file, has no times: then its rate has to do.
                    if not pacer.wait(count * interval_s if picture.time is None else picture.time):
                        return
                    count += 1
                    yield Shot(image, time.monotonic_ns())
            except av.FFmpegError as error:
                # A damaged end is an end; a file that gives nothing at all is an error.
                if not count:
                    raise _translate(error, str(self._path), "cannot be read") from error
            if not count:
                raise SourceError(f"{self._path} has no pictures", source=str(self._path))
            if self._stop.wait(interval_s) or not self._loop:
                return
            # Opened anew, because not every file can be wound back.
            self._container.close()
            self._container = _open(str(self._path), {}, None)

    def close(self) -> None:
        """Close the file."""
        self._container.close()


class UrlSource:
    """A live stream. `rtsp_transport` is "tcp" or "udp", for RTSP alone."""

    def __init__(self, address: str, *, rtsp_transport: str) -> None:
        self._address = address
        is_rtsp = address.lower().startswith(("rtsp://", "rtsps://"))
        options = {"rtsp_transport": rtsp_transport} if is_rtsp else {}
        self._container = _open(address, options, (TIMES.open_s, TIMES.read_s))

    def shots(self) -> Iterator[Shot]:
        """Pictures as they come; a picture's time is when its packet came, before decoding.

        Raises:
            SourceError: the stream broke, or gave nothing for 5 s.
        """
        import av

        stream = self._container.streams.video[0]
        arrivals = _Arrivals(stream.time_base)
        try:
            for packet in self._container.demux(stream):
                arrivals.came(packet.pts, time.monotonic_ns())
                for picture in _decoded(packet):
                    yield Shot(picture.to_ndarray(format="bgr24"), arrivals.captured_ns(picture.pts))
        except (av.FFmpegError, OSError) as error:
            raise _translate(error, self._address, "broke off") from error

    def close(self) -> None:
        """Close the stream."""
        self._container.close()


class _Arrivals:
    """When packets came, to tell when a picture was captured once it comes out of the decoder.

    With B-frames packets come in decoding order, and some later than pictures that are shown after them. The camera's
    own times are even, so they are taken, moved by the smallest delay seen among the last packets.
    """

    def __init__(self, time_base: Fraction | None) -> None:
        self._tick_ns = float(time_base * 10**9) if time_base else 0.0
        self._delays_ns: deque[float] = deque(maxlen=_REMEMBERED)
        self._last_ns = 0
        self._captured_ns = 0

    def came(self, pts: int | None, now_ns: int) -> None:
        """A packet came."""
        self._last_ns = now_ns
        if pts is not None:
            self._delays_ns.append(now_ns - pts * self._tick_ns)

    def captured_ns(self, pts: int | None) -> int:
        """When the picture of that time was captured, as well as one can tell; never before the last one."""
        captured_ns = self._last_ns
        if pts is not None and self._delays_ns:
            captured_ns = int(pts * self._tick_ns + min(self._delays_ns))
        if not self._last_ns - _MAX_DELAY_NS <= captured_ns <= self._last_ns:
            # The camera's times have jumped: the arrival is the better word for as long as the jump is remembered.
            captured_ns = self._last_ns
        self._captured_ns = max(captured_ns, self._captured_ns)
        return self._captured_ns


def _decoded(packet: av.Packet[Any]) -> list[av.video.VideoFrame]:
    """The pictures that a packet completes; none where it is damaged."""
    import av

    try:
        return [picture for picture in packet.decode() if not picture.is_corrupt]
    except av.error.InvalidDataError:
        return []
