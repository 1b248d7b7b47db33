"""The gateway's settings: where it listens, who may see what, and every bound and time as a named value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from camfabric.common.settings import BROKER_SUBSCRIBERS

__all__ = ["DEFAULT_LISTEN", "WEB_LIMITS", "WEB_TIMES", "GatewaySettings", "WebLimits", "WebTimes"]

DEFAULT_LISTEN: Final = "127.0.0.1:8080"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebLimits:
    """Bounds on what is accepted and kept."""

    connections: int = 1000
    """In all, whatever they are for; never more than the process has descriptors for."""
    viewers: int = 100
    """WebSockets and MJPEG streams together."""
    shares: int = 4
    """One user, or one address where there is no sign-in, has one of so many shares of viewers, snapshots, starts."""
    streams: int = 256
    """Of one viewer."""
    message_bytes: int = 64 * 1024
    """What a page may send in one message of the WebSocket."""
    messages: int = 100
    """What a page may send at once beside acknowledgements of what it was sent ..."""
    messages_s: int = 20
    """... and a second in the long run."""
    joins: int = 1024
    """Streams that a page may begin at once ..."""
    joins_s: int = 200
    """... and a second in the long run."""
    starts: int = 500
    """Streams that may be begun upstream at once: each costs its broker requests, which it bounds ..."""
    starts_s: int = 20
    """... and a second in the long run."""
    queue_bytes: int = 16 * 1024 * 1024
    """Packets of one stream that wait for one viewer ..."""
    queue_packets: int = 2000
    """... and their number."""
    window_bytes: int = 4 * 1024 * 1024
    """What may be on its way to one viewer, not acknowledged, at most ..."""
    window_least_bytes: int = 16 * 1024
    """... and at least; one message in any case ..."""
    window_first_bytes: int = 256 * 1024
    """... and before anything is known of the way."""
    window_messages: int = 256
    snapshots: int = 32
    """Requests for a snapshot that wait for a picture at the same time."""
    request_bytes: int = 64 * 1024
    """The body of a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebTimes:
    """Intervals; `_s` in seconds."""

    linger_s: float = 2.0
    """How long a stream that nobody watches any more stays subscribed, so that scrolling does not flap."""
    status_s: float = 0.5
    """Between two messages with what has changed of the cameras."""
    word_s: float = 5.0
    """After so long something is said to each page, changed or not."""
    gone_s: float = 10.0
    """Between two looks for names that the fabric has forgotten."""
    heard_s: float = 3.5
    """After so long without a word from the fabric there is no connection to it."""
    hello_s: float = 10.0
    """How long a page may take to say hello."""
    request_s: float = 20.0
    """How long a request may take to come, and how long a connection may wait for the next one."""
    heartbeat_s: float = 15.0
    """Between two pings of a WebSocket; half as long may the answer take."""
    stuck_s: float = 20.0
    """A viewer that takes nothing for so long is cut off."""
    queue_s: float = 4.0
    """Packets that have waited so long for a viewer are too old: it resumes at the next keyframe."""
    late_s: float = 0.25
    """A keyframe replaces packets before it that have waited so long."""
    made_s: float = 1 / 15
    """Between two pictures of one stream that are made into JPEG here."""
    snapshot_s: float = 4.0
    """How long a snapshot waits for a picture ..."""
    snapshot_idle_s: float = 12.0
    """... and of a camera that is opened for it."""
    placard_s: float = 2.0
    """Between two times that MJPEG says that there is no picture."""
    accounts_s: float = 1.0
    """Between two looks at whether the files of accounts and the certificate have changed."""
    stale_s: float = 3.0
    """A picture that is older is not shown as if it were live."""


WEB_LIMITS: Final = WebLimits()
WEB_TIMES: Final = WebTimes()


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """What `camfabric web` was told."""

    endpoints: Sequence[str] = (BROKER_SUBSCRIBERS,)
    key: str | None = None
    server_key: Sequence[str] | None = None
    keys: str | None = None
    insecure: bool = False
    listen: str = DEFAULT_LISTEN
    hosts: Sequence[str] = ()
    """Names under which browsers reach it, besides loopback and `listen`."""
    embed: Sequence[str] = ()
    """Origins whose pages may show snapshots and MJPEG."""
    cert: Path | None = None
    cert_key: Path | None = None
    password_file: Path | None = None
    token_file: Path | None = None
