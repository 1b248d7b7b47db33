"""What a codec is, and the one table of those that there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from camfabric.common.codecs import jpeg, raw
from camfabric.common.codecs.video_encoder import VideoEncoder, VideoSettings, check_encoder
from camfabric.common.errors import CodecError, ConfigError
from camfabric.common.frame import Codec, Frame, PixelFormat
from camfabric.common.settings import DEFAULT_GOP, DEFAULT_QUALITY

if TYPE_CHECKING:
    from camfabric.common.frame import Image

__all__ = ["Encoder", "Encoding", "Still", "by_name", "decode", "make_encoder", "names", "prepare"]


class Still(Protocol):
    """The functions that the module of each intra-coded codec has."""

    def check(self, image: Any, /) -> PixelFormat:
        """The picture's format; `CodecError` where this codec cannot carry it."""

    def encode(self, image: Image, /, *, quality: int) -> memoryview:
        """The coded picture. It may be a view of `image`."""

    def decode(self, frame: Frame, /) -> Image:
        """The picture of a frame; `CodecError` where it is damaged."""


class Encoder(Protocol):
    """Encodes one stream. Used by one thread, but for `check`."""

    def check(self, image: Any, /) -> PixelFormat:
        """The picture's format; `CodecError` where this codec cannot carry it."""

    def encode(self, frame: Frame, image: Image, /, *, keyframe: bool) -> list[Frame]:
        """The coded frames that a picture completes, with payload; `CodecError` where it cannot be encoded."""


_STILLS: Final[dict[Codec, Still]] = {Codec.RAW: raw, Codec.JPEG: jpeg}


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How a stream is encoded.

    Raises:
        ConfigError: a value is out of range.
    """

    codec: Codec = Codec.JPEG
    quality: int = DEFAULT_QUALITY
    """Of JPEG, 1 to 100."""
    bit_rate: int | None = None
    """Of H.264 and H.265, bits a second; by default by the picture's size."""
    gop: int = DEFAULT_GOP
    """Of H.264 and H.265: pictures from one keyframe to the next."""
    encoder: str = ""
    """Of H.264 and H.265: the name of an encoder of FFmpeg; x264 or x265 if empty."""

    def __post_init__(self) -> None:
        _check_range("quality", self.quality, 1, 100)
        _check_range("gop", self.gop, 1, 100_000)
        if self.bit_rate is not None:
            _check_range("bit rate", self.bit_rate, 10_000, 1_000_000_000)


def _check_range(setting: str, value: Any, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigError(
            f"{setting} {value!r}: it is a whole number from {least} to {most}", setting=setting, value=value
        )


class _StillEncoder:
    def __init__(self, codec: Codec, quality: int) -> None:
        self._codec = codec
        self._quality = quality
        self._still = _STILLS[codec]

    def check(self, image: Any, /) -> PixelFormat:
        return self._still.check(image)

    def encode(self, frame: Frame, image: Image, /, *, keyframe: bool) -> list[Frame]:
        pixel_format = self._still.check(image)
        return [
            frame.replace(
                codec=self._codec,
                pixel_format=pixel_format if self._codec is Codec.RAW else PixelFormat.NONE,
                width=image.shape[1],
                height=image.shape[0],
                payload=self._still.encode(image, quality=self._quality),
                decoded=None,
            )
        ]


def names() -> list[str]:
    """The codecs' names."""
    return [codec.label for codec in Codec]


def by_name(name: str) -> Codec:
    """The codec of that name.

    Raises:
        ConfigError: there is none; lists those that there are.
    """
    for codec in Codec:
        if codec.label == name:
            return codec
    raise ConfigError(f"codec {name!r}: there are {', '.join(names())}", setting="codec", value=name)


def make_encoder(encoding: Encoding) -> Encoder:
    """An encoder for one stream.

    Raises:
        ConfigError: it does not work on this machine; says which do.
    """
    if encoding.codec.is_intra:
        return _StillEncoder(encoding.codec, encoding.quality)
    settings = VideoSettings(
        codec=encoding.codec, encoder=encoding.encoder, bit_rate=encoding.bit_rate, gop=encoding.gop
    )
    check_encoder(settings)
    return VideoEncoder(settings)


def prepare(*, video: bool = True) -> None:
    """Load what decoding needs, so that the first picture does not wait for it."""
    import cv2  # noqa: F401
    import numpy as np  # noqa: F401

    if video:
        try:
            import av  # noqa: F401
        except ImportError:
            return  # whoever gets an H.264 frame is told


def decode(frame: Frame) -> Image:
    """The picture of an intra-coded frame: (H, W, 3) uint8 BGR, or (H, W) uint8 or uint16.

    Raises:
        CodecError: it is damaged, not what the frame states, or of a codec that needs a `VideoDecoder`.
    """
    if frame.payload is None:
        raise CodecError(f"frame {frame.seq} of {frame.camera} has no payload", codec=frame.codec.label)
    if not frame.codec.is_intra:
        raise CodecError(
            f"frame {frame.seq} of {frame.camera} is {frame.codec.label}: it is decoded in order, by a VideoDecoder",
            codec=frame.codec.label,
        )
    return _STILLS[frame.codec].decode(frame)
