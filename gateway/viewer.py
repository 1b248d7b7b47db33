"""A viewer: one WebSocket's streams, what is sent to it in which order, and how much at a time."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from camfabric.common.budget import Budget
from camfabric.common.errors import WireError
from camfabric.gateway import protocol
from camfabric.gateway.cameras import Cameras
from camfabric.gateway.feeds import Feeds
from camfabric.gateway.lane import Lane
from camfabric.gateway.protocol import WatchedStream
from camfabric.gateway.settings import WEB_LIMITS, WEB_TIMES
from camfabric.gateway.window import Window

__all__ = ["Counts", "Socket", "Viewer"]


@dataclass(slots=True)
class Counts:
    """What all viewers together were sent, and were too slow for."""

    sent: int = 0
    sent_bytes: int = 0
    dropped: int = 0


class Socket(Protocol):
    """What a viewer needs of a WebSocket."""

    async def send_str(self, data: str, /) -> None:
        """Send text, and wait while too much is unsent."""

    async def send_bytes(self, data: bytes, /) -> None:
        """Send bytes, likewise."""


class Viewer:
    """Sends to one WebSocket. Streams take turns; texts go first, and are made when they are sent.

    `sees` tells which cameras this viewer may see: others do not exist for it. `holder`
    is whose share its streams begin from. `cut` ends the connection at once.
    """

    def __init__(
        self,
        socket: Socket,
        feeds: Feeds,
        cameras: Cameras,
        *,
        sees: Callable[[str], bool],
        holder: str,
        trouble: str,
        cut: Callable[[], None],
        counts: Counts,
    ) -> None:
        self._socket = socket
        self._feeds = feeds
        self._cameras = cameras
        self._sees = sees
        self._holder = holder
        self._cut = cut
        self._window = Window()
        self._lanes: dict[int, Lane] = {}
        self._ready: OrderedDict[Lane, None] = OrderedDict()
        self._budget = Budget(WEB_LIMITS.messages, WEB_LIMITS.messages_s)
        self._joins = Budget(WEB_LIMITS.joins, WEB_LIMITS.joins_s)
        self._wake = asyncio.Event()
        self._texts: list[str] = []
        self._changed: set[str] | None = None
        """Cameras whose status is to be sent; None before all of them were."""
        self._gone: set[str] = set()
        self._is_word_due = False
        self._trouble: str | None = trouble or None
        self._counts = counts
        self._sending_since: float | None = None

    @property
    def streams(self) -> int:
        """How many it watches."""
        return len(self._lanes)

    def hear(self, text: str) -> None:
        """Take in a message of the page.

        Raises:
            WireError: it breaks the protocol; the connection is to be closed.
        """
        message = protocol.parse_message(text)
        if isinstance(message, protocol.Ack):
            if message.n > self._window.last_n:
                raise WireError("an acknowledgement of what was never sent", reason="web")
            if self._window.acknowledged(message.n):
                self._wake.set()
                return
        if not self._budget.spend():
            raise WireError("too many messages", reason="web")
        if isinstance(message, protocol.Watch):
            self._watch(message.streams)
        elif isinstance(message, protocol.Hello):
            raise WireError("hello is said once", reason="web")

    def _watch(self, streams: Iterable[WatchedStream]) -> None:
        wanted = {stream.id: stream for stream in streams if self._sees(stream.camera)}
        for lane in [lane for number, lane in self._lanes.items() if wanted.get(number) != lane.stream]:
            self._leave(lane)
        for number, stream in wanted.items():
            if number not in self._lanes:
                if not self._joins.spend():
                    raise WireError("too many streams begun", reason="web")
                lane = self._lanes[number] = Lane(stream, self._mark, self._count_dropped)
                self._feeds.join(stream.key, lane, stream.form, holder=self._holder)

    def _leave(self, lane: Lane) -> None:
        del self._lanes[lane.stream.id]
        self._ready.pop(lane, None)
        self._feeds.leave(lane.stream.key, lane)

    def _count_dropped(self, count: int) -> None:
        self._counts.dropped += count

    def _mark(self, lane: Lane) -> None:
        self._ready.setdefault(lane)
        self._wake.set()

    def tell_status(self, changed: Iterable[str], gone: Iterable[str], *, anyway: bool = False) -> None:
        """Some cameras have changed, others are not known any more; say so `anyway`, also where there are none."""
        if self._changed is None:
            return
        self._is_word_due = self._is_word_due or anyway
        self._gone.update(camera for camera in gone if self._sees(camera))
        self._changed.update(camera for camera in changed if self._sees(camera))
        if self._changed or self._gone or anyway:
            self._wake.set()

    def tell_trouble(self, text: str) -> None:
        """Something is wrong with the connection to the fabric, or, empty, not any more."""
        self._trouble = text
        self._wake.set()

    def say(self, text: str) -> None:
        """Send a text before anything else."""
        self._texts.append(text)
        self._wake.set()

    def _next_text(self) -> str | None:
        if self._texts:
            return self._texts.pop(0)
        if self._changed is None:
            self._changed = set()
            return protocol.cameras_text(self._cameras.texts(filter(self._sees, self._cameras.names())))
        if self._changed or self._gone or self._is_word_due:
            self._is_word_due = False
            changed, self._changed = self._changed, set()
            gone, self._gone = self._gone - changed, set()
            return protocol.status_text(self._cameras.texts(sorted(changed)), sorted(gone))
        if self._trouble is not None:
            trouble, self._trouble = self._trouble, None
            return protocol.trouble_text(trouble)
        return None

    def _next_frame(self) -> bytes | None:
        while self._ready and self._window.has_room():
            lane, _ = self._ready.popitem(last=False)
            if not lane:
                continue
            packet, broken, lost = lane.pop()
            if lane:
                self._ready[lane] = None
            frame = packet.frame
            header = protocol.pack_header(
                codec=frame.codec,
                flags=protocol.KEYFRAME * frame.keyframe | protocol.DISCONTINUITY * broken,
                stream=lane.stream.id,
                width=frame.width,
                height=frame.height,
                n=self._window.next_n(),
                age_ms=frame.age_ms,
                seq=frame.seq,
                lost=lost,
                time_us=packet.time_us,
            )
            # The one copy of a picture that each viewer costs: a WebSocket's message is one piece.
            return b"".join((header, frame.payload))
        return None

    async def run(self) -> None:
        """Send what there is, until this is cancelled or the connection ends.

        Raises:
            ConnectionError: the other side is gone.
        """
        while True:
            self._wake.clear()
            while True:
                self._sending_since = time.monotonic()
                if (text := self._next_text()) is not None:
                    await self._socket.send_str(text)
                elif (data := self._next_frame()) is not None:
                    self._window.sent(len(data))
                    self._counts.sent += 1
                    self._counts.sent_bytes += len(data)
                    await self._socket.send_bytes(data)
                else:
                    break
            self._sending_since = None
            await self._wake.wait()

    @property
    def is_sending(self) -> bool:
        """Whether something waits for the other side to take it."""
        return self._sending_since is not None

    def check_stuck(self) -> None:
        """Cut the connection where the other side has for long taken nothing, or acknowledged nothing that waits."""
        since = self._sending_since
        is_stuck = since is not None and time.monotonic() - since > WEB_TIMES.stuck_s
        if is_stuck or (self._ready and self._window.unanswered_s > WEB_TIMES.stuck_s):
            self._sending_since = None
            self._cut()

    def close(self) -> None:
        """Let all streams go."""
        for lane in list(self._lanes.values()):
            self._leave(lane)
