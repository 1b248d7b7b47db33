"""Topics, camera names and filters: what may be said, and how it is written on the wire.

A topic is `<channel>/<camera>/`. It always ends in a slash, because ZeroMQ matches prefixes: `cam/drone/1` would also
be the beginning of `cam/drone/10`.
"""

from __future__ import annotations

import functools
import secrets
import unicodedata
from typing import Final

from camfabric.common.errors import ConfigError, WireError
from camfabric.common.settings import LIMITS

__all__ = [
    "BROKER",
    "CAM",
    "CHANNELS",
    "CLOCK",
    "LOW",
    "MAX_CAMERA_BYTES",
    "REPLAY",
    "SHM",
    "STATUS",
    "check_camera",
    "check_filter",
    "covers",
    "is_host",
    "new_nonce",
    "parse_request",
    "parse_topic",
    "request_topic",
    "shared_channel",
    "split_shared",
    "topic",
]

CAM: Final = "cam"
"""A camera's main stream."""
LOW: Final = "low"
"""A small, slow picture of the same camera, for mosaics and thin links."""
CHANNELS: Final = (CAM, LOW)
"""The channels that carry frames."""
SHM: Final = "shm"
"""Where frames lie in a host's shared memory: the channel is `shm/<host>`."""
STATUS: Final = "status"
REPLAY: Final = "replay"
CLOCK: Final = "clock"
BROKER: Final = "broker"
"""Brokers announce their ids on it, so that a circle is found."""

MAX_CAMERA_BYTES: Final = 128
_NONCE_HEX: Final = 16
_HOST_HEX: Final = 16
_SHARED_HEAD_BYTES: Final = len("shm/") + _HOST_HEX + len("/")
_REMEMBERED: Final = 4096
"""Topics that have been looked at, which takes 8 µs: each frame has one of a few."""
_MAX_UNNORMALISED: Final = 1000
"""Characters before NFC, which takes a time that grows with the square of a run of marks."""


def _fault(name: str) -> str | None:
    """What is wrong with a camera's name, or None."""
    if not name:
        return "it is empty"
    if len(name.encode("utf-8", "surrogatepass")) > MAX_CAMERA_BYTES:
        return f"it has more than {MAX_CAMERA_BYTES} bytes"
    for segment in name.split("/"):
        if not segment:
            return "it has an empty segment"
        if segment in {".", ".."}:
            return f"a segment cannot be {segment!r}"
        for character in segment:
            if (
                character not in "-_."
                and unicodedata.category(character)[0] != "L"
                and not _is_mark_or_digit(character)
            ):
                return f"it has {character!r}"
    return None


def _normalised(name: str) -> str:
    return unicodedata.normalize("NFC", name) if len(name) <= _MAX_UNNORMALISED else name


def _is_mark_or_digit(character: str) -> bool:
    # Scripts such as Devanagari write vowels as combining marks, so marks belong to letters here.
    return unicodedata.category(character) in {"Nd", "Mn", "Mc"}


_NAME_RULE: Final = "a name is segments of letters, digits, '-', '_' and '.', joined by '/', such as cctv/lobby"


def check_camera(name: str) -> str:
    """Return `name` in NFC.

    Raises:
        ConfigError: it is not a camera's name; says why.
    """
    name = _normalised(name)
    if fault := _fault(name):
        raise ConfigError(f"camera name {name!r}: {fault}; {_NAME_RULE}", setting="camera", value=name)
    return name


def check_filter(text: str) -> str:
    """Return a filter in NFC, without a trailing slash: a camera's name or its leading segments; "" is every camera.

    Raises:
        ConfigError: it is not a filter; says why.
    """
    if not text:
        return ""
    text = _normalised(text).removesuffix("/")
    if fault := _fault(text):
        raise ConfigError(
            f"filter {text!r}: {fault}; a filter is a camera's name or its leading segments:"
            " 'cctv' gives every camera under cctv/, none gives all",
            setting="filter",
            value=text,
        )
    return text


def covers(filter_: str, camera: str) -> bool:
    """Whether a filter gives a camera: `cctv` covers `cctv` and `cctv/lobby`, and never `cctv2`."""
    return not filter_ or camera == filter_ or camera.startswith(filter_ + "/")


def topic(channel: str, camera: str = "") -> bytes:
    """The topic of a camera or, of a filter, the prefix to subscribe to.

    >>> topic("cam", "cctv/lobby"), topic("status")
    (b'cam/cctv/lobby/', b'status/')
    """
    return f"{channel}/{camera}/".encode() if camera else f"{channel}/".encode()


@functools.lru_cache(_REMEMBERED)
def parse_topic(data: bytes) -> tuple[str, str]:
    """The channel and the camera of a topic that arrived; of pictures in memory the channel is `shm/<host>`.

    Raises:
        WireError: it is not `<channel>/<camera>/` with a valid name.
    """
    if len(data) > LIMITS.topic_bytes:
        raise WireError(f"topic of {len(data)} bytes", reason="topic")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise WireError("topic is not UTF-8", reason="topic") from error
    channel, slash, camera = text.partition("/")
    if channel == SHM:
        host, slash, camera = camera.partition("/")
        if not is_host(host):
            raise WireError(f"topic {text!r} is not {SHM}/<host>/<camera>/", reason="topic")
        channel = shared_channel(host)
    if not slash or not channel or not camera.endswith("/"):
        raise WireError(f"topic {text!r} is not <channel>/<camera>/", reason="topic")
    camera = camera[:-1]
    if _fault(camera) or unicodedata.normalize("NFC", camera) != camera:
        raise WireError(f"topic {text!r} has no valid camera name", reason="topic")
    return channel, camera


def is_host(text: str) -> bool:
    """Whether it is the name of a host as shared memory has it: 16 hexadecimal digits, lower case."""
    return len(text) == _HOST_HEX and all(character in "0123456789abcdef" for character in text)


def shared_channel(host: str) -> str:
    """The channel of pictures in the shared memory of a host."""
    return f"{SHM}/{host}"


def split_shared(data: bytes) -> tuple[bytes, bytes] | None:
    """`shm/<host>/` and the rest of a topic or subscription; None where it does not begin with all of that."""
    head, rest = data[:_SHARED_HEAD_BYTES], data[_SHARED_HEAD_BYTES:]
    if not head.startswith(b"shm/") or not head.endswith(b"/"):
        return None
    return (head, rest) if is_host(head[len(b"shm/") : -1].decode("ascii", "replace")) else None


def new_nonce() -> str:
    """A fresh name for one request, 64 random bits in hexadecimal."""
    return secrets.token_hex(_NONCE_HEX // 2)


def request_topic(kind: str, nonce: str, rest: str = "") -> bytes:
    """`replay/<nonce>/<channel>/<camera>/` or `clock/<nonce>/[<filter>/]`, to be subscribed to and answered."""
    return topic(f"{kind}/{nonce}", rest)


def parse_request(data: bytes) -> tuple[str, str, str] | None:
    """(kind, nonce, rest) of a subscription that is a request, or None: it is another one, or not well formed."""
    try:
        kind, nonce, rest = data.decode().split("/", 2)
    except ValueError:
        return None
    if kind not in {REPLAY, CLOCK} or not nonce or len(nonce) > 2 * _NONCE_HEX or not nonce.isalnum():
        return None
    if rest and (not rest.endswith("/") or rest == "/"):
        return None
    return kind, nonce, rest.removesuffix("/")
