"""Interest: what is subscribed to downstream, and therefore upstream."""

from __future__ import annotations

from typing import Final

__all__ = ["Interest"]

_MAX: Final = 100_000


class Interest:
    """The set of subscribed prefixes, and whether a topic is covered by one.

    A topic is looked up by its own leading parts, at most 256, and not by running through the set.
    """

    def __init__(self) -> None:
        self._prefixes: set[bytes] = set()
        self._lengths: dict[int, int] = {}

    def add(self, prefix: bytes) -> bool:
        """Add a prefix. Returns whether it is new, and there was room for it."""
        if prefix in self._prefixes or len(self._prefixes) >= _MAX:
            return False
        self._prefixes.add(prefix)
        self._lengths[len(prefix)] = self._lengths.get(len(prefix), 0) + 1
        return True

    def remove(self, prefix: bytes) -> bool:
        """Remove a prefix. Returns whether it was there."""
        if prefix not in self._prefixes:
            return False
        self._prefixes.remove(prefix)
        self._lengths[len(prefix)] -= 1
        if not self._lengths[len(prefix)]:
            del self._lengths[len(prefix)]
        return True

    def covers(self, topic: bytes) -> bool:
        """Whether somebody is subscribed to a prefix of `topic`."""
        return any(topic[:length] in self._prefixes for length in self._lengths if length <= len(topic))

    def __contains__(self, prefix: bytes) -> bool:
        return prefix in self._prefixes

    def __len__(self) -> int:
        return len(self._prefixes)
