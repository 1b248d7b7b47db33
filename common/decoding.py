"""Decoding: takes frames out of a mailbox and makes pictures of them, in the consumer's own thread."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from camfabric.common.codecs import Decoded, VideoDecoder, decode
from camfabric.common.errors import CodecError, WireError
from camfabric.common.frame import Frame
from camfabric.common.mailbox import Mailbox
from camfabric.common.settings import TIMES
from camfabric.common.shared_pictures import SharedPictures
from camfabric.common.topics import SHM

__all__ = ["Decoding"]

_SHARED: Final = f"{SHM}/"
_GOING_OVER_NS: Final = 1_000_000_000
"""What still comes of the way that a camera has left comes within that time."""


class _Track:
    """One inter-coded camera's decoder, and what its next picture owes. Used by whoever has leased the camera."""

    def __init__(self) -> None:
        self.decoder = VideoDecoder()
        self.missed = 0
        self.dropped = 0
        self._epoch: int | None = None
        self._last = -1
        self._again = -1

    def take_over(self, packet: Frame) -> None:
        """Owe what the packet counts."""
        self.missed += packet.missed
        self.dropped += packet.dropped
        if packet.epoch != self._epoch:
            self._epoch, self._last, self._again = packet.epoch, -1, -1
        if packet.keyframe and packet.seq <= self._last:
            self._again = self._last  # a replay: what was shown is decoded again, and not shown again
        self._last = max(self._last, packet.seq)

    def is_new(self, decoded: Decoded) -> bool:
        """Whether a picture's packet was decoded for the first time."""
        return decoded.frame.epoch != self._epoch or decoded.frame.seq > self._again


class Decoding:
    """Pictures out of a mailbox. Safe for any number of threads.

    Of an inter-coded stream, packets go through the decoder in order. With `mode="latest"` those that have piled up are
    decoded in one go and the last picture is taken; the others are never converted, and those that no other needs never
    decoded. What takes too long is done in pieces, so that a late joiner sees the stream catch up.

    `complain` is called with a camera and an error for each frame that cannot be decoded. With `shared`, a camera may
    go from its main stream to shared memory and back: no picture is shown twice then, and none that is older. Where
    capture times do not rise, nothing can be told by them, and what comes is shown after a second.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        complain: Callable[[str, CodecError], None],
        shared: SharedPictures | None = None,
    ) -> None:
        self._mailbox = mailbox
        self._complain = complain
        self._shared = shared
        self._last: dict[str, tuple[int | None, str, int]] = {}
        """Of each camera's last picture: epoch, channel and when it was captured."""
        self._passed_over: dict[str, int] = {}
        """When the first picture came, after a camera's last one, that was not shown for being no newer."""
        self._owed: dict[str, tuple[int, int]] = {}
        self._tracks: dict[str, _Track] = {}
        self._ready: deque[Frame] = deque()
        self._returned_at = 0.0
        self.dropped: dict[str, int] = {}
        """Pictures of each camera that were not shown because the consumer was slow, although decoded or decodable."""

    def take(self, timeout: float | None) -> Frame:
        """The next frame out of the mailbox, to be given to `picture`.

        Raises:
            TimeoutError: none came within `timeout` seconds.
            Closed: the mailbox is closed and empty.
        """
        if self._ready:
            try:
                return self._ready.popleft()
            except IndexError:  # another thread was quicker
                pass
        return self._mailbox.get(timeout, lease=True)

    def picture(self, frame: Frame) -> Frame | None:
        """A taken frame with its picture, or a newer one of its camera; None where there is none to show now."""
        if self._shared is None:
            return self._picture(frame)
        picture = self._from_memory(frame) if frame.channel.startswith(_SHARED) else self._picture(frame)
        return None if picture is None else self._going_on(picture)

    def _from_memory(self, news: Frame) -> Frame | None:
        """The newest picture of a camera that has one in shared memory, with what is owed to it."""
        camera = news.camera
        missed, dropped = self._owed.pop(camera, (0, 0))
        missed, dropped = missed + news.missed, dropped + news.dropped
        picture = None
        if self._shared is not None:
            try:
                picture = self._shared.picture(camera, missed=missed, dropped=dropped)
            except WireError as error:
                self._complain(camera, CodecError(str(error), codec="raw"))
        if picture is None:
            if missed or dropped:
                self._owed[camera] = (missed, dropped)
        elif picture.dropped != dropped:
            # The mailbox has counted news, and the pictures' numbers tell of pictures.
            self.dropped[camera] = self.dropped.get(camera, 0) + picture.dropped - dropped
        return picture

    def _going_on(self, picture: Frame) -> Frame | None:
        """A picture with what is owed to it; None where the one before, from elsewhere, was no older."""
        camera = picture.camera
        epoch, channel, captured_ns = self._last.get(camera, (None, "", 0))
        came_elsewhere = epoch == picture.epoch and channel != picture.channel
        if came_elsewhere and picture.captured_monotonic_ns <= captured_ns:
            # By when it came, and not by when it is looked at: a slow consumer looks late at what came early.
            first_ns = self._passed_over.setdefault(camera, picture.received_ns)
            if abs(picture.received_ns - first_ns) < _GOING_OVER_NS:
                self._owe(picture)
                return None
        if self._passed_over:
            self._passed_over.pop(camera, None)
        self._last[camera] = (picture.epoch, picture.channel, picture.captured_monotonic_ns)
        if camera in self._owed:
            missed, dropped = self._owed.pop(camera)
            picture = picture.replace(missed=picture.missed + missed, dropped=picture.dropped + dropped)
        return picture

    def _owe(self, frame: Frame) -> None:
        """Count what is not shown on the camera's next picture."""
        missed, dropped = self._owed.get(frame.camera, (0, 0))
        self._owed[frame.camera] = (missed + frame.missed, dropped + frame.dropped)

    def _picture(self, frame: Frame) -> Frame | None:
        if frame.decoded is not None:
            return frame
        if frame.codec.is_intra:
            self._tracks.pop(frame.camera, None)
            try:
                return frame.replace(decoded=decode(frame))
            except CodecError as error:
                self._complain(frame.camera, error)
                return None
        track = self._tracks.get(frame.camera)
        if track is None:
            track = self._tracks[frame.camera] = _Track()
        try:
            if self._mailbox.mode == "latest":
                return self._newest(track, frame)
            return self._next(track, frame)
        finally:
            self._mailbox.release(frame.camera)
            self._returned_at = time.monotonic()

    def _newest(self, track: _Track, frame: Frame) -> Frame | None:
        camera = frame.camera
        begun = time.monotonic()
        # A consumer that takes its time between two reads gives decoding as much, so that it does not fall behind.
        away_s = begun - self._returned_at if self._returned_at else 0.0
        end = begun + max(TIMES.catch_up_s, away_s)
        newest: Decoded | None = None
        packet: Frame | None = frame
        while packet is not None:
            if packet.disposable and self._mailbox.has_more(camera):
                track.take_over(packet)
                track.decoder.skip(packet)
                self._skipped(track, camera, 1)
            elif pictures := self._fed(track, packet):
                self._skipped(track, camera, len(pictures) - (newest is None))
                newest = pictures[-1]
            packet = None if time.monotonic() > end else self._mailbox.get_more(camera)
        if newest is None:
            return None
        return self._shown(track, newest)

    def _next(self, track: _Track, frame: Frame) -> Frame | None:
        shown = [self._shown(track, decoded) for decoded in self._fed(track, frame)]
        self._ready.extend(picture for picture in shown[1:] if picture is not None)
        return shown[0] if shown else None

    def _fed(self, track: _Track, packet: Frame) -> list[Decoded]:
        track.take_over(packet)
        try:
            pictures = track.decoder.feed(packet)
        except CodecError as error:
            self._complain(packet.camera, error)
            pictures = []
        if track.decoder.waiting:
            track.missed += 1
        return [decoded for decoded in pictures if track.is_new(decoded)]

    def _skipped(self, track: _Track, camera: str, count: int) -> None:
        track.dropped += count
        self.dropped[camera] = self.dropped.get(camera, 0) + count

    def _shown(self, track: _Track, decoded: Decoded) -> Frame | None:
        try:
            frame = decoded.converted()
        except CodecError as error:
            self._complain(decoded.frame.camera, error)
            return None
        missed, dropped, track.missed, track.dropped = track.missed, track.dropped, 0, 0
        return frame.replace(missed=missed, dropped=dropped)
