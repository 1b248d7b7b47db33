"""Encoding H.264 and H.265 with low delay by PyAV (extra `video`), in software or by a named hardware encoder."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

from camfabric.common.codecs.annexb import is_disposable, parameter_sets
from camfabric.common.codecs.image import pixel_format_of
from camfabric.common.errors import CodecError, ConfigError
from camfabric.common.frame import Codec, Frame, PixelFormat
from camfabric.common.settings import DEFAULT_GOP

if TYPE_CHECKING:
    from camfabric.common.frame import Image

__all__ = ["VideoEncoder", "VideoSettings", "check_encoder", "encoders_there"]

_CLOCK_HZ: Final = 90_000
_NOMINAL_FPS: Final = 30
_BITS_A_PIXEL: Final = 0.1
_MIN_BIT_RATE: Final = 200_000
_SOFTWARE: Final = {Codec.H264: "libx264", Codec.H265: "libx265"}
_HARDWARE: Final = {
    Codec.H264: ("h264_nvenc", "h264_vaapi", "h264_v4l2m2m", "h264_videotoolbox", "h264_qsv", "h264_amf"),
    Codec.H265: ("hevc_nvenc", "hevc_vaapi", "hevc_v4l2m2m", "hevc_videotoolbox", "hevc_qsv", "hevc_amf"),
}
_OPTIONS: Final[dict[str, dict[str, str]]] = {
    "libx264": {"preset": "superfast", "tune": "zerolatency", "forced-idr": "1"},
    "libx265": {
        "preset": "ultrafast",
        "tune": "zerolatency",
        "forced-idr": "1",
        "x265-params": "log-level=error:open-gop=0",
    },
    "nvenc": {"preset": "p1", "tune": "ull", "delay": "0", "zerolatency": "1", "forced-idr": "1"},
    "qsv": {"preset": "veryfast", "async_depth": "1", "low_delay_brc": "1", "forced_idr": "1"},
    "amf": {"usage": "ultralowlatency", "forced_idr": "1"},
    "videotoolbox": {"realtime": "1", "prio_speed": "1"},
}
"""What makes each encoder give a packet for each picture at once, and a keyframe, an IDR, where one is asked for."""
_PIXELS: Final = {"v4l2m2m": "nv12", "qsv": "nv12", "videotoolbox": "nv12", "amf": "nv12"}
_PROBE_PX: Final = (320, 240)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSettings:
    """How a stream is encoded."""

    codec: Codec
    encoder: str = ""
    """Name of an encoder of FFmpeg; x264 or x265 if it is empty."""
    bit_rate: int | None = None
    """Bits a second; by default 0.1 for each pixel at 30 pictures a second."""
    gop: int = DEFAULT_GOP
    """Pictures from one keyframe to the next."""

    @property
    def name(self) -> str:
        """The encoder's name."""
        return self.encoder or _SOFTWARE[self.codec]


def _import_av(codec: Codec) -> Any:
    try:
        import av
    except ImportError as error:
        raise ConfigError(
            f"codec {codec.label} needs the extra 'video': pip install 'camfabric[video]'", setting="codec"
        ) from error
    return av


def encoders_there(codec: Codec) -> list[str]:
    """The encoders of a codec that work on this machine: each is tried."""
    _import_av(codec)
    names = (_SOFTWARE[codec], *_HARDWARE[codec])
    return [name for name in names if _fault(VideoSettings(codec=codec, encoder=name)) is None]


def check_encoder(settings: VideoSettings) -> None:
    """See that the encoder works here.

    Raises:
        ConfigError: it is not there or cannot be opened, and lists those that are; or PyAV is not installed.
    """
    _import_av(settings.codec)
    if (fault := _fault(settings)) is not None:
        there = ", ".join(encoders_there(settings.codec)) or "none"
        raise ConfigError(
            f"encoder {settings.name!r} {fault}; for {settings.codec.label} there are: {there}",
            setting="encoder",
            value=settings.encoder,
        )


def _fault(settings: VideoSettings) -> str | None:
    """Why an encoder cannot be used, or None."""
    av = _import_av(settings.codec)
    known = (_SOFTWARE[settings.codec], *_HARDWARE[settings.codec])
    if settings.name not in av.codecs_available or not settings.name.isascii():
        return "is not in this FFmpeg"
    if settings.name not in known and _codec_of(settings.name) != settings.codec:
        return f"does not make {settings.codec.label}"
    av.logging.set_level(av.logging.PANIC)
    try:
        context = _open(settings, *_PROBE_PX)
        picture = av.VideoFrame(*_PROBE_PX, format=context.pix_fmt)
        picture.pts = 0
        context.encode(picture)
        context.encode(None)
    except (av.FFmpegError, OSError, ValueError) as error:
        return f"does not work on this machine ({error.strerror if isinstance(error, OSError) else error})"
    return None


def _codec_of(name: str) -> Codec | None:
    import av

    try:
        described = av.codec.Codec(name, "w").canonical_name
    except ValueError:
        return None
    return {"h264": Codec.H264, "hevc": Codec.H265}.get(described)


def _family(name: str) -> str:
    return name if name in _OPTIONS else name.rpartition("_")[2]


def _open(settings: VideoSettings, width: int, height: int) -> Any:
    import av

    context: Any = av.CodecContext.create(settings.name, "w")
    context.width, context.height = width, height
    context.pix_fmt = _PIXELS.get(_family(settings.name), "yuv420p")
    context.time_base = Fraction(1, _CLOCK_HZ)
    context.framerate = Fraction(_NOMINAL_FPS)
    context.gop_size = settings.gop
    context.max_b_frames = 0
    bit_rate = settings.bit_rate or max(int(width * height * _NOMINAL_FPS * _BITS_A_PIXEL), _MIN_BIT_RATE)
    context.bit_rate = bit_rate
    # The buffer is half a second: a keyframe of more than that would be late on a link of just this rate.
    context.options = {"maxrate": str(bit_rate), "bufsize": str(bit_rate // 2)} | _OPTIONS.get(
        _family(settings.name), {}
    )
    context.open()
    return context


class VideoEncoder:
    """Encodes the pictures of one stream. Used by one thread. Begins anew, with a keyframe, when their size changes."""

    def __init__(self, settings: VideoSettings) -> None:
        self._settings = settings
        self._context: Any = None
        self._shape = (0, 0)
        self._pending: dict[int, Frame] = {}
        self._last_pts = -1

    def check(self, image: Any) -> PixelFormat:
        """The picture's format.

        Raises:
            CodecError: it cannot be sent with this codec.
        """
        return check(image, self._settings.codec)

    def encode(self, frame: Frame, image: Image, *, keyframe: bool) -> list[Frame]:
        """The packets that a picture completes, mostly one: `frame` with payload and times. An odd last row or column
        of pixels is cut off: these codecs have pictures of even sizes.

        Raises:
            CodecError: the encoder fails.
        """
        import av

        codec = self._settings.codec
        height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
        try:
            if self._context is None or self._shape != (width, height):
                self._context = _open(self._settings, width, height)
                self._shape = (width, height)
                self._pending.clear()
            import numpy as np

            pixels = np.ascontiguousarray(image[:height, :width])
            source = av.VideoFrame.from_ndarray(pixels, format="gray" if image.ndim == 2 else "bgr24")
            picture = source.reformat(format=self._context.pix_fmt, threads=1)
            picture.pts = max(frame.captured_monotonic_ns * _CLOCK_HZ // 10**9, self._last_pts + 1)
            picture.time_base = Fraction(1, _CLOCK_HZ)
            self._last_pts = picture.pts
            if keyframe:
                picture.pict_type = av.video.frame.PictureType.I
            self._pending[picture.pts] = frame.replace(
                codec=codec, pixel_format=PixelFormat.NONE, width=width, height=height, decoded=None
            )
            return [self._packed(packet) for packet in self._context.encode(picture)]
        except (av.FFmpegError, OSError, ValueError, KeyError) as error:
            self._context = None
            raise CodecError(f"{codec.label} of shape {image.shape}: {error}", codec=codec.label) from error

    def _packed(self, packet: Any) -> Frame:
        assert self._context is not None  # noqa: S101  (the caller has looked)
        frame = self._pending.pop(packet.pts)
        payload = bytes(packet)
        if packet.is_keyframe and not parameter_sets(frame.codec, payload):
            payload = bytes(self._context.extradata or b"") + payload
        return frame.replace(
            keyframe=packet.is_keyframe,
            disposable=not packet.is_keyframe and is_disposable(frame.codec, payload),
            pts=packet.pts,
            dts=packet.dts,
            time_base=(1, _CLOCK_HZ),
            payload=payload,
        )


def check(image: Any, codec: Codec) -> PixelFormat:
    """The format of a picture that is to be encoded.

    Raises:
        CodecError: it cannot be sent with this codec.
    """
    pixel_format = pixel_format_of(image, codec=codec.label)
    if pixel_format is PixelFormat.GRAY16:
        raise CodecError(
            f"got shape {image.shape}, dtype {image.dtype}: {codec.label} has 8 bits a channel;"
            " use codec='raw' for uint16",
            codec=codec.label,
        )
    if min(image.shape[:2]) < 16:
        raise CodecError(f"got shape {image.shape}: {codec.label} has at least 16 px a side", codec=codec.label)
    return pixel_format
