"""Interest: what is subscribed to downstream, and therefore upstream."""

from __future__ import annotations

from typing import Final

__all__ = ["Interest"]

_MAX: Final = 100_000


class Interest:
    """The subscribed prefixes, by the outlet that they come from, and whether a topic is covered by one.

    A topic is looked up by its own leading parts, at most 256, and not by running through the set.
    """

    def __init__(self) -> None:
        self._outlets: dict[bytes, set[int]] = {}
        self._lengths: dict[int, int] = {}

    def add(self, prefix: bytes, outlet: int = 0) -> bool:
        """Add a prefix. Returns whether nobody had it, at any outlet, and there was room for it."""
        outlets = self._outlets.get(prefix)
        if outlets is not None:
            outlets.add(outlet)
            return False
        if len(self._outlets) >= _MAX:
            return False
        self._outlets[prefix] = {outlet}
        self._lengths[len(prefix)] = self._lengths.get(len(prefix), 0) + 1
        return True

    def remove(self, prefix: bytes, outlet: int = 0) -> bool:
        """Remove an outlet's prefix. Returns whether nobody has it any more, at any outlet."""
        outlets = self._outlets.get(prefix)
        if outlets is None or outlet not in outlets:
            return False
        outlets.remove(outlet)
        if outlets:
            return False
        del self._outlets[prefix]
        self._lengths[len(prefix)] -= 1
        if not self._lengths[len(prefix)]:
            del self._lengths[len(prefix)]
        return True

    def covers(self, topic: bytes) -> bool:
        """Whether somebody is subscribed to a prefix of `topic`."""
        # For each frame, and there are few lengths: a list costs half of what a generator does.
        return any([topic[:length] in self._outlets for length in self._lengths])

    def __contains__(self, prefix: bytes) -> bool:
        return prefix in self._outlets

    def __len__(self) -> int:
        return len(self._outlets)
