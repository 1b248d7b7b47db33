"""`Gateway`: the web server, put together and run."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from camfabric.common.errors import EndpointError
from camfabric.gateway import api
from camfabric.gateway.caller import ANYBODY, set_caller
from camfabric.gateway.hub import HUB, Hub
from camfabric.gateway.pages import Pages
from camfabric.gateway.settings import WEB_LIMITS, GatewaySettings
from camfabric.gateway.stream import stream

__all__ = ["Gateway"]

logger = logging.getLogger(__name__)

_SHUTDOWN_S: Final = 2.0


@web.middleware
async def _open_door(request: web.Request, handler: Handler) -> web.StreamResponse:
    set_caller(request, ANYBODY)
    return await handler(request)


class Gateway:
    """A web server in front of a fabric.

    Raises:
        ConfigError: a setting is wrong; nothing was started.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._pages = Pages()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Make `run` end soon. Safe from another thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)

    async def run(self) -> None:
        """Serve until `stop`.

        Raises:
            ConfigError: an endpoint or key of the fabric is wrong.
            EndpointError: the address to listen at is taken, or an endpoint cannot be connected to.
        """
        self._loop = asyncio.get_running_loop()
        hub = Hub(self._settings)
        runner = web.AppRunner(self._app(hub), access_log=None, handle_signals=False, shutdown_timeout=_SHUTDOWN_S)
        try:
            await runner.setup()
            host, _, port = self._settings.listen.rpartition(":")
            try:
                await web.TCPSite(runner, host.strip("[]"), int(port)).start()
            except OSError as error:
                raise EndpointError(
                    f"cannot listen at {self._settings.listen}: {error.strerror}", endpoint=self._settings.listen
                ) from error
            logger.info("the page is at http://%s:%s/", *runner.addresses[0][:2])
            await self._stop.wait()
        finally:
            await runner.cleanup()
            await hub.close()

    def _app(self, hub: Hub) -> web.Application:
        app = web.Application(client_max_size=WEB_LIMITS.request_bytes, middlewares=[_open_door])
        app[HUB] = hub
        app.add_routes(
            [
                web.get("/", self._pages.index),
                web.get("/page/{name}", self._pages.file),
                web.get("/sign-in", self._pages.sign_in),
                web.get("/api/cameras", api.cameras),
                web.get("/api/stream", stream),
                web.get("/healthz", api.healthz),
            ]
        )
        return app
