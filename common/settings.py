"""Every limit, time and default of the fabric as a named value, so that none is a number in the middle of code."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "BROKER_PUBLISHERS",
    "BROKER_SUBSCRIBERS",
    "COPY",
    "DEFAULT_GOP",
    "DEFAULT_LOW",
    "DEFAULT_QUALITY",
    "LIMITS",
    "TIMES",
    "Limits",
    "Times",
]

BROKER_PUBLISHERS = "tcp://127.0.0.1:5550"
"""Where a broker takes publishers."""
BROKER_SUBSCRIBERS = "tcp://127.0.0.1:5551"
"""Where a broker serves subscribers."""
DEFAULT_QUALITY = 80
"""JPEG quality, 1 to 100."""
DEFAULT_GOP = 60
"""Pictures from one keyframe to the next, where they are encoded here."""
DEFAULT_LOW = "320x180@5"
"""The small picture: what it fits into, and pictures a second."""
COPY = "copy"
"""What stands for the source's own codec."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what is accepted and kept."""

    header_bytes: int = 64 * 1024
    """A message's header, the user's fields included."""
    payload_bytes: int = 128 * 1024 * 1024
    """One part of a message: an 8K BGR picture is 100 MB."""
    parts: int = 4096
    """Parts of one message; a replay has one for each packet."""
    index_bytes: int = 1024 * 1024
    """A replay's index: the headers of its packets."""
    pixels: int = 64 * 1024 * 1024
    """Width times height of a picture, checked before it is decoded; 8K has 33 million."""
    min_side_px: int = 16
    """Of a size that is asked for ..."""
    max_side_px: int = 16384
    """... and the most."""
    status_bytes: int = 4096
    topic_bytes: int = 256
    """A topic or a subscription; a camera's name has at most 128 bytes."""
    subscription_bytes: int = 512
    """What a subscriber's peer may send up a socket in one message."""
    cameras: int = 10_000
    """Names that a broker or subscriber remembers."""
    hops: int = 8
    """Brokers in a row."""
    queue_bytes: int = 64 * 1024 * 1024
    """What a broker or publisher holds of large frames for subscribers that do not keep up, in all."""
    queue_messages: int = 1000
    """What one subscriber's queue holds before messages for it are dropped."""
    counted_bytes: int = 64 * 1024
    """Frames from this size on are counted towards `queue_bytes`; 1000 smaller ones are no more than it."""
    group_bytes: int = 32 * 1024 * 1024
    """What a publisher or broker keeps of one stream since its last keyframe: half a minute at 8 Mbit/s."""
    replay_bytes: int = 64 * 1024 * 1024
    """What a broker keeps of all streams together, so that it can answer replay requests by itself."""
    backlog_frames: int = 5000
    """Frames that a mailbox holds: of all cameras with `mode="every"`, of each one with "latest" ..."""
    backlog_bytes: int = 64 * 1024 * 1024
    """... and their bytes in all, whichever is reached first."""
    replay_bytes_s: int = 250_000
    """Bytes a second at which a subscriber may take a replay before it counts as behind."""
    connections: int = 1000
    """Of one endpoint that is bound, those that have not shaken hands yet included."""
    connections_per_key: int = 100
    subscriptions: int = 8192
    """Different ones that one peer may hold: a key, or a connection where there are no keys."""
    replay_requests: int = 2000
    """What a peer may ask for at once, one for each camera under a filter ..."""
    replay_requests_s: int = 50
    """... and for how many a second in the long run: replays, clocks and statuses."""
    upstream_bytes: int = 1024 * 1024
    """What a subscriber's connection may send at once ..."""
    upstream_bytes_s: int = 64 * 1024
    """... and a second: subscriptions of 20 to 300 bytes, and nothing else."""
    unfinished_bytes: int = 1024 * 1024
    """A publisher's message that is larger, and not complete yet, is watched ..."""
    unfinished_memory_bytes: int = 64 * 1024 * 1024
    """... and may cost so much memory beyond four times its size: parts of a byte each cost thirty times it."""
    shared_slots: int = 16
    """Pictures of one camera in shared memory; four at first, more while readers hold them ..."""
    shared_bytes: int = 128 * 1024 * 1024
    """... and their bytes, whichever is reached first."""
    shared_held: int = 3
    """Pictures of one camera that one subscriber holds there; of any further one its consumer gets a copy."""
    shared_doorbells: int = 64
    """Subscribers on its host that one publisher wakes for each picture; it sends the others a message."""
    shared_cameras: int = 256
    """A subscriber with more cameras than this takes none of them from shared memory: each needs its own topic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Intervals; `_s` in seconds, `_ms` in milliseconds."""

    status_s: float = 1.0
    """Between two words of a publisher on its camera's status."""
    offline_s: float = 2.5
    """After this long without a word, a camera is offline."""
    stalled_s: float = 2.0
    """After this long without a picture from its source, or three of its usual intervals, a camera is stalled."""
    forget_s: float = 3600.0
    """How long a broker or subscriber lists a camera that is offline."""
    request_s: float = 2.0
    """How long a replay or clock request waits for its answer."""
    clock_s: float = 30.0
    """Between two measurements of the publishers' clocks."""
    clock_first_s: float = 0.2
    """Between the first few of them."""
    clock_fast: int = 4
    """How many of them are the first few."""
    reopen_first_s: float = 0.5
    """Before a failed source is opened again; doubled at each failure, with jitter ..."""
    reopen_max_s: float = 10.0
    """... up to this."""
    steady_s: float = 3.0
    """A source that has given pictures for so long works: the next failure is the first again."""
    open_s: float = 10.0
    """How long a stream may take to open."""
    read_s: float = 5.0
    """How long a stream may be silent before it counts as failed."""
    replay_first_s: float = 0.5
    """Between two replay requests for one stream; doubled each time ..."""
    replay_max_s: float = 10.0
    """... up to this, and back to the first after so long without one."""
    catch_up_s: float = 0.1
    """How long one read decodes what has piled up before it returns what it has got to."""
    idle_s: float = 10.0
    """How long a source on demand stays open after its last viewer has left."""
    linger_ms: int = 500
    """How long a closing socket may go on sending."""
    reconnect_ms: int = 100
    reconnect_max_ms: int = 500
    connect_timeout_ms: int = 1000
    handshake_ms: int = 3000
    keepalive_s: int = 1
    """A silent connection is probed after this, and again after each further such time ..."""
    keepalive_count: int = 3
    """... and dropped after so many probes without an answer."""
    tcp_maxrt_ms: int = 4000
    """A peer that acknowledges nothing for this long is dropped: a heartbeat cannot leave a full buffer."""
    behind_s: float = 1.0
    """A subscriber's connection that has not taken all it was given for so long is cut, to begin anew ..."""
    behind_busy_s: float = 0.3
    """... and for so long where `queue_bytes` is used up."""
    behind_far_s: float = 4.0
    """On a long link, where TCP takes some round trips to get up to speed, that is longer by those, but no more."""
    cut_pause_s: float = 0.25
    """Between two such cuts."""
    look_s: float = 0.05
    """Between two looks at what each connection has sent, while something comes; twice as long where nothing does."""
    doubt_s: float = 0.01
    """How long a connection that is about to end may take until it is gone."""
    keys_s: float = 1.0
    """Between two looks at whether the folder of keys has changed."""
    refused_s: float = 10.0
    """How long a key is refused whose peer went over a bound."""
    redial_s: float = 1.0
    """Before a connection is tried again that the other side has refused."""
    complain_s: float = 60.0
    """A peer's bad messages are logged once in this time."""
    announce_s: float = 1.0
    """Between two announcements of a broker's id."""
    shared_try_s: float = 2.0
    """How long a subscriber waits for pictures in shared memory while those of the main stream come."""
    shared_starved_s: float = 1.0
    """After this long with no slot that nobody holds, a publisher takes its shared memory back ..."""
    shared_again_s: float = 60.0
    """... and offers it again after this; likewise where there was no room for it."""


LIMITS = Limits()
TIMES = Times()
