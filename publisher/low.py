"""The small picture, `low/`: what it is like, and how it is made of a camera's packets while somebody watches it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from camfabric.common.codecs import Encoding, make_encoder
from camfabric.common.decoding import Decoding
from camfabric.common.errors import CodecError, ConfigError
from camfabric.common.frame import Codec, Frame
from camfabric.common.mailbox import Closed, Mailbox
from camfabric.common.settings import LIMITS
from camfabric.publisher.stream import Captured

if TYPE_CHECKING:
    from camfabric.common.frame import Image, PixelFormat

__all__ = ["Low", "LowEncoder", "Reducer", "resized", "shrunk"]

_MAX_FPS: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Low:
    """What the small picture of a camera is like.

    Raises:
        ConfigError: a value is out of range.
    """

    size: tuple[int, int] = (320, 180)
    """(width, height) in px that it fits into; its shape is that of the camera's picture."""
    fps: float = 5.0
    """Pictures a second at most."""
    own_source: bool = False
    """It is not made of the camera's picture: `send` and `send_packet` are called for it, with `channel="low"`."""

    def __post_init__(self) -> None:
        least, most = LIMITS.min_side_px, LIMITS.max_side_px
        if not all(type(side) is int and least <= side <= most for side in self.size):
            raise ConfigError(f"low size {self.size}: each side is {least} to {most} px", setting="low")
        if not 0 < self.fps <= _MAX_FPS:
            raise ConfigError(f"low {self.fps:g} pictures a second: it is a number up to {_MAX_FPS}", setting="low")


def shrunk(image: Image, box: tuple[int, int]) -> Image:
    """The picture scaled down to fit into `box` (width, height), in its own shape; never larger than it was."""
    height, width = image.shape[:2]
    scale = min(box[0] / width, box[1] / height, 1.0)
    return resized(image, (max(round(width * scale), 1), max(round(height * scale), 1)))


def resized(image: Image, size: tuple[int, int]) -> Image:
    """The picture scaled to `size` (width, height)."""
    if size == (image.shape[1], image.shape[0]):
        return image
    import cv2

    shrinks = size[0] < image.shape[1]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


class LowEncoder:
    """JPEG, and raw for uint16 pictures, which JPEG cannot carry."""

    def __init__(self, quality: int) -> None:
        self._jpeg = make_encoder(Encoding(quality=quality))
        self._raw = make_encoder(Encoding(codec=Codec.RAW))

    def check(self, image: Image, /) -> PixelFormat:
        """The picture's format.

        Raises:
            CodecError: it is no picture.
        """
        return self._raw.check(image)

    def encode(self, frame: Frame, image: Image, /, *, keyframe: bool) -> list[Frame]:
        """The coded picture.

        Raises:
            CodecError: it cannot be encoded.
        """
        encoder = self._jpeg if image.dtype.itemsize == 1 else self._raw
        return encoder.encode(frame, image, keyframe=keyframe)


class Reducer(threading.Thread):
    """Decodes a camera's packets, a few times a second, for the small picture. Lives while that is watched."""

    def __init__(
        self,
        camera: str,
        *,
        fps: float,
        offer: Callable[[Captured], None],
        complain: Callable[[str, CodecError], None],
    ) -> None:
        super().__init__(name=f"publish {camera} low", daemon=True)
        self._interval_s = 1 / fps
        self._offer = offer
        self._mailbox = Mailbox()
        self._decoding = Decoding(self._mailbox, complain)
        self._stopped = threading.Event()

    def put(self, frame: Frame) -> None:
        """Take a packet of the main stream. Never waits."""
        self._mailbox.put(frame)

    def stop(self) -> None:
        """End soon; does not wait for it."""
        self._stopped.set()
        self._mailbox.close()

    def run(self) -> None:
        """The thread's loop: the newest picture, then a pause; what comes meanwhile is decoded in one go."""
        while not self._stopped.is_set():
            try:
                picture = self._decoding.picture(self._decoding.take(None))
            except Closed:
                return
            if picture is not None:
                self._offer(_captured(picture))
                self._stopped.wait(self._interval_s)


def _captured(picture: Frame) -> Captured:
    image = picture.image
    frame = picture.replace(channel="low", seq=0, decoded=None, payload=None, keyframe=True, disposable=False,
        pts=None, dts=None, time_base=None, missed=0, dropped=0,
    )  # fmt: skip
    return Captured(frame, lambda: image)
