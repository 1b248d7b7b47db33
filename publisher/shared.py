"""A camera's pictures in this host's shared memory: written while somebody on it subscribes to them."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from camfabric.common import wire
from camfabric.common.codecs import raw
from camfabric.common.doorbell import open_doorbell, press
from camfabric.common.frame import Codec, Frame, PixelFormat
from camfabric.common.mailbox import Slot
from camfabric.common.settings import LIMITS, TIMES, Limits
from camfabric.common.shared import Ring
from camfabric.common.stats import Rate
from camfabric.common.topics import SHM, shared_channel, split_shared, topic
from camfabric.common.wire import Descriptor
from camfabric.publisher.stream import Captured, Message

if TYPE_CHECKING:
    from camfabric.common.frame import Image

__all__ = ["SharedStream", "Written"]

logger = logging.getLogger(__name__)

_FOR_GOOD: Final = frozenset({errno.EFBIG, errno.EINVAL, errno.ENOSYS})
"""What does not pass while pictures are as large as they are, or at all."""
_AGAIN_S: Final = 3600.0
"""The longest time until that is tried again."""


class Written:
    """A picture that was written to shared memory, for whoever wants it after all. Safe for any number of threads.

    Nothing is copied before somebody does, or the memory is given back.
    """

    def __init__(self, ring: Ring, descriptor: Descriptor, lock: threading.Lock) -> None:
        self._ring: Ring | None = ring
        self._descriptor = descriptor
        self._lock = lock
        self._image: Image | None = None

    def draw(self) -> Image | None:
        """A copy of it, the same at each call; None where a newer one has taken its place."""
        with self._lock:
            self.save()
        return self._image

    def save(self) -> None:
        """Copy it while it is there. With the ring's lock."""
        if self._ring is not None:
            self._image = self._ring.copied(self._descriptor)
            self._ring = None


class SharedStream:
    """Belongs to the sender's thread, but for `write`, `offer`, and what may be read from any thread.

    Subscribers are told of each picture by their doorbells, in the thread that writes it, or, where they have none that
    can be opened, by an announcement over the socket. Where there is no room, or readers hold every slot, memory is
    withdrawn for a minute: subscribers take the main stream. What can never work out, such as a picture that is too
    large, is tried less and less often, down to once an hour: that there are smaller ones is seen only then.

    Args:
        camera: its name.
        host: the token of this host.
        epoch: the publisher's.
        resize: what is done to a picture before it is written, if anything.
    """

    def __init__(
        self,
        camera: str,
        *,
        host: str,
        epoch: int,
        resize: Callable[[Image], Image] | None = None,
        limits: Limits = LIMITS,
    ) -> None:
        self.topic: Final = topic(shared_channel(host), camera)
        self.resize: Final = resize
        self._camera = camera
        self._host = host
        self._head = topic(shared_channel(host))
        self._epoch = epoch
        self._limits = limits
        self._subscriptions: set[bytes] = set()
        """To announcements."""
        self._doorbells: dict[bytes, int] = {}
        """Those that are pressed: the subscription that asked for it, and the descriptor."""
        self._full: list[int] = []
        """Those of them that had no room at last: they are pressed again, for the ring may be new."""
        self._watched = threading.Event()
        self._lock = threading.Lock()
        self._ring: Ring | None = None
        self._written: weakref.ref[Written] | None = None
        self._starved_since: float | None = None
        self._withdrawn_until = 0.0
        self._again_s = 0.0
        """For how long it was withdrawn the last time, where it could not work out."""
        self._said: set[int] = set()
        """The errors that were warned of."""
        self._captured: Slot[Captured] = Slot()
        self._announced: Slot[Message] = Slot()
        self._next_seq = 0
        self._rate = Rate()
        self.has_word = False
        """Whether the sender's thread has something to say of what was written: it is to be woken."""
        self.dropped = 0
        """Pictures for which there was no slot, or that a newer one replaced before they were drawn."""

    @property
    def watched(self) -> bool:
        """Whether somebody subscribes to it."""
        return self._watched.is_set()

    @property
    def offered(self) -> str:
        """The host on which its pictures can be had now, or ""."""
        return self._host if time.monotonic() >= self._withdrawn_until else ""

    @property
    def written(self) -> int:
        """How many pictures were written."""
        return self._next_seq

    def per_second(self) -> float:
        """Pictures written a second."""
        with self._lock:
            return self._rate.per_second()

    # From whoever captures

    def write(self, frame: Frame, image: Image, pixel_format: PixelFormat) -> Written | None:
        """Copy a picture of that format into shared memory; None where that was not done.

        Whoever gave it may write to it afterwards.
        """
        with self._lock:
            if not self.watched or not self.offered:
                return None
            header = wire.pack_header(
                frame.replace(
                    codec=Codec.RAW,
                    pixel_format=pixel_format,
                    width=image.shape[1],
                    height=image.shape[0],
                    epoch=self._epoch,
                    seq=self._next_seq,
                    encoded_ns=time.time_ns(),
                )
            )
            try:
                ring = self._ring_for(image, header)
                descriptor = ring.write(image, header)
            except OSError as error:
                self._withdraw(error.strerror or str(error), error.errno or 0)
                return None
            if descriptor is None:
                self._starve()
                return None
            self._starved_since = None
            self._again_s = 0.0
            self._next_seq += 1
            self._rate.tick()
            self._full = [doorbell for doorbell in self._doorbells.values() if not press(doorbell, ring.file)]
            if self._subscriptions:
                self._announced.put((header, wire.pack_descriptor(descriptor)))
                self.has_word = True
            written = Written(ring, descriptor, self._lock)
            self._written = weakref.ref(written)
            return written

    def _ring_for(self, image: Image, header: bytes) -> Ring:
        if self._ring is None or not self._ring.fits(image.nbytes, len(header)):
            self._close_ring()
            self._ring = Ring(
                image.nbytes, camera=self._camera, epoch=self._epoch, header_bytes=len(header), limits=self._limits
            )
        return self._ring

    def offer(self, captured: Captured) -> None:
        """Take a picture that is drawn, or resized, before it is written: by `pull`."""
        self.dropped += self._captured.put(captured)
        self.has_word = True

    def _starve(self) -> None:
        now = time.monotonic()
        self.dropped += 1
        if self._starved_since is None:
            self._starved_since = now
        elif now - self._starved_since > TIMES.shared_starved_s:
            self._withdraw("its readers hold every slot")

    def _withdraw(self, why: str, error: int = 0) -> None:
        again_s = TIMES.shared_again_s
        if error in _FOR_GOOD:
            again_s = self._again_s = max(again_s, min(2 * self._again_s, _AGAIN_S))
        self._withdrawn_until = time.monotonic() + again_s
        self._close_ring()
        self.has_word = True
        level = logging.DEBUG if error in self._said else logging.WARNING
        self._said.add(error)
        logger.log(level, "no shared memory for %s: %s; subscribers here take the main stream", self._camera, why)

    def _close_ring(self) -> None:
        self._starved_since = None
        if self._ring is None:
            return
        if self._written is not None and (written := self._written()) is not None:
            written.save()  # it is what the first viewer of the main stream is given
        self._ring.close()
        self._ring = None

    # From whoever subscribes

    def subscribe(self, prefix: bytes) -> None:
        """Add a subscription, if it is one to this camera here; one to every topic is not."""
        if self.topic.startswith(prefix) and prefix.startswith(self._head):
            self._subscriptions.add(prefix)
            self._watched.set()
        elif (split := split_shared(prefix)) is not None and split[1] == topic(self._camera):
            self._add_doorbell(prefix, split[0].decode().removeprefix(f"{SHM}/").removesuffix("/"))

    def _press_again(self) -> None:
        with self._lock:
            if self._ring is not None:
                file = self._ring.file
                self._full = [doorbell for doorbell in self._full if not press(doorbell, file)]

    def _add_doorbell(self, prefix: bytes, name: str) -> None:
        if prefix in self._doorbells or len(self._doorbells) >= self._limits.shared_doorbells:
            return
        try:
            doorbell = open_doorbell(name)
        except OSError as error:  # another host's, container's or user's: announcements are for these
            logger.debug("no doorbell for %s: %s", self._camera, error)
            return
        with self._lock:
            self._doorbells[prefix] = doorbell
            self._watched.set()
            if self._ring is not None and not press(doorbell, self._ring.file):
                self._full.append(doorbell)

    def unsubscribe(self, prefix: bytes) -> None:
        """Remove a subscription; with the last one the memory is given back."""
        self._subscriptions.discard(prefix)
        with self._lock:
            if (doorbell := self._doorbells.pop(prefix, None)) is not None:
                self._full = [full for full in self._full if full != doorbell]
                os.close(doorbell)
        if not self._subscriptions and not self._doorbells and self.watched:
            self.unwatch()

    def unwatch(self) -> None:
        """Nobody subscribes any more."""
        self._subscriptions.clear()
        self._watched.clear()
        with self._lock:
            for doorbell in self._doorbells.values():
                os.close(doorbell)
            self._doorbells.clear()
            self._full.clear()
            self._close_ring()
        self._captured.take()
        self._announced.take()

    def pull(self) -> list[Message]:
        """What is to be sent now: where the newest picture lies, to those who have to be told so.

        Raises:
            FabricError: it cannot be drawn.
        """
        self.has_word = False
        if self._full:
            self._press_again()
        if self.watched and (captured := self._captured.take()) is not None and (image := captured.drawn()) is not None:
            if self.resize is not None:
                image = self.resize(image)
            self.write(captured.frame, image, raw.check(image))
        message = self._announced.take()
        return [] if message is None else [message]
