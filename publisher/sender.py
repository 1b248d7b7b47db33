"""The publisher's thread: it owns the XPUB socket, hears who subscribes, and encodes and sends what they asked for."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from camfabric.common import wire
from camfabric.common.errors import CodecError, FabricError, WireError
from camfabric.common.frame import Frame
from camfabric.common.peers import Peer
from camfabric.common.settings import TIMES
from camfabric.common.sockets import Waker, Watch
from camfabric.common.stats import Complaints, Rate
from camfabric.common.status import IDLE, LIVE, Status, pack_status
from camfabric.common.topics import CAM, CLOCK, LOW, REPLAY, STATUS, covers, parse_request, topic
from camfabric.publisher.link import Link
from camfabric.publisher.low import Low, Reducer
from camfabric.publisher.shared import SharedStream
from camfabric.publisher.stream import Captured, Message, Stream

__all__ = ["Sender"]

logger = logging.getLogger(__name__)

_CHECK_S: Final = 0.1
_ROOM_S: Final = 0.005
"""Between two looks at whether one of several links takes the next picture; where it is one, it says so itself."""


class Sender(threading.Thread):
    """Sends one camera: its main stream, its small one where there is one, and what is in shared memory.

    `sent` and the like may be read from any thread.
    """

    def __init__(
        self,
        link: Link,
        *,
        camera: str,
        epoch: int,
        streams: Sequence[Stream],
        shared: SharedStream | None,
        low: Low | None,
        waker: Waker,
        demands: Mapping[str, threading.Event],
        state: Callable[[], tuple[str, str]],
        status: Callable[[], Status],
        announce_at_once: bool,
    ) -> None:
        super().__init__(name=f"publish {camera}", daemon=True)
        self._link = link
        self._socket = link.socket
        self._audience = link.audience
        link.audience.backlog.on_room = waker.wake
        self._camera = camera
        self._epoch = epoch
        self._streams = streams
        self._main = streams[0]
        self._small = streams[1] if len(streams) > 1 else None
        self._shared = shared
        self._low = low
        self._reducer: Reducer | None = None
        self._reducers: list[Reducer] = []
        self._main.on_packet = self._passed_on
        self._waker = waker
        self._demands = demands
        self._state = state
        self._status = status
        self._stop_asked = False
        self._status_topic = topic(STATUS, camera)
        self._status_asked = False
        self._announced = announce_at_once
        self._complaints = Complaints(logger)
        self._rate = Rate()
        self.failed = False
        self.fps_out = 0.0
        self.sent = 0
        self.sent_bytes = 0

    def stop(self) -> None:
        """End the thread, which says goodbye and closes the socket, and wait for it."""
        self._stop_asked = True
        self._waker.wake()
        self.join()
        for reducer in self._reducers:
            reducer.join()

    def run(self) -> None:
        """The thread's loop: subscriptions first, then what was captured, then the time."""
        watch = Watch()
        self._link.register(watch)
        watch.register(self._waker.fileno())
        said = ("", "", "")
        looks_again = False
        said_at = next_check = 0.0
        try:
            while not self._stop_asked:
                wait_s = _CHECK_S if self._status_asked else max(0.0, said_at + TIMES.status_s - time.monotonic())
                wait_s = min(wait_s, self._link.patience_s)
                ready = watch.wait(min(wait_s, _ROOM_S) if looks_again else wait_s)
                if self._waker.fileno() in ready:
                    self._waker.clear()
                if self._link.hear(ready):
                    self._hear()
                looks_again = any([self._send_new(stream) for stream in self._streams])
                if self._shared is not None:
                    self._send_shared(self._shared)
                self._link.look()
                if (now := time.monotonic()) >= next_check:
                    next_check = now + _CHECK_S
                    self._link.tick()
                state = (*self._state(), "" if self._shared is None else self._shared.offered)
                asked = self._status_asked and now >= said_at + _CHECK_S
                if now >= said_at + TIMES.status_s or state != said or asked:
                    said, said_at = state, now
                    self._status_asked = False
                    self.fps_out = max(self._rate.per_second(), self._shared.per_second() if self._shared else 0.0)
                    self._send_status()
            self._send_status()
        except Exception:
            logger.exception("the publisher of %s has failed", self._camera)
        finally:
            self.failed = not self._stop_asked
            for stream in self._streams:
                stream.unwatch()
            if self._shared is not None:
                self._shared.unwatch()
            self._follow_watchers()
            self._link.close()

    def _send_new(self, stream: Stream) -> bool:
        """Send what a stream was offered. Returns whether to look again soon, for nobody will say when there is room.

        What would only wait is left for a newer picture to replace, before it is encoded.
        """
        backlog = self._audience.backlog
        stream.is_held = False  # before it is looked whether there is a picture: see `Publisher._offer`
        had_picture = stream.has_picture
        is_held = had_picture and backlog.holds_back(stream.topic)
        self._send(stream, functools.partial(stream.pull, pictures=not is_held))
        if len(self._audience.peers) > 1:
            return is_held
        # One was sent: whether the next one would wait for it.
        stream.is_held = is_held or (had_picture and backlog.holds_back(stream.topic))
        return False

    def _hear(self) -> None:
        for subscription in self._audience.hear():
            if subscription.peer is not None:
                self._subscribed(subscription.peer, subscription.prefix)
            else:
                for stream in self._streams:
                    stream.unsubscribe(subscription.prefix)
                if self._shared is not None:
                    self._shared.unsubscribe(subscription.prefix)
                self._follow_watchers()

    def _subscribed(self, peer: Peer, prefix: bytes) -> None:
        if self._status_topic.startswith(prefix) and self._audience.peers.may_ask(peer):
            self._status_asked = True
        for stream in self._streams:
            if stream.topic.startswith(prefix):
                self._send(stream, functools.partial(stream.subscribe, prefix))
        if self._shared is not None:
            self._shared.subscribe(prefix)
        self._follow_watchers()
        if (request := parse_request(prefix)) is not None and self._audience.peers.may_ask(peer):
            self._answer(peer, *request)

    def _follow_watchers(self) -> None:
        """Make what is watched wanted, and decode packets for the small picture only while that is watched."""
        small = self._small
        small_watched = small is not None and small.watched
        apart = self._low is not None and self._low.own_source
        shared_watched = self._shared is not None and self._shared.watched
        self._demand(CAM, self._main.watched or shared_watched or (small_watched and not apart))
        self._demand(LOW, small_watched)
        if small is None or self._low is None or apart:
            return
        if small.watched and self._reducer is None and self._main.carries_packets:
            self._reducer = Reducer(self._camera, fps=self._low.fps, offer=self._offer_small, complain=self._complain)
            self._reducers = [reducer for reducer in self._reducers if reducer.is_alive()] + [self._reducer]
            self._reducer.start()
            for frame in self._main.frames_kept():
                self._reducer.put(frame)
        elif not small.watched and self._reducer is not None:
            self._reducer.stop()
            self._reducer = None

    def _demand(self, channel: str, wanted: bool) -> None:
        if wanted:
            self._demands[channel].set()
        else:
            self._demands[channel].clear()

    def _passed_on(self, frame: Frame) -> None:
        """A packet of the main stream went on its way."""
        if self._reducer is not None:
            self._reducer.put(frame)
        elif self._small is not None and self._small.watched:
            self._follow_watchers()  # the first one: it is among those that are kept

    def _offer_small(self, captured: Captured) -> None:
        if self._small is not None:
            self._small.offer(captured)
            self._waker.wake()

    def _complain(self, camera: str, error: CodecError) -> None:
        logger.log(logging.DEBUG, "no small picture of %s: %s", camera, error)

    def _answer(self, peer: Peer, kind: str, nonce: str, rest: str) -> None:
        if kind == CLOCK and covers(rest, self._camera):
            received_ns = time.monotonic_ns()
            clock = wire.ClockAnswer(self._epoch, received_ns, time.monotonic_ns())
            self._socket.send_multipart([topic(f"{CLOCK}/{nonce}", self._camera), wire.pack_clock(clock)])
        elif kind == REPLAY:
            for stream in self._streams:
                if f"{rest}/".encode() == stream.topic:
                    # What came in the meantime is sent first, so that what is live goes on just behind the answer.
                    self._send(stream, stream.pull)
                    kept = self._guarded(stream.replay)
                    if self._audience.may_replay(peer, sum(len(payload) for _, payload in kept)):
                        answer = wire.pack_replay(topic(f"{REPLAY}/{nonce}", rest), kept)
                        self._socket.send_multipart(answer, copy=False)

    def _guarded(self, get: Callable[[], Sequence[Message]]) -> Sequence[Message]:
        """What a stream gives; nothing, and a complaint, where a picture cannot be encoded."""
        try:
            return get()
        except FabricError as error:
            self._complaints.note("the source", WireError(str(error), reason="picture"))
            return ()

    def _send(self, stream: Stream, get: Callable[[], Sequence[Message]]) -> None:
        for header, payload in self._guarded(get):
            if not stream.watched:
                continue
            self._audience.send([stream.topic, header, payload])
            if stream is self._main:
                self._rate.tick()
                self.sent += 1
                self.sent_bytes += len(payload)

    def _send_shared(self, shared: SharedStream) -> None:
        for header, payload in self._guarded(shared.pull):
            self._audience.send([shared.topic, header, payload])
            self.sent_bytes += len(payload)

    def _send_status(self) -> None:
        status = self._status()
        self._announced = self._announced or status.state in (LIVE, IDLE)
        if not self._announced:
            return
        message: list[Any] = [self._status_topic, pack_status(status)]
        self._socket.send_multipart(message)
