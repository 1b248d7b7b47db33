"""The hub: what all requests share, who is watching, and what happens twice a second."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import Final

from aiohttp import web

from camfabric.gateway.caller import Caller
from camfabric.gateway.cameras import Cameras
from camfabric.gateway.fabric import Fabric
from camfabric.gateway.feeds import Feeds
from camfabric.gateway.pictures import Workshop
from camfabric.gateway.settings import WEB_LIMITS, WEB_TIMES, GatewaySettings
from camfabric.gateway.viewer import Counts, Viewer

__all__ = ["HUB", "NO_FABRIC", "Hub"]

NO_FABRIC: Final = "the gateway has no connection to the fabric"


class Hub:
    """Made on the running event loop.

    Raises:
        ConfigError: an endpoint or key is wrong.
        EndpointError: an endpoint cannot be connected to.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self.workshop: Final = Workshop()
        self.cameras: Final = Cameras()
        self.feeds: Final = Feeds(self._subscribe, self.workshop, is_known=self.cameras.__contains__)
        self.fabric: Final = Fabric(settings, on_frame=self.feeds.take, on_status=self.cameras.heard)
        self._guests: dict[asyncio.Task[object], Caller] = {}
        self._viewers: dict[Viewer, Caller] = {}
        self.counts: Final = Counts()
        self.snapshots: Final = Counter[str]()
        """Requests for a snapshot that wait for a picture, by who holds them."""
        self.served: Final = Counter[str]()
        """Answers to requests for pictures, by kind: "snapshot", "mjpeg", "stream", and "refused"."""
        self.trouble = ""
        """Why there is no connection to the fabric."""
        self._ticking = asyncio.create_task(self._tick())

    def _subscribe(self, channel: str, cameras: Collection[str]) -> None:
        self.fabric.watch(channel, cameras)

    @property
    def viewers(self) -> Collection[Viewer]:
        """Who watches by WebSocket."""
        return self._viewers.keys()

    @property
    def guests(self) -> int:
        """Who watches in any way."""
        return len(self._guests)

    def is_full(self, caller: Caller) -> bool:
        """Whether there are as many guests as there may be, in all or of this one's."""
        if len(self._guests) >= WEB_LIMITS.viewers:
            return True
        own = sum(other.holder == caller.holder for other in self._guests.values())
        return bool(caller.holder) and own >= WEB_LIMITS.viewers // WEB_LIMITS.shares

    def trouble_for(self, caller: Caller) -> str:
        """Why there is no connection to the fabric; where the fabric is, is for those who may see all of it."""
        return self.trouble if caller.sees_all or not self.trouble else NO_FABRIC

    @contextlib.contextmanager
    def admitted(self, caller: Caller) -> Iterator[None]:
        """Count whoever is served by the running task."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  (a handler runs in one)
        self._guests[task] = caller
        try:
            yield
        finally:
            del self._guests[task]

    @contextlib.contextmanager
    def informed(self, viewer: Viewer, caller: Caller) -> Iterator[None]:
        """Keep a viewer up to date."""
        self._viewers[viewer] = caller
        try:
            yield
        finally:
            del self._viewers[viewer]

    def end(self, concerns: Callable[[Caller], bool]) -> None:
        """Cut off whoever is concerned."""
        for task, caller in list(self._guests.items()):
            if concerns(caller):
                task.cancel()

    def callers(self) -> list[Caller]:
        """Who watches."""
        return list(self._guests.values())

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        look_for_gone = loop.time() + WEB_TIMES.gone_s
        speak_at = loop.time() + WEB_TIMES.word_s
        while True:
            await asyncio.sleep(WEB_TIMES.status_s)
            gone: list[str] = []
            if loop.time() >= look_for_gone:
                look_for_gone = loop.time() + WEB_TIMES.gone_s
                gone = self.cameras.forget_all_but(self.fabric.known())
            changed = self.cameras.take_changed()
            trouble = self.fabric.trouble()
            # A page takes a long silence for the end of the connection.
            is_due = loop.time() >= speak_at
            if is_due:
                speak_at = loop.time() + WEB_TIMES.word_s
            is_news, self.trouble = trouble != self.trouble, trouble
            for viewer, caller in self._viewers.items():
                viewer.check_stuck()
                if changed or gone or is_due:
                    viewer.tell_status(changed, gone, anyway=is_due)
                if is_news:
                    viewer.tell_trouble(self.trouble_for(caller))

    async def close(self) -> None:
        """End all."""
        self._ticking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._ticking
        self.feeds.close()
        await self.fabric.close()
        await asyncio.to_thread(self.workshop.close)


HUB: Final = web.AppKey("hub", Hub)
