"""The subscriber's thread: it owns the sockets, drains them all the time, and puts what is new into the mailbox."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from typing import Final

from camfabric.common import wire
from camfabric.common.dial import Dial
from camfabric.common.doorbell import Doorbell
from camfabric.common.errors import ConfigError, WireError
from camfabric.common.frame import Frame
from camfabric.common.mailbox import Mailbox
from camfabric.common.roster import Roster
from camfabric.common.settings import LIMITS, TIMES, Limits
from camfabric.common.shared import NoRing, RingReader
from camfabric.common.shared_pictures import SharedPictures
from camfabric.common.sockets import Socket, Waker, Watch, receive
from camfabric.common.stats import Complaints
from camfabric.common.status import OFFLINE, Status, unpack_status
from camfabric.common.topics import (
    BROKER,
    CLOCK,
    LOW,
    REPLAY,
    STATUS,
    covers,
    new_nonce,
    parse_request,
    parse_topic,
    request_topic,
    shared_channel,
    topic,
)
from camfabric.subscriber.clocks import Clocks
from camfabric.subscriber.door import Door
from camfabric.subscriber.local import Local
from camfabric.subscriber.sequence import Sequence

__all__ = ["Receiver"]

logger = logging.getLogger(__name__)

_TICK_S: Final = 0.1
_BATCH: Final = 64


@dataclass(slots=True)
class _ClockQuestion:
    """When the publishers under a filter are next asked for their clocks, and how often they were."""

    due: float
    asked: int = 0


@dataclass(slots=True)
class _Link:
    """One connection, and the requests that wait for an answer over it: topic to (when asked, stream)."""

    dial: Dial
    requests: dict[bytes, tuple[int, str]] = field(default_factory=dict)
    clocks: dict[str, _ClockQuestion] = field(default_factory=dict)
    heard: float = field(default_factory=time.monotonic)

    @property
    def socket(self) -> Socket:
        return self.dial.socket


@dataclass(slots=True)
class _Stream:
    """One camera's frames: their order, and the requests for what is missing."""

    sequence: Sequence
    link: _Link
    camera: str
    asking: bool = False
    asked_of: int | None = None
    """The epoch of whose beginning a replay was asked for."""
    next_ask: float = 0.0
    next_advice: float = 0.0
    pause_s: float = TIMES.replay_first_s
    received: bool = False


class Receiver(threading.Thread):
    """Receives frames and statuses of cameras by filters over any number of endpoints.

    With `channel=None` it takes statuses alone. `on_status` is called in this thread with each change. The filter "" is
    every camera; `watch` replaces the filters while it runs. With `shared` and `door`, cameras of this host
    are taken from its memory.
    """

    def __init__(
        self,
        dials: Iterable[Dial],
        *,
        filters: Iterable[str],
        channel: str | None,
        mailbox: Mailbox,
        shared: SharedPictures | None = None,
        door: Door | None = None,
        limits: Limits = LIMITS,
        on_status: Callable[[Status], None] | None = None,
    ) -> None:
        super().__init__(name="subscribe", daemon=True)
        self._links = [_Link(dial) for dial in dials]
        self._filters: frozenset[str] = frozenset()
        self._wanted = frozenset(filters)
        self._channel = channel
        self._mailbox = mailbox
        self._limits = limits
        self._on_status = on_status
        self._shared = shared
        self._local = None if shared is None else Local(limits=limits)
        self._door = door
        self._topics: frozenset[bytes] = frozenset()
        self._known: frozenset[str] = frozenset()
        """The cameras that were heard of when the topics were chosen."""
        self._ended: dict[str, float] = {}
        """Cameras whose publisher has said goodbye, and until when what it announced may still be read."""
        self._watch = Watch()
        self._waker = Waker()
        if door is not None:
            door.on_call = self._waker.wake
        self._stop_asked = False
        self._streams: dict[str, _Stream] = {}
        self._clocks = Clocks()
        if shared is not None:
            shared.offset_ns = self._clocks.offset_ns
        self.roster = Roster()
        self.brokers: set[str] = set()
        self.complaints = Complaints(logger)

    def ask_stop(self) -> None:
        """End the thread soon. Safe to call from a signal handler."""
        self._stop_asked = True
        self._waker.wake()

    def stop(self) -> None:
        """End the thread, which closes the sockets and the mailbox, and wait for it."""
        self.ask_stop()
        if threading.current_thread() is self:
            raise ConfigError(
                "a subscriber cannot be closed from its own on_status: use ask_close", setting="on_status"
            )
        self.join()
        self._waker.close()

    def watch(self, filters: Iterable[str]) -> None:
        """Replace the filters. Safe from another thread; the subscriptions change soon after."""
        self._wanted = frozenset(filters)
        self._waker.wake()

    def run(self) -> None:
        """The thread's loop."""
        watch = self._watch
        watch.register(self._waker.fileno())
        for link in self._links:
            if self._channel is None:
                link.socket.subscribe(topic(BROKER))
            watch.register(link.socket)
            watch.register(link.dial.monitor, quiet=True)
        next_tick = time.monotonic()
        try:
            while not self._stop_asked:
                if self._filters is not (wanted := self._wanted):
                    self._change_filters(wanted)
                ready = watch.wait(next_tick - time.monotonic())
                if self._waker.fileno() in ready:
                    self._waker.clear()
                if self._door is not None and self._door.doorbell is not None:
                    self._tend(self._door, self._door.doorbell, ready)
                for link in self._links:
                    if link.dial.monitor in ready:
                        link.dial.hear()
                    if link.socket in ready:
                        self._drain(link, 1 if watch.has_waited else _BATCH)
                if (now := time.monotonic()) >= next_tick:
                    next_tick = now + _TICK_S
                    self._tick(now)
        finally:
            for link in self._links:
                link.dial.close()
                link.socket.close(0)
            self._mailbox.close()
            if self._door is not None and self._door.doorbell is not None:
                self._door.knock()
                self._door.doorbell.close()

    def _change_filters(self, wanted: frozenset[str]) -> None:
        before, self._filters = self._filters, wanted
        # Live before replay: the other way round there is a gap.
        self._choose_topics()
        for link in self._links:
            for filter_ in sorted(wanted - before):
                self._begin(link, filter_)
            for filter_ in before - wanted:
                self._end(link, filter_)
        if before - wanted:
            self._forget_unwatched()

    def _begin(self, link: _Link, filter_: str) -> None:
        if self._channel is not None:
            if filter_:
                # It may be a camera's name: then the answer is here before its status is.
                self._ask(link, REPLAY, f"{self._channel}/{filter_}")
            link.clocks[filter_] = _ClockQuestion(time.monotonic() + TIMES.clock_s)
        link.socket.subscribe(topic(STATUS, filter_))

    def _end(self, link: _Link, filter_: str) -> None:
        if self._channel is not None:
            del link.clocks[filter_]
        link.socket.unsubscribe(topic(STATUS, filter_))

    def _choose_topics(self) -> None:
        """Subscribe to what frames are to come on now, and only then end what they came on before."""
        if self._channel is None:
            return
        before = self._topics
        if self._local is None:
            self._topics = frozenset(topic(self._channel, filter_) for filter_ in self._filters)
        else:
            self._known = frozenset(
                camera for camera in (*self.roster.cameras(), *self._streams) if self._is_covered(camera)
            )
            self._local.bound(self._known)
            self._topics = frozenset(self._local.topics(self._filters, self._known))
            self._forget_unasked(self._local)
        for link in self._links:
            for new in sorted(self._topics - before):
                link.socket.subscribe(new)
            for gone in before - self._topics:
                link.socket.unsubscribe(gone)

    def _forget_unasked(self, local: Local) -> None:
        """Give back the rings of cameras that are not taken from memory any more."""
        if self._shared is not None:
            for reader in self._shared.rings():
                if not local.is_asked(reader.camera):
                    self._shared.forget(reader.camera)

    def _is_watched(self, camera: str) -> bool:
        """Whether a filter gives it: the last message of a subscription that was taken back may be here already."""
        if camera in self._streams:
            return True
        return self._is_covered(camera)

    def _is_covered(self, camera: str) -> bool:
        return any(covers(filter_, camera) for filter_ in self._filters)

    def _forget_unwatched(self) -> None:
        """Take back requests for cameras that no filter gives any more, and what is known of them.

        When they are watched again, they begin anew, and nobody calls them offline meanwhile.
        """
        streams, self._streams = self._streams, {}
        self._streams = {camera: stream for camera, stream in streams.items() if self._is_watched(camera)}
        for camera in [camera for camera in self.roster.cameras() if not self._is_watched(camera)]:
            self.roster.forget(camera)
            if self._local is not None and self._shared is not None:
                self._local.forget(camera)
                self._shared.forget(camera)
        for link in self._links:
            for asked in [asked for asked, (_, rest) in link.requests.items() if not self._asks_for_watched(rest)]:
                self._close_request(link, asked)

    def _asks_for_watched(self, rest: str) -> bool:
        """Whether a request is for a filter, or for a camera of one. `rest`: what it asks for, without a nonce."""
        name = rest.removeprefix(f"{self._channel}/")
        return name in self._filters or self._is_watched(name)

    def _drain(self, link: _Link, most: int) -> None:
        for place in range(most):
            if (parts := receive(link.socket, likely=not place)) is None:
                return
            link.heard = time.monotonic()
            try:
                self._take(link, [part.buffer for part in parts])
            except WireError as error:
                self.complaints.note(link.dial.endpoint.text, error)
            except Exception as error:
                self.complaints.note_fault(link.dial.endpoint.text, error)

    def _take(self, link: _Link, parts: list[memoryview]) -> None:
        prefix = bytes(parts[0][:8])
        if self._channel is not None and prefix.startswith(self._channel.encode() + b"/"):
            if len(parts) != wire.FRAME_PARTS:
                raise WireError(f"frame of {len(parts)} parts", reason="parts")
            self._got_frame(link, self._frame(parts))
        elif prefix.startswith(b"shm/") and self._shared is not None:
            if len(parts) != wire.FRAME_PARTS:
                raise WireError(f"frame of {len(parts)} parts", reason="parts")
            self._got_shared(link, self._frame(parts), self._shared)
        elif prefix.startswith(b"status/"):
            if len(parts) != 2:
                raise WireError(f"status of {len(parts)} parts", reason="parts")
            self._got_status(link, unpack_status(parts[0], parts[1]))
        elif prefix.startswith(b"replay/"):
            self._got_replay(link, parts)
        elif prefix.startswith(b"clock/"):
            self._got_clock(link, parts)
        elif prefix.startswith(b"broker/"):
            if len(self.brokers) < self._limits.cameras:
                self.brokers.add(parse_topic(bytes(parts[0]))[1])
        else:
            raise WireError(f"unexpected topic {bytes(parts[0][:64])!r}", reason="topic")

    def _frame(self, parts: list[memoryview]) -> Frame:
        return wire.unpack_frame(parts[0], parts[1], parts[2], received_ns=time.time_ns(), limits=self._limits)

    def _stream(self, camera: str, link: _Link) -> _Stream:
        stream = self._streams.get(camera)
        if stream is None:
            stream = self._streams[camera] = _Stream(Sequence(self._limits), link, camera)
        return stream

    def _got_frame(self, link: _Link, frame: Frame) -> None:
        if not self._is_watched(frame.camera) or not self.roster.accepts(frame.camera, frame.epoch):
            return
        if self._local is not None:
            if self._local.in_memory(frame.camera):
                return  # it was under way when its topic was let go
            if self._local.passed(frame.camera):
                self._choose_topics()
        stream = self._stream(frame.camera, link)
        self._pass_on(stream, stream.sequence.live(frame))
        if stream.sequence.waiting:
            stream.link = link
            self._mend(stream)

    def _got_shared(self, link: _Link, frame: Frame, shared: SharedPictures) -> None:
        """A publisher has announced a picture, for it has not opened the doorbell, or not yet."""
        local = self._local
        if local is None or not local.is_asked(frame.camera) or local.is_woken(frame.camera):
            return
        if frame.channel != shared_channel(local.host):
            raise WireError(f"announcement on {frame.channel}/", reason="topic")
        if not self.roster.accepts(frame.camera, frame.epoch):
            return
        try:
            reader = shared.announced(frame)
        except NoRing:
            raise  # it may have been replaced since
        except WireError:
            self._take_main_stream(link, frame.camera, changed=local.refuse(frame.camera))
            raise
        self._look(reader, shared, local, is_woken=False)

    def _tend(self, door: Door, doorbell: Doorbell, ready: Container[Socket | int]) -> None:
        """Look at the rings that the doorbell tells of, as far as consumers do not do it themselves."""
        if door.is_attended:
            self._watch.unregister(doorbell.fileno())
        files = door.hear(doorbell) if doorbell.fileno() in ready else set()
        while door.strange:
            files.add(door.strange.popleft())
        for file in files:
            self._hear(file)

    def _hear(self, file: int) -> None:
        """A publisher has told of a picture in a ring."""
        shared, local = self._shared, self._local
        if shared is None or local is None:
            return
        try:
            self._look(shared.ring(file), shared, local, is_woken=True)
        except NoRing:
            pass  # it has been replaced since: its successor's turn comes with its first picture
        except WireError as error:
            self.complaints.note("shared memory", error)

    def _look(self, reader: RingReader, shared: SharedPictures, local: Local, *, is_woken: bool) -> None:
        """Have whoever consumes take the newest picture of a ring, if there is one."""
        camera = reader.camera
        if not local.is_asked(camera) or not self.roster.accepts(camera, reader.epoch) or not reader.has_picture:
            return
        shared.have(reader)
        reader.is_rung = reader.is_rung or is_woken
        if local.arrived(camera, is_woken=is_woken):
            # What comes on the main stream again, if it does, is another beginning.
            link = self._streams[camera].link if camera in self._streams else self._links[0]
            self._streams[camera] = _Stream(Sequence(self._limits), link, camera, asked_of=reader.epoch, received=True)
            self._choose_topics()
        if reader.has_news():
            self._put(reader.news)

    def _take_main_stream(self, link: _Link, camera: str, *, changed: bool) -> None:
        """Do without shared memory for a camera, if that is a change."""
        if not changed or self._shared is None:
            return
        self._streams[camera] = _Stream(Sequence(self._limits), link, camera)
        self._choose_topics()
        self._mend(self._streams[camera])

    def _put(self, frame: Frame) -> None:
        if self._door is None:
            self._mailbox.put(frame)
        else:
            self._door.put(frame)

    def _pass_on(self, stream: _Stream, frames: list[Frame]) -> None:
        for frame in frames:
            stream.received = True
            self._put(
                frame.replace(
                    received_ns=frame.received_ns or time.time_ns(),
                    clock_offset_ns=self._clocks.offset_ns(frame),
                )
            )

    def _mend(self, stream: _Stream) -> None:
        """Ask for a replay, unless one was asked for just now."""
        now = time.monotonic()
        if stream.asking or now < stream.next_ask:
            return
        if now > stream.next_ask + TIMES.replay_max_s:
            stream.pause_s = TIMES.replay_first_s
        stream.next_ask = now + stream.pause_s
        stream.pause_s = min(stream.pause_s * 2, TIMES.replay_max_s)
        if stream.received and stream.pause_s >= TIMES.replay_max_s:
            self._advise(stream)
        stream.asking = True
        self._ask(stream.link, REPLAY, f"{self._channel}/{stream.camera}")

    def _advise(self, stream: _Stream) -> None:
        """Say what helps where one replay follows another, once a minute."""
        now = time.monotonic()
        if now < stream.next_advice:
            return
        stream.next_advice = now + TIMES.complain_s
        logger.warning(
            "frames of %s are lost again and again: the link, or this machine, is too slow for it%s",
            stream.camera,
            "" if self._channel == LOW else "; its small picture (channel low) needs far less",
        )

    def troubles(self) -> list[str]:
        """Which endpoints there is no connection to, and why, as far as that is known. Safe from another thread."""
        dials = [link.dial for link in self._links]
        return [f"no connection to {dial.endpoint}: {dial.trouble}" for dial in dials if dial.trouble]

    def is_waiting(self, camera: str) -> bool:
        """Whether packets of a camera come, and cannot be decoded before its next keyframe."""
        stream = self._streams.get(camera)
        return stream is not None and stream.sequence.waiting

    def unheard(self, silent_s: float) -> list[str]:
        """The endpoints from which nothing at all has come for so long. Safe from another thread."""
        limit = time.monotonic() - silent_s
        return [link.dial.endpoint.text for link in self._links if link.heard < limit]

    def _got_status(self, link: _Link, status: Status) -> None:
        if not self._is_watched(status.camera) or not self.roster.heard(status):
            return
        self._tell(status)
        if self._local is not None:
            self._follow(link, status, self._local)
        if status.state == OFFLINE or self._channel is None:
            return
        if not self._clocks.knows(status.camera, status.epoch):
            self._hurry_clocks(link, status.camera)
        stream = self._stream(status.camera, link)
        if stream.asked_of != status.epoch and not stream.asking:
            stream.asked_of = status.epoch
            if not stream.received:
                stream.link = link
                self._mend(stream)

    def _follow(self, link: _Link, status: Status, local: Local) -> None:
        """Take a camera from where its status says."""
        camera, shared = status.camera, self._shared
        if status.state == OFFLINE:
            self._ended[camera] = time.monotonic() + TIMES.offline_s
        reader = None if shared is None else shared.of(camera)
        was_in_memory, was_woken = local.in_memory(camera), local.is_woken(camera)
        has_moved = False
        if shared is not None and reader is not None:
            if reader.epoch != status.epoch:
                shared.forget(camera)  # its name is another publisher's now
            else:
                has_moved = reader.has_moved()
        # Consumers look at it by themselves. While they are away nobody knows of a new ring.
        is_unheard = was_woken and self._door is not None and self._door.is_unheard()
        if was_in_memory and (has_moved or is_unheard):
            local.arrived(camera, is_woken=was_woken)
        changed = local.heard(status)
        if reader is not None:
            reader.is_rung = local.is_woken(camera)  # else what the doorbell tells next is to be known here
        if changed and local.is_asked(camera):
            self._have_doorbell(local)
        if was_in_memory and changed and not local.in_memory(camera):
            self._take_main_stream(link, camera, changed=True)
        elif changed or camera not in self._known:
            self._choose_topics()

    def _have_doorbell(self, local: Local) -> None:
        if self._door is None or self._door.doorbell is not None:
            return
        try:
            doorbell = Doorbell()
        except OSError as error:
            logger.debug("no doorbell: %s", error)  # announcements do as well
            return
        self._watch.register(doorbell.fileno())
        local.doorbell = doorbell.name
        self._door.open(doorbell)

    @staticmethod
    def _hurry_clocks(link: _Link, camera: str) -> None:
        for filter_, question in link.clocks.items():
            if covers(filter_, camera):
                question.due = min(question.due, time.monotonic())

    def _tell(self, status: Status) -> None:
        if self._on_status is not None:
            try:
                self._on_status(status)
            except Exception:
                logger.exception("on_status failed")

    def _ask(self, link: _Link, kind: str, rest: str) -> None:
        asked = request_topic(kind, new_nonce(), rest)
        link.requests[asked] = (time.monotonic_ns(), rest)
        link.socket.subscribe(asked)

    def _close_request(self, link: _Link, asked: bytes) -> str:
        """Take a request back. Returns what it asked for."""
        _, rest = link.requests.pop(asked)
        link.socket.unsubscribe(asked)
        stream = self._streams.get(rest.removeprefix(f"{self._channel}/"))
        if stream is not None and asked.startswith(b"replay/"):
            stream.asking = False
        return rest

    def _got_replay(self, link: _Link, parts: list[memoryview]) -> None:
        asked = bytes(parts[0])
        if asked not in link.requests:
            return
        rest = self._close_request(link, asked)
        frames = wire.unpack_replay(parts, f"{rest}/".encode(), limits=self._limits)
        if self._local is not None and self._local.in_memory(rest.partition("/")[2]):
            return
        frames = [frame for frame in frames if self.roster.accepts(frame.camera, frame.epoch)]
        stream = self._stream(rest.partition("/")[2], link)
        self._pass_on(stream, stream.sequence.replayed(frames))

    def _got_clock(self, link: _Link, parts: list[memoryview]) -> None:
        now_ns = time.monotonic_ns()
        if len(parts) != wire.CLOCK_PARTS:
            raise WireError(f"clock answer of {len(parts)} parts", reason="parts")
        answered = bytes(parts[0])
        for asked, (asked_ns, _) in link.requests.items():
            if answered.startswith(asked):
                # Several cameras answer one request, so it stays open until its time is up.
                if (request := parse_request(answered)) is not None:
                    self._clocks.answered(request[2], wire.unpack_clock(parts[1]), asked_ns, now_ns)
                return

    def _give_up(self, link: _Link, asked: bytes) -> None:
        stream = self._streams.get(self._close_request(link, asked).removeprefix(f"{self._channel}/"))
        if stream is not None and not stream.received:
            stream.asked_of = None  # nobody was there to answer: once more with the next status

    def _tick(self, now: float) -> None:
        for status in self.roster.expire():
            self._tell(status)
            if self._shared is not None:
                self._shared.forget(status.camera)
        for camera in [camera for camera, until in self._ended.items() if now >= until]:
            del self._ended[camera]
            if self._shared is not None:
                self._shared.forget(camera)
        for conflict in self.roster.conflicts():
            logger.warning(
                "two publishers claim camera %s: the newer one (%016x) is shown, %016x is not",
                conflict.camera,
                conflict.winner,
                conflict.loser,
            )
        for camera in self._mailbox.overflowed():
            if (stream := self._streams.get(camera)) is not None:
                stream.sequence.restart()
                self._mend(stream)
        limit_ns = time.monotonic_ns() - int(TIMES.request_s * 1e9)
        for link in self._links:
            link.dial.tick()
            for asked in [asked for asked, (asked_ns, _) in link.requests.items() if asked_ns < limit_ns]:
                self._give_up(link, asked)
            if not self.roster.is_empty():
                self._ask_clocks(link, now)

    def _ask_clocks(self, link: _Link, now: float) -> None:
        for filter_, question in link.clocks.items():
            if now >= question.due:
                question.asked += 1
                fast = question.asked <= TIMES.clock_fast
                question.due = now + (TIMES.clock_first_s if fast else TIMES.clock_s)
                self._ask(link, CLOCK, filter_)
