"""A page as a program: it speaks the WebSocket's protocol with aiohttp, for the tests of the gateway."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from camfabric.common.frame import Codec

__all__ = ["Closed", "Picture", "Visitor", "run", "visit"]

_HEADER: Final = struct.Struct("<BBBBHHHHIIIIq")
_PATIENCE_S: Final = 10.0


class Closed(Exception):
    """The gateway has closed. Fields: `code`, `reason`."""

    def __init__(self, code: int | None, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


@dataclass(frozen=True)
class Picture:
    """A binary message."""

    codec: Codec
    keyframe: bool
    discontinuity: bool
    stream: int
    width: int
    height: int
    n: int
    age_ms: int
    seq: int
    lost: int
    time_us: int
    payload: bytes

    @staticmethod
    def parse(data: bytes) -> Picture:
        """Of a message as it came; checks what is reserved."""
        version, codec, flags, reserved, stream, width, height, more, n, age, seq, lost, time_us = _HEADER.unpack_from(
            data
        )
        assert (version, reserved, more, flags & ~3) == (1, 0, 0, 0)
        return Picture(
            Codec(codec), bool(flags & 1), bool(flags & 2), stream, width, height, n, age, seq, lost, time_us, data[36:]
        )


class Visitor:
    """One WebSocket. Texts that come are kept in `texts`; pictures are acknowledged as they are taken."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.texts: list[dict[str, Any]] = []
        self.acknowledges = True

    async def say(self, **message: Any) -> None:
        """Send a message."""
        await self.socket.send_str(json.dumps(message))

    async def watch(self, *streams: tuple[int, str, str, str]) -> None:
        """Want (id, camera, channel, as) from now on."""
        names = ("id", "camera", "channel", "as")
        await self.say(type="watch", streams=[dict(zip(names, stream, strict=True)) for stream in streams])

    async def _receive(self) -> Picture | None:
        message = await self.socket.receive(_PATIENCE_S)
        if message.type is aiohttp.WSMsgType.TEXT:
            self.texts.append(json.loads(message.data))
            return None
        if message.type is aiohttp.WSMsgType.BINARY:
            return Picture.parse(message.data)
        raise Closed(self.socket.close_code, str(message.extra or ""))

    async def picture(self) -> Picture:
        """The next picture.

        Raises:
            Closed: the gateway has closed.
        """
        while (picture := await self._receive()) is None:
            pass
        if self.acknowledges:
            await self.say(type="ack", n=picture.n)
        return picture

    async def pictures(self, count: int, *, of: int | None = None) -> list[Picture]:
        """The next pictures, of one stream where it is named."""
        found: list[Picture] = []
        while len(found) < count:
            picture = await self.picture()
            if of in (None, picture.stream):
                found.append(picture)
        return found

    async def text(self, kind: str, condition: Callable[[dict[str, Any]], Any] = lambda _: True) -> dict[str, Any]:
        """The first text of a kind that fulfils a condition, among those that came and those that will."""
        seen = 0
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                for message in self.texts[seen:]:
                    if message["type"] == kind and condition(message):
                        return message
                seen = len(self.texts)
                if (picture := await self._receive()) is not None and self.acknowledges:
                    await self.say(type="ack", n=picture.n)

    async def closed(self) -> Closed:
        """Wait until the gateway closes."""
        try:
            while True:
                await self.picture()
        except Closed as closed:
            return closed


@asynccontextmanager
async def visit(url: str, *, hello: bool = True, **options: Any) -> AsyncIterator[Visitor]:
    """Open the WebSocket; `options` are those of aiohttp, such as `headers`."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{url}/api/stream", max_msg_size=0, **options) as socket,
    ):
        visitor = Visitor(socket)
        if hello:
            await visitor.say(type="hello", v=1)
        yield visitor


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's coroutine function."""
    asyncio.run(work())
