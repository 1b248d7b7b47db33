"""The gateway's connection to the fabric: a subscriber for each channel and one for statuses, behind an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection
from typing import Final, Literal

from camfabric.common.errors import ConfigError
from camfabric.common.frame import Frame
from camfabric.common.status import Status
from camfabric.gateway.settings import WEB_TIMES, GatewaySettings
from camfabric.subscriber import Subscriber

__all__ = ["Fabric"]

logger = logging.getLogger(__name__)

_CHANNELS: Final[tuple[Literal["cam", "low"], ...]] = ("cam", "low")
_BATCH: Final = 128
"""Frames that are taken in one go before others on the event loop have their turn."""


class Fabric:
    """Made on the running event loop, which it calls `on_frame` (channel, frame) and `on_status` on.

    Raises:
        ConfigError: an endpoint or key is wrong; nothing was started.
        EndpointError: an endpoint cannot be connected to.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        on_frame: Callable[[str, Frame], None],
        on_status: Callable[[Status], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_frame = on_frame
        self._on_status = on_status
        self._drains_due: set[str] = set()
        self._subscribers: dict[str, Subscriber] = {}
        self._endpoints = list(dict.fromkeys(settings.endpoints))
        try:
            self._statuses = self._subscriber(settings, None)
            for channel in _CHANNELS:
                self._subscribers[channel] = self._subscriber(settings, channel)
        except BaseException:
            self._close()
            raise

    def _subscriber(self, settings: GatewaySettings, channel: Literal["cam", "low"] | None) -> Subscriber:
        return Subscriber(
            settings.endpoints,
            cameras=() if channel is None else None,
            channel=channel,
            decode=False,
            key=settings.key,
            server_key=settings.server_key,
            keys=settings.keys,
            insecure=settings.insecure,
            on_status=self._status_came if channel is None else None,
            notify=None if channel is None else lambda: self._frame_came(channel),
        )

    def _status_came(self, status: Status) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(self._on_status, status)

    def _frame_came(self, channel: str) -> None:
        # Many frames, one call: a set's `add` and `in` are atomic, and a call too many does no harm.
        if channel not in self._drains_due:
            self._drains_due.add(channel)
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                self._loop.call_soon_threadsafe(self._drain, channel)

    def _drain(self, channel: str) -> None:
        self._drains_due.discard(channel)
        subscriber = self._subscribers.get(channel)
        if subscriber is None:
            return
        with contextlib.suppress(ConfigError):  # closed meanwhile
            for _ in range(_BATCH):
                if (frame := subscriber.take_now()) is None:
                    return
                self._on_frame(channel, frame)
        self._frame_came(channel)

    def watch(self, channel: str, cameras: Collection[str]) -> None:
        """Subscribe to these cameras on a channel, and to no others."""
        self._subscribers[channel].watch(list(cameras))

    def known(self) -> Collection[str]:
        """The cameras that the fabric knows."""
        return self._statuses.cameras().keys()

    def trouble(self) -> str:
        """Why there is no connection to an endpoint, in one line; empty where all is well."""
        troubles = self._statuses.troubles()
        explained = {endpoint for endpoint in self._endpoints if any(endpoint in trouble for trouble in troubles)}
        silent = [endpoint for endpoint in self._statuses.unheard(WEB_TIMES.heard_s) if endpoint not in explained]
        return "; ".join(
            [*troubles, *(f"no connection to {endpoint}: nothing is heard from there" for endpoint in silent)]
        )

    def is_connected(self) -> bool:
        """Whether something was heard lately, from one endpoint at least."""
        return len(self._statuses.unheard(WEB_TIMES.heard_s)) < len(self._endpoints)

    def counts(self) -> dict[str, int]:
        """Messages that were no frames of the fabric, by reason."""
        counts: dict[str, int] = {}
        for subscriber in (self._statuses, *self._subscribers.values()):
            for reason, count in subscriber.counts().items():
                counts[reason] = counts.get(reason, 0) + count
        return counts

    def _close(self) -> None:
        subscribers, self._subscribers = self._subscribers, {}
        for subscriber in subscribers.values():
            subscriber.close()
        if hasattr(self, "_statuses"):
            self._statuses.close()

    async def close(self) -> None:
        """Close the connections."""
        await asyncio.to_thread(self._close)
