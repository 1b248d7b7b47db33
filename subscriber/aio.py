"""`AsyncSubscriber`: the same for asyncio. Receiving and decoding never hold the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from camfabric.common.errors import ConfigError
from camfabric.common.frame import Frame
from camfabric.common.mailbox import Mode
from camfabric.common.settings import BROKER_SUBSCRIBERS
from camfabric.common.status import Status
from camfabric.common.topics import CAM
from camfabric.subscriber.subscriber import Subscriber

__all__ = ["AsyncSubscriber"]


class AsyncSubscriber:
    """`Subscriber` for asyncio: `async with`, `async for`, `await read()`. Made inside a running event loop.

    Arguments, errors and behaviour are those of `Subscriber`.
    """

    def __init__(
        self,
        endpoints: str | Sequence[str] = BROKER_SUBSCRIBERS,
        *,
        cameras: str | Sequence[str] | None = (),
        channel: Literal["cam", "low"] | None = CAM,
        mode: Mode = "latest",
        decode: bool = True,
        local: Literal["auto", "off"] = "auto",
        key: str | Path | None = None,
        server_key: str | Path | Sequence[str | Path] | None = None,
        keys: str | Path | None = None,
        insecure: bool = False,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._turn = asyncio.Lock()
        self._decode = decode
        self._decoding: asyncio.Future[Frame | None] | None = None
        self._subscriber = Subscriber(
            endpoints,
            cameras=cameras,
            channel=channel,
            mode=mode,
            decode=decode,
            local=local,
            key=key,
            server_key=server_key,
            keys=keys,
            insecure=insecure,
            notify=self._notify,
        )

    def _notify(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(self._arrived.set)

    async def read(self, timeout: float | None = None) -> Frame:
        """The next frame; waits for it at most `timeout` seconds, or for ever. Safe to cancel.

        Of several tasks that read, each frame goes to one, in their turn.

        Raises:
            TimeoutError: none came; says which camera is silent.
            ConfigError: the subscriber is closed.
        """
        deadline = None if timeout is None else self._loop.time() + timeout
        try:
            async with asyncio.timeout_at(deadline):
                await self._turn.acquire()
        except TimeoutError:
            raise TimeoutError(f"no frame within {timeout:g} s: another task is reading") from None
        try:
            return await self._read(timeout, deadline)
        finally:
            self._turn.release()

    async def _read(self, timeout: float | None, deadline: float | None) -> Frame:
        while True:
            # A read that was cancelled while it decoded has left its frame here.
            if self._decoding is None:
                frame = await self._next(timeout, deadline)
                if not self._decode:
                    return frame
                self._decoding = self._loop.run_in_executor(None, self._subscriber.decoded, frame)
            try:
                picture = await asyncio.shield(self._decoding)
            except Exception:
                self._decoding = None
                raise
            self._decoding = None
            if picture is not None:
                return picture

    async def _next(self, timeout: float | None, deadline: float | None) -> Frame:
        while True:
            self._arrived.clear()
            try:
                return self._subscriber.take(0)
            except TimeoutError as error:
                remaining = None if deadline is None else deadline - self._loop.time()
                if remaining is not None and remaining <= 0:
                    raise TimeoutError(str(error).replace("within 0 s", f"within {timeout:g} s", 1)) from None
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._arrived.wait(), remaining)

    async def __aiter__(self) -> AsyncIterator[Frame]:
        """Frames until the subscriber is closed."""
        while True:
            try:
                frame = await self.read()
            except ConfigError:
                return
            yield frame

    def watch(self, cameras: Sequence[str]) -> None:
        """Replace the filters, as `Subscriber.watch` does."""
        self._subscriber.watch(cameras)

    def cameras(self) -> dict[str, Status]:
        """The last status of each camera under the filters, by name."""
        return self._subscriber.cameras()

    async def close(self) -> None:
        """Close. Whoever waits in `read` is woken. Can be called again."""
        await asyncio.to_thread(self._subscriber.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
