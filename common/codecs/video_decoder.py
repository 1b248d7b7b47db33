"""Decoding H.264 and H.265 by PyAV (extra `video`): packets in, pictures out, and nothing shown that is broken."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

from camfabric.common.codecs.annexb import is_instantaneous
from camfabric.common.codecs.frame_numbers import FrameNumbers
from camfabric.common.errors import CodecError
from camfabric.common.frame import Codec, Frame
from camfabric.common.settings import LIMITS

if TYPE_CHECKING:
    import av

__all__ = ["FFMPEG_NAMES", "Decoded", "VideoDecoder"]

logger = logging.getLogger(__name__)

FFMPEG_NAMES: Final = {Codec.H264: "h264", Codec.H265: "hevc"}
_THREADS: Final = min(os.cpu_count() or 1, 4)
_ALIGNMENT_PX: Final = 64
"""The largest coding block: a coded picture is at most so much larger than the one that is shown."""
_MAX_CODED_PX: Final = LIMITS.pixels * 17 // 16
"""Of a very long and thin picture the alignment would be most."""
_BAD_GROUPS: Final = 3
"""Keyframe groups in a row with an error, after which a stream's faults are taken for its maker's."""
_REMEMBERED: Final = 64
"""Packets whose metadata are kept until their picture comes; a decoder holds at most 16 pictures back."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture as the decoder gave it. Only what is shown is turned into an array."""

    frame: Frame
    """That of its packet."""
    picture: av.VideoFrame

    def converted(self) -> Frame:
        """The frame with its picture: (H, W, 3) uint8 BGR, or (H, W) uint8 of a grey H.265 stream.

        Raises:
            CodecError: its pixels are of a kind that cannot be converted.
        """
        grey = self.picture.format.name.startswith("gray")
        try:
            # One thread: with more, the conversion takes longer (PyAV issue 2200) and more of the machine.
            image = self.picture.to_ndarray(format="gray" if grey else "bgr24", threads=1)
        except (ValueError, OSError) as error:
            raise CodecError(f"{self.frame.camera}: {error}", codec=self.frame.codec.label) from error
        return self.frame.replace(decoded=image)


def _require_pyav(camera: str, codec: Codec) -> Any:
    """PyAV.

    Raises:
        CodecError: it is not installed; names the extra.
    """
    try:
        import av
    except ImportError as error:
        raise CodecError(
            f"{camera} sends {codec.label}, which needs the extra 'video': pip install 'camfabric[video]'",
            codec=codec.label,
        ) from error
    return av


class VideoDecoder:
    """Decodes the packets of one stream, in their order. Used by one thread at a time.

    It begins at a keyframe, and again at the next one after a loss, an error, or a change of codec or size. It is
    strict at first: a packet with any fault ends its group. Some cameras break the rules in every group, and are
    shown all the same once that is clear; a picture that the decoder itself calls damaged never is.

    FFmpeg says nothing of a reference picture that is missing, so H.264's own numbers are watched. That goes on where
    faults are passed over, and from the first picture on: `FrameNumbers` has a rule of its own for makers' faults.
    """

    def __init__(self) -> None:
        self._context: av.VideoCodecContext | None = None
        self._shape: tuple[Codec, int, int] | None = None
        self._last: tuple[int, int] | None = None
        self._begun_at: int | None = None
        self._numbers = FrameNumbers()
        self._frames: dict[int, Frame] = {}
        self._index = 0
        self._strict = True
        self._settled = True
        self._bad_groups = 0
        self._group_is_bad = False

    @property
    def waiting(self) -> bool:
        """Whether it can go on at a keyframe only."""
        return self._context is None

    def skip(self, frame: Frame) -> None:
        """Leave out a packet that no other needs."""
        if self._follows(frame):
            self._last = (frame.epoch, frame.seq)

    def feed(self, frame: Frame) -> list[Decoded]:
        """The pictures that a packet completes, in the order in which they are shown; often none or one.

        Raises:
            CodecError: the packet is damaged, a picture before it is missing that the packets' numbers do not tell of,
                or PyAV is not installed. Goes on at the next keyframe.
        """
        follows = self._follows(frame)
        self._last = (frame.epoch, frame.seq)
        missing = frame.codec is Codec.H264 and self._numbers.is_missing(
            bytes(frame.payload), keyframe=frame.keyframe, follows=follows
        )
        flushed: list[Decoded] = []
        if frame.keyframe:
            self._judge_group()
            if self._context is None or not follows:
                self._begin(frame)
            elif missing or self._shape != (frame.codec, frame.width, frame.height):
                flushed = self._flushed()
                self._begin(frame)
            else:
                self._begun_at = None
        elif self._context is None or not follows:
            self._end()
            return []
        elif missing:
            raise self._ended(frame, "a picture before it is missing")
        elif self._begun_at is not None and frame.pts is not None and frame.pts < self._begun_at:
            return []  # a leading picture: it needs what came before the keyframe
        return flushed + self._decode(frame)

    def _follows(self, frame: Frame) -> bool:
        return self._last is not None and self._last == (frame.epoch, frame.seq - 1)

    def _judge_group(self) -> None:
        if self._group_is_bad:
            self._bad_groups += 1
        else:
            self._bad_groups = 0
        self._group_is_bad = False

    def _begin(self, frame: Frame) -> None:
        av = _require_pyav(frame.camera, frame.codec)
        self._end()
        if self._strict and self._bad_groups >= _BAD_GROUPS:
            self._strict = False
            logger.info(
                "%s breaks the rules of %s in every group: errors are passed over", frame.camera, frame.codec.label
            )
        context = av.CodecContext.create(FFMPEG_NAMES[frame.codec], "r")
        # What the header states is the most that is allocated, whatever the stream states.
        pixels = min((frame.width + _ALIGNMENT_PX) * (frame.height + _ALIGNMENT_PX), _MAX_CODED_PX)
        # Behind a keyframe that is no IDR, references to what came before it are listed, but not used: no fault.
        self._settled = not self._strict or is_instantaneous(frame.codec, bytes(frame.payload))
        strict = self._strict and self._settled
        context.options = {"max_pixels": str(pixels)} | ({"err_detect": "explode"} if strict else {})
        # Not frame threads: they hold a picture back for each thread, and hang where a decoder is dropped unflushed.
        context.thread_type = "SLICE"
        # Nor slice threads with H.264: FFmpeg reports no error then.
        context.thread_count = 1 if frame.codec is Codec.H264 else _THREADS
        self._context = context
        self._shape = (frame.codec, frame.width, frame.height)
        self._begun_at = frame.pts

    def _end(self) -> None:
        """Give the decoder back, and what is in it."""
        if self._context is not None:
            if self._context.is_open:
                self._context.flush_buffers()
            self._context = None
        self._frames.clear()

    def _flushed(self) -> list[Decoded]:
        try:
            return self._pictures(None)
        except (CodecError, OSError, ValueError):
            return []

    def _decode(self, frame: Frame) -> list[Decoded]:
        av = _require_pyav(frame.camera, frame.codec)
        if not frame.payload:  # which would be the stream's end to FFmpeg
            raise self._damaged(frame, "packet is empty")
        packet = av.Packet(frame.payload)
        packet.pts = self._index
        packet.time_base = Fraction(1, 1)
        self._frames[self._index] = frame
        self._index += 1
        if len(self._frames) > _REMEMBERED:
            del self._frames[next(iter(self._frames))]
        try:
            return self._pictures(packet)
        except (av.FFmpegError, OSError, ValueError, CodecError) as error:
            raise self._damaged(frame, str(error) if isinstance(error, CodecError) else "packet is damaged") from error

    def _damaged(self, frame: Frame, why: str) -> CodecError:
        """End the group, and hold it against the stream. Returns the error that says why."""
        self._group_is_bad = True
        return self._ended(frame, why)

    def _ended(self, frame: Frame, why: str) -> CodecError:
        """End the group. Returns the error that says why."""
        self._end()
        return CodecError(f"{frame.codec.label} {frame.seq} of {frame.camera}: {why}", codec=frame.codec.label)

    def _pictures(self, packet: Any) -> list[Decoded]:
        assert self._context is not None and self._shape is not None  # noqa: S101, PT018  (both callers have looked)
        codec, width, height = self._shape
        decoded = []
        for picture in self._context.decode(packet):
            frame = None if picture.pts is None else self._frames.pop(picture.pts, None)
            if picture.is_corrupt or frame is None:
                if self._strict and self._settled:
                    raise CodecError("picture is damaged", codec=codec.label)
                continue
            if (picture.width, picture.height) != (width, height):
                raise CodecError(
                    f"picture of {picture.width} x {picture.height} px where {width} x {height} is stated",
                    codec=codec.label,
                )
            self._settled = True
            decoded.append(Decoded(frame, picture))
        return decoded
