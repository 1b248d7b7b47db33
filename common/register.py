"""A register: the keys that a folder has now, for whoever lets others connect."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from camfabric.common.errors import ConfigError
from camfabric.common.keys import ServerKeys
from camfabric.common.stats import Standing

__all__ = ["Register"]

logger = logging.getLogger(__name__)


class Register:
    """Used by one thread. To be asked now and then whether the folder has changed."""

    def __init__(self, keys: ServerKeys) -> None:
        self._keys = keys
        self._stamp: object = None
        self._standing = Standing(logger)
        self._every_name: frozenset[str] = frozenset()
        self.names: Mapping[str, str] = {}
        """Names by public key (Z85) of those who may be admitted; the server's own is not among them."""
        self.all_names: Mapping[str, str] = {}
        """The same, and those that are revoked, for the log."""

    def has_changed(self) -> bool:
        """Whether a file has changed since `read`."""
        return self._keys.folder.stamp() != self._stamp

    def read(self) -> Collection[str]:
        """Read the folder; what is wrong in it is logged when it is new. Returns all names, the server's own included.

        A folder that is gone has no keys. Where it cannot be read for want of descriptors, all stays as it was.
        """
        try:
            contents = self._keys.folder.contents()
        except ConfigError as error:
            self._stamp = None
            self._standing.say([str(error)])
            return self._every_name
        self._stamp = contents.stamp
        self.names = {
            public.decode(): name for name, public in contents.keys.items() if public != self._keys.pair.public
        }
        revoked = {public.decode(): f"{name} (revoked)" for public, name in contents.revoked_names.items()}
        self.all_names = {**self.names, **revoked}
        own = self._keys.pair
        lost = [f"the server's own key {own.name} is revoked: start it anew with another"]
        self._standing.say([*contents.problems, *(lost if own.public in contents.revoked else ())])
        self._every_name = frozenset(contents.keys)
        return self._every_name
