"""The publisher's thread: it owns the XPUB socket, hears who subscribes, and encodes and sends what they asked for."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import zmq

from camfabric.common import wire
from camfabric.common.backlog import Backlog
from camfabric.common.codecs import encoder
from camfabric.common.errors import FabricError, WireError
from camfabric.common.frame import Codec, Frame, PixelFormat
from camfabric.common.mailbox import Slot
from camfabric.common.settings import TIMES
from camfabric.common.sockets import Socket, Waker, receive
from camfabric.common.stats import Complaints, Rate
from camfabric.common.status import LIVE, Status, pack_status
from camfabric.common.topics import CAM, CLOCK, REPLAY, STATUS, covers, parse_request, topic

if TYPE_CHECKING:
    from camfabric.common.frame import Image

__all__ = ["Sender"]

logger = logging.getLogger(__name__)

_SUBSCRIBE: Final = 1
_CHECK_S: Final = 0.1
_BATCH: Final = 64
"""Subscriptions heard before the next picture: nobody can hold up the others by sending more."""


class Sender(threading.Thread):
    """Sends one camera. `watched`, `sent` and the like may be read from any thread."""

    def __init__(
        self,
        socket: Socket,
        *,
        camera: str,
        epoch: int,
        codec: Codec,
        quality: int,
        size: tuple[int, int] | None,
        slot: Slot,
        waker: Waker,
        state: Callable[[], tuple[str, str]],
        status: Callable[[], Status],
        announce_at_once: bool,
    ) -> None:
        super().__init__(name=f"publish {camera}", daemon=True)
        self._socket = socket
        self._camera = camera
        self._epoch = epoch
        self._codec = codec
        self._coder = encoder(codec)
        self._quality = quality
        self._size = size
        self._slot = slot
        self._waker = waker
        self._state = state
        self._status = status
        self._stop_asked = False
        self._topic = topic(CAM, camera)
        self._status_topic = topic(STATUS, camera)
        self._subscriptions: set[bytes] = set()
        self._status_asked = False
        self._announced = announce_at_once
        self._last: tuple[bytes, memoryview] | None = None
        self._backlog = Backlog()
        self._complaints = Complaints(logger)
        self._rate = Rate()
        self._next_seq = 0
        self.watched = False
        self.failed = False
        self.fps_out = 0.0
        self.sent = 0
        self.sent_bytes = 0
        self.dropped = 0

    def stop(self) -> None:
        """End the thread, which says goodbye and closes the socket, and wait for it."""
        self._stop_asked = True
        self._waker.wake()
        self.join()

    def run(self) -> None:
        """The thread's loop: subscriptions first, then the newest picture, then the time."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._waker.fileno(), zmq.POLLIN)
        said = ("", "")
        said_at = next_check = 0.0
        try:
            while not self._stop_asked:
                wait_s = _CHECK_S if self._status_asked else max(0.0, said_at + TIMES.status_s - time.monotonic())
                poller.poll(int(wait_s * 1000) + 1)
                self._waker.clear()
                self._hear()
                if self.watched and (frame := self._slot.take()) is not None:
                    self._send(frame)
                if (now := time.monotonic()) >= next_check:
                    next_check = now + _CHECK_S
                    self._backlog.check()
                state = self._state()
                asked = self._status_asked and now >= said_at + _CHECK_S
                if now >= said_at + TIMES.status_s or state != said or asked:
                    said, said_at = state, now
                    self._status_asked = False
                    self.fps_out = self._rate.per_second()
                    self._send_status()
            self._send_status()
        except Exception:
            logger.exception("the publisher of %s has failed", self._camera)
        finally:
            self.failed = not self._stop_asked
            self.watched = False
            self._socket.close()

    def _hear(self) -> None:
        for _ in range(_BATCH):
            if (parts := receive(self._socket)) is None:
                return
            data = parts[0].bytes
            if len(parts) != 1 or not data or data[0] > _SUBSCRIBE:
                self._complaints.note("a subscriber", WireError("not a subscription", reason="parts"))
            elif data[0] == _SUBSCRIBE:
                self._backlog.subscribed(parts[0])
                self._subscribed(data[1:])
            else:
                self._subscriptions.discard(data[1:])
                self.watched = bool(self._subscriptions)

    def _subscribed(self, prefix: bytes) -> None:
        if self._status_topic.startswith(prefix):
            self._status_asked = True
        if self._topic.startswith(prefix):
            # Only what matches is kept, so that nobody can fill this set.
            self._subscriptions.add(prefix)
            if not self.watched:
                self.watched = True
                self._show_newest()
        elif (request := parse_request(prefix)) is not None:
            self._answer(*request)

    def _show_newest(self) -> None:
        if (frame := self._slot.take()) is not None:
            self._send(frame)
        elif self._last is not None:
            self._socket.send_multipart([self._topic, *self._last], copy=False)

    def _answer(self, kind: str, nonce: str, rest: str) -> None:
        if kind == CLOCK and covers(rest, self._camera):
            received_ns = time.monotonic_ns()
            answer = wire.ClockAnswer(self._epoch, received_ns, time.monotonic_ns())
            self._socket.send_multipart([topic(f"{CLOCK}/{nonce}", self._camera), wire.pack_clock(answer)])
        elif kind == REPLAY and rest == f"{CAM}/{self._camera}":
            if (frame := self._slot.take()) is not None:
                # Encoded once: whoever watches gets the same frame, under the same number.
                if self.watched:
                    self._send(frame)
                else:
                    self._encode(frame)
            kept = [] if self._last is None else [self._last]
            self._socket.send_multipart(wire.pack_replay(topic(f"{REPLAY}/{nonce}", rest), kept), copy=False)

    def _encode(self, frame: Frame) -> bool:
        """Encode a picture and keep it as the last one. Returns whether that went well."""
        try:
            image = self._scaled(frame.image)
            payload = self._coder.encode(image, quality=self._quality)
            coded = replace(
                frame,
                pixel_format=frame.pixel_format if self._codec is Codec.RAW else PixelFormat.NONE,
                width=image.shape[1],
                height=image.shape[0],
                seq=self._next_seq,
                encoded_ns=time.time_ns(),
                payload=payload,
                decoded=None,
            )
            self._last = (wire.pack_header(coded), payload)
        except FabricError as error:
            self._complaints.note("the source", WireError(str(error), reason="picture"))
            return False
        self._next_seq += 1
        return True

    def _scaled(self, image: Image) -> Image:
        if self._size is None or self._size == (image.shape[1], image.shape[0]):
            return image
        import cv2

        shrinks = self._size[0] < image.shape[1]
        return cv2.resize(image, self._size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)

    def _send(self, frame: Frame) -> None:
        if not self._encode(frame) or self._last is None:
            return
        header, payload = self._last
        self._socket.send_multipart([self._topic, header, self._backlog.counted(payload)], copy=False)
        self._rate.tick()
        self.sent += 1
        self.sent_bytes += len(payload)

    def _send_status(self) -> None:
        status = self._status()
        self._announced = self._announced or status.state == LIVE
        if not self._announced:
            return
        message: list[Any] = [self._status_topic, pack_status(status)]
        self._socket.send_multipart(message)
