"""`Subscriber`: the newest frames of the cameras that one wants."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

import zmq

from camfabric.common.allocator import keep_freed_memory
from camfabric.common.codecs import prepare
from camfabric.common.decoding import Decoding
from camfabric.common.dial import Dial
from camfabric.common.endpoint import Endpoint, parse_endpoint, require_local
from camfabric.common.errors import CodecError, ConfigError, WireError
from camfabric.common.frame import Frame
from camfabric.common.keys import ClientKeys, client_keys
from camfabric.common.mailbox import Closed, Mailbox, Mode
from camfabric.common.settings import BROKER_SUBSCRIBERS, TIMES
from camfabric.common.shared import sweep
from camfabric.common.shared_pictures import SharedPictures
from camfabric.common.sockets import make_sub
from camfabric.common.status import LIVE, Status
from camfabric.common.topics import CAM, CHANNELS, check_filter, covers
from camfabric.subscriber.door import Door
from camfabric.subscriber.receiver import Receiver

__all__ = ["Subscriber"]


class Subscriber:
    """Receives the frames of cameras, from brokers, from publishers that bind, or from several of each.

    Iterating gives frames until `close`. With `mode="latest"` (the default) it is the newest of each camera, in turn:
    whoever is slow gets fewer frames, and never old ones. With `mode="every"` it is all of them, in order, out of a
    queue of 5000 frames or 64 MB, whichever is less. H.264 and H.265 need the extra `video`, and are decoded in the
    thread that calls `read`; from damage or loss, the picture resumes at the next keyframe, or sooner. With glibc, the
    process keeps up to 32 MB of what it frees for the next picture, unless `MALLOC_TRIM_THRESHOLD_` is set.

    Args:
        endpoints: one endpoint or several.
        cameras: filters: names of cameras or their leading segments ("cctv"); none for every camera. None itself for
            no camera yet: see `watch`.
        channel: "cam", "low" for the small pictures, or None for statuses alone.
        mode: "latest" or "every".
        local: "auto" takes pictures of cameras on this host from its shared memory, where they are offered to this
            user; for channel "cam", mode "latest" and decoded pictures alone. `frame.channel` is "shm" then, `image`
            read-only, and the codec raw. What does not work out comes over the main stream. "off" never does.
        decode: whether `read` decodes; without, frames come with their `payload`. Of H.264 and H.265 those are packets
            in the order of decoding, with "latest" too: it skips to the newest keyframe.
        key: its secret key: a file, or a name in the folder `keys`.
        server_key: the public key of whoever is connected to, likewise: one for all endpoints, or one for each.
        keys: a folder of keys: its own secret, and the broker's public key.
        insecure: allow an endpoint beyond loopback without keys.
        on_status: called with each camera's status that comes, in the receive thread: it must return at once.
        notify: called after each frame that came, likewise.

    Raises:
        ConfigError: an argument is wrong; nothing was started.
        EndpointError: an endpoint cannot be connected to.
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
        on_status: Callable[[Status], None] | None = None,
        notify: Callable[[], None] | None = None,
    ) -> None:
        texts = [endpoints] if isinstance(endpoints, str) else list(dict.fromkeys(endpoints))
        if not texts:
            raise ConfigError("a subscriber needs at least one endpoint", setting="endpoints")
        addresses = [parse_endpoint(text) for text in texts]
        own_keys = client_keys(key=key, server_key=server_key, keys=keys, endpoints=len(addresses))
        for address in addresses:
            require_local(address, insecure=insecure, keyed=own_keys is not None)
        names = [cameras] if isinstance(cameras, str) else list(cameras or ())
        self.filters = _checked_filters(names)
        """What is watched."""
        self.endpoints: Final = [address.text for address in addresses]
        if decode:
            prepare()  # OpenCV takes a tenth of a second to load: here, and not when the first picture is there
        self._decode = decode
        self._closed = False
        if channel not in (*CHANNELS, None):
            raise ConfigError(f"channel {channel!r}: it is 'cam' or 'low'", setting="channel", value=channel)
        if local not in ("auto", "off"):
            raise ConfigError(f"local {local!r}: it is 'auto' or 'off'", setting="local", value=local)
        self._mailbox = Mailbox(mode=mode, notify=notify)
        if channel is not None:
            keep_freed_memory()
        shared = SharedPictures() if local == "auto" and channel == CAM and mode == "latest" and decode else None
        if shared is not None:
            sweep()
        self._decoding = Decoding(self._mailbox, self._complain, shared)
        self._door: Door | None = None
        self._next = self._decoding.take if decode else self._mailbox.get
        if shared is not None:
            self._door = Door(self._next, self._mailbox, shared, by_consumers=notify is None)
            self._next = self._door.take
        self._undecodable: dict[str, str] = {}
        self._context: zmq.Context[Any] = zmq.Context()
        dials: list[Dial] = []
        try:
            for place, address in enumerate(addresses):
                dials.append(self._dial(address, place, own_keys))
        except BaseException:
            for dial in dials:
                dial.close()
                dial.socket.close(0)
            self._context.term()
            raise
        filters = self.filters if cameras is None else self.filters or [""]
        self._receiver = Receiver(
            dials,
            filters=filters,
            channel=channel,
            mailbox=self._mailbox,
            shared=shared,
            door=self._door,
            on_status=on_status,
        )
        self._receiver.start()

    def _dial(self, address: Endpoint, place: int, own_keys: ClientKeys | None) -> Dial:
        socket = make_sub(self._context)
        try:
            if own_keys is None:
                return Dial(socket, address)
            return Dial(socket, address, pair=own_keys.pair, server=own_keys.server(place))
        except BaseException:
            socket.close(0)
            raise

    def watch(self, cameras: Sequence[str]) -> None:
        """Replace the filters: what is new begins at once, what is gone is unsubscribed, up to the camera.

        Here no filter is no camera, and "" is every camera. Safe from any thread. Frames of a camera that was let go
        may still be read where they had come already.

        Raises:
            ConfigError: one is no filter; nothing was changed.
        """
        self.filters = _checked_filters(cameras)
        self._receiver.watch(self.filters)

    def read(self, timeout: float | None = None) -> Frame:
        """The next frame; waits for it at most `timeout` seconds, or for ever.

        Raises:
            TimeoutError: none came; says which camera is silent, and why as far as its status tells.
            ConfigError: the subscriber is closed.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            frame = self._take(timeout, deadline)
            if not self._decode:
                return frame
            if (picture := self.decoded(frame)) is not None:
                return picture

    def _take(self, timeout: float | None, deadline: float | None) -> Frame:
        remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            return self._next(remaining)
        except TimeoutError:
            raise TimeoutError(f"no frame within {timeout or 0:g} s: {self._silence()}") from None
        except Closed:
            raise ConfigError("the subscriber is closed", setting="subscriber") from None

    def take(self, timeout: float | None = None) -> Frame:
        """The next frame, not decoded: it must be given to `decoded` next. Raises as `read` does."""
        return self._take(timeout, None if timeout is None else time.monotonic() + timeout)

    def take_now(self) -> Frame | None:
        """The next frame, not decoded, or None where there is none now. For `decode=False`.

        Raises:
            ConfigError: the subscriber is closed.
        """
        try:
            return self._mailbox.get(0)
        except TimeoutError:
            return None
        except Closed:
            raise ConfigError("the subscriber is closed", setting="subscriber") from None

    def decoded(self, frame: Frame) -> Frame | None:
        """A frame from `take` with its `image`, or a newer one of its camera; None where there is none to show now.

        What is damaged is counted and logged.
        """
        picture = self._decoding.picture(frame)
        if picture is not None:
            self._undecodable.pop(frame.camera, None)
        return picture

    def _complain(self, camera: str, error: CodecError) -> None:
        self._undecodable[camera] = str(error)
        self._receiver.complaints.note(camera, WireError(str(error), reason="picture"))

    def __iter__(self) -> Iterator[Frame]:
        """Frames until the subscriber is closed."""
        while True:
            try:
                yield self.read()
            except ConfigError:
                return

    def _silence(self) -> str:
        if troubles := self._receiver.troubles():
            return "; ".join(troubles)
        statuses = self._receiver.roster.statuses()
        if not statuses:
            wanted = " or ".join(repr(name) for name in self.filters) or "any camera"
            return f"nobody publishes {wanted} at {', '.join(self.endpoints)}"
        wanted_names = [name for name in self.filters if not any(covers(name, camera) for camera in statuses)]
        silent = [f"nobody publishes {name!r}" for name in wanted_names]
        for camera, status in statuses.items():
            reason = f" ({status.reason})" if status.reason else ""
            if camera in self._undecodable:
                silent.append(self._undecodable[camera])
                continue
            if status.state == LIVE:
                reason = ", but nothing came"
                if self._receiver.is_waiting(camera):
                    reason = ", and packets come, but its next keyframe is to be waited for"
            silent.append(f"{camera} is {status.state}{reason}")
        return "; ".join(silent)

    def cameras(self) -> dict[str, Status]:
        """The last status of each camera under the filters, by name; a camera that fell silent is `offline`."""
        return self._receiver.roster.statuses()

    def brokers(self) -> int:
        """How many brokers have announced themselves; known with `channel=None` alone."""
        return len(self._receiver.brokers)

    def troubles(self) -> list[str]:
        """A line for each endpoint that there is no connection to and it is known why: keys, most often."""
        return self._receiver.troubles()

    def unheard(self, silent_s: float = TIMES.offline_s) -> list[str]:
        """The endpoints from which nothing at all has come for `silent_s` seconds.

        With `channel=None` that is a dead connection: a broker announces itself once a second, a publisher too.
        """
        return self._receiver.unheard(silent_s)

    def counts(self) -> dict[str, int]:
        """Messages that were no frames of the fabric, or damaged pictures, by reason."""
        return dict(self._receiver.complaints.counts)

    def dropped(self) -> dict[str, int]:
        """Frames skipped because this consumer was slow, in all, by camera."""
        dropped = dict(self._mailbox.dropped)
        for camera, count in self._decoding.dropped.copy().items():
            dropped[camera] = dropped.get(camera, 0) + count
        return dropped

    def ask_close(self) -> None:
        """Make `read` and the iteration end soon. Safe to call from a signal handler or another thread."""
        self._receiver.ask_stop()

    def close(self) -> None:
        """Close. Whoever waits in `read` is woken. Can be called again."""
        if self._closed:
            return
        self._receiver.stop()
        self._closed = True
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Subscriber({self.endpoints!r}, cameras={self.filters!r})"


def _checked_filters(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(check_filter(name) for name in names))
