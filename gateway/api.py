"""The HTTP API beside pictures: which cameras there are, and whether the gateway works."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from camfabric.gateway.caller import caller_of
from camfabric.gateway.hub import HUB

__all__ = ["cameras", "errors_as_json", "healthz"]


_CLIENT_GONE: Final = 499


async def cameras(request: web.Request) -> web.Response:
    """`GET /api/cameras`: each camera that the caller may see, as the WebSocket tells it."""
    hub = request.app[HUB]
    caller = caller_of(request)
    texts = hub.cameras.texts(filter(caller.sees, hub.cameras.names()))
    return web.Response(
        text=f'{{"cameras":[{",".join(texts)}],"trouble":{json.dumps(hub.trouble_for(caller), ensure_ascii=False)}}}\n',
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


async def healthz(request: web.Request) -> web.Response:
    """`GET /healthz`: 200 while something is heard from the fabric. Needs no sign-in, and names nothing."""
    if request.app[HUB].fabric.is_connected():
        return web.Response(text="ok\n", headers={"Cache-Control": "no-store"})
    return web.Response(
        text="nothing is heard from the fabric\n",
        status=HTTPStatus.SERVICE_UNAVAILABLE,
        headers={"Cache-Control": "no-store"},
    )


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors in one line: as JSON under `/api/`, as text for pictures and elsewhere."""
    try:
        return await handler(request)
    except ConnectionError:
        if request.transport is not None and not request.transport.is_closing():
            raise
        return web.Response(status=_CLIENT_GONE)  # nobody gets it
    except web.HTTPException as error:
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        text = " ".join((error.text or error.reason).split())
        error.headers["Cache-Control"] = "no-store"
        if request.path.startswith("/api/") and not request.path.endswith((".jpg", ".mjpeg")):
            error.text = json.dumps({"error": text.removeprefix(f"{error.status}: ")}, ensure_ascii=False) + "\n"
            error.content_type = "application/json"
        else:
            error.text = text.removeprefix(f"{error.status}: ") + "\n"
        raise
