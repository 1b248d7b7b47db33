"""Sequence numbers: which frames are new or repeats, how many were lost, and how a replay joins what is live."""

from __future__ import annotations

from collections.abc import Iterable

from camfabric.common.frame import Frame
from camfabric.common.settings import LIMITS, Limits

__all__ = ["Sequence"]


class Sequence:
    """Of one camera. Used by one thread.

    A repeat comes over a second path, or is both replayed and live. Of an inter-coded stream only what can be decoded
    is passed on: after a gap, and at the beginning, packets are held until a replay has filled it, or the next keyframe
    made it meaningless.
    """

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._limits = limits
        self._epoch: int | None = None
        self._last = -1
        self._held: list[Frame] = []
        self._held_bytes = 0
        self._from_keyframe = True
        self._begun = False
        self.waiting = False
        """Whether packets are held until there is a replay or a keyframe."""

    def restart(self) -> None:
        """Wait for a replay or a keyframe: what was passed on was lost behind this."""
        self.waiting = self._from_keyframe = True

    def live(self, frame: Frame) -> list[Frame]:
        """Take in a frame that came. Returns what is to be passed on, with `missed` set."""
        if frame.epoch != self._epoch:
            # A publisher that started anew has lost nothing.
            self._epoch, self._last = frame.epoch, frame.seq - 1
            self._take_held()
            self._from_keyframe = True
            self._begun = self.waiting = False
        if frame.seq <= self._last:
            return []
        if frame.codec.is_intra or frame.keyframe:
            return self._go_on(frame)
        if self._from_keyframe or frame.seq != self._last + 1:
            self.waiting = True
            self._hold(frame)
            return []
        self._last = frame.seq
        if not self.waiting:
            return [frame]
        self.waiting = False  # what was missing came after all, over another path
        return [frame, *self._joined(self._take_held())]

    def _joined(self, frames: Iterable[Frame]) -> list[Frame]:
        return [passed for frame in frames for passed in self.live(frame)]

    def _go_on(self, frame: Frame) -> list[Frame]:
        """With a frame that can be decoded by itself."""
        self._take_held()
        return [self._begin(frame)]

    def _begin(self, keyframe: Frame) -> Frame:
        # What came before the first one was of no use to anybody: it is not missed.
        missed = max(keyframe.seq - self._last - 1, 0) if self._begun else 0
        self._last = keyframe.seq
        self._begun, self.waiting, self._from_keyframe = True, False, False
        return keyframe if missed == keyframe.missed else keyframe.replace(missed=missed)

    def _hold(self, frame: Frame) -> None:
        size = frame.held_bytes
        if len(self._held) >= self._limits.backlog_frames or self._held_bytes + size > self._limits.group_bytes:
            self._take_held()
        self._held.append(frame)
        self._held_bytes += size

    def _take_held(self) -> list[Frame]:
        held, self._held, self._held_bytes = self._held, [], 0
        return held

    def replayed(self, frames: Iterable[Frame]) -> list[Frame]:
        """Take in a replay, oldest first. Returns what is to be passed on, what was held behind it with it."""
        frames = list(frames)
        held = self._take_held()
        if frames and frames[0].epoch != self._epoch:
            held = []  # of a publisher that has started anew since
        passed: list[Frame] = []
        if frames and self.waiting and frames[0].epoch == self._epoch and self._from_keyframe and frames[0].keyframe:
            # All of it is new to whoever decodes, also what was passed on once and lost.
            passed.append(self._begin(frames.pop(0)))
        elif frames and self.waiting and not self._from_keyframe and frames[0].seq <= self._last + 1:
            self.waiting = False  # the gap is within it
        return passed + self._joined([*frames, *held])
