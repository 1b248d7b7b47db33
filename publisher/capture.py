"""Capture: runs a source into a publisher, opens it anew where it fails, and closes it while nobody watches."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Literal

from camfabric.common.errors import SourceError, WireError
from camfabric.common.settings import TIMES
from camfabric.common.stats import Complaints
from camfabric.common.status import IDLE, OFFLINE, STALLED
from camfabric.common.topics import CAM
from camfabric.publisher.publisher import Publisher
from camfabric.publisher.rate_limit import RateLimit
from camfabric.publisher.sources import Packet, Shot, Source, SourceAddress, open_source
from camfabric.publisher.sources.source import Wanted

__all__ = ["Backoff", "Capture"]

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


class Capture:
    """One camera's source on its way into a publisher.

    With `on_demand` the source is closed 10 s after the last viewer has left, and opened for the next one. `channel`
    is "low" for the small picture's own source, whose failures are logged, and are not the camera's.

    `on_shot`, if given, is called with each picture or packet that was published, for a preview.
    """

    def __init__(
        self,
        address: SourceAddress,
        publisher: Publisher,
        wanted: Wanted,
        *,
        on_demand: bool = False,
        channel: Literal["cam", "low"] = "cam",
        on_shot: Callable[[Shot | Packet], None] | None = None,
    ) -> None:
        self._address = address
        self._publisher = publisher
        self._wanted = wanted
        self._on_demand = on_demand
        self._channel = channel
        self._demand = publisher.demands[channel]
        self._on_shot = on_shot
        self._limit = RateLimit(wanted.fps)
        self._stop = threading.Event()
        self._live_once = False
        self._watched_at = time.monotonic()
        self._complaints = Complaints(logger)

    def stop(self) -> None:
        """End `run`. Safe to call from a signal handler or another thread."""
        self._stop.set()
        self._demand.set()  # wakes whoever waits for it

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
                    idle = self._publish(source, backoff)
                finally:
                    source.close()
            except SourceError as error:
                if not self._live_once and self._channel == CAM:
                    raise
                why = str(error)
            else:
                if idle:
                    self._wait_for_viewers()
                    continue
                if self._ends():
                    return
                why = f"{self._address} ended"
            self._wait(why, backoff.next_s())

    def _ends(self) -> bool:
        """Whether the end of the source is the end of the work; the end of a live stream is a failure."""
        return self._stop.is_set() or self._address.kind in ("file", "folder", "test")

    def _publish(self, source: Source, backoff: Backoff) -> bool:
        """Publish until the source ends. Returns whether it is to be closed because nobody watches."""
        live = False
        begun = 0.0
        for shot in source.shots():
            if self._stop.is_set():
                return False
            if not live:
                which = self._publisher.camera if self._channel == CAM else f"{self._publisher.camera} (low)"
                logger.info("%s is live from %s, for %s", which, self._address, self._publisher.endpoint)
                if self._live_once:
                    self._publisher.forget_packets(self._channel)  # what comes now does not follow
                live = self._live_once = True
                self._watched_at = begun = time.monotonic()  # opening it may have taken long
            elif begun and time.monotonic() - begun > TIMES.steady_s:
                backoff.reset()  # one that gives a little and fails each time is not to be opened in a rush
                begun = 0.0
            try:
                self._pass_on(shot)
            except WireError as error:
                # A damaged packet, mostly, that says of itself what cannot be.
                self._complaints.note(str(self._address), error)
            if self._on_demand and self._is_idle():
                return True
        return False

    def _is_idle(self) -> bool:
        if self._demand.is_set():
            self._watched_at = time.monotonic()
        return time.monotonic() - self._watched_at > TIMES.idle_s

    def _pass_on(self, shot: Shot | Packet) -> None:
        if isinstance(shot, Packet):
            self._publisher.send_packet(
                shot.payload,
                codec=shot.codec,
                size=shot.size,
                keyframe=shot.keyframe,
                disposable=shot.disposable,
                pts=shot.pts,
                dts=shot.dts,
                time_base=shot.time_base,
                captured_monotonic_ns=shot.captured_monotonic_ns,
                channel=self._channel,
            )
        elif self._limit.admits(shot.captured_monotonic_ns):
            self._publisher.send_drawn(
                shot.draw,
                size=shot.size,
                captured_monotonic_ns=shot.captured_monotonic_ns,
                channel=self._channel,
            )
        else:
            return
        if self._on_shot is not None:
            self._on_shot(shot)

    def _wait_for_viewers(self) -> None:
        self._publisher.forget_packets(self._channel)
        self._report(IDLE, "nobody watches")
        logger.info("%s is closed until somebody watches", self._address)
        while not self._stop.is_set() and not self._demand.wait(TIMES.idle_s):
            pass  # where the sender takes back, at that moment, what `stop` has set
        if not self._stop.is_set():
            self._report(STALLED, "opening its source")

    def _wait(self, reason: str, wait_s: float) -> None:
        self._report(OFFLINE, reason)
        logger.warning("%s; trying again in %.1f s", reason, wait_s)
        self._stop.wait(wait_s)

    def _report(self, state: str, reason: str) -> None:
        if self._channel == CAM:
            self._publisher.report(state, reason)
