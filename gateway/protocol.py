"""The WebSocket's messages, version 1, as pure functions: docs/web.md has them byte by byte."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

from camfabric.common.errors import ConfigError, WireError
from camfabric.common.frame import Codec
from camfabric.common.topics import CHANNELS, check_camera
from camfabric.gateway.settings import WEB_LIMITS

__all__ = [
    "DISCONTINUITY",
    "HEADER_BYTES",
    "KEYFRAME",
    "VERSION",
    "Ack",
    "Hello",
    "Message",
    "StreamKey",
    "Watch",
    "WatchedStream",
    "cameras_text",
    "error_text",
    "hello_text",
    "pack_header",
    "parse_message",
    "status_text",
    "trouble_text",
]

VERSION: Final = 1
KEYFRAME: Final = 1
DISCONTINUITY: Final = 2
_HEADER: Final = struct.Struct("<BBBxHHHxxIIIIq")
HEADER_BYTES: Final = _HEADER.size
_UNKNOWN: Final = 0xFFFFFFFF
_MAX_ID: Final = 0xFFFF
_MAX_DEPTH_TEXT: Final = "a message is a JSON object with a type"

Form: TypeAlias = Literal["any", "jpeg"]
StreamKey: TypeAlias = tuple[str, str]
"""(channel, camera)"""


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of a page."""


@dataclass(frozen=True, slots=True)
class WatchedStream:
    """One stream that a page wants."""

    id: int
    camera: str
    channel: str
    form: Form
    """"any": as it comes from the fabric; "jpeg": made into JPEG where it is something else."""

    @property
    def key(self) -> StreamKey:
        """Which stream of the fabric it is."""
        return self.channel, self.camera


@dataclass(frozen=True, slots=True)
class Watch:
    """All streams that a page wants from now on."""

    streams: tuple[WatchedStream, ...]


@dataclass(frozen=True, slots=True)
class Ack:
    """Messages up to number `n` are dealt with."""

    n: int


Message: TypeAlias = Hello | Watch | Ack


def _wrong(text: str) -> WireError:
    return WireError(text, reason="web")


def parse_message(text: str) -> Message:
    """What a page says.

    Raises:
        WireError: it is no message of this protocol; says why.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise _wrong("a message is not JSON") from None
    if not isinstance(content, dict):
        raise _wrong(_MAX_DEPTH_TEXT)
    kind = content.get("type")
    if kind == "ack":
        return Ack(_number(content, "n", _UNKNOWN))
    if kind == "watch":
        return _watch(content.get("streams"))
    if kind == "hello":
        if content.get("v") != VERSION:
            raise _wrong(f"this gateway speaks version {VERSION}: reload the page")
        return Hello()
    raise _wrong("a message has no known type: it is hello, watch or ack")


def _number(content: dict[str, Any], name: str, most: int) -> int:
    value = content.get(name)
    if type(value) is not int or not 0 <= value <= most:
        raise _wrong(f"{name} is a whole number from 0 to {most}")
    return value


def _watch(streams: Any) -> Watch:
    if not isinstance(streams, list) or len(streams) > WEB_LIMITS.streams:
        raise _wrong(f"streams is a list of at most {WEB_LIMITS.streams}")
    parsed = tuple(_stream(entry) for entry in streams)
    if len({stream.id for stream in parsed}) < len(parsed):
        raise _wrong("two streams have one id")
    return Watch(parsed)


def _stream(entry: Any) -> WatchedStream:
    if not isinstance(entry, dict):
        raise _wrong("a stream is an object")
    channel, form, camera = entry.get("channel", "cam"), entry.get("as", "any"), entry.get("camera")
    if channel not in CHANNELS:
        raise _wrong("a stream's channel is cam or low")
    if form not in get_args(Form):
        raise _wrong("a stream's as is any or jpeg")
    if not isinstance(camera, str):
        raise _wrong("a stream's camera is its name")
    try:
        camera = check_camera(camera)
    except (ConfigError, UnicodeEncodeError):
        raise _wrong("a stream's camera is no camera's name") from None
    return WatchedStream(_number(entry, "id", _MAX_ID), camera, channel, form)


def pack_header(
    *,
    codec: Codec,
    flags: int,
    stream: int,
    width: int,
    height: int,
    n: int,
    age_ms: float | None,
    seq: int,
    lost: int,
    time_us: int,
) -> bytes:
    """The 36 bytes in front of a payload. `time_us`: presentation time; `lost`: frames since the last one sent."""
    age = _UNKNOWN if age_ms is None else min(int(age_ms), _UNKNOWN - 1)
    return _HEADER.pack(
        VERSION, codec, flags, stream, min(width, 0xFFFF), min(height, 0xFFFF),
        n & _UNKNOWN, age, seq & _UNKNOWN, min(lost, _UNKNOWN), time_us,
    )  # fmt: skip


def _text(**content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def hello_text(*, user: str | None, server: str, now_ms: int) -> str:
    """The gateway's first message."""
    return _text(type="hello", v=VERSION, user=user, server=server, now_ms=now_ms)


def cameras_text(cameras: Iterable[str]) -> str:
    """All cameras; each is JSON already, so that what many viewers get is made once."""
    return f'{{"type":"cameras","cameras":[{",".join(cameras)}]}}'


def status_text(cameras: Iterable[str], gone: Iterable[str]) -> str:
    """The cameras that changed, each JSON already, and the names of those that are not known any more."""
    names = json.dumps(list(gone), ensure_ascii=False)
    return f'{{"type":"status","cameras":[{",".join(cameras)}],"gone":{names}}}'


def trouble_text(text: str) -> str:
    """Why there is no connection to the fabric; empty when there is again."""
    return _text(type="trouble", text=text)


def error_text(text: str) -> str:
    """Why the gateway is about to close."""
    return _text(type="error", text=text)
