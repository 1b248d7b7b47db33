"""`Publisher`: one camera's frames, from a program's arrays to the fabric."""

from __future__ import annotations

import functools
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import zmq

from camfabric.common import wire
from camfabric.common.codecs import Encoding, by_name, make_encoder
from camfabric.common.endpoint import parse_endpoint, require_local
from camfabric.common.errors import ConfigError, FabricError, WireError
from camfabric.common.frame import Codec, Frame
from camfabric.common.keys import ClientKeys, ServerKeys, client_keys, server_keys
from camfabric.common.settings import BROKER_PUBLISHERS, COPY, DEFAULT_GOP, DEFAULT_QUALITY, LIMITS
from camfabric.common.shared import make_host, sweep
from camfabric.common.sockets import Waker
from camfabric.common.status import LIVE, OFFLINE, Status
from camfabric.common.topics import CAM, LOW, check_camera
from camfabric.publisher.link import Link
from camfabric.publisher.low import Low, LowEncoder, resized, shrunk
from camfabric.publisher.pulse import Pulse
from camfabric.publisher.rate_limit import RateLimit
from camfabric.publisher.sender import Sender
from camfabric.publisher.shared import SharedStream
from camfabric.publisher.stream import Captured, Stream

if TYPE_CHECKING:
    from camfabric.common.frame import Image

__all__ = ["Publisher"]

_CLOCK_STEP_NS: Final = 2_000_000
"""By less, the two clocks seem to differ because they are read one after the other."""


class Publisher:
    """Publishes one camera's pictures.

    It connects to a broker (`to`), or binds an endpoint for itself (`bind`) that subscribers and brokers connect to.
    Whether the other side is there does not matter, now or later. A picture is encoded and sent only while somebody
    subscribes to the camera, in a thread of the publisher's own; where that is slower than `send`, the newest picture
    wins. A camera's own coded stream is passed on by `send_packet`. Any thread may call its methods, but no signal's
    handler: it may have interrupted one of them.

    Args:
        camera: its name, such as "cctv/lobby".
        to: the broker's endpoint; by default tcp://127.0.0.1:5550 if `bind` is not given either.
        bind: the endpoint to bind; port `*` takes a free one, see `endpoint`.
        codec: "jpeg", "raw", "h264" or "h265" for what `send` is given (the last two need the extra `video`), or
            "copy" for a stream of packets; pictures that are sent all the same are JPEG then.
        quality: of JPEG, 1 to 100.
        size: (width, height) in px to scale pictures to, or None to send them as they are.
        bit_rate: of H.264 and H.265, bits a second; by default 0.1 for each pixel at 30 pictures a second.
        gop: of H.264 and H.265: pictures from one keyframe to the next. One is made as well when the stream becomes
            watched.
        encoder: of H.264 and H.265: an encoder of FFmpeg, such as "h264_nvenc"; x264 or x265 by default.
        low: what the small picture on `low/` is like; None for no such channel. It is made while it is watched.
        shared: offer the pictures in this host's shared memory too, where subscribers of the same user take them
            without a copy: 25 MB at 1080p, 100 MB at most, while there are such subscribers. None is where there are no
            keys: every process of this user could see them there.
        key: its secret key: a file, or a name in the folder `keys`.
        server_key: the broker's public key, likewise.
        keys: a folder of keys: its own secret and the broker's public key, or, to bind, the public keys of those who
            may connect.
        insecure: allow an endpoint beyond loopback, where anybody could see and send pictures.
        source: what kind of source the status names; never an address.
        announce_at_once: False lists the camera only once it has a picture.

    Raises:
        ConfigError: an argument is wrong, or the encoder is not there; nothing was started.
        EndpointError: the endpoint cannot be bound or connected.
    """

    def __init__(
        self,
        camera: str,
        *,
        to: str | None = None,
        bind: str | None = None,
        codec: str = "jpeg",
        quality: int = DEFAULT_QUALITY,
        size: tuple[int, int] | None = None,
        bit_rate: int | None = None,
        gop: int = DEFAULT_GOP,
        encoder: str = "",
        low: Low | None = Low(),  # noqa: B008  (frozen)
        shared: bool | None = None,
        key: str | Path | None = None,
        server_key: str | Path | None = None,
        keys: str | Path | None = None,
        insecure: bool = False,
        source: str = "program",
        announce_at_once: bool = True,
    ) -> None:
        self.camera: Final = check_camera(camera)
        self.codec: Final = codec
        if to is not None and bind is not None:
            raise ConfigError("a publisher connects (to) or binds (bind), not both", setting="to", value=to)
        encoding = Encoding(
            codec=Codec.JPEG if codec == COPY else _codec(codec),
            quality=quality,
            bit_rate=bit_rate,
            gop=gop,
            encoder=encoder,
        )
        if encoder and encoding.codec.is_intra:
            raise ConfigError(f"encoder {encoder!r} goes with codec h264 or h265", setting="encoder", value=encoder)
        _check_size(size)
        if shared and codec == COPY:
            raise ConfigError("shared memory is for pictures, and codec 'copy' has packets", setting="shared")
        address = parse_endpoint(bind or to or BROKER_PUBLISHERS, bind=bind is not None)
        own_keys: ServerKeys | ClientKeys | None
        if bind is not None:
            if server_key is not None:
                raise ConfigError("server_key goes with connecting (to): who binds is the server", setting="server_key")
            own_keys = server_keys(key=key, keys=keys)
        else:
            own_keys = client_keys(key=key, server_key=server_key, keys=keys)
        require_local(address, insecure=insecure, keyed=own_keys is not None)

        self.epoch: Final = secrets.randbits(64)
        self.demands: Final = {CAM: threading.Event(), LOW: threading.Event()}
        """By channel, set while its source is needed: the main one also where the small picture is made of it."""
        self._encoder = make_encoder(encoding)
        self._source = source
        self._size = size
        self._shape = (0, 0)
        self._insecure = own_keys is None and not address.is_local
        self._started = time.monotonic()
        self._pulse = Pulse()
        self._closed = False
        self._wall_offset_ns = 0
        self._has_pictures = False
        resize = functools.partial(resized, size=size) if size else None
        self._blank = Frame(camera=self.camera, epoch=self.epoch)
        self._main = Stream(CAM, self.camera, self._encoder, resize=resize)
        self._shared: SharedStream | None = None
        if shared or (shared is None and own_keys is None and codec != COPY):
            sweep()
            if host := make_host():
                self._shared = SharedStream(self.camera, host=host, epoch=self.epoch, resize=resize)
        self._small: Stream | None = None
        self._small_has_source = low is not None and low.own_source
        if low is not None:
            self._small = Stream(
                LOW,
                self.camera,
                LowEncoder(quality),
                resize=functools.partial(shrunk, box=low.size),
            )
            self._small_limit = RateLimit(low.fps)
        self._waker = Waker()
        self._context: zmq.Context[Any] = zmq.Context()
        try:
            link = Link(self._context, address, bound=bind is not None, keys=own_keys)
        except BaseException:
            self._context.term()
            self._waker.close()
            raise
        self.endpoint: Final = link.endpoint
        self._sender = Sender(
            link,
            camera=self.camera,
            epoch=self.epoch,
            streams=[stream for stream in (self._main, self._small) if stream is not None],
            shared=self._shared,
            low=low,
            waker=self._waker,
            demands=self.demands,
            state=self._pulse.state,
            status=self.status,
            announce_at_once=announce_at_once,
        )
        self._sender.start()

    def send(
        self,
        image: Image,
        *,
        extra: Mapping[str, Any] | None = None,
        copy: bool = True,
        captured_ns: int | None = None,
        captured_monotonic_ns: int | None = None,
    ) -> None:
        """Publish a picture. Returns at once; it is encoded and sent only if somebody watches.

        Where somebody watches on this host it is copied to shared memory meanwhile, and, unless somebody else watches
        too, nowhere else.

        Args:
            image: (H, W, 3) uint8 BGR, or (H, W) uint8, or (H, W) uint16 with codec "raw".
            extra: fields of your own that travel with it: names, and values that msgpack carries; 64 kB at most.
            copy: False saves a copy where the array will never be written again.
            captured_ns: when it was captured, in Unix ns; now if not given.
            captured_monotonic_ns: the same moment as `time.monotonic_ns()`; derived if not given.

        Raises:
            CodecError: the array is not such a picture; names its shape and dtype.
            WireError: `extra`, or a time, cannot be sent.
            ConfigError: the publisher is closed.
            FabricError: its thread has failed.
        """
        self._check_open()
        pixel_format = self._encoder.check(image)
        frame = self._checked((image.shape[1], image.shape[0]), extra, captured_ns, captured_monotonic_ns)
        shared = self._shared
        written = None
        if shared is not None and shared.watched and shared.resize is None:
            written = shared.write(frame, image, pixel_format)
        is_coded = self._main.watched or (self._small is not None and self._small.watched)
        if written is not None and copy and not is_coded:
            captured = Captured(frame, written.draw)  # what nobody may ever want is copied from there, and not now
        else:
            own = image.copy() if copy else image
            captured = Captured(frame, lambda: own)
        self._offer(captured, draws=shared is not None and shared.resize is not None)

    def send_drawn(
        self,
        draw: Callable[[], Image],
        *,
        size: tuple[int, int],
        captured_monotonic_ns: int,
        channel: str = CAM,
    ) -> None:
        """Publish a picture that is drawn, or converted, only if somebody watches.

        Args:
            draw: gives the picture, as `send` takes it; called at most once for each channel, in another thread.
            size: (width, height) in px that it will have.
            captured_monotonic_ns: when it was captured, as `time.monotonic_ns()`.
            channel: "low" for the small picture's own source.

        Raises:
            ConfigError: the publisher is closed.
            FabricError: its thread has failed.
        """
        self._check_open()
        frame = self._checked(size, None, None, captured_monotonic_ns)
        captured = Captured(frame, draw)
        if channel == LOW:
            self._offer_small(captured)
        else:
            self._offer(captured)

    def send_packet(
        self,
        payload: bytes,
        *,
        codec: Codec,
        size: tuple[int, int],
        keyframe: bool,
        disposable: bool = False,
        pts: int | None = None,
        dts: int | None = None,
        time_base: tuple[int, int] | None = None,
        extra: Mapping[str, Any] | None = None,
        captured_ns: int | None = None,
        captured_monotonic_ns: int | None = None,
        channel: str = CAM,
    ) -> None:
        """Pass on a coded picture as it is. Packets go out in the order of these calls, which is that of decoding.

        Args:
            payload: a JPEG, or an access unit of H.264 or H.265 as Annex B, with parameter sets before a keyframe.
            codec: its codec.
            size: (width, height) of the picture in px.
            keyframe: whether decoding can begin with it. Those in front of the first keyframe are of use to nobody.
            disposable: whether no other packet needs it.
            pts: presentation time in units of `time_base`, if it is known.
            dts: decode time, likewise.
            time_base: (numerator, denominator) in seconds.
            extra: as for `send`.
            captured_ns: as for `send`.
            captured_monotonic_ns: as for `send`.
            channel: "low" for the small picture's own source.

        Raises:
            WireError: it is too large, or a number or `extra` cannot be sent.
            ConfigError: the publisher is closed, has another codec than "copy", or its small picture no own source.
            FabricError: its thread has failed.
        """
        self._check_open()
        stream = self._packet_stream(channel)
        if len(payload) > LIMITS.payload_bytes or not 0 < size[0] * size[1] <= LIMITS.pixels:
            raise WireError(f"packet of {len(payload)} bytes, {size[0]} x {size[1]} px: too large", reason="size")
        frame = self._checked(
            size,
            extra,
            captured_ns,
            captured_monotonic_ns,
            channel=channel,
            codec=codec,
            keyframe=keyframe or codec.is_intra,
            disposable=disposable,
            pts=pts,
            dts=dts,
            time_base=time_base,
            payload=payload,
        )
        stream.offer_packet(frame)
        if stream is self._main:
            self._shape = size
            self._pulse.beat()
        self._waker.wake()

    def forget_packets(self, channel: str = CAM) -> None:
        """Say that the packets' source is closed: what was kept for late joiners is of no use any more."""
        stream = self._main if channel == CAM else self._small
        if stream is not None:
            stream.forget()
            self._waker.wake()

    def _check_open(self) -> None:
        if self._closed:
            raise ConfigError(f"the publisher of {self.camera} is closed", setting="camera", value=self.camera)
        if self._sender.failed:
            raise FabricError(f"the publisher of {self.camera} has failed: what went wrong is in the log")

    def _packet_stream(self, channel: str) -> Stream:
        if channel == LOW:
            if self._small is None or not self._small_has_source:
                raise ConfigError(
                    "low has no source of its own: Low(own_source=True)", setting="channel", value=channel
                )
            return self._small
        if self.codec != COPY:
            raise ConfigError("packets are passed on with codec='copy'", setting="codec", value=self.codec)
        return self._main

    def _checked(
        self,
        size: tuple[int, int],
        extra: Mapping[str, Any] | None,
        captured_ns: int | None,
        captured_monotonic_ns: int | None,
        **fields: Any,
    ) -> Frame:
        """The frame with all that is known of it when it is captured. What cannot be sent is refused here."""
        monotonic_ns = time.monotonic_ns()
        wall_ns = self._wall_ns(monotonic_ns)
        if captured_monotonic_ns is None:
            captured_monotonic_ns = monotonic_ns - (0 if captured_ns is None else wall_ns - captured_ns)
        if captured_ns is None:
            captured_ns = wall_ns - (monotonic_ns - captured_monotonic_ns)
        frame = self._blank.replace(
            width=size[0],
            height=size[1],
            captured_ns=captured_ns,
            captured_monotonic_ns=captured_monotonic_ns,
            extra=wire.copy_extra(extra) if extra else {},
            **fields,
        )
        if fields or extra or captured_ns != wall_ns:
            wire.pack_header(frame)  # where the caller sees what is wrong with it
        return frame

    def _wall_ns(self, monotonic_ns: int) -> int:
        """Unix time, as steady as the monotonic clock but for steps of the wall clock."""
        offset_ns = time.time_ns() - monotonic_ns
        if abs(offset_ns - self._wall_offset_ns) > _CLOCK_STEP_NS:
            self._wall_offset_ns = offset_ns
        return monotonic_ns + self._wall_offset_ns

    def _offer(self, captured: Captured, *, draws: bool = True) -> None:
        """Hand a picture to the main stream, to the small one if that is made of it, and, if it `draws`, to memory."""
        self._shape = self._size or (captured.frame.width, captured.frame.height)
        recovered = self._pulse.beat()
        main, shared = self._main, self._shared
        watched = main.watched
        self._has_pictures = True
        if shared is not None and shared.watched and draws:
            # Drawn once, where both have it drawn.
            captured = replace(captured, draw=functools.cache(captured.draw))
            shared.offer(captured)
        is_new = main.offer(captured)
        if not self._small_has_source:
            self._offer_small(captured)
        # Where it has replaced one, the thread was woken for that, or will be once there is room for it. Whoever takes
        # it from memory has been told already.
        is_due = (watched or main.watched) and is_new and not main.is_held
        if is_due or recovered or (shared is not None and shared.has_word):
            self._waker.wake()

    def _offer_small(self, captured: Captured) -> None:
        small = self._small
        if small is None or (small.watched and not self._small_limit.admits(captured.frame.captured_monotonic_ns)):
            return
        if small.offer(captured) and small.watched:
            self._waker.wake()

    @property
    def watched(self) -> bool:
        """Whether somebody subscribes to the camera now."""
        return self._main.watched or (self._shared is not None and self._shared.watched)

    def report(self, state: str, reason: str) -> None:
        """Say in the camera's status that its source is `stalled` or `offline`, and why, until the next `send`."""
        if self._pulse.say(state, reason):
            self._waker.wake()

    def status(self) -> Status:
        """The camera's status as it is published."""
        sender, main = self._sender, self._main
        state, reason = self._pulse.state()
        return Status(
            camera=self.camera,
            state=state,
            reason=reason,
            epoch=self.epoch,
            uptime_ms=int((time.monotonic() - self._started) * 1000),
            time_ns=time.time_ns(),
            codec=main.codec or ("jpeg" if self.codec == COPY and self._has_pictures else self.codec),
            width=self._shape[0],
            height=self._shape[1],
            fps_in=round(self._pulse.per_second(), 6) if state == LIVE else 0.0,
            fps_out=round(sender.fps_out, 2) if state == LIVE else 0.0,
            sent=sender.sent + (self._shared.written if self._shared is not None else 0),
            sent_bytes=sender.sent_bytes,
            encoded=main.encoded + (self._small.encoded if self._small is not None else 0),
            dropped=main.dropped + (self._shared.dropped if self._shared is not None else 0),
            watched=self.watched and state != OFFLINE,
            low=self._small is not None,
            kept=main.kept,
            kept_over=main.kept_over,
            shared=self._shared.offered if self._shared is not None else "",
            source=self._source,
            insecure=self._insecure,
        )

    def close(self, reason: str = "its publisher ended") -> None:
        """Say goodbye, send what is on its way for half a second at most, and close. Can be called again."""
        if self._closed:
            return
        self._closed = True
        self._pulse.say(OFFLINE, reason)
        self._sender.stop()
        self._context.term()
        self._waker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Publisher({self.camera!r}, endpoint={self.endpoint!r}, codec={self.codec!r})"


def _codec(name: str) -> Codec:
    try:
        return by_name(name)
    except ConfigError as error:
        raise ConfigError(f"{error}, {COPY}", setting="codec", value=name) from None


def _check_size(size: Any) -> None:
    if size is None:
        return
    if not isinstance(size, tuple) or len(size) != 2 or not all(type(side) is int for side in size):
        raise ConfigError(f"size {size!r}: it is (width, height) in whole pixels", setting="size", value=size)
    if not all(LIMITS.min_side_px <= side <= LIMITS.max_side_px for side in size):
        raise ConfigError(
            f"size {size!r}: each side is {LIMITS.min_side_px} to {LIMITS.max_side_px} px", setting="size", value=size
        )
