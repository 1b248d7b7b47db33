"""`Publisher`: one camera's frames, from a program's arrays to the fabric."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import zmq

from camfabric.common import wire
from camfabric.common.codecs import by_name, encoder
from camfabric.common.endpoint import parse_endpoint, require_local
from camfabric.common.errors import ConfigError, FabricError
from camfabric.common.frame import Frame
from camfabric.common.mailbox import Slot
from camfabric.common.settings import BROKER_PUBLISHERS, DEFAULT_QUALITY, TIMES
from camfabric.common.sockets import Waker, bind, connect, make_xpub
from camfabric.common.stats import Rate
from camfabric.common.status import LIVE, OFFLINE, STALLED, Status
from camfabric.common.topics import check_camera
from camfabric.publisher.sender import Sender

if TYPE_CHECKING:
    from camfabric.common.frame import Image

__all__ = ["Publisher"]

_MIN_SIDE: Final = 16
_MAX_SIDE: Final = 16384


class Publisher:
    """Publishes one camera's pictures.

    It connects to a broker (`to`), or binds an endpoint for itself (`bind`) that subscribers and brokers connect to.
    Whether the other side is there does not matter, now or later. A picture is encoded and sent only while somebody
    subscribes to the camera, in a thread of the publisher's own; where that is slower than `send`, the newest picture
    wins.

    Args:
        camera: its name, such as "cctv/lobby".
        to: the broker's endpoint; by default tcp://127.0.0.1:5550 if `bind` is not given either.
        bind: the endpoint to bind; port `*` takes a free one, see `endpoint`.
        codec: "jpeg" or "raw".
        quality: of JPEG, 1 to 100.
        size: (width, height) in px to scale to, or None to send pictures as they are.
        insecure: allow an endpoint beyond loopback, where anybody could see and send pictures.
        source: what kind of source the status names; never an address.
        announce_at_once: False lists the camera only once it has a picture.

    Raises:
        ConfigError: an argument is wrong; nothing was started.
        EndpointError: the endpoint cannot be bound or connected.
    """

    def __init__(
        self,
        camera: str,
        *,
        to: str | None = None,
        bind: str | None = None,
        codec: str = "jpeg",
        quality: int = DEFAULT_QUALITY,
        size: tuple[int, int] | None = None,
        insecure: bool = False,
        source: str = "program",
        announce_at_once: bool = True,
    ) -> None:
        self.camera: Final = check_camera(camera)
        self.codec: Final = by_name(codec)
        if to is not None and bind is not None:
            raise ConfigError("a publisher connects (to) or binds (bind), not both", setting="to", value=to)
        if isinstance(quality, bool) or not isinstance(quality, int) or not 1 <= quality <= 100:
            raise ConfigError(
                f"quality {quality!r}: it is a whole number from 1 to 100", setting="quality", value=quality
            )
        _check_size(size)
        address = parse_endpoint(bind or to or BROKER_PUBLISHERS, bind=bind is not None)
        require_local(address, insecure=insecure)

        self.epoch: Final = secrets.randbits(64)
        self._coder = encoder(self.codec)
        self._source = source
        self._size = size
        self._shape = (0, 0)
        self._insecure = not address.is_local
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._said: tuple[str, str] = (STALLED, "no picture yet")
        self._rate_in = Rate()
        self._last_picture = 0.0
        self._interval_s = 0.0
        self._closed = False
        self._slot = Slot()
        self._waker = Waker()
        self._context: zmq.Context[Any] = zmq.Context()
        socket = make_xpub(self._context)
        try:
            if bind is not None:
                self.endpoint = _bind(socket, address)
            else:
                connect(socket, address)
                self.endpoint = address.text
        except BaseException:
            socket.close(0)
            self._context.term()
            self._waker.close()
            raise
        self._sender = Sender(
            socket,
            camera=self.camera,
            epoch=self.epoch,
            codec=self.codec,
            quality=quality,
            size=size,
            slot=self._slot,
            waker=self._waker,
            state=self._state,
            status=self.status,
            announce_at_once=announce_at_once,
        )
        self._sender.start()

    def send(
        self,
        image: Image,
        *,
        extra: Mapping[str, Any] | None = None,
        copy: bool = True,
        captured_ns: int | None = None,
        captured_monotonic_ns: int | None = None,
    ) -> None:
        """Publish a picture. Returns at once; it is encoded and sent only if somebody watches.

        Args:
            image: (H, W, 3) uint8 BGR, or (H, W) uint8, or (H, W) uint16 with codec "raw".
            extra: fields of your own that travel with it: names, and values that msgpack carries; 64 kB at most.
            copy: False saves a copy where the array will never be written again.
            captured_ns: when it was captured, in Unix ns; now if not given.
            captured_monotonic_ns: the same moment as `time.monotonic_ns()`; derived if not given.

        Raises:
            CodecError: the array is not such a picture; names its shape and dtype.
            WireError: `extra`, or a time, cannot be sent.
            ConfigError: the publisher is closed.
            FabricError: its thread has failed.
        """
        if self._closed:
            raise ConfigError(f"the publisher of {self.camera} is closed", setting="camera", value=self.camera)
        if self._sender.failed:
            raise FabricError(f"the publisher of {self.camera} has failed: what went wrong is in the log")
        pixel_format = self._coder.check(image)
        wall_ns, monotonic_ns = time.time_ns(), time.monotonic_ns()
        if captured_monotonic_ns is None:
            captured_monotonic_ns = monotonic_ns - (0 if captured_ns is None else wall_ns - captured_ns)
        if captured_ns is None:
            captured_ns = wall_ns - (monotonic_ns - captured_monotonic_ns)
        self._shape = self._size or (image.shape[1], image.shape[0])
        recovered = self._count(monotonic_ns / 1e9)
        watched = self._sender.watched
        if copy:
            image = image.copy()
        frame = Frame(
            camera=self.camera,
            codec=self.codec,
            pixel_format=pixel_format,
            width=image.shape[1],
            height=image.shape[0],
            epoch=self.epoch,
            captured_ns=captured_ns,
            captured_monotonic_ns=captured_monotonic_ns,
            extra=wire.copy_extra(extra) if extra else {},
            decoded=image,
        )
        wire.pack_header(frame)  # what cannot be sent is refused here, where the caller sees it
        if self._slot.put(frame) and watched:
            self._sender.dropped += 1
        if watched or self._sender.watched or recovered:
            self._waker.wake()

    def _count(self, now: float) -> bool:
        with self._lock:
            self._rate_in.tick()
            if self._last_picture:
                interval = now - self._last_picture
                self._interval_s += (interval - self._interval_s) * (0.1 if self._interval_s else 1.0)
            self._last_picture = now
            recovered = self._said[0] != LIVE
            self._said = (LIVE, "")
        return recovered

    @property
    def watched(self) -> bool:
        """Whether somebody subscribes to the camera now."""
        return self._sender.watched

    def report(self, state: str, reason: str) -> None:
        """Say in the camera's status that its source is `stalled` or `offline`, and why, until the next `send`."""
        with self._lock:
            changed = self._said != (state, reason)
            self._said = (state, reason)
        if changed:
            self._waker.wake()

    def _state(self) -> tuple[str, str]:
        """The camera's state, and the reason where it is not live."""
        with self._lock:
            state, reason = self._said
            silence = time.monotonic() - self._last_picture if self._last_picture else 0.0
            if state == LIVE and silence > max(TIMES.stalled_s, 3 * self._interval_s):
                return STALLED, f"no picture for {silence:.0f} s"
        return state, reason

    def status(self) -> Status:
        """The camera's status as it is published."""
        sender = self._sender
        state, reason = self._state()
        with self._lock:
            fps_in = self._rate_in.per_second() if state == LIVE else 0.0
        return Status(
            camera=self.camera,
            state=state,
            reason=reason,
            epoch=self.epoch,
            uptime_ms=int((time.monotonic() - self._started) * 1000),
            time_ns=time.time_ns(),
            codec=self.codec.name.lower(),
            width=self._shape[0],
            height=self._shape[1],
            fps_in=round(fps_in, 2),
            fps_out=round(sender.fps_out, 2) if state == LIVE else 0.0,
            sent=sender.sent,
            sent_bytes=sender.sent_bytes,
            dropped=sender.dropped,
            watched=sender.watched and state != OFFLINE,
            source=self._source,
            insecure=self._insecure,
        )

    def close(self, reason: str = "its publisher ended") -> None:
        """Say goodbye, send what is on its way for half a second at most, and close. Can be called again."""
        if self._closed:
            return
        self._closed = True
        with self._lock:
            self._said = (OFFLINE, reason)
        self._sender.stop()
        self._context.term()
        self._waker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Publisher({self.camera!r}, endpoint={self.endpoint!r}, codec={self.codec.name.lower()!r})"


_bind = bind


def _check_size(size: Any) -> None:
    if size is None:
        return
    if not isinstance(size, tuple) or len(size) != 2 or not all(type(side) is int for side in size):
        raise ConfigError(f"size {size!r}: it is (width, height) in whole pixels", setting="size", value=size)
    if not all(_MIN_SIDE <= side <= _MAX_SIDE for side in size):
        raise ConfigError(f"size {size!r}: each side is {_MIN_SIDE} to {_MAX_SIDE} px", setting="size", value=size)
