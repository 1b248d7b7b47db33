"""The forms of a camera's stream on standard output: as it comes, with its times in a container, or as pixels."""

from __future__ import annotations

import contextlib
import fcntl
import sys
import time
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

from camfabric.cli.output import write_bytes
from camfabric.common.errors import CodecError, ConfigError, FabricError
from camfabric.common.frame import Codec, Frame, PixelFormat

if TYPE_CHECKING:
    from camfabric.common.mailbox import Mode

__all__ = ["Form", "Sink", "make_sink", "require_nut"]

Form: TypeAlias = Literal["nut", "encoded", "raw"]

_FFMPEG_NAMES: Final = {Codec.H264: "h264", Codec.H265: "hevc", Codec.JPEG: "mjpeg"}
"""Of the codec, and of its bare stream."""
_FFMPEG_PIXELS: Final = {PixelFormat.BGR24: "bgr24", PixelFormat.GRAY8: "gray", PixelFormat.GRAY16: "gray16le"}
_TIME_BASE: Final = Fraction(1, 90_000)
_LATE_MS: Final = 300.0
"""A first frame that is older is the beginning of a group ..."""
_HASTE: Final = 10
"""... whose frames are shown so many times faster."""
_RATES: Final = (1, 2, 5, 10, 12, 15, 20, 24, 25, 30, 50, 60, 120)
"""What a camera is set to, where about so much was measured."""
_PAGE_BYTES: Final = 4096
_MAX_PIPE_BYTES: Final = 1 << 20
"""What a pipe may hold without privileges."""


class Sink(Protocol):
    """Writes frames in one form."""

    wants_fps: bool
    """Whether a reader has to be told the rate."""

    def begin(self, frame: Frame, fps: float) -> str:
        """Take in the first frame. Returns how FFmpeg opens what follows."""

    def write(self, frame: Frame) -> None:
        """Write a frame. Blocks while the reader does not read."""


class _Output:
    """Standard output as a file that PyAV writes to."""

    def write(self, data: Any) -> int:
        return write_bytes(data)


def _hold(frame_bytes: int) -> None:
    """Let a pipe hold about one frame: more would be old, and through less a large one goes piece by piece."""
    size = min(max(frame_bytes, _PAGE_BYTES), _MAX_PIPE_BYTES)
    with contextlib.suppress(OSError):  # it is no pipe, or holds more already
        fcntl.fcntl(sys.stdout.fileno(), fcntl.F_SETPIPE_SZ, size)


def _rate(fps: float) -> str:
    """FFmpeg's option for a measured rate, or nothing where it is not known."""
    if fps <= 0:
        return ""
    nearest = min(_RATES, key=lambda rate: abs(rate - fps))
    return f" -framerate {nearest if abs(nearest - fps) < fps / 10 else round(fps, 1):g}"


class _Encoded:
    """The payloads, one behind the other: H.264 and H.265 in Annex B, JPEGs, or pixels of a raw camera."""

    wants_fps = True

    def __init__(self) -> None:
        self._shape: object = None

    def begin(self, frame: Frame, fps: float) -> str:
        self._shape = _shape(frame)
        if frame.codec.is_intra:
            _hold(len(frame.payload))
        if frame.codec is Codec.RAW:
            return f"{_pixels(frame)}{_rate(fps)}"
        return f"-f {_FFMPEG_NAMES[frame.codec]}{_rate(fps)}"

    def write(self, frame: Frame) -> None:
        if frame.codec is Codec.RAW and _shape(frame) != self._shape:
            raise _changed(frame, self._shape)
        write_bytes(frame.payload)


class _Raw:
    """Decoded pictures, row by row: (H, W, 3) uint8 BGR, or (H, W) uint8 or uint16."""

    wants_fps = True

    def __init__(self) -> None:
        self._shape: object = None

    def begin(self, frame: Frame, fps: float) -> str:
        _hold(frame.image.nbytes)
        self._shape = _shape(frame)
        return f"{_pixels(frame)}{_rate(fps)}"

    def write(self, frame: Frame) -> None:
        import numpy as np

        if _shape(frame) != self._shape:
            raise _changed(frame, self._shape)
        write_bytes(np.ascontiguousarray(frame.image).data)


def _pixel_format(frame: Frame) -> PixelFormat:
    if frame.decoded is None:
        return frame.pixel_format
    if frame.decoded.ndim == 3:
        return PixelFormat.BGR24
    return PixelFormat.GRAY8 if frame.decoded.dtype.itemsize == 1 else PixelFormat.GRAY16


def _shape(frame: Frame) -> tuple[str, int, int]:
    if frame.decoded is None:
        return _FFMPEG_PIXELS.get(frame.pixel_format, ""), frame.width, frame.height
    return _FFMPEG_PIXELS[_pixel_format(frame)], frame.decoded.shape[1], frame.decoded.shape[0]


def _pixels(frame: Frame) -> str:
    pixels, width, height = _shape(frame)
    return f"-f rawvideo -pixel_format {pixels} -video_size {width}x{height}"


def _changed(frame: Frame, before: Any) -> FabricError:
    (old, *was), (new, *now) = before, _shape(frame)
    return FabricError(
        f"{frame.camera} sends {now[0]}x{now[1]} {new} now, {was[0]}x{was[1]} {old} before:"
        " raw pictures of two sizes cannot be told apart; start anew"
    )


def _lead(frame: Frame) -> int:
    """By how many ticks it is decoded before it is shown, as with B-frames."""
    if frame.pts is None or frame.dts is None or frame.time_base is None:
        return 0
    return int(max(frame.pts - frame.dts, 0) * Fraction(*frame.time_base) / _TIME_BASE)


class _Clock:
    """When a frame is to be shown, from its capture on.

    Whoever begins in the middle of a group is given all since its keyframe. A player would show that at its own pace,
    and be late by as much for ever. So with `catches_up` it is given at ten times the pace until it is over.
    """

    def __init__(self, *, catches_up: bool) -> None:
        self._catches_up = catches_up
        self._first_ns: int | None = None
        self._begun_ns = 0

    def ticks(self, frame: Frame) -> int:
        """Its time since the first frame, in units of 1/90 000 s."""
        # On this machine's clock, which a new start of the publisher does not set back.
        captured_ns = frame.captured_monotonic_ns + frame.clock_offset_ns
        if self._first_ns is None:
            self._first_ns = self._begun_ns = captured_ns
            if self._catches_up and frame.age_ms > _LATE_MS:
                self._begun_ns = time.monotonic_ns()
        since_ns = max(captured_ns - self._begun_ns, (captured_ns - self._first_ns) // _HASTE)
        return max(since_ns, 0) * _TIME_BASE.denominator // 1_000_000_000


class _Nut:
    """The payloads with their times in FFmpeg's container NUT, which says itself what is in it."""

    wants_fps = False

    def __init__(self, mode: Mode) -> None:
        self._clock = _Clock(catches_up=mode == "latest")
        self._container: Any = None
        self._stream: Any = None
        self._last_dts = -1

    def begin(self, frame: Frame, fps: float) -> str:
        if frame.codec is Codec.RAW:
            raise CodecError(f"{frame.camera} sends raw pixels: use --pipe raw", codec=frame.codec.label)
        import av

        # No end is ever written: it would be of use only where one can go back.
        self._container = av.open(_Output(), "w", format="nut", options={"flush_packets": "1"})
        self._stream = self._container.add_mux_stream(
            _FFMPEG_NAMES[frame.codec], width=frame.width, height=frame.height, time_base=_TIME_BASE
        )
        if frame.codec.is_intra:
            _hold(len(frame.payload))
        return ""

    def write(self, frame: Frame) -> None:
        import av

        packet = av.Packet(frame.payload)
        packet.stream = self._stream
        packet.time_base = _TIME_BASE
        pts = self._clock.ticks(frame)
        dts = max(pts - _lead(frame), self._last_dts + 1)
        packet.dts, packet.pts = dts, max(pts, dts)
        packet.is_keyframe = frame.keyframe
        self._last_dts = dts
        self._container.mux(packet)


def require_nut() -> None:
    """Load what writes NUT.

    Raises:
        ConfigError: PyAV is not there, or too old.
    """
    try:
        import av
    except ImportError:
        raise ConfigError(
            "--pipe nut needs the extra 'video': pip install 'camfabric[video]'", setting="pipe"
        ) from None
    if not hasattr(av.container.OutputContainer, "add_mux_stream"):
        raise ConfigError(f"--pipe nut needs PyAV 17 or newer, this is {av.__version__}", setting="pipe")


def make_sink(form: Form, mode: Mode) -> Sink:
    """What writes frames in a form to standard output; with "latest" a player is brought up to date quickly."""
    if form == "nut":
        return _Nut(mode)
    return _Raw() if form == "raw" else _Encoded()
