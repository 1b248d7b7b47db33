"""The mailbox: where threads meet, and the only place where a frame is dropped on purpose.

`mode="latest"` has one slot for each camera, and the newest frame wins. `mode="every"` is one bounded queue. Either way
nothing is decoded before it is dropped, and what is dropped is counted on the next frame of its camera.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, TypeAlias

from camfabric.common.errors import ConfigError
from camfabric.common.frame import Frame
from camfabric.common.settings import LIMITS, Limits

__all__ = ["Closed", "Mailbox", "Mode", "Slot"]

Mode: TypeAlias = Literal["latest", "every"]


class Closed(Exception):
    """The mailbox is closed and empty."""


class Slot:
    """The newest frame of one camera, between a capturing and a sending thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._frame: Frame | None = None

    def put(self, frame: Frame) -> bool:
        """Put a frame in place of what is there. Returns whether there was one."""
        with self._lock:
            replaced, self._frame = self._frame is not None, frame
        return replaced

    def take(self) -> Frame | None:
        """The frame, if there is one; the slot is empty afterwards."""
        with self._lock:
            frame, self._frame = self._frame, None
        return frame


class Mailbox:
    """Frames on their way from a receive thread to a consumer. Safe for any number of threads.

    `notify`, if given, is called after each frame put, and at the close, by the thread that does it, without the lock.
    """

    def __init__(
        self, *, mode: Mode = "latest", limits: Limits = LIMITS, notify: Callable[[], None] | None = None
    ) -> None:
        if mode not in ("latest", "every"):
            raise ConfigError(f"mode {mode!r}: it is 'latest' or 'every'", setting="mode", value=mode)
        self._mode = mode
        self._limits = limits
        self._notify = notify
        self._ready = threading.Condition()
        self._newest: OrderedDict[str, Frame] = OrderedDict()
        self._queue: deque[Frame] = deque()
        self._queue_bytes = 0
        self._debts: dict[str, tuple[int, int]] = {}
        self._closed = False
        self.dropped: dict[str, int] = {}
        """Frames dropped of each camera, in all."""

    def put(self, frame: Frame) -> None:
        """Hand a frame over. Never waits: something is dropped instead."""
        with self._ready:
            if self._closed:
                return
            if self._mode == "latest":
                self._put_newest(frame)
            else:
                self._put_queue(frame)
            self._ready.notify()
        if self._notify is not None:
            self._notify()

    def _put_newest(self, frame: Frame) -> None:
        # A replaced frame keeps its camera's place in the line, so that a fast camera cannot starve a slow one.
        if (skipped := self._newest.get(frame.camera)) is not None:
            frame = self._owing(frame, skipped)
        self._newest[frame.camera] = frame

    def _put_queue(self, frame: Frame) -> None:
        self._queue.append(frame)
        self._queue_bytes += _bytes_of(frame)
        while len(self._queue) > 1 and (
            len(self._queue) > self._limits.backlog_frames or self._queue_bytes > self._limits.backlog_bytes
        ):
            skipped = self._queue.popleft()
            self._queue_bytes -= _bytes_of(skipped)
            missed, dropped = self._debts.get(skipped.camera, (0, 0))
            self._debts[skipped.camera] = (missed + skipped.missed, dropped + skipped.dropped + 1)
            self.dropped[skipped.camera] = self.dropped.get(skipped.camera, 0) + 1

    def _owing(self, frame: Frame, skipped: Frame) -> Frame:
        self.dropped[frame.camera] = self.dropped.get(frame.camera, 0) + 1
        return replace(frame, missed=frame.missed + skipped.missed, dropped=frame.dropped + skipped.dropped + 1)

    def get(self, timeout: float | None = None) -> Frame:
        """The next frame: in turn over the cameras that have a new one, or in order of arrival for `mode="every"`.

        Raises:
            TimeoutError: none came within `timeout` seconds.
            Closed: the mailbox is closed and empty.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._ready:
            while True:
                if (frame := self._take()) is not None:
                    return frame
                if self._closed:
                    raise Closed
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    raise TimeoutError
                self._ready.wait(remaining)

    def _take(self) -> Frame | None:
        if self._newest:
            return self._newest.popitem(last=False)[1]
        if not self._queue:
            return None
        frame = self._queue.popleft()
        self._queue_bytes -= _bytes_of(frame)
        missed, dropped = self._debts.pop(frame.camera, (0, 0))
        if missed or dropped:
            frame = replace(frame, missed=frame.missed + missed, dropped=frame.dropped + dropped)
        return frame

    def close(self) -> None:
        """Take no more frames; whoever waits is woken. What is there can still be got."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
        if self._notify is not None:
            self._notify()


def _bytes_of(frame: Frame) -> int:
    return len(frame.payload) if frame.payload is not None else 0
