"""Pictures over HTTP: `snapshot.jpg`, one JPEG, and `stream.mjpeg`, one after the other for whatever shows MJPEG."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote

from aiohttp import web

from camfabric.common.errors import ConfigError
from camfabric.common.frame import Frame
from camfabric.common.status import IDLE, LIVE, Status
from camfabric.common.topics import CAM, CHANNELS, LOW, check_camera
from camfabric.gateway.caller import Caller, caller_of
from camfabric.gateway.feeds import Feed
from camfabric.gateway.hub import HUB, NO_FABRIC, Hub
from camfabric.gateway.packet import Packet
from camfabric.gateway.placard import placard
from camfabric.gateway.protocol import StreamKey
from camfabric.gateway.settings import WEB_LIMITS, WEB_TIMES
from camfabric.gateway.stream import cut_off

__all__ = ["mjpeg", "snapshot"]

_BOUNDARY: Final = "camfabric"
_MIN_FPS: Final = 0.1
_MAX_FPS: Final = 1000.0
_RETRY_S: Final = "5"


class _Newest:
    """A listener that keeps the newest picture."""

    def __init__(self) -> None:
        self.packet: Packet | None = None
        self.came: Final = asyncio.Event()

    def take(self, packet: Packet) -> None:
        """Take a picture."""
        self.packet = packet
        self.came.set()

    async def within(self, seconds: float) -> Packet | None:
        """The next picture, or None where none comes in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.came.wait()
        self.came.clear()
        packet, self.packet = self.packet, None
        return packet


def _unavailable(why: str) -> web.HTTPException:
    return web.HTTPServiceUnavailable(text=f"{why}\n", headers={"Retry-After": _RETRY_S, "Cache-Control": "no-store"})


def _asked_for(request: web.Request) -> tuple[StreamKey, Status]:
    """The stream that a request names, and its camera's status.

    Raises:
        HTTPNotFound: there is no such camera, or the caller may not see it, which is the same to him.
        HTTPBadRequest: there is no such channel.
    """
    try:
        camera = check_camera(request.match_info["name"])
    except (ConfigError, UnicodeEncodeError):
        camera = ""
    status = request.app[HUB].cameras.status(camera)
    if status is None or not caller_of(request).sees(camera):
        raise web.HTTPNotFound(text="there is no such camera\n")
    channel = request.query.get("channel", CAM)
    if channel not in CHANNELS:
        raise web.HTTPBadRequest(text="channel is cam or low\n")
    if channel == LOW and not status.low:
        raise web.HTTPNotFound(text="this camera has no small picture\n")
    return (channel, camera), status


@contextlib.contextmanager
def _listening(hub: Hub, key: StreamKey, caller: Caller) -> Iterator[tuple[_Newest, Feed]]:
    newest = _Newest()
    feed = hub.feeds.join(key, newest, "jpeg", holder=caller.holder)
    try:
        yield newest, feed
    finally:
        hub.feeds.leave(key, newest)


def _stale_ms(status: Status | None) -> float:
    """From which age on a picture is not a live one: some cameras make few."""
    usual_s = 3 / status.fps_in if status is not None and status.fps_in else 0.0
    return 1000 * max(WEB_TIMES.stale_s, usual_s)


async def _first(hub: Hub, key: StreamKey, newest: _Newest, feed: Feed) -> Frame:
    """A picture that is live.

    Raises:
        HTTPServiceUnavailable: none comes; says why.
    """
    loop = asyncio.get_running_loop()
    status = hub.cameras.status(key[1])
    is_idle = status is not None and status.state == IDLE
    end = loop.time() + (WEB_TIMES.snapshot_idle_s if is_idle else WEB_TIMES.snapshot_s)
    found: Frame | None = None
    while (remaining := end - loop.time()) > 0:
        packet = await newest.within(min(remaining, WEB_TIMES.status_s))
        status = hub.cameras.status(key[1])
        if packet is not None and packet.frame.age_ms < _stale_ms(status):
            found = packet.frame
        if found is not None and not feed.is_catching_up:
            return found
        if status is None or status.state not in (LIVE, IDLE):
            break
    if found is not None:
        return found
    raise _unavailable(_why_none(hub, key[1]))


def _why_none(hub: Hub, camera: str) -> str:
    status = hub.cameras.status(camera)
    if hub.trouble:
        return f"no picture: {NO_FABRIC}"
    if status is None:
        return "no picture: the camera is gone"
    if status.state == LIVE:
        return "no picture: the camera is live, but none came in time"
    return f"no picture: the camera is {status.state}{f' ({status.reason})' if status.reason else ''}"


def _headers(frame: Frame) -> dict[str, str]:
    captured = datetime.fromtimestamp(frame.captured_ns / 1e9, UTC)
    return {
        "Camfabric-Camera": quote(frame.camera),
        "Camfabric-Age-Ms": str(round(frame.age_ms)),
        "Camfabric-Captured": captured.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }


async def snapshot(request: web.Request) -> web.StreamResponse:
    """`GET /api/cameras/{name}/snapshot.jpg`: the picture of now."""
    hub = request.app[HUB]
    key, status = _asked_for(request)
    if status.state not in (LIVE, IDLE):
        raise _unavailable(_why_none(hub, key[1]))
    holder = caller_of(request).holder
    is_over = bool(holder) and hub.snapshots[holder] >= WEB_LIMITS.snapshots // WEB_LIMITS.shares
    if is_over or hub.snapshots.total() >= WEB_LIMITS.snapshots:
        hub.served["refused"] += 1
        raise _unavailable("too many snapshots at once")
    hub.snapshots[holder] += 1
    try:
        with _listening(hub, key, caller_of(request)) as (newest, feed):
            frame = await _first(hub, key, newest, feed)
    finally:
        hub.snapshots[holder] -= 1
        if not hub.snapshots[holder]:
            del hub.snapshots[holder]
    hub.served["snapshot"] += 1
    return web.Response(
        body=bytes(frame.payload),
        content_type="image/jpeg",
        headers={**_headers(frame), "Cache-Control": "no-store"},
    )


async def mjpeg(request: web.Request) -> web.StreamResponse:
    """`GET /api/cameras/{name}/stream.mjpeg`: pictures as they come, the newest only to whoever is slow.

    Where there are none, a picture says so: the last one is never left standing as if it were live.
    """
    hub = request.app[HUB]
    key, _ = _asked_for(request)
    interval_s = 1 / _fps(request)
    if hub.is_full(caller_of(request)):
        hub.served["refused"] += 1
        raise _unavailable("too many viewers")
    answer = web.StreamResponse(
        headers={"Content-Type": f"multipart/x-mixed-replace; boundary={_BOUNDARY}", "Cache-Control": "no-store"}
    )
    with hub.admitted(caller_of(request)), _listening(hub, key, caller_of(request)) as (newest, feed):
        frame = await _first(hub, key, newest, feed)
        hub.served["mjpeg"] += 1
        await answer.prepare(request)
        with contextlib.suppress(ConnectionError):
            await _show(request, answer, newest, frame, interval_s)
    return answer


def _fps(request: web.Request) -> float:
    """Pictures a second at most.

    Raises:
        HTTPBadRequest: it is no number, or out of range.
    """
    text = request.query.get("fps", "")
    try:
        fps = float(text) if text else _MAX_FPS
    except ValueError:
        fps = math.nan
    if not _MIN_FPS <= fps <= _MAX_FPS:
        raise web.HTTPBadRequest(text=f"fps is a number from {_MIN_FPS:g} to {_MAX_FPS:g}\n")
    return fps


async def _show(
    request: web.Request, answer: web.StreamResponse, newest: _Newest, frame: Frame, interval_s: float
) -> None:
    """Write pictures until the other side is gone.

    Raises:
        ConnectionError: it is.
    """
    hub, loop = request.app[HUB], asyncio.get_running_loop()
    last, image = frame, bytes(frame.payload)
    # HTTP's end of a part is seen where the next one begins: browsers show the first when the second comes.
    await _write(request, answer, last, image, boundary=True)
    due = loop.time() + interval_s
    while True:
        if (early := due - loop.time()) > 0:
            await asyncio.sleep(early)
        limit_s = _stale_ms(hub.cameras.status(last.camera)) / 1000
        packet = await newest.within(WEB_TIMES.placard_s if last.age_ms > 1000 * limit_s else limit_s)
        due = max(due + interval_s, loop.time())
        if packet is not None:
            last = packet.frame
            await _write(request, answer, last, last.payload)
        elif last.age_ms > 1000 * limit_s:
            work = functools.partial(placard, last, _why_none(hub, last.camera))
            await _write(request, answer, last, await hub.workshop.run(work))


async def _write(
    request: web.Request, answer: web.StreamResponse, frame: Frame, image: bytes | memoryview, *, boundary: bool = False
) -> None:
    fields = {"Content-Type": "image/jpeg", "Content-Length": str(len(image)), **_headers(frame)}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    first = f"--{_BOUNDARY}\r\n" if boundary else ""
    part = b"".join((f"{first}{head}\r\n".encode(), image, f"\r\n--{_BOUNDARY}\r\n".encode()))
    try:
        async with asyncio.timeout(WEB_TIMES.stuck_s):
            await answer.write(part)
    except TimeoutError:
        cut_off(request)
        raise ConnectionResetError("it takes nothing any more") from None
