"""The HTTP API beside pictures: which cameras there are, and whether the gateway works."""

from __future__ import annotations

import json
from http import HTTPStatus

from aiohttp import web

from camfabric.gateway.caller import caller_of
from camfabric.gateway.hub import HUB

__all__ = ["cameras", "healthz"]


async def cameras(request: web.Request) -> web.Response:
    """`GET /api/cameras`: each camera that the caller may see, as the WebSocket tells it."""
    hub = request.app[HUB]
    texts = hub.cameras.texts(filter(caller_of(request).sees, hub.cameras.names()))
    return web.Response(
        text=f'{{"cameras":[{",".join(texts)}],"trouble":{json.dumps(hub.trouble, ensure_ascii=False)}}}\n',
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
