"""The last picture of each stream that flows through a broker, so that a late joiner has it at once."""

from __future__ import annotations

from typing import Any

from camfabric.common.settings import LIMITS, Limits

__all__ = ["Pictures"]


class Pictures:
    """Headers and uncopied payloads by topic, within a bound of bytes in all. What does not fit is not kept."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._limits = limits
        self._kept: dict[bytes, tuple[bytes, Any, int]] = {}
        self._bytes = 0

    def keep(self, topic: bytes, header: bytes, payload: Any) -> None:
        """Keep a picture in place of the one before it."""
        self.drop(topic)
        size = len(header) + len(payload)
        if self._bytes + size <= self._limits.replay_bytes:
            self._kept[topic] = (header, payload, size)
            self._bytes += size

    def get(self, topic: bytes) -> tuple[bytes, Any] | None:
        """The header and payload kept of a stream."""
        kept = self._kept.get(topic)
        return kept and kept[:2]

    def drop(self, topic: bytes) -> None:
        """Forget a stream's picture."""
        if (kept := self._kept.pop(topic, None)) is not None:
            self._bytes -= kept[2]

    def topics(self) -> list[bytes]:
        """The streams of which there is a picture."""
        return list(self._kept)
