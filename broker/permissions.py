"""Permissions: which cameras somebody may see or publish, and what of a subscription that leaves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from camfabric.common.errors import ConfigError
from camfabric.common.settings import LIMITS
from camfabric.common.topics import (
    CAM,
    CHANNELS,
    CLOCK,
    STATUS,
    check_filter,
    covers,
    parse_request,
    request_topic,
    split_shared,
    topic,
)

__all__ = ["Cameras"]

_FEW: Final = 4
_CHANNELS: Final = (*CHANNELS, STATUS)


class Cameras:
    """A set of cameras, given by filters; "" is every camera. False where it is empty. Immutable."""

    def __init__(self, filters: Iterable[str]) -> None:
        names = frozenset(filters)
        # What another one covers says nothing.
        self.filters: Final = frozenset(
            name for name in names if not any(other != name and covers(other, name) for other in names)
        )
        self._heads: Final = tuple(topic(channel, name) for channel in _CHANNELS for name in sorted(self.filters))

    def covers(self, camera: str) -> bool:
        """Whether a camera is one of them."""
        if "" in self.filters or camera in self.filters:
            return True
        return any(camera[:place] in self.filters for place, character in enumerate(camera) if character == "/")

    def cut(self, subscription: bytes) -> tuple[bytes, ...]:
        """What may go upstream in place of a subscription: prefixes of topics of these cameras alone.

        Nothing that is not well formed is in it: no unknown channel, no half of a letter, no request for more than
        one stream.
        """
        if len(subscription) > LIMITS.topic_bytes:
            return ()
        if subscription.startswith((b"replay/", b"clock/")):
            return self._cut_request(subscription)
        if (shared := split_shared(subscription)) is not None:
            # As of the main streams: what follows is the same.
            head, rest = shared
            main = topic(CAM)
            return tuple(head + cut[len(main) :] for cut in self.cut(main + rest))
        wider = tuple(head for head in self._heads if head.startswith(subscription))
        if wider:
            return wider
        if subscription.startswith(self._heads) and _is_beginning(subscription):
            return (subscription,)
        return ()

    def _cut_request(self, subscription: bytes) -> tuple[bytes, ...]:
        request = parse_request(subscription)
        if request is None:
            return ()
        kind, nonce, rest = request
        if kind == CLOCK:
            return tuple(request_topic(kind, nonce, name) for name in self._narrowed(rest))
        channel, _, camera = rest.partition("/")
        if channel not in CHANNELS or not camera or not _is_filter(camera) or not self.covers(camera):
            return ()
        return (subscription,)

    def _narrowed(self, filter_: str) -> Iterable[str]:
        """The filters that give what `filter_` gives of these cameras.

        Where they are many it is `filter_` itself: others' clocks are asked as well then, and outlets do not pass on
        their answers. Otherwise each of thousands of requests would be as many upstream.
        """
        if not _is_filter(filter_):
            return ()
        if filter_ and self.covers(filter_):
            return (filter_,)
        narrower = sorted(name for name in self.filters if covers(filter_, name))
        return narrower if len(narrower) <= _FEW else (filter_,)

    def __bool__(self) -> bool:
        return bool(self.filters)

    def __repr__(self) -> str:
        return f"Cameras({sorted(self.filters)!r})"


def _is_filter(text: str) -> bool:
    try:
        return check_filter(text) == text
    except ConfigError:
        return False


def _is_beginning(subscription: bytes) -> bool:
    """Whether it is the beginning of a topic: `cam/cctv/lob` as well as `cam/cctv/`."""
    try:
        name = subscription.decode().partition("/")[2]
    except UnicodeDecodeError:
        return False
    return bool(name.removesuffix("/")) and _is_filter(name.removesuffix("/"))
