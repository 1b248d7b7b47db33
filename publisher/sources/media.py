"""Video files, and every URL that FFmpeg opens, by PyAV (extra `video`)."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from camfabric.common.errors import CodecError, ConfigError, SourceError
from camfabric.common.frame import Codec
from camfabric.common.redact import redact
from camfabric.common.settings import TIMES
from camfabric.publisher.sources.arrivals import Arrivals
from camfabric.publisher.sources.pacer import Pacer
from camfabric.publisher.sources.packets import Packets, codec_of
from camfabric.publisher.sources.source import Packet, Shot

if TYPE_CHECKING:
    import av.container
    import av.video

    from camfabric.common.frame import Image

__all__ = ["FileSource", "MjpegDeviceSource", "UrlSource"]

logger = logging.getLogger(__name__)

_DEFAULT_FPS: Final = 25
_MAX_GAP_S: Final = 60.0
"""Timestamps of a file that jump further ahead are taken for damaged."""
_BRACKETS: Final = re.compile(r"\[Errno -?\d+\] |: '.*'$|; .*$")


def _open(
    address: str, options: dict[str, str], timeout: tuple[float, float] | None, *, form: str | None = None
) -> Any:
    """An open container that has video. `form` is FFmpeg's name of its format, where that cannot be told.

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
        container = av.open(address, format=form, options=options, timeout=timeout)
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

    def __init__(self, path: Path, *, loop: bool, packets: bool = False, stop: threading.Event) -> None:
        self._path = path
        self._loop = loop
        self._packets = packets
        self._stop = stop
        self._shift = self._ends_at = 0
        if not path.exists():
            raise SourceError(
                f"{path} is not there: give a file, a folder, a device, test:// or a URL", source=str(path)
            )
        self._container = _open(str(path), {}, None)

    def shots(self) -> Iterator[Shot | Packet]:
        """The file's pictures, or packets, when they are due. Times go on where the file begins anew.

        Raises:
            SourceError: the file is damaged from its beginning.
        """
        import av

        codec = _carried(self._container.streams.video[0], str(self._path)) if self._packets else None
        while True:
            stream = self._container.streams.video[0]
            interval_s = 1 / float(stream.average_rate or stream.guessed_rate or _DEFAULT_FPS)
            count = 0
            try:
                shots: Iterator[Shot | Packet] = (
                    self._pictures(stream, interval_s) if codec is None else self._coded(stream, codec, interval_s)
                )
                for shot in shots:
                    count += 1
                    yield shot
            except av.FFmpegError as error:
                # A damaged end is an end; a file that gives nothing at all is an error.
                if not count:
                    raise _translate(error, str(self._path), "cannot be read") from error
            if self._stop.is_set():
                return
            if not count:
                raise SourceError(f"{self._path} has no pictures", source=str(self._path))
            if self._stop.wait(interval_s) or not self._loop:
                return
            self._shift = self._ends_at - (stream.start_time or 0)
            # Opened anew, because not every file can be wound back.
            self._container.close()
            self._container = _open(str(self._path), {}, None)

    def _pictures(self, stream: Any, interval_s: float) -> Iterator[Shot]:
        pacer = Pacer(self._stop, max_gap_s=_MAX_GAP_S)
        for count, picture in enumerate(self._container.decode(stream)):
            # A bare stream, such as a .h264 file, has no times: then its rate has to do.
            if not pacer.wait(count * interval_s if picture.time is None else picture.time):
                return
            yield _shot(picture, time.monotonic_ns())

    def _coded(self, stream: Any, codec: Codec, interval_s: float) -> Iterator[Packet]:
        pacer = Pacer(self._stop, max_gap_s=_MAX_GAP_S)
        arrivals = Arrivals(stream.time_base)
        packets = Packets(stream, codec)
        for count, packet in enumerate(self._container.demux(stream)):
            at = packet.dts if packet.dts is not None else packet.pts
            at_s = count * interval_s if at is None or not stream.time_base else float(at * stream.time_base)
            if not packet.size:
                continue
            if not pacer.wait(at_s):
                return
            now_ns = time.monotonic_ns()
            arrivals.came(packet.pts, now_ns)
            if stream.time_base and packet.pts is not None:
                end = packet.pts + (packet.duration or int(interval_s / stream.time_base))
                self._ends_at = max(self._ends_at, self._shift + end)
            for coded in packets.of(packet, arrivals.captured_ns(packet.pts)):
                yield _shifted(coded, self._shift)

    def close(self) -> None:
        """Close the file."""
        self._container.close()


def _shifted(packet: Packet, shift: int) -> Packet:
    if not shift:
        return packet
    pts = None if packet.pts is None else packet.pts + shift
    dts = None if packet.dts is None else packet.dts + shift
    return replace(packet, pts=pts, dts=dts)


class UrlSource:
    """A live stream. `rtsp_transport` is "tcp" or "udp", for RTSP alone."""

    def __init__(self, address: str, *, rtsp_transport: str, packets: bool = False) -> None:
        self._address = address
        self._packets = packets
        # The rate is not needed, and finding it takes a second or two of what the camera sends.
        options = {"fpsprobesize": "0"}
        if address.lower().startswith(("rtsp://", "rtsps://")):
            options["rtsp_transport"] = rtsp_transport
        self._container = _open(address, options, (TIMES.open_s, TIMES.read_s))

    def shots(self) -> Iterator[Shot | Packet]:
        """Pictures, or packets, as they come; a picture's time is when its packet came, before decoding.

        Raises:
            SourceError: the stream broke, or gave nothing for 5 s.
        """
        import av

        stream = self._container.streams.video[0]
        codec = _carried(stream, self._address) if self._packets else None
        arrivals = Arrivals(stream.time_base)
        packets = Packets(stream, codec) if codec is not None else None
        try:
            for packet in self._container.demux(stream):
                arrivals.came(packet.pts, time.monotonic_ns())
                if packets is not None:
                    yield from packets.of(packet, arrivals.captured_ns(packet.pts))
                else:
                    for picture in _decoded(packet):
                        yield _shot(picture, arrivals.captured_ns(picture.pts))
        except (av.FFmpegError, OSError) as error:
            raise _translate(error, self._address, "broke off") from error

    def close(self) -> None:
        """Close the stream."""
        self._container.close()


class MjpegDeviceSource:
    """A camera at this machine that makes JPEGs itself, by FFmpeg's V4L2: they are not decoded."""

    def __init__(self, container: Any, path: str) -> None:
        self._container = container
        self._path = path

    @classmethod
    def open(cls, path: str, *, form: str = "v4l2") -> MjpegDeviceSource | None:
        """Open a device; None where it gives no JPEGs, or PyAV is not installed."""
        try:
            container = _open(path, {"input_format": "mjpeg"}, (TIMES.open_s, TIMES.read_s), form=form)
        except (SourceError, ConfigError) as error:
            logger.debug("%s is not read as Motion JPEG: %s", path, error)
            return None
        if codec_of(container.streams.video[0]) is not Codec.JPEG:
            container.close()
            return None
        return cls(container, path)

    def shots(self) -> Iterator[Packet]:
        """Packets as the device gives them.

        Raises:
            SourceError: it gave none; unplugged, most likely.
        """
        import av

        stream = self._container.streams.video[0]
        packets = Packets(stream, Codec.JPEG)
        try:
            for packet in self._container.demux(stream):
                yield from packets.of(packet, time.monotonic_ns())
        except (av.FFmpegError, OSError) as error:
            raise SourceError(f"device {self._path} gives no more pictures", source=self._path) from error
        raise SourceError(f"device {self._path} gives no more pictures", source=self._path)

    def close(self) -> None:
        """Give the device back."""
        self._container.close()


def _carried(stream: Any, address: str) -> Codec | None:
    """The codec of a stream that is to be passed on; None, and a line that says so, where it has to be decoded."""
    codec = codec_of(stream)
    if codec is None:
        logger.info(
            "%s sends %s, which is not carried as it is: it is decoded, and sent as JPEG",
            redact(address),
            stream.codec_context.name,
        )
    return codec


def _shot(picture: av.VideoFrame, captured_monotonic_ns: int) -> Shot:
    lock = threading.Lock()  # a picture has one converter, and a preview draws in another thread than the sender

    def draw() -> Image:
        with lock:
            try:
                return picture.to_ndarray(format="bgr24", threads=1)
            except (ValueError, OSError) as error:
                raise CodecError(f"picture of {picture.format.name} pixels: {error}", codec="jpeg") from error

    return Shot(draw, (picture.width, picture.height), captured_monotonic_ns)


def _decoded(packet: av.Packet[Any]) -> list[av.video.VideoFrame]:
    """The pictures that a packet completes; none where it is damaged."""
    import av

    try:
        return [picture for picture in packet.decode() if not picture.is_corrupt]
    except av.error.InvalidDataError:
        return []
