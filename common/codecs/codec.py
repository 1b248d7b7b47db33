"""What a codec is, and the one table of those that there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from camfabric.common.codecs import jpeg, raw
from camfabric.common.errors import CodecError, ConfigError
from camfabric.common.frame import Codec, Frame, PixelFormat

if TYPE_CHECKING:
    from camfabric.common.frame import Image

__all__ = ["Coder", "by_name", "decode", "encoder", "names", "prepare"]


class Coder(Protocol):
    """The functions that each codec's module has."""

    def check(self, image: Any, /) -> PixelFormat:
        """The picture's format; `CodecError` where this codec cannot carry it."""

    def encode(self, image: Image, /, *, quality: int) -> memoryview:
        """The coded picture. It may be a view of `image`."""

    def decode(self, frame: Frame, /) -> Image:
        """The picture of a frame; `CodecError` where it is damaged."""


_CODERS: Final[dict[Codec, Coder]] = {Codec.RAW: raw, Codec.JPEG: jpeg}


def names() -> list[str]:
    """The codecs' names."""
    return [codec.name.lower() for codec in _CODERS]


def by_name(name: str) -> Codec:
    """The codec of that name.

    Raises:
        ConfigError: there is none; lists those that there are.
    """
    for codec in _CODERS:
        if codec.name.lower() == name:
            return codec
    raise ConfigError(f"codec {name!r}: there are {', '.join(names())}", setting="codec", value=name)


def encoder(codec: Codec) -> Coder:
    """The functions of a codec."""
    return _CODERS[codec]


def prepare() -> None:
    """Load what decoding needs, so that the first picture does not wait for it."""
    import cv2  # noqa: F401


def decode(frame: Frame) -> Image:
    """The picture of a frame: (H, W, 3) uint8 BGR, or (H, W) uint8 or uint16.

    Raises:
        CodecError: it is damaged, or not what the frame states.
    """
    if frame.payload is None:
        raise CodecError(f"frame {frame.seq} of {frame.camera} has no payload", codec=frame.codec.name.lower())
    return _CODERS[frame.codec].decode(frame)
