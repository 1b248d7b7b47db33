"""The roster: which cameras there are, which publisher owns each name, and who has fallen silent.

Brokers and subscribers keep one each. A name belongs to one publisher (one epoch) at a time: of two that claim it the
one that started later wins, told by the uptime in their statuses, which needs no synchronised clocks. The other's
frames are dropped, and that is reported. A publisher that says nothing for 2.5 s has lost its claim.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from camfabric.common.settings import LIMITS, TIMES
from camfabric.common.status import OFFLINE, Status

__all__ = ["Conflict", "Roster"]

_GRACE_S = 1.5
"""A publisher's last words may still be under way when its successor speaks."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two publishers claim one camera name."""

    camera: str
    winner: int
    """Epoch of the newer one."""
    loser: int


@dataclass(slots=True)
class _Entry:
    owner: int
    started: float
    """When the owner started, on this machine's monotonic clock."""
    taken: float
    last_word: float
    status: Status | None = None
    rivals: dict[int, float] = field(default_factory=dict)
    """Epochs that lost the name, and when they last spoke, if they spoke after losing it."""
    reported: bool = False


class Roster:
    """Statuses and owners of cameras. Used by one thread, `statuses` excepted."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._conflicts: list[Conflict] = []

    def heard(self, status: Status) -> bool:
        """Take in a status. Returns whether it is the owner's: if not, it is to be dropped."""
        now = self._clock()
        started = now - status.uptime_ms / 1000
        entry = self._entries.get(status.camera)
        if entry is None:
            if len(self._entries) >= LIMITS.cameras and not self._forget_one():
                return False
            entry = self._entries[status.camera] = _Entry(status.epoch, started, now, now)
        elif entry.owner != status.epoch and not self._takes_over(status.camera, entry, status.epoch, started, now):
            return False
        if entry.status is None:
            entry.started = started
        entry.status = status
        entry.last_word = now
        return True

    def accepts(self, camera: str, epoch: int) -> bool:
        """Whether a frame of this epoch is the owner's; a first frame without any status makes its epoch the owner."""
        now = self._clock()
        entry = self._entries.get(camera)
        if entry is None:
            if len(self._entries) >= LIMITS.cameras and not self._forget_one():
                return False
            self._entries[camera] = _Entry(epoch, now, now, now)
            return True
        if entry.owner != epoch and not self._takes_over(camera, entry, epoch, None, now):
            return False
        entry.last_word = now
        return True

    def _takes_over(self, camera: str, entry: _Entry, epoch: int, started: float | None, now: float) -> bool:
        silent = now - entry.last_word > TIMES.offline_s or (entry.status is not None and entry.status.state == OFFLINE)
        newer = started is not None and epoch not in entry.rivals and started > entry.started
        if not (silent or newer):
            lost_long_ago = epoch in entry.rivals and now - entry.taken > _GRACE_S
            older_on_arrival = epoch not in entry.rivals and started is not None
            if lost_long_ago or older_on_arrival:
                entry.rivals[epoch] = now
                self._report(camera, entry, epoch)
            return False
        if not silent:
            entry.rivals[entry.owner] = float("-inf")
        entry.rivals.pop(epoch, None)
        if silent:
            entry.rivals.clear()
        entry.owner, entry.taken = epoch, now
        entry.started = now if started is None else started
        entry.status = None
        entry.reported = False
        return True

    def _report(self, camera: str, entry: _Entry, loser: int) -> None:
        if not entry.reported:
            entry.reported = True
            self._conflicts.append(Conflict(camera, entry.owner, loser))

    def conflicts(self) -> list[Conflict]:
        """Conflicts found since the last call; each episode once."""
        found, self._conflicts = self._conflicts, []
        return found

    def rivals(self, camera: str) -> int:
        """How many other publishers claimed this name in the last seconds."""
        entry = self._entries.get(camera)
        if entry is None:
            return 0
        now = self._clock()
        return sum(now - spoke < 2 * TIMES.offline_s for spoke in entry.rivals.values())

    def expire(self) -> Iterator[Status]:
        """Make up `offline` for each camera that has fallen silent, and forget those that are long gone."""
        now = self._clock()
        for camera, entry in list(self._entries.items()):
            silence = now - entry.last_word
            if silence > TIMES.forget_s:
                del self._entries[camera]
            elif silence > TIMES.offline_s and entry.status is not None and entry.status.state != OFFLINE:
                entry.status = replace(
                    entry.status,
                    state=OFFLINE,
                    reason="its publisher fell silent",
                    fps_in=0.0,
                    fps_out=0.0,
                    watched=False,
                )
                yield entry.status
            if entry.reported and not self.rivals(camera):
                entry.reported = False

    def _forget_one(self) -> bool:
        for camera, entry in self._entries.items():
            if entry.status is not None and entry.status.state == OFFLINE:
                del self._entries[camera]
                return True
        return False

    def statuses(self) -> dict[str, Status]:
        """The last status of each camera, by name. Safe to call from another thread."""
        return {camera: entry.status for camera, entry in sorted(self._entries.copy().items()) if entry.status}
