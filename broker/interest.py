"""Interest: what is subscribed to downstream, and therefore upstream."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

__all__ = ["Interest"]


class Interest:
    """The subscribed prefixes, with who wants each, and whether a topic is covered by one.

    A topic is looked up by its own leading parts, at most 256, and not by running through the set.
    """

    def __init__(self) -> None:
        self._owners: dict[bytes, set[Hashable]] = {}
        self._lengths: dict[int, int] = {}
        self.version = 0
        """Another one each time that it has changed."""

    def add(self, prefix: bytes, owner: Hashable = 0) -> bool:
        """Add a prefix. Returns whether nobody had it."""
        owners = self._owners.get(prefix)
        if owners is not None:
            owners.add(owner)
            return False
        self.version += 1
        self._owners[prefix] = {owner}
        self._lengths[len(prefix)] = self._lengths.get(len(prefix), 0) + 1
        return True

    def remove(self, prefix: bytes, owner: Hashable = 0) -> bool:
        """Remove somebody's prefix. Returns whether nobody has it any more."""
        owners = self._owners.get(prefix)
        if owners is None or owner not in owners:
            return False
        owners.remove(owner)
        if owners:
            return False
        self.version += 1
        del self._owners[prefix]
        self._lengths[len(prefix)] -= 1
        if not self._lengths[len(prefix)]:
            del self._lengths[len(prefix)]
        return True

    def covers(self, topic: bytes) -> bool:
        """Whether somebody is subscribed to a prefix of `topic`."""
        return any(topic[:length] in self._owners for length in self._lengths)

    def __iter__(self) -> Iterator[bytes]:
        return iter(list(self._owners))

    def __contains__(self, prefix: bytes) -> bool:
        return prefix in self._owners

    def __len__(self) -> int:
        return len(self._owners)
