"""Which stream of a camera `camfabric view` takes: the small one for many tiles, the main one where it is large."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias

from camfabric.cli.options import Access, LocalWay
from camfabric.common.errors import ConfigError
from camfabric.common.frame import Frame
from camfabric.common.status import Status
from camfabric.subscriber import Subscriber

__all__ = ["Watching"]

Channel: TypeAlias = Literal["cam", "low"]

_MANY: Final = 4
"""With more tiles than this, a small picture fills its own."""


class Watching:
    """Takes the frames of all cameras under the filters, each from the channel that fits its size on the screen."""

    def __init__(
        self,
        endpoints: Sequence[str],
        filters: Sequence[str],
        *,
        channel: Literal["auto", "cam", "low"],
        access: Access,
        local: LocalWay = "auto",
    ) -> None:
        self._endpoints = endpoints
        self._channel = channel
        self._access = access
        self._local = local
        self._arrived = threading.Event()
        self._subscribers: dict[Channel, Subscriber] = {}
        self._wanted: dict[Channel, frozenset[str]] = {}
        self._closing = False
        self.enlarged: str | None = None
        """The one camera that is shown, or None for all."""
        self._statuses = Subscriber(
            endpoints, cameras=filters, channel=None, on_status=lambda _: self._arrived.set(), **access
        )

    def cameras(self) -> dict[str, Status]:
        """The last status of each camera, by name."""
        return self._statuses.cameras()

    def frames(self, wait_s: float) -> Iterator[Frame]:
        """The newest frame of each camera that has one; waits for the first at most so long.

        Raises:
            ConfigError: it is closed.
        """
        if self._closing:
            raise ConfigError("the view is closed", setting="subscriber")
        self._choose()
        self._arrived.wait(wait_s)
        self._arrived.clear()
        for channel, subscriber in self._subscribers.items():
            wanted = self._wanted.get(channel, frozenset())
            for _ in wanted:
                try:
                    frame = subscriber.read(0)
                except TimeoutError:
                    break
                self._arrived.set()  # there may be more
                if frame.camera in wanted:
                    yield frame

    def _choose(self) -> None:
        """Subscribe anew where cameras have come, or another one is enlarged."""
        wanted = self._fitting(self.cameras())
        before, self._wanted = self._wanted, wanted
        # First what is wanted now, so that nothing stops in between.
        for channel in sorted({*wanted, *before}, key=lambda channel: channel not in wanted):
            if (cameras := wanted.get(channel, frozenset())) == before.get(channel, frozenset()):
                continue
            if (subscriber := self._subscribers.get(channel)) is not None:
                subscriber.watch(sorted(cameras))
                continue
            self._subscribers[channel] = Subscriber(
                self._endpoints,
                cameras=sorted(cameras),
                channel=channel,
                local=self._local,
                **self._access,
                notify=self._arrived.set,
            )

    def _fitting(self, statuses: dict[str, Status]) -> dict[Channel, frozenset[str]]:
        """The cameras to take, by channel."""
        if self.enlarged is not None and self._channel != "low":
            return {"cam": frozenset({self.enlarged})}
        shown = {camera: statuses[camera] for camera in statuses if self.enlarged in (None, camera)}
        wants_small = self._channel == "low" or (self._channel == "auto" and len(shown) > _MANY)
        small = frozenset(camera for camera, status in shown.items() if wants_small and status.low)
        fitting: dict[Channel, frozenset[str]] = {"low": small, "cam": frozenset(shown) - small}
        return {channel: cameras for channel, cameras in fitting.items() if cameras}

    @property
    def is_small(self) -> bool:
        """Whether all that is shown are small pictures."""
        return "low" in self._wanted and "cam" not in self._wanted

    def ask_close(self) -> None:
        """Make `frames` end soon. Safe to call from a signal handler."""
        self._closing = True
        self._arrived.set()

    def close(self) -> None:
        """Close all."""
        self._closing = True
        for subscriber in (self._statuses, *self._subscribers.values()):
            subscriber.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
