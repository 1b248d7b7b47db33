"""`Broker`: one loop over XSUB and XPUB sockets that checks, counts, keeps and forwards. It never decodes a picture."""

from __future__ import annotations

import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import zmq

from camfabric.broker.interest import Interest
from camfabric.common import wire
from camfabric.common.backlog import Backlog
from camfabric.common.endpoint import Endpoint, parse_endpoint, require_local
from camfabric.common.errors import ConfigError, WireError
from camfabric.common.groups import Groups
from camfabric.common.roster import Roster
from camfabric.common.settings import BROKER_PUBLISHERS, BROKER_SUBSCRIBERS, LIMITS, TIMES, Limits
from camfabric.common.sockets import Socket, Waker, bind, connect, make_xpub, make_xsub, receive
from camfabric.common.stats import Complaints
from camfabric.common.status import pack_status, relay_status, unpack_status
from camfabric.common.topics import BROKER, CAM, CHANNELS, REPLAY, STATUS, parse_request, parse_topic, topic

__all__ = ["Broker"]

logger = logging.getLogger(__name__)

_BATCH: Final = 64
_SUBSCRIBE: Final = b"\x01"
_UNSUBSCRIBE: Final = b"\x00"
_ANSWERED: Final = 8192
_TICK_S: Final = 0.25
"""Between two looks at what depends on time, and as long again where no frame wakes the broker meanwhile."""
_STATUSES_S: Final = 0.1
"""Between two answers to new subscribers to statuses."""


@dataclass(slots=True)
class _Inlet:
    """Where frames come from: the bound socket for publishers, or the connection to one upstream."""

    endpoint: str
    socket: Socket
    upstream: Endpoint | None = None
    refused: bool = False
    """The upstream leads back to this broker, and is disconnected."""


@dataclass(slots=True)
class _Outlet:
    """Where subscribers connect."""

    number: int
    endpoint: str
    socket: Socket
    backlog: Backlog
    asked: set[bytes] = field(default_factory=set)
    """Subscriptions to statuses that came since the last ones were handed out."""
    next_statuses: float = 0.0


class Broker:
    """Forwards cameras from publishers and upstreams to subscribers, and subscriptions the other way.

    Args:
        publishers: endpoints to bind for publishers.
        subscribers: endpoints to bind for subscribers and for further brokers.
        upstreams: endpoints to connect to: publishers that bind, or other brokers' endpoints for subscribers.
        insecure: allow endpoints beyond loopback.

    Raises:
        ConfigError: an endpoint is wrong; nothing was started.
        EndpointError: one is taken, or not of this machine.
    """

    def __init__(
        self,
        *,
        publishers: Sequence[str] = (BROKER_PUBLISHERS,),
        subscribers: Sequence[str] = (BROKER_SUBSCRIBERS,),
        upstreams: Sequence[str] = (),
        insecure: bool = False,
        limits: Limits = LIMITS,
    ) -> None:
        bound = [parse_endpoint(text, bind=True) for text in (*publishers, *subscribers)]
        connected = [parse_endpoint(text, setting="upstream") for text in dict.fromkeys(upstreams)]
        if not subscribers or not (publishers or connected):
            raise ConfigError("a broker needs an endpoint for subscribers and something to forward", setting="endpoint")
        for endpoint in (*bound, *connected):
            require_local(endpoint, insecure=insecure)
        self.id: Final = secrets.token_hex(8)
        self._limits = limits
        self._insecure = any(not endpoint.is_local for endpoint in (*bound, *connected))
        self._interest = Interest()
        self._groups = Groups(limits)
        self._roster = Roster()
        self._complaints = Complaints(logger)
        self._streams: dict[bytes, str] = {}
        self._answered: OrderedDict[bytes, None] = OrderedDict()
        self._statuses: dict[str, bytes] = {}
        self._waker = Waker()
        self._stop_asked = False
        self._context: zmq.Context[Any] = zmq.Context()
        self._inlets: list[_Inlet] = []
        self._outlets: list[_Outlet] = []
        try:
            for endpoint in bound[: len(publishers)]:
                socket = make_xsub(self._context, limits=limits)
                self._inlets.append(_Inlet(endpoint.text, socket))
                self._inlets[-1].endpoint = bind(socket, endpoint)
            for endpoint in bound[len(publishers) :]:
                socket = make_xpub(self._context, limits=limits)
                self._outlets.append(_Outlet(len(self._outlets), endpoint.text, socket, Backlog(limits=limits)))
                self._outlets[-1].endpoint = bind(socket, endpoint)
            for endpoint in connected:
                socket = make_xsub(self._context, limits=limits)
                self._inlets.append(_Inlet(endpoint.text, socket, endpoint))
                connect(socket, endpoint)
        except BaseException:
            self._close()
            raise

    @property
    def publishers(self) -> list[str]:
        """The endpoints bound for publishers, with their real ports."""
        return [inlet.endpoint for inlet in self._inlets if inlet.upstream is None]

    @property
    def subscribers(self) -> list[str]:
        """The endpoints bound for subscribers, with their real ports."""
        return [outlet.endpoint for outlet in self._outlets]

    def stop(self) -> None:
        """Make `run` end. Safe to call from a signal handler or another thread."""
        self._stop_asked = True
        self._waker.wake()

    def run(self) -> None:
        """Forward until `stop`; then close everything."""
        poller = zmq.Poller()
        poller.register(self._waker.fileno(), zmq.POLLIN)
        for inlet in self._inlets:
            for own in (topic(STATUS), topic(BROKER)):
                inlet.socket.send(_SUBSCRIBE + own)
            poller.register(inlet.socket, zmq.POLLIN)
        for outlet in self._outlets:
            poller.register(outlet.socket, zmq.POLLIN)
        next_tick = next_word = time.monotonic()
        try:
            while not self._stop_asked:
                wait_s = next_tick + _TICK_S - time.monotonic()
                if any(outlet.asked for outlet in self._outlets):
                    wait_s = min(wait_s, _STATUSES_S)
                ready = dict(poller.poll(int(max(0.0, wait_s) * 1000) + 1))
                for outlet in self._outlets:
                    if outlet.socket in ready:
                        self._hear(outlet)
                    if outlet.asked:
                        self._hand_out_statuses(outlet)
                for inlet in self._inlets:
                    if inlet.socket in ready:
                        self._drain(inlet)
                if (now := time.monotonic()) >= next_tick:
                    next_tick = now + _TICK_S
                    self._tick()
                    if now >= next_word:
                        next_word = now + TIMES.announce_s
                        self._send([topic(BROKER, self.id), wire.pack_map({"v": 1, "hops": 0})])
        finally:
            self._close()

    def _close(self) -> None:
        for socket in [inlet.socket for inlet in self._inlets] + [outlet.socket for outlet in self._outlets]:
            socket.close(0)
        self._context.term()
        self._waker.close()

    # From subscribers

    def _hear(self, outlet: _Outlet) -> None:
        for _ in range(_BATCH):
            if (parts := receive(outlet.socket)) is None:
                return
            data = parts[0].bytes
            if len(parts) != 1 or data[:1] not in (_SUBSCRIBE, _UNSUBSCRIBE) or len(data) > self._limits.topic_bytes:
                self._complaints.note(
                    f"a subscriber at {outlet.endpoint}", WireError("no subscription", reason="parts")
                )
            elif data[:1] == _SUBSCRIBE:
                outlet.backlog.subscribed(parts[0])
                self._subscribed(outlet, parts[0], data[1:])
            else:
                self._unsubscribed(outlet, data[1:])

    def _subscribed(self, outlet: _Outlet, subscription: zmq.Frame, prefix: bytes) -> None:
        if topic(STATUS).startswith(prefix) or prefix.startswith(topic(STATUS)):
            # Many at once are one question more: all statuses go out together, ten times a second at most.
            outlet.asked.add(prefix if len(outlet.asked) < _BATCH else topic(STATUS))
        elif kept := self._kept_for(prefix):
            # Answered here; the request goes no further, and its end finds nothing to take back.
            outlet.socket.send_multipart(wire.pack_replay(prefix, kept), copy=False)
            outlet.backlog.owes(subscription, sum(len(payload) for _, payload in kept))
            return
        if self._interest.add(prefix, outlet.number):
            self._send_up(_SUBSCRIBE + prefix)

    def _kept_for(self, prefix: bytes) -> Sequence[tuple[bytes, Any]]:
        """What is kept of the stream that a replay request asks for; nothing where it is none, or nothing is kept."""
        request = parse_request(prefix)
        if request is None or request[0] != REPLAY:
            return ()
        return self._groups.get(f"{request[2]}/".encode())

    def _hand_out_statuses(self, outlet: _Outlet) -> None:
        if (now := time.monotonic()) < outlet.next_statuses:
            return
        outlet.next_statuses = now + _STATUSES_S
        asked = tuple(outlet.asked)
        outlet.asked.clear()
        for camera, packed in self._statuses.items():
            of_camera = topic(STATUS, camera)
            if of_camera.startswith(asked):
                outlet.socket.send_multipart([of_camera, packed])

    def _unsubscribed(self, outlet: _Outlet, prefix: bytes) -> None:
        if not self._interest.remove(prefix, outlet.number):
            return
        self._send_up(_UNSUBSCRIBE + prefix)
        if not prefix.startswith((b"replay/", b"clock/", b"status/")):
            # What no longer flows grows old here, and must not be handed out as the newest.
            for stream in self._groups.topics():
                if not self._interest.covers(stream):
                    self._groups.drop(stream)

    def _send_up(self, subscription: bytes) -> None:
        for inlet in self._inlets:
            inlet.socket.send(subscription)

    # From publishers and upstreams

    def _drain(self, inlet: _Inlet) -> None:
        for _ in range(_BATCH):
            if (parts := receive(inlet.socket)) is None:
                return
            try:
                self._take(inlet, parts)
            except WireError as error:
                self._complaints.note(f"a publisher at {inlet.endpoint}", error)

    def _take(self, inlet: _Inlet, parts: list[zmq.Frame]) -> None:
        name = parts[0].bytes
        if name.startswith((b"cam/", b"low/")):
            self._forward_frame(name, parts)
        elif name.startswith(b"status/"):
            self._forward_status(name, parts)
        elif name.startswith((b"replay/", b"clock/")):
            self._forward_answer(name, parts)
        elif name.startswith(b"broker/"):
            self._forward_announcement(inlet, name, parts)
        else:
            raise WireError(f"unexpected topic {name[:64]!r}", reason="topic")

    def _forward_frame(self, name: bytes, parts: list[zmq.Frame]) -> None:
        camera = self._streams.get(name)
        if camera is None:
            camera = self._new_stream(name)
        if len(parts) != wire.FRAME_PARTS:
            raise WireError(f"frame of {len(parts)} parts", reason="parts")
        header, payload = parts[1].bytes, parts[2]
        seen = wire.peek(header, limits=self._limits)
        self._check_hops(seen.hops)
        if not self._roster.accepts(camera, seen.epoch):
            return
        header = wire.with_hop(header)
        if self._interest.covers(name):
            self._groups.keep(
                name, epoch=seen.epoch, seq=seen.seq, keyframe=seen.keyframe, header=header, payload=payload
            )
        self._send([parts[0], header, payload])

    def _new_stream(self, name: bytes) -> str:
        channel, camera = parse_topic(name)
        if channel not in CHANNELS:
            raise WireError(f"unknown channel {channel!r}", reason="topic")
        if len(self._streams) >= self._limits.cameras:
            self._streams.clear()
        self._streams[name] = camera
        return camera

    def _check_hops(self, hops: int) -> None:
        if hops >= self._limits.hops:
            raise WireError(f"it came through {hops} brokers: they are in a circle", reason="hops")

    def _forward_status(self, name: bytes, parts: list[zmq.Frame]) -> None:
        if len(parts) != 2:
            raise WireError(f"status of {len(parts)} parts", reason="parts")
        status = unpack_status(name, parts[1].buffer)
        self._check_hops(status.hops)
        if self._roster.heard(status):
            marked = replace(
                status,
                hops=status.hops + 1,
                rivals=max(status.rivals, self._roster.rivals(status.camera)),
                insecure=status.insecure or self._insecure,
            )
            stream = topic(CAM, status.camera)
            if kept := self._groups.get(stream):
                # What the nearest one keeps is what a late joiner gets.
                marked = replace(marked, kept=len(kept), kept_over=False)
            elif self._groups.is_over(stream):
                marked = replace(marked, kept=0, kept_over=True)
            self._publish_status(status.camera, relay_status(parts[1].buffer, marked))

    def _publish_status(self, camera: str, packed: bytes) -> None:
        self._statuses[camera] = packed
        self._send([topic(STATUS, camera), packed])

    def _forward_answer(self, name: bytes, parts: list[zmq.Frame]) -> None:
        if len(parts) > self._limits.parts:
            raise WireError(f"answer of {len(parts)} parts", reason="parts")
        # Each answer goes on once: in a circle of brokers it would go round for ever, and it has no hop count.
        if name in self._answered or not self._interest.covers(name):
            return
        self._answered[name] = None
        if len(self._answered) > _ANSWERED:
            self._answered.popitem(last=False)
        self._send(parts)

    def _forward_announcement(self, inlet: _Inlet, name: bytes, parts: list[zmq.Frame]) -> None:
        _, broker_id = parse_topic(name)
        if len(parts) != 2:
            raise WireError(f"announcement of {len(parts)} parts", reason="parts")
        content = wire.unpack_map(parts[1].buffer, limit_bytes=self._limits.status_bytes, reason="announcement")
        wire.check_version(content)
        hops = content.get("hops")
        if type(hops) is not int or hops < 0:
            raise WireError("announcement without hops", reason="announcement")
        if broker_id == self.id:
            self._refuse_circle(inlet)
            return
        self._check_hops(hops)
        self._send([name, wire.pack_map({"v": 1, "hops": hops + 1})])

    def _refuse_circle(self, inlet: _Inlet) -> None:
        if inlet.upstream is None or inlet.refused:
            return
        inlet.refused = True
        logger.error("upstream %s leads back to this broker: refused", inlet.endpoint)
        inlet.socket.disconnect(inlet.upstream.text)

    def _send(self, parts: list[Any]) -> None:
        for outlet in self._outlets:
            for part in parts[:-1]:
                outlet.socket.send(part, zmq.SNDMORE, copy=False)
            outlet.socket.send(outlet.backlog.counted(parts[-1]), copy=False)

    def _tick(self) -> None:
        self._waker.clear()
        for outlet in self._outlets:
            outlet.backlog.check()
        for status in self._roster.expire():
            logger.info("camera %s is offline: %s", status.camera, status.reason)
            self._publish_status(status.camera, pack_status(status))
        for conflict in self._roster.conflicts():
            logger.warning(
                "two publishers claim camera %s: the newer one (%016x) is forwarded, %016x is not",
                conflict.camera,
                conflict.winner,
                conflict.loser,
            )
        if len(self._statuses) > self._limits.cameras:
            known = self._roster.statuses()
            self._statuses = {camera: packed for camera, packed in self._statuses.items() if camera in known}
