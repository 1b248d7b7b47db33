"""What a subscriber takes from the rings on its host: of each camera the newest picture."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from camfabric.common import wire
from camfabric.common.codecs import raw
from camfabric.common.errors import WireError
from camfabric.common.frame import Codec, Frame
from camfabric.common.settings import LIMITS, Limits
from camfabric.common.shared import RingReader
from camfabric.common.topics import CAM, SHM, topic

__all__ = ["SharedPictures"]


class SharedPictures:
    """What a subscriber has of the rings on its host: that of each camera.

    `picture` is called by threads that consume, the others by the one that receives.
    """

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.offset_ns: Callable[[Frame], int] = lambda frame: 0
        """How far this machine's clock is from that of a frame's publisher."""
        self._limits = limits
        self._readers: dict[str, RingReader] = {}
        self._by_file: dict[int, RingReader] = {}

    def ring(self, file: int) -> RingReader:
        """A ring, the one that is had or one to be had.

        Raises:
            NoRing: there is none of that name.
            WireError: it is no ring, or not this user's.
        """
        return self._by_file.get(file) or RingReader(file, limits=self._limits)

    def known(self, file: int) -> RingReader | None:
        """A ring that is had. Safe from any thread."""
        return self._by_file.get(file)

    def of(self, camera: str) -> RingReader | None:
        """The ring that a camera's pictures are taken from."""
        return self._readers.get(camera)

    def announced(self, frame: Frame) -> RingReader:
        """The ring of a frame that a publisher has announced. Raises as `ring` does, or where it is another one's."""
        reader = self.ring(wire.unpack_descriptor(frame.payload).file)
        if (reader.camera, reader.epoch) != (frame.camera, frame.epoch):
            raise WireError(f"shared memory of {reader.camera} announced as {frame.camera}'s", reason="memory")
        return reader

    def rings(self) -> Iterable[RingReader]:
        """Those that are had."""
        return tuple(self._by_file.values())

    def have(self, reader: RingReader) -> None:
        """Take a camera's pictures from this ring from now on."""
        before = self._readers.get(reader.camera)
        if before is reader:
            return
        if before is not None:
            del self._by_file[before.file]
            if before.epoch == reader.epoch:
                reader.last_seq = before.last_seq
        self._by_file[reader.file] = self._readers[reader.camera] = reader

    def forget(self, camera: str) -> None:
        """Give a camera's ring back, but for what is held of it."""
        if (reader := self._readers.pop(camera, None)) is not None:
            del self._by_file[reader.file]

    def picture(self, camera: str, *, missed: int, dropped: int) -> Frame | None:
        """The newest frame of a camera, with its picture, which it holds; None where it was taken before.

        `missed` and `dropped` are counted on it, but for the pictures between two of one ring: all of these that were
        not taken were dropped, and no others.

        Raises:
            WireError: what stands there does not add up.
        """
        reader = self._readers.get(camera)
        if reader is None or (taken := reader.take()) is None:
            return None
        header, pixels = taken
        frame = wire.unpack_frame(
            topic(CAM, camera), header, pixels.data, received_ns=time.time_ns(), limits=self._limits
        )
        if frame.codec is not Codec.RAW or frame.epoch != reader.epoch:
            raise WireError(f"{frame.codec.name} of another publisher in shared memory", reason="memory")
        if reader.last_seq is not None:
            dropped = max(frame.seq - reader.last_seq - 1, 0)
        reader.last_seq = max(frame.seq, reader.last_seq or 0)
        return frame.replace(
            channel=SHM,
            decoded=raw.shaped(frame, pixels),
            clock_offset_ns=self.offset_ns(frame),
            missed=missed,
            dropped=dropped,
        )
