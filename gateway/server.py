"""`Gateway`: the web server, put together and run."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

from aiohttp import web

from camfabric.common.errors import ConfigError, EndpointError
from camfabric.common.sockets import room_for_connections
from camfabric.common.stats import Standing
from camfabric.gateway import api
from camfabric.gateway.address import check_host, check_open, check_origin, load_certificate, parse_address, tls_context
from camfabric.gateway.door import Door
from camfabric.gateway.hub import HUB, Hub
from camfabric.gateway.listener import Room, open_listeners
from camfabric.gateway.metrics import metrics
from camfabric.gateway.pages import Pages
from camfabric.gateway.settings import WEB_LIMITS, WEB_TIMES, GatewaySettings
from camfabric.gateway.sign_in import SignIn
from camfabric.gateway.stills import mjpeg, snapshot
from camfabric.gateway.stream import stream

__all__ = ["Gateway"]

logger = logging.getLogger(__name__)

_SHUTDOWN_S: Final = 2.0
_LINGER_S: Final = 1.0
"""How long the rest of a request that is answered already may take to come."""
_BACKLOG: Final = 512
_DESCRIPTORS: Final = 32
"""Of the fabric's sockets, for each endpoint."""


class Gateway:
    """A web server in front of a fabric.

    Raises:
        ConfigError: a setting is wrong; nothing was started.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._address = parse_address(settings.listen)
        named = [check_host(host) for host in settings.hosts]
        embed = [check_origin(origin) for origin in settings.embed]
        check_open(settings, self._address)
        self._tls = tls_context(settings.cert, settings.cert_key)
        self._tls_stamp = self._certificate_stamp()
        self._standing = Standing(logger)
        self._pages = Pages()
        self._sign_in = SignIn(settings.password_file, settings.token_file)
        hosts = [*named, *([] if self._address.host == "*" else [self._address.host])]
        self._door = Door(self._sign_in, hosts, is_secure=self._tls is not None, embed=embed)
        self._servers: list[asyncio.Server] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()

    def stop(self) -> None:
        """Make `run` end soon. Safe from another thread."""
        self._from_outside(self._stop.set)

    def reload(self) -> None:
        """Read the accounts and the certificate again soon. Safe from another thread."""
        self._from_outside(self._reload.set)

    def _from_outside(self, call: Callable[[], None]) -> None:
        if self._loop is None:
            call()  # it has not begun
            return
        with contextlib.suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(call)

    async def run(self, started: Callable[[str], None] | None = None) -> None:
        """Serve until `stop`. `started`, if given, is called with the page's address.

        Raises:
            ConfigError: an endpoint or key of the fabric is wrong.
            EndpointError: the address to listen at is taken, or an endpoint cannot be connected to.
        """
        self._loop = asyncio.get_running_loop()
        try:
            hub = Hub(self._settings)
        except BaseException:
            self._sign_in.close()
            raise
        runner = web.AppRunner(
            self._app(hub),
            access_log=None,
            handle_signals=False,
            shutdown_timeout=_SHUTDOWN_S,
            # Whoever leaves while a picture is waited for does not count any more.
            handler_cancellation=True,
            # It counts from the start of a connection as well: nobody holds one by sending a request slowly.
            keepalive_timeout=WEB_TIMES.request_s,
            lingering_time=_LINGER_S,
        )
        watching = asyncio.create_task(self._watch_files(hub))
        try:
            await runner.setup()
            url = await self._listen(runner)
            logger.info("the page is at %s", url)
            if started is not None:
                started(url)
            await self._stop.wait()
        finally:
            watching.cancel()
            for server in self._servers:
                server.close()
            hub.end(lambda _: True)
            await runner.cleanup()
            await hub.close()
            await asyncio.to_thread(self._sign_in.close)
            await asyncio.gather(watching, return_exceptions=True)

    async def _listen(self, runner: web.AppRunner) -> str:
        """Begin to listen. Returns the page's address."""
        host = None if self._address.host == "*" else self._address.host
        room = room_for_connections(1) - _DESCRIPTORS * len(self._settings.endpoints)
        try:
            listeners = open_listeners(host, self._address.port, Room(max(min(WEB_LIMITS.connections, room), 1)))
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise EndpointError(
                f"cannot listen at {self._settings.listen}: {why}", endpoint=self._settings.listen
            ) from error
        port = listeners[0].getsockname()[1]
        serve = runner.server
        assert serve is not None  # noqa: S101  (it is set up)
        for listener in listeners:
            self._servers.append(
                await asyncio.get_running_loop().create_server(
                    serve,
                    sock=listener,
                    ssl=self._tls,
                    backlog=_BACKLOG,
                    ssl_handshake_timeout=None if self._tls is None else WEB_TIMES.request_s,
                )
            )
        name = "localhost" if host is None else f"[{host}]" if ":" in host else host
        return f"{'http' if self._tls is None else 'https'}://{name}:{port}/"

    def _app(self, hub: Hub) -> web.Application:
        app = web.Application(
            client_max_size=WEB_LIMITS.request_bytes, middlewares=[api.errors_as_json, self._door.middleware()]
        )
        app[HUB] = hub
        app.on_response_prepare.append(self._door.add_headers)
        app.add_routes(
            [
                web.get("/", self._pages.index),
                web.get("/page/{name}", self._pages.file),
                web.get("/sign-in", self._pages.sign_in),
                web.post("/sign-in", self._door.sign_in),
                web.post("/sign-out", self._door.sign_out),
                web.get("/api/cameras", api.cameras),
                web.get("/api/cameras/{name:.+}/snapshot.jpg", snapshot),
                web.get("/api/cameras/{name:.+}/stream.mjpeg", mjpeg, allow_head=False),
                web.get("/api/stream", stream, allow_head=False),
                web.get("/healthz", api.healthz),
                web.get("/metrics", metrics),
            ]
        )
        return app

    async def _watch_files(self, hub: Hub) -> None:
        """Read the files again where they have changed, and end what is not allowed any more."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WEB_TIMES.accounts_s):
                    await self._reload.wait()
            asked = self._reload.is_set()
            self._reload.clear()
            if self._sign_in.reload(asked=asked):
                self._door.recheck(hub)
            self._reload_certificate(asked=asked)
            for caller in hub.callers():
                self._sign_in.touch(caller)

    def _certificate_stamp(self) -> object:
        try:
            return [path and path.stat().st_mtime_ns for path in (self._settings.cert, self._settings.cert_key)]
        except OSError:
            return None

    def _reload_certificate(self, *, asked: bool) -> None:
        cert, cert_key = self._settings.cert, self._settings.cert_key
        stamp = self._certificate_stamp()
        if self._tls is None or cert is None or cert_key is None or (stamp == self._tls_stamp and not asked):
            return
        self._tls_stamp = stamp
        try:
            # Into another one first: a bad pair must not take the place of half of a good one.
            tls_context(cert, cert_key)
            load_certificate(self._tls, cert, cert_key)
        except ConfigError as error:
            self._standing.say([f"{error}: the certificate stays as it was"])
            return
        self._standing.say([])
        logger.info("the certificate is read again")
