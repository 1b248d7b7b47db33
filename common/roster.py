"""The roster: which cameras there are, which publisher owns each name, and who has fallen silent.

Brokers and subscribers keep one each. A name belongs to one publisher (one epoch) at a time: of two that claim it the
one that started later wins, told by the uptime in their statuses, which needs no synchronised clocks. The other's
frames are dropped, and that is reported. One that has no pictures comes after one that has, and one that says
nothing for 2.5 s has lost its claim.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from camfabric.common.settings import LIMITS, TIMES
from camfabric.common.status import OFFLINE, STALLED, Status

__all__ = ["Conflict", "Roster"]

_GRACE_S: Final = 1.5
"""A publisher's last words may still be under way when its successor speaks."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two publishers claim one camera name."""

    camera: str
    winner: int
    """Epoch of the newer one."""
    loser: int


_FORGET_VOICE_S: Final = 10.0
_LOOK_AGAIN_S: Final = 0.25
"""Between two looks for a name that can be forgotten: each goes over all of them."""
_MAX_VOICES: Final = 16


@dataclass(slots=True)
class _Voice:
    """One publisher that claims a name."""

    spoke: float
    started: float = float("inf")
    """When it started, on this machine's monotonic clock, from its first status; infinity before that."""
    has_pictures: bool = True
    lost: float = float("-inf")
    """When it lost the name to another; its last words may still be under way then."""

    @property
    def rank(self) -> tuple[bool, float]:
        """The higher one owns the name."""
        return self.has_pictures, self.started


@dataclass(slots=True)
class _Entry:
    owner: int
    voices: dict[int, _Voice] = field(default_factory=dict)
    status: Status | None = None
    reported: bool = False

    @property
    def last_word(self) -> float:
        return self.voices[self.owner].spoke


class Roster:
    """Statuses and owners of cameras. Used by one thread, `statuses` excepted."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._conflicts: list[Conflict] = []
        self._next_look = float("-inf")

    def heard(self, status: Status) -> bool:
        """Take in a status. Returns whether it is the owner's: if not, it is to be dropped."""
        now = self._clock()
        entry = self._entry(status.camera, status.epoch, now)
        if entry is None:
            return False
        voice = entry.voices.get(status.epoch)
        if voice is None:
            self._drop_voices(entry, now)
            voice = entry.voices[status.epoch] = _Voice(now)
        silence = now - entry.last_word
        voice.spoke = now
        voice.has_pictures = status.state not in (OFFLINE, STALLED)
        if voice.started == float("inf"):
            # Once, so that the jitter of the way does not make two of about one age take turns.
            voice.started = now - status.uptime_ms / 1000
        if not self._owns(status.camera, entry, status.epoch, silence, now):
            return False
        entry.status = status
        return True

    def accepts(self, camera: str, epoch: int) -> bool:
        """Whether a frame of this epoch is the owner's; a first frame without any status makes its epoch the owner."""
        now = self._clock()
        entry = self._entries.get(camera)
        if entry is not None and entry.owner == epoch:  # as nearly always: this runs for each frame
            owner = entry.voices[epoch]
            owner.spoke, owner.has_pictures = now, True
            return True
        entry = self._entry(camera, epoch, now)
        if entry is None:
            return False
        silence = now - entry.last_word
        voice = entry.voices.get(epoch)
        if voice is None:
            if silence <= TIMES.offline_s and entry.voices[entry.owner].has_pictures:
                return False  # its status will tell whether it is the newer one
            self._drop_voices(entry, now)
            voice = entry.voices[epoch] = _Voice(now)
        voice.spoke = now
        voice.has_pictures = True
        return self._owns(camera, entry, epoch, silence, now)

    def _entry(self, camera: str, epoch: int, now: float) -> _Entry | None:
        """The camera's entry, a new one where there is none; None where there is no room for it."""
        entry = self._entries.get(camera)
        if entry is None and (len(self._entries) < LIMITS.cameras or self._forget_one(now)):
            entry = self._entries[camera] = _Entry(epoch, {epoch: _Voice(now)})
        return entry

    def _owns(self, camera: str, entry: _Entry, epoch: int, silence: float, now: float) -> bool:
        """Whether this epoch, which has just spoken, owns the name now. `silence`: for how long the owner has not."""
        if entry.owner == epoch:
            return True
        if silence > TIMES.offline_s or entry.voices[epoch].rank > entry.voices[entry.owner].rank:
            entry.voices[entry.owner].lost = now
            entry.owner, entry.status = epoch, None
            return True
        voice = entry.voices[epoch]
        if voice.has_pictures and now - voice.lost > _GRACE_S and not entry.reported:
            entry.reported = True
            self._conflicts.append(Conflict(camera, entry.owner, epoch))
        return False

    @staticmethod
    def _drop_voices(entry: _Entry, now: float) -> None:
        """Forget who has been silent for long, and the most silent of too many."""
        others = sorted((epoch for epoch in entry.voices if epoch != entry.owner), key=lambda e: entry.voices[e].spoke)
        surplus = max(len(entry.voices) + 1 - _MAX_VOICES, 0)
        for place, epoch in enumerate(others):
            if place < surplus or now - entry.voices[epoch].spoke > _FORGET_VOICE_S:
                del entry.voices[epoch]

    def cameras(self) -> list[str]:
        """The names that are known."""
        return list(self._entries)

    def forget(self, camera: str) -> None:
        """Take a name out, as where nobody listens to it any more. Does nothing where it is not there."""
        self._entries.pop(camera, None)

    def is_empty(self) -> bool:
        """Whether no camera is known."""
        return not self._entries

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
        return sum(
            epoch != entry.owner and voice.spoke - voice.lost > _GRACE_S and now - voice.spoke < 2 * TIMES.offline_s
            for epoch, voice in entry.voices.items()
        )

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

    def _forget_one(self, now: float) -> bool:
        """Make room: of a camera that is offline, or that never had a status and is silent. Whether there was one."""
        if now < self._next_look:
            return False
        for camera, entry in self._entries.items():
            is_silent = now - entry.last_word > TIMES.offline_s
            if is_silent if entry.status is None else entry.status.state == OFFLINE:
                del self._entries[camera]
                return True
        self._next_look = now + _LOOK_AGAIN_S
        return False

    def statuses(self) -> dict[str, Status]:
        """The last status of each camera, by name. Safe to call from another thread."""
        return {camera: entry.status for camera, entry in sorted(self._entries.copy().items()) if entry.status}
