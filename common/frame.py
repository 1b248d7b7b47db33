"""`Frame`: the one type that travels from a source to a consumer, and the enumerations of its metadata."""

from __future__ import annotations

import enum
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from camfabric.common.errors import CodecError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image: TypeAlias = NDArray[Any]
    """(H, W, 3) uint8 BGR, or (H, W) uint8 or uint16."""

__all__ = ["Codec", "Frame", "PixelFormat"]


_FIELDS_FACTOR: Final = 80
"""A map of one byte takes 64 in memory, and 8 where it stands in a list."""


class Codec(enum.IntEnum):
    """How a payload is coded. The numbers are those of the wire."""

    RAW = 0
    JPEG = 1
    H264 = 2
    """ITU-T H.264, Annex B."""
    H265 = 3
    """ITU-T H.265, Annex B."""

    @property
    def is_intra(self) -> bool:
        """Whether each frame can be decoded by itself; of the others, frames need those since the last keyframe."""
        return self in _INTRA

    @property
    def label(self) -> str:
        """Its name as it is shown and given: "raw", "jpeg", "h264", "h265"."""
        return self.name.lower()


_INTRA: Final = (Codec.RAW, Codec.JPEG)


class PixelFormat(enum.IntEnum):
    """How the pixels of a raw payload lie in memory, row by row without padding. The numbers are those of the wire."""

    NONE = 0
    """The payload is coded and says so itself."""
    GRAY8 = 1
    """(H, W) uint8."""
    GRAY16 = 2
    """(H, W) uint16, little-endian."""
    BGR24 = 3
    """(H, W, 3) uint8, blue first, as OpenCV has it."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One picture of one camera with what is known of it.

    A publisher makes it when it captures; encoding, sending, receiving and decoding use `replace` for what they change.
    All `_ns` fields are nanoseconds.
    """

    camera: str
    """The camera's name, such as `cctv/lobby`."""
    channel: str = "cam"
    """"cam" or "low"; "shm" where the picture lies in this host's memory, "shm/" before it is taken from there."""
    codec: Codec = Codec.RAW
    pixel_format: PixelFormat = PixelFormat.NONE
    width: int = 0
    """px"""
    height: int = 0
    """px"""
    keyframe: bool = True
    """It can be decoded by itself. Always true of raw and JPEG."""
    disposable: bool = False
    """No other frame needs it to be decoded."""
    epoch: int = 0
    """Random 64-bit number, new at each start of the publisher."""
    seq: int = 0
    """Number of the frame within the epoch and channel, from 0, one for each frame sent."""
    captured_ns: int = 0
    """When the picture was captured: Unix time, the publisher's wall clock."""
    captured_monotonic_ns: int = 0
    """The same moment on the publisher's monotonic clock, which no clock step moves."""
    encoded_ns: int = 0
    """When encoding ended: Unix time, the publisher's wall clock."""
    pts: int | None = None
    """Presentation time in units of `time_base`; None for none."""
    dts: int | None = None
    """Decode time in units of `time_base`; None for none."""
    time_base: tuple[int, int] | None = None
    """(numerator, denominator) in seconds; None for none."""
    hops: int = 0
    """How many brokers it came through."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """The user's own fields: names and whatever msgpack carries."""
    extra_bytes: int = field(default=0, compare=False)
    """Size of those fields as they came; 0 before they are sent."""
    payload: Any = None
    """The coded picture, bytes-like; None before it is encoded."""
    decoded: Image | None = None
    """The picture as an array, where there is one: use `image`."""

    received_ns: int = 0
    """When it arrived here: Unix time, this machine's wall clock."""
    clock_offset_ns: int = 0
    """This machine's monotonic clock minus the publisher's."""
    missed: int = 0
    """Frames lost on the way since the frame before it that this consumer got of this camera, by sequence number."""
    dropped: int = 0
    """Frames skipped since then because this consumer was slow, those that were decoded but not shown among them."""

    def replace(self, **changes: Any) -> Frame:
        """A copy with some fields changed, as `dataclasses.replace` makes it, in a tenth of the time.

        Raises:
            TypeError: there is no such field.
        """
        if not changes.keys() <= _FIELDS:
            raise TypeError(f"a frame has no {', '.join(sorted(changes.keys() - _FIELDS))}")
        copied = object.__new__(type(self))
        object.__setattr__(copied, "__dict__", self.__dict__ | changes)
        return copied

    @property
    def image(self) -> Image:
        """The picture: (H, W, 3) uint8 BGR, or (H, W) uint8 or uint16. Treat it as read-only; copy it to draw on it.

        Where it lies in shared memory it stays as it is for as long as it, or a view of it, is held; a process that is
        forked copies it first.

        Raises:
            CodecError: it was not decoded (a subscriber with `decode=False`).
        """
        if self.decoded is None:
            raise CodecError(
                f"frame {self.seq} of {self.camera} is not decoded: use decode=True, or camfabric.common.codecs.decode",
                codec=self.codec.label,
            )
        return self.decoded

    @property
    def held_bytes(self) -> int:
        """About how much memory it takes while it waits: the payload, and what came of the user's fields."""
        return len(self.payload) + _FIELDS_FACTOR * self.extra_bytes

    @property
    def age_ms(self) -> float:
        """How old the picture is at this moment, in ms.

        Counted from the capture on monotonic clocks, with the difference between the two machines' clocks as it was
        measured over the `clock/` channel, or taken from their wall clocks before there was an answer.
        """
        return max(time.monotonic_ns() - self.captured_monotonic_ns - self.clock_offset_ns, 0) / 1e6


_FIELDS: Final = frozenset(each.name for each in fields(Frame))
