"""Where each camera's frames are taken from: its main stream, or this host's shared memory."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

from camfabric.common.settings import LIMITS, TIMES, Limits
from camfabric.common.shared import host
from camfabric.common.status import LIVE, OFFLINE, Status
from camfabric.common.topics import CAM, covers, shared_channel, topic

__all__ = ["Local"]

_MANY_TRIED: Final = 3
"""Frames of the main stream that come while none comes from memory, until that is given up."""


class _Way(enum.Enum):
    """Of a camera that is published on this host."""

    BOTH = enum.auto()
    """Pictures in memory are asked for, and the main stream goes on until there is one."""
    MEMORY = enum.auto()
    REFUSED = enum.auto()
    """It did not work out: the main stream, until its publisher starts anew or offers it again."""


@dataclass(slots=True)
class _Camera:
    epoch: int
    since: float
    """When it was asked for, or the last picture came."""
    spoke: float
    """When its publisher last said a status, or a broker for it."""
    way: _Way = _Way.BOTH
    passed_by: int = 0
    """Frames of the main stream that came in vain."""
    is_woken: bool = False
    """Its pictures come by the doorbell, and announcements are of no use."""


class Local:
    """Used by one thread. What may change where a camera is taken from returns whether it did: so did `topics` then.

    `bound` comes before `topics`, and may change them.
    """

    def __init__(self, *, limits: Limits = LIMITS, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._host = ""
        self.doorbell = ""
        """The name by which publishers know this subscriber's, if it has one."""
        self._cameras: dict[str, _Camera] = {}

    def bound(self, known: Collection[str]) -> None:
        """Take none from memory where more cameras are known than are to be."""
        if len(known) > self._limits.shared_cameras:
            for camera in self._cameras.values():
                camera.way = _Way.REFUSED

    def topics(self, filters: Iterable[str], known: Collection[str]) -> set[bytes]:
        """What to subscribe to for frames. `known`: all cameras that were heard of under these filters.

        A filter with a camera that is taken from memory becomes one topic for each of the others.
        """
        wanted: set[bytes] = set()
        for filter_ in filters:
            under = [camera for camera in known if covers(filter_, camera)]
            if any(self.in_memory(camera) for camera in under):
                wanted.update(topic(CAM, camera) for camera in under if not self.in_memory(camera))
            else:
                wanted.add(topic(CAM, filter_))
            wanted.update(topic(shared_channel(asked), camera) for camera in under for asked in self._asked(camera))
        return wanted

    def _asked(self, camera: str) -> list[str]:
        """What a camera's publisher is asked for: announcements by the host, to be woken by the doorbell."""
        found = self._cameras.get(camera)
        if found is None or found.way is _Way.REFUSED:
            return []
        return [name for name in ("" if found.is_woken else self._host, self.doorbell) if name]

    @property
    def host(self) -> str:
        """This host, if a camera is offered on it."""
        return self._host

    def is_woken(self, camera: str) -> bool:
        """Whether its pictures come by the doorbell."""
        found = self._cameras.get(camera)
        return found is not None and found.is_woken

    def in_memory(self, camera: str) -> bool:
        """Whether it is taken from memory, and its main stream is of no use."""
        found = self._cameras.get(camera)
        return found is not None and found.way is _Way.MEMORY

    def is_asked(self, camera: str) -> bool:
        """Whether pictures in memory are subscribed to."""
        found = self._cameras.get(camera)
        return found is not None and found.way is not _Way.REFUSED

    def heard(self, status: Status) -> bool:
        """Take in a status that its publisher has said, or a broker of it."""
        if status.state == OFFLINE:
            return False  # whatever comes next is wanted the same way
        name, now = status.camera, self._clock()
        if not status.shared or status.shared != self._own_host():
            return self.forget(name)
        camera = self._cameras.get(name)
        if camera is None or (camera.epoch != status.epoch and camera.way is _Way.REFUSED):
            self._cameras[name] = _Camera(status.epoch, now, now)
            return True
        if camera.epoch != status.epoch:
            # Nobody knows yet whether the new one can open the doorbell.
            was_woken, camera.is_woken = camera.is_woken, False
            camera.epoch, camera.since = status.epoch, now
            camera.spoke = now
            return was_woken
        was_silent = now - camera.spoke > TIMES.offline_s  # then nothing was heard of pictures either
        camera.spoke = now
        if status.state != LIVE or not status.fps_in or was_silent:
            camera.since = now
        elif camera.way is _Way.MEMORY and now - camera.since > max(TIMES.offline_s, 3 / status.fps_in):
            return self.refuse(name)  # it is live, and nothing comes
        return False

    def _own_host(self) -> str:
        if not self._host:
            self._host = host()
        return self._host

    def arrived(self, camera: str, *, is_woken: bool = False) -> bool:
        """A picture came from memory; `is_woken` if the doorbell told so."""
        found = self._cameras[camera]
        found.since = self._clock()
        if found.way is _Way.MEMORY and (found.is_woken or not is_woken):
            return False
        found.way, found.is_woken = _Way.MEMORY, is_woken
        return True

    def passed(self, camera: str) -> bool:
        """A frame of the main stream came."""
        found = self._cameras.get(camera)
        if found is None or found.way is not _Way.BOTH or self._clock() - found.since < TIMES.shared_try_s:
            return False
        found.passed_by += 1
        return found.passed_by >= _MANY_TRIED and self.refuse(camera)

    def refuse(self, camera: str) -> bool:
        """What was announced cannot be had."""
        found = self._cameras.get(camera)
        if found is None or found.way is _Way.REFUSED:
            return False
        found.way = _Way.REFUSED
        return True

    def forget(self, camera: str) -> bool:
        """It is not offered here, or not watched, any more."""
        found = self._cameras.pop(camera, None)
        return found is not None and found.way is not _Way.REFUSED
