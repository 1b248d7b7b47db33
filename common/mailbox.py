"""The mailbox: where threads meet, and the only place where a frame is dropped on purpose.

`mode="latest"` keeps what is needed for the newest picture of each camera. `mode="every"` is one bounded queue. Either
way nothing is decoded before it is dropped, and what is dropped is counted on the next frame of its camera.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Generic, Literal, TypeAlias, TypeVar

from camfabric.common.errors import ConfigError
from camfabric.common.frame import Frame
from camfabric.common.settings import LIMITS, Limits

__all__ = ["Closed", "Mailbox", "Mode", "Slot"]

Mode: TypeAlias = Literal["latest", "every"]


class Closed(Exception):
    """The mailbox is closed and empty."""


T = TypeVar("T")


class Slot(Generic[T]):
    """The newest of something of one camera, between a capturing and a sending thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest: T | None = None

    def put(self, newest: T) -> bool:
        """Put something in place of what is there. Returns whether there was something."""
        with self._lock:
            replaced, self._newest = self._newest is not None, newest
        return replaced

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing now."""
        return self._newest is None

    def take(self) -> T | None:
        """What is there, if anything; the slot is empty afterwards."""
        with self._lock:
            newest, self._newest = self._newest, None
        return newest


@dataclass(slots=True)
class _Box:
    """Of one camera. What was dropped is owed to its next frame."""

    frames: deque[Frame] = field(default_factory=deque)
    missed: int = 0
    dropped: int = 0
    leased: bool = False
    overflowed: bool = False
    last: tuple[str, int, int] = ("", 0, -1)
    """Channel, epoch and number of the frame that came last."""


class Mailbox:
    """Frames on their way from a receive thread to a consumer. Safe for any number of threads.

    With `mode="latest"` a camera's box holds what is needed for its newest picture: one frame of an intra-coded stream,
    the packets since the last keyframe of an inter-coded one. One that overflows is emptied, and takes packets again
    from the next keyframe on. With `mode="every"` there is one queue for all. Both are bounded, and count what they
    drop.

    `notify`, if given, is called after each frame put, and at the close, by the thread that does it, without the lock.
    """

    def __init__(
        self, *, mode: Mode = "latest", limits: Limits = LIMITS, notify: Callable[[], None] | None = None
    ) -> None:
        if mode not in ("latest", "every"):
            raise ConfigError(f"mode {mode!r}: it is 'latest' or 'every'", setting="mode", value=mode)
        self.mode: Final = mode
        self._limits = limits
        self._notify = notify
        self._ready = threading.Condition()
        self._boxes: dict[str, _Box] = {}
        self._line: OrderedDict[str, _Box] = OrderedDict()
        self._queue: deque[Frame] = deque()
        self._bytes = 0
        self._closed = False
        self._calls = 0
        self._overflowed: set[str] = set()
        self._wanted: set[str] = set()
        self.dropped: dict[str, int] = {}
        """Frames dropped of each camera, in all."""

    def put(self, frame: Frame) -> None:
        """Hand a frame over. Never waits: something is dropped instead."""
        with self._ready:
            if self._closed:
                return
            box = self._boxes.get(frame.camera)
            if box is None:
                box = self._boxes[frame.camera] = _Box()
            if self.mode == "latest":
                self._put_newest(box, frame)
            else:
                self._put_queue(frame)
            self._ready.notify()
        if self._notify is not None:
            self._notify()

    def _put_newest(self, box: _Box, frame: Frame) -> None:
        if frame.codec.is_intra or frame.keyframe:
            self._empty(box)
            if not frame.codec.is_intra:
                self._forgive(box, frame)
            box.overflowed = False
            self._overflowed.discard(frame.camera)
            self._wanted.discard(frame.camera)
        elif not box.overflowed:
            self._make_room(box, frame)
        box.last = (frame.channel, frame.epoch, frame.seq)
        if box.overflowed:
            self._owe(box, frame)
            return
        box.frames.append(frame)
        self._bytes += self._bytes_of(frame)
        # A replaced frame keeps its camera's place in the line, so that a fast camera cannot starve a slow one.
        if not box.leased:
            self._line.setdefault(frame.camera, box)

    def _make_room(self, box: _Box, frame: Frame) -> None:
        """Empty a box where a packet would be too much: its own, or of all cameras' the largest."""
        if len(box.frames) >= self._limits.backlog_frames:
            self._overflow(frame.camera)
        while not box.overflowed and self._bytes + self._bytes_of(frame) > self._limits.backlog_bytes:
            # Not its own at any rate: one camera's backlog is not to cost another one its picture.
            sizes = {camera: sum(map(self._bytes_of, other.frames)) for camera, other in self._boxes.items()}
            largest = max(sizes, key=lambda camera: sizes[camera])
            self._overflow(largest if sizes[largest] else frame.camera)

    def _overflow(self, camera: str) -> None:
        box = self._boxes[camera]
        self._empty(box)
        box.overflowed = True
        self._overflowed.add(camera)
        self._line.pop(camera, None)

    def _empty(self, box: _Box) -> None:
        for skipped in box.frames:
            self._bytes -= self._bytes_of(skipped)
            self._owe(box, skipped)
        box.frames.clear()

    def _owe(self, box: _Box, skipped: Frame) -> None:
        box.missed += skipped.missed
        box.dropped += skipped.dropped + 1
        self.dropped[skipped.camera] = self.dropped.get(skipped.camera, 0) + 1

    def _forgive(self, box: _Box, keyframe: Frame) -> None:
        """Take back what is owed for frames that a replay brings again."""
        channel, epoch, seq = box.last
        if (
            (keyframe.channel, keyframe.epoch) == (channel, epoch)
            and keyframe.seq <= seq
            and (again := min(box.dropped, seq - keyframe.seq + 1))
        ):
            box.dropped -= again
            self.dropped[keyframe.camera] -= again

    def _put_queue(self, frame: Frame) -> None:
        self._queue.append(frame)
        self._bytes += self._bytes_of(frame)
        while len(self._queue) > 1 and (
            len(self._queue) > self._limits.backlog_frames or self._bytes > self._limits.backlog_bytes
        ):
            skipped = self._queue.popleft()
            self._bytes -= self._bytes_of(skipped)
            self._owe(self._boxes[skipped.camera], skipped)

    def _bytes_of(self, frame: Frame) -> int:
        """What counts towards the bound: not the one frame of an intra-coded stream, for nothing is dropped for it."""
        if frame.payload is None or (self.mode == "latest" and frame.codec.is_intra):
            return 0
        return frame.held_bytes

    def get(self, timeout: float | None = None, *, lease: bool = False) -> Frame:
        """The next frame: in turn over the cameras that have a new one, or in order of arrival for `mode="every"`.

        With `lease`, frames of an inter-coded camera go to this caller alone until it calls `release`, because they
        have to be decoded in order.

        Raises:
            TimeoutError: none came within `timeout` seconds, or before `call_back`.
            Closed: the mailbox is closed and empty.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._ready:
            calls = self._calls
            while True:
                # Whoever asks is back, and what has overflowed is of use again.
                self._wanted |= self._overflowed
                self._overflowed.clear()
                if (frame := self._next()) is not None:
                    if lease and not frame.codec.is_intra:
                        self._boxes[frame.camera].leased = True
                    elif self.mode == "latest":
                        self._line_up(frame.camera)
                    return frame
                if self._closed and not (self._queue or any(box.frames for box in self._boxes.values())):
                    raise Closed
                remaining = None if deadline is None else deadline - time.monotonic()
                if calls != self._calls or (remaining is not None and remaining <= 0):
                    raise TimeoutError
                self._ready.wait(remaining)

    def _next(self) -> Frame | None:
        if self.mode == "every":
            if not self._queue or self._boxes[self._queue[0].camera].leased:
                return None
            frame = self._queue.popleft()
            self._bytes -= self._bytes_of(frame)
            return self._with_debts(frame)
        if not self._line:
            return None
        return self._pop(self._line.popitem(last=False)[1])

    def _pop(self, box: _Box) -> Frame:
        frame = box.frames.popleft()
        self._bytes -= self._bytes_of(frame)
        return self._with_debts(frame)

    def _with_debts(self, frame: Frame) -> Frame:
        box = self._boxes[frame.camera]
        if box.missed or box.dropped:
            frame = frame.replace(missed=frame.missed + box.missed, dropped=frame.dropped + box.dropped)
            box.missed = box.dropped = 0
        return frame

    def _line_up(self, camera: str) -> None:
        box = self._boxes[camera]
        if box.frames and not box.leased:
            self._line.setdefault(camera, box)

    @property
    def is_ready(self) -> bool:
        """Whether `get` has something to give, or to say, at once. Asked without the lock: it may be so no more."""
        return bool(self._line or self._queue) or self._closed

    def has_more(self, camera: str) -> bool:
        """Whether `get_more` has another frame. Always false for `mode="every"`."""
        with self._ready:
            return self._has_more(self._boxes[camera])

    @staticmethod
    def _has_more(box: _Box) -> bool:
        # Frames of an intra-coded stream, which a camera may change to, are for `get`.
        return bool(box.frames) and not box.frames[0].codec.is_intra

    def get_more(self, camera: str) -> Frame | None:
        """The next inter-coded frame of a camera that this caller has leased, or None where there is none now."""
        with self._ready:
            box = self._boxes[camera]
            return self._pop(box) if self._has_more(box) else None

    def release(self, camera: str) -> None:
        """Give a leased camera back."""
        with self._ready:
            self._boxes[camera].leased = False
            self._line_up(camera)
            self._ready.notify_all()

    def overflowed(self) -> set[str]:
        """The cameras whose box has overflowed and whose consumer has come back since; each is named once.

        None while the boxes are half full: what a replay brings would only make others overflow.
        """
        with self._ready:
            if self._bytes > self._limits.backlog_bytes // 2:
                return set()
            wanted, self._wanted = self._wanted, set()
        return wanted

    def call_back(self) -> None:
        """Let whoever waits in `get` come back, with nothing."""
        with self._ready:
            self._calls += 1
            self._ready.notify_all()

    def close(self) -> None:
        """Take no more frames; whoever waits is woken. What is there can still be got."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
        if self._notify is not None:
            self._notify()
