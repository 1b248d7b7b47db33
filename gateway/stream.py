"""`/api/stream`: the WebSocket that carries all cameras of a page."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from importlib.metadata import version
from typing import Final

from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from camfabric.common.errors import WireError
from camfabric.gateway import protocol
from camfabric.gateway.caller import caller_of
from camfabric.gateway.hub import HUB
from camfabric.gateway.settings import WEB_LIMITS, WEB_TIMES
from camfabric.gateway.viewer import Viewer

__all__ = ["cut_off", "stream"]

logger = logging.getLogger(__name__)

_LAST_WORDS_S: Final = 5.0
_SERVER: Final = f"camfabric {version('camfabric')}"


async def stream(request: web.Request) -> web.StreamResponse:
    """Serve one page until either side ends it."""
    hub, caller = request.app[HUB], caller_of(request)
    socket = web.WebSocketResponse(
        compress=False,  # pictures are compressed already
        max_msg_size=WEB_LIMITS.message_bytes,
        heartbeat=WEB_TIMES.heartbeat_s,
        timeout=2.0,
    )
    await socket.prepare(request)
    if hub.is_full(caller):
        hub.served["refused"] += 1
        await socket.close(code=WSCloseCode.TRY_AGAIN_LATER, message=b"too many viewers")
        return socket
    hub.served["stream"] += 1
    try:
        # Before the hello, so that nobody who has not said it comes on top.
        with hub.admitted(caller):
            await _hear_hello(socket)
            viewer = Viewer(
                socket,
                hub.feeds,
                hub.cameras,
                sees=caller.sees,
                holder=caller.holder,
                trouble=hub.trouble_for(caller),
                cut=lambda: cut_off(request),
                counts=hub.counts,
            )
            viewer.say(protocol.hello_text(user=caller.user, server=_SERVER, now_ms=time.time_ns() // 1_000_000))
            with hub.informed(viewer, caller):
                await _serve(socket, viewer)
        if viewer.is_sending:
            cut_off(request)  # what it has not taken would be kept for as long as its machine lives
    except WireError as error:
        await _refuse(socket, str(error))
    return socket


def cut_off(request: web.Request) -> None:
    """End a connection at once, whatever is unsent."""
    if request.transport is not None:
        request.transport.abort()


async def _hear_hello(socket: web.WebSocketResponse) -> None:
    """Wait for the page's first message.

    Raises:
        WireError: it is another one, or does not come.
    """
    try:
        async with asyncio.timeout(WEB_TIMES.hello_s):
            first = await socket.receive()
    except TimeoutError:
        raise WireError("no hello", reason="web") from None
    if not isinstance(protocol.parse_message(_text_of(first)), protocol.Hello):
        raise WireError("the first message is hello", reason="web")


def _text_of(message: WSMessage) -> str:
    if message.type is not WSMsgType.TEXT:
        raise WireError("a page sends text alone", reason="web")
    text: str = message.data
    return text


async def _serve(socket: web.WebSocketResponse, viewer: Viewer) -> None:
    """Send what there is and hear what the page says, until it is gone.

    Raises:
        WireError: it breaks the protocol.
    """
    sending = asyncio.create_task(_send(viewer))
    try:
        async for message in socket:
            viewer.hear(_text_of(message))
    finally:
        viewer.close()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def _send(viewer: Viewer) -> None:
    with contextlib.suppress(ConnectionError):
        await viewer.run()


async def _refuse(socket: web.WebSocketResponse, why: str) -> None:
    with contextlib.suppress(ConnectionError, TimeoutError):
        async with asyncio.timeout(_LAST_WORDS_S):
            await socket.send_str(protocol.error_text(why))
            await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=why.encode()[:120])
