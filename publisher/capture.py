"""Capture: runs a source into a publisher, and opens it anew where it fails, with back-off and jitter."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from camfabric.common.errors import SourceError
from camfabric.common.settings import TIMES
from camfabric.common.status import OFFLINE
from camfabric.publisher.publisher import Publisher
from camfabric.publisher.sources import Shot, Source, SourceAddress, open_source
from camfabric.publisher.sources.source import Wanted

if TYPE_CHECKING:
    from camfabric.common.frame import Image

__all__ = ["Backoff", "Capture", "RateLimit"]

logger = logging.getLogger(__name__)


class Backoff:
    """Waiting times that double from 0.5 s to 10 s, each 50 to 100 % of its nominal length so that no two agree."""

    def __init__(self) -> None:
        self._nominal_s = TIMES.reopen_first_s

    def next_s(self) -> float:
        """The next waiting time."""
        nominal_s, self._nominal_s = self._nominal_s, min(self._nominal_s * 2, TIMES.reopen_max_s)
        return nominal_s * random.uniform(0.5, 1.0)  # noqa: S311  (jitter, not a secret)

    def reset(self) -> None:
        """Begin anew: it works again."""
        self._nominal_s = TIMES.reopen_first_s


class RateLimit:
    """Lets at most `fps` pictures a second through, evenly."""

    def __init__(self, fps: float | None) -> None:
        self._interval_ns = 0 if fps is None else int(1e9 / fps)
        self._due_ns: int | None = None

    def admits(self, at_ns: int) -> bool:
        """Whether the picture of that monotonic time goes through."""
        if not self._interval_ns:
            return True
        # A camera's jitter must not cost it every second frame: a tenth of an interval early is on time.
        if self._due_ns is not None and at_ns < self._due_ns - self._interval_ns // 10:
            return False
        if self._due_ns is None or at_ns - self._due_ns > self._interval_ns:
            self._due_ns = at_ns  # the first, or the first after a pause: what was not used is not made up for
        self._due_ns += self._interval_ns
        return True


class Capture:
    """One camera's source on its way into a publisher.

    `on_image`, if given, is called with each picture that was published, for a preview.
    """

    def __init__(
        self,
        address: SourceAddress,
        publisher: Publisher,
        wanted: Wanted,
        *,
        on_image: Callable[[Image], None] | None = None,
    ) -> None:
        self._address = address
        self._publisher = publisher
        self._wanted = wanted
        self._on_image = on_image
        self._limit = RateLimit(wanted.fps)
        self._stop = threading.Event()
        self._live_once = False

    def stop(self) -> None:
        """End `run`. Safe to call from a signal handler or another thread."""
        self._stop.set()

    def run(self) -> None:
        """Publish until the source ends or `stop` is called.

        Raises:
            SourceError: the source failed before it ever gave a picture; once it has, it is opened anew instead.
            ConfigError: the source needs an extra that is not installed.
        """
        backoff = Backoff()
        while not self._stop.is_set():
            try:
                source = open_source(self._address, self._wanted, stop=self._stop)
                try:
                    self._publish(source, backoff)
                finally:
                    source.close()
            except SourceError as error:
                if not self._live_once:
                    raise
                why = str(error)
            else:
                if self._ends():
                    return
                why = f"{self._address} ended"
            self._wait(why, backoff.next_s())

    def _ends(self) -> bool:
        """Whether the end of the source is the end of the work; the end of a live stream is a failure."""
        return self._stop.is_set() or self._address.kind in ("file", "folder", "test")

    def _publish(self, source: Source, backoff: Backoff) -> None:
        live = False
        for shot in source.shots():
            if self._stop.is_set():
                return
            if not live:
                logger.info(
                    "%s is live from %s, for %s", self._publisher.camera, self._address, self._publisher.endpoint
                )
                live = self._live_once = True
                backoff.reset()
            self._pass_on(shot)

    def _pass_on(self, shot: Shot) -> None:
        if not self._limit.admits(shot.captured_monotonic_ns):
            return
        self._publisher.send(shot.image, copy=False, captured_monotonic_ns=shot.captured_monotonic_ns)
        if self._on_image is not None:
            self._on_image(shot.image)

    def _wait(self, reason: str, wait_s: float) -> None:
        self._publisher.report(OFFLINE, reason)
        logger.warning("%s; trying again in %.1f s", reason, wait_s)
        self._stop.wait(wait_s)
