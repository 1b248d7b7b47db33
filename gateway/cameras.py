"""Which cameras there are and how they are, as browsers are told: each one's JSON is made once, when it changes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from camfabric.common.status import Status

__all__ = ["Cameras"]

_FPS_STEP: Final = 0.04
"""A rate that differs by less than this part of it is no news."""
_WHOLE_FPS: Final = 10
"""From here on without decimals."""


@dataclass(slots=True)
class _Entry:
    status: Status
    since: float
    fps: float = 0.0
    text: str = ""
    """JSON without its end: how long it has been so is put behind it."""
    shown: dict[str, object] = field(default_factory=dict)


class Cameras:
    """The last status of each camera. Used on the event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._changed: set[str] = set()

    def __contains__(self, camera: str) -> bool:
        return camera in self._entries

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._entries)

    def status(self, camera: str) -> Status | None:
        """A camera's last status."""
        entry = self._entries.get(camera)
        return None if entry is None else entry.status

    def since_s(self, camera: str) -> float:
        """For how long a camera that is known has been in its state, as far as was seen from here."""
        return self._clock() - self._entries[camera].since

    def heard(self, status: Status) -> None:
        """Take in a status."""
        entry = self._entries.get(status.camera)
        if entry is None:
            entry = self._entries[status.camera] = _Entry(status, self._clock())
        elif entry.status.state != status.state:
            entry.since = self._clock()
        entry.status = status
        if abs(status.fps_in - entry.fps) > _FPS_STEP * entry.fps:
            entry.fps = status.fps_in
        shown = _shown(status, entry.fps)
        if shown != entry.shown:
            entry.shown = shown
            entry.text = json.dumps(shown, ensure_ascii=False, separators=(",", ":"))[:-1]
            self._changed.add(status.camera)

    def forget_all_but(self, known: Collection[str]) -> list[str]:
        """Take out the cameras that are not known any more. Returns their names."""
        gone = [camera for camera in self._entries if camera not in known]
        for camera in gone:
            del self._entries[camera]
            self._changed.discard(camera)
        return gone

    def take_changed(self) -> set[str]:
        """The cameras that changed since the last call."""
        changed, self._changed = self._changed, set()
        return changed

    def texts(self, cameras: Iterable[str]) -> list[str]:
        """A JSON object for each of these that is known."""
        now = self._clock()
        entries = (self._entries.get(camera) for camera in cameras)
        return [
            f'{entry.text},"since_ms":{int((now - entry.since) * 1000)}}}' for entry in entries if entry is not None
        ]


def _shown(status: Status, fps: float) -> dict[str, object]:
    return {
        "name": status.camera,
        "state": status.state,
        "reason": status.reason,
        "codec": status.codec,
        "width": status.width,
        "height": status.height,
        "fps": _rounded(fps),
        "low": status.low,
        "source": status.source,
        "watched": status.watched,
        "insecure": status.insecure,
        "rivals": status.rivals,
    }


def _rounded(fps: float) -> float:
    """A rate in few digits, but not so few that a slow one becomes 0: it says how old a camera's picture may be."""
    if fps < 1:
        return float(f"{fps:.2g}")
    return round(fps, 1) if fps < _WHOLE_FPS else round(fps)
