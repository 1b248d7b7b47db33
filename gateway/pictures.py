"""JPEG made by the gateway: for raw cameras, and where a browser or a snapshot needs JPEG of a video.

A stream is decoded and encoded once for all who want it, the newest picture only, off the event loop, and only while
somebody wants it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from camfabric.common.codecs import jpeg
from camfabric.common.codecs.image import to_8_bit
from camfabric.common.decoding import Decoding
from camfabric.common.errors import CodecError, WireError
from camfabric.common.frame import Codec, Frame, PixelFormat
from camfabric.common.mailbox import Closed, Mailbox
from camfabric.common.settings import DEFAULT_QUALITY
from camfabric.common.stats import Complaints
from camfabric.gateway.packet import Packet
from camfabric.gateway.settings import WEB_TIMES

if TYPE_CHECKING:
    from camfabric.common.frame import Image

__all__ = ["Maker", "Workshop", "to_jpeg"]

logger = logging.getLogger(__name__)

_THREADS: Final = 2


class Workshop:
    """The threads in which pictures are made, for all streams together."""

    def __init__(self) -> None:
        self.threads: Final = ThreadPoolExecutor(_THREADS, thread_name_prefix="pictures")
        self.complaints: Final = Complaints(logger)
        self.made = 0
        """Pictures made, in all."""

    async def run(self, work: Callable[[], Any]) -> Any:
        """Do some work in one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, work)

    def close(self) -> None:
        """End the threads, once they are done with what they have begun."""
        self.threads.shutdown(wait=True, cancel_futures=True)


class Maker:
    """Makes the frames of one stream into JPEG. `pass_on` is called on the event loop with each picture."""

    def __init__(self, workshop: Workshop, pass_on: Callable[[Packet], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._workshop = workshop
        self._pass_on = pass_on
        self._mailbox = Mailbox()
        self._decoding = Decoding(self._mailbox, self._complain)
        self._busy = False
        self._fresh = False
        self._closed = False
        self._next = 0.0
        self.newest: Packet | None = None
        """The last picture made."""
        self.is_behind = False
        """Whether there are packets that came after the last picture made: a late joiner catches up."""

    def take(self, frame: Frame) -> None:
        """Take a frame of the stream."""
        self._mailbox.put(frame)
        self._fresh = True
        if not self._busy:
            self._busy = True
            self._schedule()

    def _schedule(self) -> None:
        wait_s = self._next - self._loop.time()
        if wait_s > 0:
            self._loop.call_later(wait_s, self._submit)
        else:
            self._submit()

    def _submit(self) -> None:
        if self._closed:
            return
        self._fresh = False
        self._next = self._loop.time() + WEB_TIMES.made_s
        future = self._loop.run_in_executor(self._workshop.threads, self._make)
        future.add_done_callback(self._done)

    def _make(self) -> tuple[Frame | None, bool]:
        """The newest picture as a JPEG frame, if there is one, and whether packets are left that come after it."""
        try:
            frame = self._decoding.take(0)
        except (TimeoutError, Closed):
            return None, False
        picture = self._decoding.picture(frame)
        if picture is not None and picture.codec is not Codec.JPEG:
            try:
                picture = _as_jpeg(picture)
            except CodecError as error:
                self._complain(frame.camera, error)
                picture = None
        return picture and picture.replace(decoded=None), self._mailbox.has_more(frame.camera)

    def _done(self, future: asyncio.Future[tuple[Frame | None, bool]]) -> None:
        if self._closed or future.cancelled():
            return
        if (error := future.exception()) is not None:
            logger.error("a picture could not be made", exc_info=error)
            self._busy = False
            return
        frame, self.is_behind = future.result()
        if frame is not None:
            self._workshop.made += 1
            self.newest = Packet(frame, frame.captured_ns // 1000)
            self._pass_on(self.newest)
        if self.is_behind or self._fresh:
            self._schedule()
        else:
            self._busy = False

    def _complain(self, camera: str, error: CodecError) -> None:
        self._workshop.complaints.note(camera, WireError(str(error), reason="picture"), what="bad picture")

    def close(self) -> None:
        """Make no more."""
        self._closed = True
        self._mailbox.close()


def _as_jpeg(picture: Frame) -> Frame:
    return picture.replace(
        codec=Codec.JPEG,
        pixel_format=PixelFormat.NONE,
        keyframe=True,
        payload=to_jpeg(picture.image),
        encoded_ns=time.time_ns(),
    )


def to_jpeg(image: Image) -> memoryview:
    """A JPEG of a picture; of one of 16 bits, its higher ones.

    Raises:
        CodecError: it cannot be encoded.
    """
    return jpeg.encode(to_8_bit(image), quality=DEFAULT_QUALITY)
