"""A camera's status: what its publisher says of it once a second on `status/<camera>/`, and how it is packed."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final

from camfabric.common.errors import WireError
from camfabric.common.settings import LIMITS
from camfabric.common.topics import STATUS, parse_topic
from camfabric.common.wire import VERSION, Buffer, check_version, pack_map, unpack_map

__all__ = ["IDLE", "LIVE", "OFFLINE", "STALLED", "Status", "pack_status", "relay_status", "unpack_status"]

LIVE: Final = "live"
"""Pictures come from the source."""
IDLE: Final = "idle"
"""The source is closed because nobody watches."""
STALLED: Final = "stalled"
"""The source is open, and no picture comes from it."""
OFFLINE: Final = "offline"
"""The source or the publisher is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What is known of a camera. A state that this version does not know is passed on as it is."""

    camera: str
    state: str = LIVE
    reason: str = ""
    """Why it is not live, for a person."""
    epoch: int = 0
    uptime_ms: int = 0
    """How long the publisher has run: of two with one name, the one with less is the newer."""
    time_ns: int = 0
    """When it was said: Unix time, the publisher's wall clock."""
    codec: str = ""
    width: int = 0
    height: int = 0
    fps_in: float = 0.0
    """Pictures a second from the source."""
    fps_out: float = 0.0
    """Frames a second sent."""
    sent: int = 0
    """Frames sent in this epoch."""
    sent_bytes: int = 0
    dropped: int = 0
    """Pictures replaced by a newer one before they were encoded, while somebody watched."""
    watched: bool = False
    """Somebody subscribes to its main stream."""
    source: str = ""
    """Kind of source: "test", "device", "file", "folder", "rtsp", "program" ...; never an address."""
    insecure: bool = False
    """It runs beyond loopback without keys."""
    hops: int = 0
    """Brokers that it came through."""
    rivals: int = 0
    """Other publishers that claim this name; said by a broker."""
    encoded: int = 0
    """Pictures encoded in this epoch, on all channels."""
    low: bool = False
    """It has a small picture on `low/`."""
    kept: int = 0
    """Frames of the main stream since its last keyframe that a late joiner is given at once; a broker says its own."""
    kept_over: bool = False
    """They were over the bound, so that a late joiner waits for the next keyframe."""
    shared: str = ""
    """The host in whose shared memory its pictures can be had, on `shm/<host>/`; empty where they cannot."""


_FIELDS: Final[dict[str, type]] = {
    field.name: {"str": str, "int": int, "float": float, "bool": bool}[str(field.type)]
    for field in fields(Status)
    if field.name != "camera"
}
_ADDED: Final = ("encoded", "low", "kept", "kept_over", "shared")
"""What came after version 1 was frozen: sent only where it says something, so that all else is as it was."""
_MAX_TEXT: Final = 300
_SHORT_TEXT: Final = 100
"""Where texts of `_MAX_TEXT` characters are too many bytes."""
_MAX_INT: Final = 1 << 64


def pack_status(status: Status) -> bytes:
    """The second part of a status message; the first is its topic."""
    packed = {"v": VERSION} | {name: getattr(status, name) for name in _FIELDS}
    packed = {name: value for name, value in packed.items() if value or name not in _ADDED}
    for most in (_MAX_TEXT, _SHORT_TEXT):
        data = pack_map({name: value[:most] if isinstance(value, str) else value for name, value in packed.items()})
        if len(data) <= LIMITS.status_bytes:
            break
    return data


def unpack_status(topic: Buffer, data: Buffer) -> Status:
    """The status in a message of two parts. Unknown fields are left out, missing ones have their defaults.

    Raises:
        WireError: it is none.
    """
    channel, camera = parse_topic(bytes(topic))
    if channel != STATUS:
        raise WireError(f"topic {channel!r}/ is not a status", reason="topic")
    content = unpack_map(data, limit_bytes=LIMITS.status_bytes, reason="status")
    check_version(content)
    return Status(camera=camera, **{name: _checked(name, content[name]) for name in _FIELDS if name in content})


def relay_status(data: Buffer, status: Status) -> bytes:
    """A status that arrived, `data`, with what a broker has changed of it, `status`; fields unknown here stay in it.

    Raises:
        WireError: it has become too large for the next one.
    """
    content = unpack_map(data, limit_bytes=LIMITS.status_bytes, reason="status")
    content.update(
        hops=status.hops,
        rivals=status.rivals,
        insecure=status.insecure,
        kept=status.kept,
        kept_over=status.kept_over,
    )
    if len(packed := pack_map(content)) > LIMITS.status_bytes:
        raise WireError(f"status of {len(packed)} bytes", reason="size")
    return packed


def _checked(name: str, value: object) -> Any:
    kind = _FIELDS[name]
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise WireError(f"status with {name} of {type(value).__name__}", reason="status")
    if isinstance(value, str):
        # It will be printed on somebody's terminal: no escape sequences, no line breaks.
        return "".join(character if character.isprintable() else "?" for character in value[:_MAX_TEXT])
    if (isinstance(value, int) and not 0 <= value < _MAX_INT) or (isinstance(value, float) and not 0 <= value < 1e9):
        raise WireError(f"status with {name} of {value}", reason="status")
    return value
