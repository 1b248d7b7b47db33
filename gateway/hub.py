"""The hub: what all requests share, who is watching, and what happens twice a second."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterator
from typing import Final

from aiohttp import web

from camfabric.gateway.caller import Caller
from camfabric.gateway.cameras import Cameras
from camfabric.gateway.fabric import Fabric
from camfabric.gateway.feeds import Feeds
from camfabric.gateway.pictures import Workshop
from camfabric.gateway.settings import WEB_LIMITS, WEB_TIMES, GatewaySettings
from camfabric.gateway.viewer import Viewer

__all__ = ["HUB", "Hub"]


class Hub:
    """Made on the running event loop.

    Raises:
        ConfigError: an endpoint or key is wrong.
        EndpointError: an endpoint cannot be connected to.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self.workshop: Final = Workshop()
        self.cameras: Final = Cameras()
        self.feeds: Final = Feeds(self._subscribe, self.workshop)
        self.fabric: Final = Fabric(settings, on_frame=self.feeds.take, on_status=self.cameras.heard)
        self._viewers: dict[Viewer, Caller] = {}
        self._others = 0
        self.trouble = ""
        """Why there is no connection to the fabric."""
        self._ticking = asyncio.create_task(self._tick())

    def _subscribe(self, channel: str, cameras: Collection[str]) -> None:
        self.fabric.watch(channel, cameras)

    @property
    def viewers(self) -> list[Viewer]:
        """Who watches by WebSocket."""
        return list(self._viewers)

    def is_full(self) -> bool:
        """Whether there are as many viewers as there may be."""
        return len(self._viewers) + self._others >= WEB_LIMITS.viewers

    @contextlib.contextmanager
    def admitted(self, viewer: Viewer, caller: Caller) -> Iterator[None]:
        """Count a viewer, and keep it up to date."""
        self._viewers[viewer] = caller
        try:
            yield
        finally:
            del self._viewers[viewer]

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        look_for_gone = loop.time() + WEB_TIMES.gone_s
        while True:
            await asyncio.sleep(WEB_TIMES.status_s)
            gone: list[str] = []
            if loop.time() >= look_for_gone:
                look_for_gone = loop.time() + WEB_TIMES.gone_s
                gone = self.cameras.forget_all_but(self.fabric.known())
            changed = self.cameras.take_changed()
            trouble = self.fabric.trouble()
            for viewer in self._viewers:
                if changed or gone:
                    viewer.tell_status(changed, gone)
                if trouble != self.trouble:
                    viewer.tell_trouble(trouble)
            self.trouble = trouble

    async def close(self) -> None:
        """End all."""
        self._ticking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._ticking
        self.feeds.close()
        await self.fabric.close()
        await asyncio.to_thread(self.workshop.close)


HUB: Final = web.AppKey("hub", Hub)
