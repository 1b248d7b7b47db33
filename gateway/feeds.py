"""Feeds: each stream that somebody watches, once, for all who do; what nobody watches is unsubscribed.

Everything here runs on the event loop.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Final

from camfabric.common.budget import Budget
from camfabric.common.frame import Codec, Frame
from camfabric.common.groups import Groups
from camfabric.gateway.packet import Listener, Packet, Timeline
from camfabric.gateway.pictures import Maker, Workshop
from camfabric.gateway.protocol import Form, StreamKey
from camfabric.gateway.settings import WEB_LIMITS, WEB_TIMES, WebTimes

__all__ = ["Feed", "Feeds"]

_AGAIN_S: Final = 0.1
_MAX_HOLDERS: Final = 1000


class Feed:
    """One stream, what is kept of it for those who come later, and who listens to it."""

    def __init__(self, key: StreamKey, groups: Groups, workshop: Workshop) -> None:
        self.key: Final = key
        self._topic = "/".join(key).encode()
        self._groups = groups
        self._workshop = workshop
        self._timeline = Timeline()
        self._maker: Maker | None = None
        self._listeners: dict[Listener, Form] = {}
        self.newest: Packet | None = None
        """The last frame that came."""

    @property
    def is_watched(self) -> bool:
        """Whether somebody listens."""
        return bool(self._listeners)

    @property
    def is_catching_up(self) -> bool:
        """Whether newer pictures than the last one made are about to be made."""
        return self._maker is not None and self._maker.is_behind

    def join(self, listener: Listener, form: Form) -> None:
        """Give a listener all it needs for the newest picture, and what comes from now on."""
        self._listeners[listener] = form
        if self.newest is None:
            return
        if self._is_made(self.newest.frame.codec, form):
            maker = self._started_maker()
            if maker.newest is not None:
                listener.take(maker.newest)
        else:
            for packet in self._kept():
                listener.take(packet)

    def leave(self, listener: Listener) -> None:
        """Take a listener out. Does nothing where it is not there."""
        self._listeners.pop(listener, None)
        if self._maker is not None and not self._wants_made():
            self._maker.close()
            self._maker = None

    def take(self, frame: Frame) -> None:
        """Pass a frame on."""
        packet = self._timeline.place(frame)
        self.newest = packet
        self._groups.keep(
            self._topic, epoch=frame.epoch, seq=frame.seq, keyframe=frame.keyframe, header=b"", payload=packet
        )
        for listener, form in self._listeners.items():
            if not self._is_made(frame.codec, form):
                listener.take(packet)
        if self._maker is not None:
            self._maker.take(frame)
        elif self._wants_made():
            self._started_maker()

    def close(self) -> None:
        """Give back what is kept."""
        self._groups.drop(self._topic)
        if self._maker is not None:
            self._maker.close()

    def _kept(self) -> list[Packet]:
        return [packet for _, packet in self._groups.get(self._topic)]

    @staticmethod
    def _is_made(codec: Codec, form: Form) -> bool:
        return codec is Codec.RAW or (form == "jpeg" and codec is not Codec.JPEG)

    def _wants_made(self) -> bool:
        if self.newest is None:
            return False
        codec = self.newest.frame.codec
        return any(self._is_made(codec, form) for form in self._listeners.values())

    def _started_maker(self) -> Maker:
        if self._maker is None:
            self._maker = Maker(self._workshop, self._take_made)
            for packet in self._kept():
                self._maker.take(packet.frame)
        return self._maker

    def _take_made(self, packet: Packet) -> None:
        for listener, form in list(self._listeners.items()):
            if self.newest is not None and self._is_made(self.newest.frame.codec, form):
                listener.take(packet)


class Feeds:
    """All feeds, and the subscriptions that they need.

    `subscribe` is called with a channel and all cameras wanted on it where they have changed. Those that the fabric
    has, as `is_known` tells, come first: a name that is invented costs its broker as much.
    """

    def __init__(
        self,
        subscribe: Callable[[str, Collection[str]], None],
        workshop: Workshop,
        *,
        is_known: Callable[[str], bool] = lambda _: True,
        times: WebTimes = WEB_TIMES,
    ) -> None:
        self._is_known = is_known
        self._subscribe = subscribe
        self._workshop = workshop
        self._times = times
        self._groups = Groups()
        self._feeds: dict[StreamKey, Feed] = {}
        self._lingering: dict[StreamKey, asyncio.TimerHandle] = {}
        self._changed: set[str] = set()
        self._subscribed: dict[str, frozenset[str]] = {}
        self._starts = Budget(WEB_LIMITS.starts, WEB_LIMITS.starts_s)
        self._shares: OrderedDict[str, Budget] = OrderedDict()
        self._waiting: dict[StreamKey, set[str]] = {}
        """Streams that are not begun yet, and for whom."""
        self._later: asyncio.TimerHandle | None = None
        self.received = 0
        """Frames that came, in all."""

    def get(self, key: StreamKey) -> Feed | None:
        """A stream's feed, where there is one."""
        return self._feeds.get(key)

    def all(self) -> list[Feed]:
        """All that there are."""
        return list(self._feeds.values())

    def join(self, key: StreamKey, listener: Listener, form: Form, *, holder: str = "") -> Feed:
        """Listen to a stream; where nobody has yet, it is begun out of a share of its holder."""
        if (timer := self._lingering.pop(key, None)) is not None:
            timer.cancel()
        feed = self._feeds.get(key)
        if feed is None:
            feed = self._feeds[key] = Feed(key, self._groups, self._workshop)
            self._waiting[key] = set()
            self._change(key[0])
        if key in self._waiting:
            self._waiting[key].add(holder)
        feed.join(listener, form)
        return feed

    def leave(self, key: StreamKey, listener: Listener) -> None:
        """Listen no more; the stream is unsubscribed soon where nobody else does."""
        feed = self._feeds.get(key)
        if feed is None:
            return
        feed.leave(listener)
        if not feed.is_watched and key not in self._lingering:
            loop = asyncio.get_running_loop()
            self._lingering[key] = loop.call_later(self._times.linger_s, self._drop, key)

    def take(self, channel: str, frame: Frame) -> None:
        """A frame that came."""
        if (feed := self._feeds.get((channel, frame.camera))) is not None:
            self.received += 1
            feed.take(frame)

    def _drop(self, key: StreamKey) -> None:
        del self._lingering[key]
        self._feeds.pop(key).close()
        self._waiting.pop(key, None)
        self._change(key[0])

    def _change(self, channel: str) -> None:
        # A page names many streams at once: that is one change.
        if not self._changed:
            asyncio.get_running_loop().call_soon(self._tell)
        self._changed.add(channel)

    def _tell(self) -> None:
        """Subscribe to what is wanted; of what is new, as much as the broker is not bothered by."""
        changed, self._changed = self._changed, set()
        for channel in changed:
            before = self._subscribed.get(channel, frozenset())
            wanted = [camera for on, camera in self._feeds if on == channel]
            now = frozenset(
                camera
                for camera in sorted(wanted, key=self._is_known, reverse=True)
                if camera in before or self._may_start((channel, camera))
            )
            if now != before:
                self._subscribed[channel] = now
                self._subscribe(channel, now)
            if len(now) < len(wanted):
                self._changed.add(channel)
        if self._changed:
            self._later = asyncio.get_running_loop().call_later(_AGAIN_S, self._tell)

    def _may_start(self, key: StreamKey) -> bool:
        """Spend the beginning of a stream, of all of them and of a share of somebody who waits for it."""
        for holder in self._waiting[key]:
            share = self._share(holder)
            if (share is None or share.wait_s() == 0) and self._starts.spend():
                if share is not None:
                    share.spend()
                del self._waiting[key]
                return True
        return False

    def _share(self, holder: str) -> Budget | None:
        if not holder:
            return None
        if holder not in self._shares:
            shares = WEB_LIMITS.shares
            self._shares[holder] = Budget(WEB_LIMITS.starts // shares, WEB_LIMITS.starts_s / shares)
            if len(self._shares) > _MAX_HOLDERS:
                self._shares.popitem(last=False)
        self._shares.move_to_end(holder)
        return self._shares[holder]

    def close(self) -> None:
        """End all. No listener gets anything after this."""
        if self._later is not None:
            self._later.cancel()
        for timer in self._lingering.values():
            timer.cancel()
        for feed in self._feeds.values():
            feed.close()
        self._feeds.clear()
