"""Who hears a subscriber's doorbell: the thread that receives, or a consumer that waits for a frame.

A waiting consumer hears it itself: so a picture in memory wakes one thread, and not two, one after the other. What has
to do with subscriptions, as a ring that is new, is left to the thread that receives.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from camfabric.common.doorbell import Doorbell
from camfabric.common.frame import Frame
from camfabric.common.mailbox import Closed, Mailbox
from camfabric.common.settings import TIMES
from camfabric.common.shared_pictures import SharedPictures

__all__ = ["Door"]


class Door:
    """`take` is called by threads that consume, the others by the one that receives.

    Args:
        get: gives the next frame, as `Decoding.take` does.
        mailbox: where frames are put.
        shared: the rings.
        by_consumers: False leaves the doorbell to the thread that receives, as where somebody is to be notified.
    """

    def __init__(
        self, get: Callable[[float | None], Frame], mailbox: Mailbox, shared: SharedPictures, *, by_consumers: bool
    ) -> None:
        self._get = get
        self._mailbox = mailbox
        self._shared = shared
        self._by_consumers = by_consumers
        self.doorbell: Doorbell | None = None
        """Where a camera is on this host."""
        self.on_call: Callable[[], None] = lambda: None
        """Wakes the thread that receives: there is something strange, or a consumer hears the doorbell from now on."""
        self.is_attended = False
        """Whether consumers hear it."""
        self.strange: Final[deque[int]] = deque()
        """Files of rings that a doorbell told of for the first time."""
        self._heard = 0.0

    def put(self, frame: Frame) -> None:
        """Put a frame into the mailbox."""
        self._mailbox.put(frame)
        if self.is_attended:
            self.knock()

    def open(self, doorbell: Doorbell) -> None:
        """Have a doorbell: who waits for frames alone is called back, to hear it."""
        self.doorbell = doorbell
        if self._by_consumers:
            self._mailbox.call_back()

    def is_unheard(self) -> bool:
        """Whether the consumers that are to hear it are away, and somebody has pressed it."""
        return (
            self.doorbell is not None
            and self.is_attended
            and time.monotonic() - self._heard > TIMES.status_s
            and self.doorbell.is_pressed()
        )

    def knock(self) -> None:
        """Wake a consumer that hears the doorbell."""
        if self.doorbell is not None:
            self.doorbell.knock()

    def hear(self, doorbell: Doorbell) -> set[int]:
        """The files of the rings that may have a new picture."""
        self._heard = time.monotonic()
        files, may_be_any = doorbell.heard()
        return files.union(reader.file for reader in self._shared.rings()) if may_be_any else files

    def take(self, timeout: float | None) -> Frame:
        """The next frame, as `Decoding.take` gives it.

        Raises:
            TimeoutError: none came within `timeout` seconds.
            Closed: the mailbox is closed and empty.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if self.doorbell is None or not self._by_consumers or (timeout == 0 and not self.is_attended):
            try:
                return self._get(timeout)
            except TimeoutError:
                if not self._by_consumers or (deadline is not None and time.monotonic() >= deadline):
                    raise
        # There is one now, if there was none.
        return self._get(timeout) if self.doorbell is None else self._attend(self.doorbell, deadline)

    def _attend(self, doorbell: Doorbell, deadline: float | None) -> Frame:
        if not self.is_attended:
            self.is_attended = True
            self.on_call()
        while True:
            if not self._mailbox.is_ready:
                doorbell.wait(None if deadline is None else max(deadline - time.monotonic(), 0.0))
            news = self._news(doorbell)
            if len(news) == 1 and not self._mailbox.is_ready:
                return news[0]  # as nearly always
            for each in news:
                self._mailbox.put(each)
            try:
                frame = self._get(0)
            except TimeoutError:  # it was for the thread that receives, or another consumer was quicker
                if deadline is not None and time.monotonic() >= deadline:
                    raise
                continue
            except Closed:
                doorbell.knock()  # another consumer may wait for nothing
                raise
            if self._mailbox.is_ready:
                doorbell.knock()  # another consumer may wait, for what this one has heard
            return frame

    def _news(self, doorbell: Doorbell) -> list[Frame]:
        """What stands for the new pictures that the doorbell tells of, one of each camera."""
        news = []
        for file in self.hear(doorbell):
            reader = self._shared.known(file)
            if reader is None or not reader.is_rung:
                self.strange.append(file)
                self.on_call()
            elif reader.has_news():
                news.append(reader.news)
        return news
