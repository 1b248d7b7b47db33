"""Forwarding: frames, statuses and answers from whoever is believed for a camera to the outlets that show it."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import zmq

from camfabric.broker.inlet import Inlet, UpstreamInlet
from camfabric.broker.interest import Interest
from camfabric.broker.outlet import Outlet
from camfabric.broker.ports import Ports
from camfabric.common import wire
from camfabric.common.errors import WireError
from camfabric.common.groups import Groups
from camfabric.common.roster import Roster
from camfabric.common.settings import Limits
from camfabric.common.sockets import receive
from camfabric.common.stats import Complaints
from camfabric.common.status import OFFLINE, pack_status, relay_status, unpack_status
from camfabric.common.topics import BROKER, CAM, CHANNELS, REPLAY, SHM, STATUS, parse_request, parse_topic, topic

__all__ = ["Forwarding"]

logger = logging.getLogger(__name__)

_ANSWERED: Final = 8192
_TOPICS: Final = 4
"""Topics of one camera that are remembered."""


@dataclass(slots=True)
class _Route:
    """What is known of one topic: its camera, the outlets that show it, and who is believed for it."""

    camera: str
    outlets: tuple[Outlet, ...]
    believed: dict[tuple[Inlet, str], bool] = field(default_factory=dict)
    version: int = -1
    """Of the interest, when it was looked up ..."""
    is_wanted: bool = False
    """... whether somebody is subscribed to it."""


class Forwarding:
    """Used by one thread."""

    def __init__(self, ports: Ports, interest: Interest, groups: Groups, *, broker_id: str, limits: Limits) -> None:
        self._ports = ports
        self._interest = interest
        self._groups = groups
        self._id = broker_id
        self._limits = limits
        self._roster = Roster()
        self._routes: dict[bytes, _Route] = {}
        self._answered: OrderedDict[bytes, None] = OrderedDict()
        self._statuses: dict[str, bytes] = {}
        self.complaints = Complaints(logger)
        self.insecure = False
        """Said in each status: something goes beyond this machine without keys."""

    def statuses(self) -> Mapping[str, bytes]:
        """The last status of each camera, packed."""
        self._expire()
        return self._statuses

    def forget_routes(self) -> None:
        """Who may see and publish what has changed."""
        self._routes.clear()

    def drain(self, inlet: Inlet, *, most: int) -> None:
        """Forward what has come to an inlet, so many messages at most."""
        for _ in range(most):
            if (parts := receive(inlet.socket, limits=self._limits, likely=True)) is None:
                return
            sender = inlet.sender(parts[0])
            try:
                self._take(inlet, sender, parts)
            except WireError as error:
                self.complaints.note(inlet.describe(parts[0]), error)
            except Exception as error:
                self.complaints.note_fault(inlet.describe(parts[0]), error)

    def _take(self, inlet: Inlet, sender: str, parts: list[zmq.Frame]) -> None:
        name = parts[0].bytes
        if name.startswith((b"cam/", b"low/", b"shm/")):
            self._forward_frame(self._route(name, inlet, sender), name, parts)
        elif name.startswith(b"status/"):
            self._forward_status(self._route(name, inlet, sender), name, parts)
        elif name.startswith((b"replay/", b"clock/")):
            self._forward_answer(inlet, sender, name, parts)
        elif name.startswith(b"broker/"):
            self._forward_announcement(inlet, name, parts)
        else:
            raise WireError(f"unexpected topic {name[:64]!r}", reason="topic")

    def _route(self, name: bytes, inlet: Inlet, sender: str) -> _Route:
        """The route of a topic on which the sender is believed.

        Raises:
            WireError: it is no topic, or the sender is not believed for its camera.
        """
        route = self._routes.get(name)
        if route is None:
            route = self._new_route(name)
        believed = route.believed.get((inlet, sender))
        if believed is None:
            believed = route.believed[inlet, sender] = inlet.may_publish(sender, route.camera)
        if not believed:
            raise WireError(f"it may not publish {route.camera}", reason="permission")
        return route

    def _new_route(self, name: bytes) -> _Route:
        channel, camera = parse_topic(name)
        if channel not in (*CHANNELS, STATUS) and not channel.startswith(f"{SHM}/"):
            raise WireError(f"unknown channel {channel!r}", reason="topic")
        if len(self._routes) >= _TOPICS * self._limits.cameras:
            self._routes.clear()
        route = self._routes[name] = _Route(camera, self._showing(camera))
        return route

    def _showing(self, camera: str) -> tuple[Outlet, ...]:
        """The outlets that show a camera."""
        return tuple(outlet for outlet in self._ports.outlets if outlet.cameras.covers(camera))

    def _forward_frame(self, route: _Route, name: bytes, parts: list[zmq.Frame]) -> None:
        if len(parts) != wire.FRAME_PARTS:
            raise WireError(f"frame of {len(parts)} parts", reason="parts")
        header, payload = parts[1].bytes, parts[2]
        seen = wire.peek(header, limits=self._limits)
        self._check_hops(seen.hops)
        if not self._roster.accepts(route.camera, seen.epoch):
            return
        header = wire.with_hop(header)
        for outlet in route.outlets:
            outlet.audience.send([name, header, payload])
        if route.version != self._interest.version:
            route.version, route.is_wanted = self._interest.version, self._interest.covers(name)
        if route.is_wanted and not name.startswith(b"shm/"):  # there it is in a moment another picture
            self._groups.keep(
                name, epoch=seen.epoch, seq=seen.seq, keyframe=seen.keyframe, header=header, payload=payload
            )

    def _check_hops(self, hops: int) -> None:
        if hops >= self._limits.hops:
            raise WireError(f"it came through {hops} brokers: they are in a circle", reason="hops")

    def _forward_status(self, route: _Route, name: bytes, parts: list[zmq.Frame]) -> None:
        if len(parts) != 2:
            raise WireError(f"status of {len(parts)} parts", reason="parts")
        status = unpack_status(name, parts[1].buffer)
        self._check_hops(status.hops)
        if self._roster.heard(status):
            if status.state == OFFLINE:
                self._forget_pictures(status.camera)
            marked = replace(
                status,
                hops=status.hops + 1,
                rivals=max(status.rivals, self._roster.rivals(status.camera)),
                insecure=status.insecure or self.insecure,
            )
            stream = topic(CAM, status.camera)
            if kept := self._groups.get(stream):
                # What the nearest one keeps is what a late joiner gets.
                marked = replace(marked, kept=len(kept), kept_over=False)
            elif self._groups.is_over(stream):
                marked = replace(marked, kept=0, kept_over=True)
            self._publish_status(status.camera, relay_status(parts[1].buffer, marked), route.outlets)

    def _forget_pictures(self, camera: str) -> None:
        """A late joiner is not to be given a picture of a camera that has gone."""
        for channel in CHANNELS:
            self._groups.drop(topic(channel, camera))

    def _publish_status(self, camera: str, packed: bytes, outlets: Iterable[Outlet]) -> None:
        self._statuses[camera] = packed
        self._send([topic(STATUS, camera), packed], outlets)

    def _forward_answer(self, inlet: Inlet, sender: str, name: bytes, parts: list[zmq.Frame]) -> None:
        if len(parts) > self._limits.parts:
            raise WireError(f"answer of {len(parts)} parts", reason="parts")
        if len(name) > self._limits.topic_bytes:
            raise WireError(f"topic of {len(name)} bytes", reason="topic")
        request = parse_request(name)
        if request is None:
            raise WireError(f"answer on {name[:64]!r}", reason="topic")
        camera = request[2].partition("/")[2] if request[0] == REPLAY else request[2]
        if not inlet.may_publish(sender, camera):
            raise WireError(f"it may not answer for {camera!r}", reason="permission")
        # Each answer goes on once: in a circle of brokers it would go round for ever, and it has no hop count.
        if name in self._answered or not self._interest.covers(name):
            return
        self._answered[name] = None
        if len(self._answered) > _ANSWERED:
            self._answered.popitem(last=False)
        self._send(parts, self._showing(camera))

    def _forward_announcement(self, inlet: Inlet, name: bytes, parts: list[zmq.Frame]) -> None:
        if not isinstance(inlet, UpstreamInlet):
            raise WireError("a publisher says that it is a broker", reason="announcement")
        _, broker_id = parse_topic(name)
        if len(parts) != 2:
            raise WireError(f"announcement of {len(parts)} parts", reason="parts")
        content = wire.unpack_map(parts[1].buffer, limit_bytes=self._limits.status_bytes, reason="announcement")
        wire.check_version(content)
        hops = content.get("hops")
        if type(hops) is not int or hops < 0:
            raise WireError("announcement without hops", reason="announcement")
        if broker_id == self._id:
            if not inlet.refused:
                logger.error("upstream %s leads back to this broker: refused", inlet.endpoint)
                inlet.refuse()
            return
        self._check_hops(hops)
        self._send([name, wire.pack_map({"v": 1, "hops": hops + 1})], self._ports.outlets)

    def announce(self) -> None:
        """Tell further brokers that this one is there, so that a circle is found."""
        self._send([topic(BROKER, self._id), wire.pack_map({"v": 1, "hops": 0})], self._ports.outlets)

    @staticmethod
    def _send(parts: Sequence[Any], outlets: Iterable[Outlet]) -> None:
        for outlet in outlets:
            outlet.audience.send(parts)

    def _expire(self) -> None:
        for status in self._roster.expire():
            logger.info("camera %s is offline: %s", status.camera, status.reason)
            self._forget_pictures(status.camera)
            self._publish_status(status.camera, pack_status(status), self._showing(status.camera))

    def tick(self) -> None:
        """Do what depends on time. To be called every quarter of a second or so."""
        self._expire()
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
