"""Groups: what is kept of each stream since its last keyframe, so that a late joiner has a picture at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from camfabric.common.settings import LIMITS, Limits

__all__ = ["Groups"]

_OTHER_PARTS: Final = 2
"""A replay's topic and index."""
_HEADER_OVERHEAD: Final = 3
"""What a header costs in the index beyond its own bytes."""
_INDEX_OVERHEAD: Final = 16


@dataclass(slots=True)
class _Group:
    epoch: int
    next_seq: int
    messages: list[tuple[bytes, Any]] = field(default_factory=list)
    bytes: int = 0
    index_bytes: int = _INDEX_OVERHEAD
    over: bool = False


class Groups:
    """Headers and uncopied payloads since the last keyframe, by topic. Used by one thread.

    Of an intra-coded stream that is its last frame. A group is whole or not there: after a gap it is kept from the
    next keyframe on; so is one that is over the bound of a stream, of all streams, or of one replay message.
    """

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._limits = limits
        self._groups: dict[bytes, _Group] = {}
        self._bytes = 0

    def keep(self, topic: bytes, *, epoch: int, seq: int, keyframe: bool, header: bytes, payload: Any) -> None:
        """Keep a frame, if all since its keyframe are there."""
        group = self._groups.get(topic)
        if keyframe:
            self.drop(topic)
            group = self._groups[topic] = _Group(epoch, seq)
        elif group is None:
            return
        elif (group.epoch, group.next_seq) != (epoch, seq):
            self.drop(topic)
            return
        group.next_seq = seq + 1
        if not group.over:
            self._add(group, header, payload)

    def _add(self, group: _Group, header: bytes, payload: Any) -> None:
        size = len(header) + len(payload)
        group.messages.append((header, payload))
        group.bytes += size
        group.index_bytes += len(header) + _HEADER_OVERHEAD
        self._bytes += size
        if (
            group.bytes > self._limits.group_bytes
            or self._bytes > self._limits.replay_bytes
            or len(group.messages) > self._limits.parts - _OTHER_PARTS
            or group.index_bytes > self._limits.index_bytes
        ):
            self._bytes -= group.bytes
            group.messages, group.bytes, group.over = [], 0, True

    def get(self, topic: bytes) -> Sequence[tuple[bytes, Any]]:
        """The headers and payloads kept of a stream, oldest first; none where the group is not whole."""
        group = self._groups.get(topic)
        return group.messages if group is not None else ()

    def is_over(self, topic: bytes) -> bool:
        """Whether the stream's group is over the bound, and so not kept."""
        group = self._groups.get(topic)
        return group is not None and group.over

    def drop(self, topic: bytes) -> None:
        """Forget what is kept of a stream."""
        if (group := self._groups.pop(topic, None)) is not None:
            self._bytes -= group.bytes

    def topics(self) -> list[bytes]:
        """The streams of which something is known."""
        return list(self._groups)
