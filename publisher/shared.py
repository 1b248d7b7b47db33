"""A camera's pictures in this host's shared memory: written while somebody on it subscribes to them, and announced."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from camfabric.common import wire
from camfabric.common.codecs import Encoding, make_encoder
from camfabric.common.frame import Codec, Frame
from camfabric.common.mailbox import Slot
from camfabric.common.settings import LIMITS, TIMES, Limits
from camfabric.common.shared import Ring
from camfabric.common.topics import shared_channel, topic
from camfabric.publisher.stream import Captured, Message

if TYPE_CHECKING:
    from camfabric.common.frame import Image

__all__ = ["SharedStream"]

logger = logging.getLogger(__name__)


class SharedStream:
    """Belongs to the sender's thread, but for `write`, `offer`, and what may be read from any thread.

    Where there is no room, or readers hold every slot, it is withdrawn for a minute: subscribers take the main stream.

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
        self._encoder = make_encoder(Encoding(codec=Codec.RAW))
        self._subscriptions: set[bytes] = set()
        self._watched = threading.Event()
        self._lock = threading.Lock()
        self._ring: Ring | None = None
        self._starved_since: float | None = None
        self._withdrawn_until = 0.0
        self._captured: Slot[Captured] = Slot()
        self._written: Slot[Frame] = Slot()
        self._next_seq = 0
        self.dropped = 0
        """Pictures for which there was no slot, or that a newer one replaced before they were announced."""

    @property
    def watched(self) -> bool:
        """Whether somebody subscribes to it."""
        return self._watched.is_set()

    @property
    def offered(self) -> str:
        """The host on which its pictures can be had now, or ""."""
        return self._host if time.monotonic() >= self._withdrawn_until else ""

    # From whoever captures

    def write(self, frame: Frame, image: Image) -> None:
        """Copy a picture into shared memory. Whoever gave it may write to it afterwards."""
        with self._lock:
            if not self.watched or not self.offered:
                return
            try:
                if self._ring is None or self._ring.picture_bytes != image.nbytes:
                    self._close_ring()
                    self._ring = Ring(image.nbytes, epoch=self._epoch, limits=self._limits)
                descriptor = self._ring.write(image)
            except OSError as error:
                self._withdraw(error.strerror or str(error))
                return
            if descriptor is None:
                self._starve()
                return
            self._starved_since = None
        written = replace(
            frame,
            codec=Codec.RAW,
            pixel_format=self._encoder.check(image),
            width=image.shape[1],
            height=image.shape[0],
            payload=wire.pack_descriptor(descriptor),
        )
        self.dropped += self._written.put(written)

    def offer(self, captured: Captured) -> None:
        """Take a picture that is drawn, or resized, before it is written: by `pull`."""
        self.dropped += self._captured.put(captured)

    def _starve(self) -> None:
        now = time.monotonic()
        self.dropped += 1
        if self._starved_since is None:
            self._starved_since = now
        elif now - self._starved_since > TIMES.shared_starved_s:
            self._withdraw("its readers hold every slot")

    def _withdraw(self, why: str) -> None:
        self._withdrawn_until = time.monotonic() + TIMES.shared_again_s
        self._close_ring()
        logger.warning("no shared memory for %s: %s; subscribers here take the main stream", self._camera, why)

    def _close_ring(self) -> None:
        self._starved_since = None
        if self._ring is not None:
            self._ring.close()
            self._ring = None

    # From whoever subscribes

    def subscribe(self, prefix: bytes) -> None:
        """Add a subscription, if it is one to this camera here; one to every topic is not."""
        if self.topic.startswith(prefix) and prefix.startswith(self._head):
            self._subscriptions.add(prefix)
            self._watched.set()

    def unsubscribe(self, prefix: bytes) -> None:
        """Remove a subscription; with the last one the memory is given back."""
        self._subscriptions.discard(prefix)
        if not self._subscriptions and self.watched:
            self.unwatch()

    def unwatch(self) -> None:
        """Nobody subscribes any more."""
        self._subscriptions.clear()
        self._watched.clear()
        with self._lock:
            self._close_ring()
        self._captured.take()
        self._written.take()

    def pull(self) -> list[Message]:
        """What is to be sent now: where the newest picture lies.

        Raises:
            FabricError: it cannot be drawn.
        """
        if self.watched and (captured := self._captured.take()) is not None:
            image = captured.drawn()
            self.write(captured.frame, image if self.resize is None else self.resize(image))
        if (frame := self._written.take()) is None:
            return []
        frame = replace(frame, seq=self._next_seq, encoded_ns=time.time_ns())
        self._next_seq += 1
        return [(wire.pack_header(frame), frame.payload)]
