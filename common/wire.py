"""Wire format, version 1: frames, replays and clock answers to bytes and back. Pure functions; see docs/wire.md.

Nothing that arrives is trusted: whatever does not add up raises `WireError`, and no size that a peer states is
allocated before it is checked.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

import msgpack

from camfabric.common.errors import WireError
from camfabric.common.frame import Codec, Frame, PixelFormat
from camfabric.common.settings import LIMITS, Limits
from camfabric.common.topics import SHM, parse_topic

__all__ = [
    "CLOCK_PARTS",
    "FRAME_PARTS",
    "HOPS_AT",
    "VERSION",
    "Buffer",
    "ClockAnswer",
    "Descriptor",
    "Peek",
    "check_version",
    "copy_extra",
    "pack_clock",
    "pack_descriptor",
    "pack_extra",
    "pack_header",
    "pack_map",
    "pack_replay",
    "peek",
    "picture_bytes",
    "unpack_clock",
    "unpack_descriptor",
    "unpack_frame",
    "unpack_map",
    "unpack_replay",
    "with_hop",
]

Buffer: TypeAlias = bytes | memoryview

FRAME_PARTS: Final = 3
CLOCK_PARTS: Final = 2

_MAGIC: Final = b"CFAB"
VERSION: Final = 1
_KIND_FRAME: Final = 1
_KEYFRAME: Final = 1 << 0
_DISPOSABLE: Final = 1 << 1
_NONE: Final = -(1 << 63)
"""Presentation or decode time that is not known."""

# magic version kind codec pixel_format flags hops reserved width height reserved epoch seq
# captured encoded captured_monotonic pts dts time_base(2) reserved
_META: Final = struct.Struct("<4sBBBBHBxIIIQQqqqqqII8x")
_META_BYTES: Final = _META.size
_PEEK: Final = struct.Struct("<4sBBxxHB13xQQ")
"""What a broker needs of them: magic version kind flags hops epoch seq."""
# The header is a map whose first entry is "m", 96 bytes as bin 8: so the metadata always begins at byte 5.
_HEADS: Final = tuple(bytes([0x80 | entries, 0xA1, 0x6D, 0xC4, _META_BYTES]) for entries in range(1, 16))
_META_AT: Final = 5
HOPS_AT: Final = _META_AT + 10
"""Where in a header the hop count stands: the one byte that a broker writes."""

_DESCRIPTOR: Final = struct.Struct("<QQI4x")
"""Of a picture in shared memory: file generation slot reserved."""
_PIXEL_BYTES: Final = {PixelFormat.GRAY8: 1, PixelFormat.GRAY16: 2, PixelFormat.BGR24: 3}
_SHARED: Final = f"{SHM}/"
_CODECS: Final = {int(codec): codec for codec in Codec}
_PIXEL_FORMATS: Final = {int(pixel_format): pixel_format for pixel_format in PixelFormat}
"""By their numbers: the enumerations take 1 µs to find them, and 10 where the caches are cold."""
_EMPTY_EXTRA: Final[Mapping[str, Any]] = {}
_UNKNOWN: Final = Frame(camera="")
_CONTAINERS: Final = frozenset({dict, list})
_MAX_DEPTH: Final = 100
"""Maps and lists within each other. Python gives up at about a thousand, in places where nobody expects it: `repr`."""


class Peek(NamedTuple):
    """What a broker needs of a header."""

    epoch: int
    seq: int
    hops: int
    keyframe: bool


@dataclass(frozen=True, slots=True)
class ClockAnswer:
    """A publisher's monotonic clock, in ns, when a request reached it and when the answer left."""

    epoch: int
    received_ns: int
    sent_ns: int


class Descriptor(NamedTuple):
    """Where a picture lies in shared memory; see camfabric.common.shared."""

    file: int
    """The number in the file's name."""
    generation: int
    """That of the slot while the picture is in it."""
    slot: int


def pack_header(frame: Frame, *, limits: Limits = LIMITS) -> bytes:
    """The header of a frame.

    Raises:
        WireError: the frame's `extra` is not a map of names to what msgpack carries, or is too large.
    """
    try:
        meta = _pack_meta(frame)
    except struct.error as error:
        raise WireError(f"metadata of {frame.camera} do not fit: {error}", reason="header") from error
    if not frame.extra:
        return _HEADS[0] + meta
    return _HEADS[1] + meta + pack_extra(frame.extra, limits=limits)


def _pack_meta(frame: Frame) -> bytes:
    numerator, denominator = frame.time_base or (0, 0)
    return _META.pack(
        _MAGIC,
        VERSION,
        _KIND_FRAME,
        frame.codec,
        frame.pixel_format,
        frame.keyframe * _KEYFRAME | frame.disposable * _DISPOSABLE,
        frame.hops,
        frame.width,
        frame.height,
        0,
        frame.epoch,
        frame.seq,
        frame.captured_ns,
        frame.encoded_ns,
        frame.captured_monotonic_ns,
        _NONE if frame.pts is None else frame.pts,
        _NONE if frame.dts is None else frame.dts,
        numerator,
        denominator,
    )


def pack_extra(extra: Mapping[str, Any], *, limits: Limits = LIMITS) -> bytes:
    """The user's own fields as they stand in a header.

    Raises:
        WireError: they are not names with what msgpack carries, or too large.
    """
    if not all(isinstance(key, str) for key in extra):
        raise WireError(f"extra fields need names that are str, not {sorted(map(repr, extra))}", reason="header")
    try:
        packed: bytes = b"\xa1x" + msgpack.packb(dict(extra))
        _check_nesting(msgpack.unpackb(memoryview(packed)[2:]), key_type=str)  # what a receiver would refuse
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(f"extra fields {sorted(extra)} cannot be sent: {error}", reason="header") from error
    room = limits.header_bytes - _META_AT - _META_BYTES
    if len(packed) > room:
        raise WireError(f"extra fields of {len(packed)} bytes; at most {room} fit", reason="size")
    return packed


def copy_extra(extra: Mapping[str, Any], *, limits: Limits = LIMITS) -> Mapping[str, Any]:
    """The user's own fields as a receiver will have them; what is changed in `extra` afterwards is not in it.

    Raises:
        WireError: they cannot be sent.
    """
    copied: Mapping[str, Any] = msgpack.unpackb(memoryview(pack_extra(extra, limits=limits))[2:])
    return copied


def peek(header: Buffer, *, limits: Limits = LIMITS) -> Peek:
    """Check a header's fixed part and return what a broker needs of it; the rest is not read.

    Raises:
        WireError: it is not a frame's header of this version.
    """
    _check_begin(header, limits)
    magic, version, kind, flags, hops, epoch, seq = _PEEK.unpack_from(header, _META_AT)
    if (magic, version, kind) != (_MAGIC, VERSION, _KIND_FRAME):
        _check_kind(magic, version, kind)
    return Peek(epoch, seq, hops, bool(flags & _KEYFRAME))


def with_hop(header: Buffer) -> bytes:
    """A copy of a checked header with one hop more."""
    changed = bytearray(header)
    changed[HOPS_AT] = min(changed[HOPS_AT] + 1, 255)
    return bytes(changed)


def _check_begin(header: Buffer, limits: Limits) -> None:
    if len(header) > limits.header_bytes:
        raise WireError(f"header of {len(header)} bytes", reason="size")
    if len(header) < _META_AT + _META_BYTES or bytes(header[:_META_AT]) not in _HEADS:
        raise WireError("header does not begin as a frame's does", reason="header")


def _check_kind(magic: bytes, version: int, kind: int) -> None:
    if magic != _MAGIC:
        raise WireError("wrong magic", reason="magic")
    if version != VERSION:
        raise WireError(f"version {version}; this is version {VERSION}", reason="version")
    if kind != _KIND_FRAME:
        raise WireError(f"unknown kind {kind}", reason="version")


def _unpack_meta(header: Buffer, limits: Limits) -> tuple[Any, ...]:
    _check_begin(header, limits)
    fields = _META.unpack_from(header, _META_AT)
    _check_kind(*fields[:3])
    return fields


def unpack_frame(
    topic: Buffer, header: Buffer, payload: Buffer, *, received_ns: int = 0, limits: Limits = LIMITS
) -> Frame:
    """The frame of a message's three parts. The payload is not copied and not decoded.

    Where its channel is `shm/<host>`, the payload says where its picture lies.

    Raises:
        WireError: something does not add up.
    """
    channel, camera = parse_topic(bytes(topic))
    fields = _unpack_meta(header, limits)
    (_, _, _, codec_number, format_number, flags, hops, width, height, _, epoch, seq) = fields[:12]
    (captured_ns, encoded_ns, captured_monotonic_ns, pts, dts, numerator, denominator) = fields[12:]
    try:
        codec, pixel_format = _CODECS[codec_number], _PIXEL_FORMATS[format_number]
    except KeyError as error:
        raise WireError(f"unknown codec {codec_number} or pixel format {format_number}", reason="version") from error
    if not 0 < width * height <= limits.pixels:
        raise WireError(f"picture of {width} x {height} px; at most {limits.pixels} px in all", reason="picture")
    if len(payload) > limits.payload_bytes:
        raise WireError(f"payload of {len(payload)} bytes", reason="size")
    if codec is Codec.RAW and pixel_format is PixelFormat.NONE:
        raise WireError("raw picture without a pixel format", reason="picture")
    if channel.startswith(_SHARED):
        if codec is not Codec.RAW:
            raise WireError(f"{codec.name} picture in shared memory", reason="picture")
        unpack_descriptor(payload)
    elif codec is Codec.RAW and len(payload) != width * height * _PIXEL_BYTES[pixel_format]:
        raise WireError(
            f"raw picture of {width} x {height} px {pixel_format.name} in {len(payload)} bytes", reason="picture"
        )
    extra_bytes = len(header) - _META_AT - _META_BYTES
    if header[0] != _HEADS[0][0] and not extra_bytes:
        raise WireError("header ends before its fields do", reason="header")
    return _UNKNOWN.replace(
        camera=camera,
        channel=channel,
        codec=codec,
        pixel_format=pixel_format,
        width=width,
        height=height,
        keyframe=bool(flags & _KEYFRAME),
        disposable=bool(flags & _DISPOSABLE),
        epoch=epoch,
        seq=seq,
        captured_ns=captured_ns,
        captured_monotonic_ns=captured_monotonic_ns,
        encoded_ns=encoded_ns,
        pts=None if pts == _NONE else pts,
        dts=None if dts == _NONE else dts,
        time_base=(numerator, denominator) if numerator and denominator else None,
        hops=hops,
        extra=_unpack_extra(header, limits) if extra_bytes else _EMPTY_EXTRA,
        extra_bytes=extra_bytes,
        payload=payload,
        received_ns=received_ns,
    )


def _unpack_extra(header: Buffer, limits: Limits) -> Mapping[str, Any]:
    extra = _unpack_map(header, limits.header_bytes, "header").get("x", _EMPTY_EXTRA)
    if not isinstance(extra, dict):
        raise WireError("extra fields are not a map of names", reason="header")
    try:
        _check_nesting(extra, key_type=str)
    except (TypeError, ValueError) as error:
        raise WireError(f"extra fields: {error}", reason="header") from error
    return extra


def _check_nesting(content: dict[Any, Any], *, key_type: type) -> None:
    """Raises ValueError where maps and lists are nested too deep, TypeError where a name is not of `key_type`."""
    level: list[Any] = [content]
    for _ in range(_MAX_DEPTH):
        below: list[Any] = []
        for outer in level:
            if type(outer) is dict:
                for key in outer:
                    if not isinstance(key, key_type):
                        raise TypeError(f"a name is {type(key).__name__}")
                below += [value for value in outer.values() if type(value) in _CONTAINERS]
            else:
                below += [value for value in outer if type(value) in _CONTAINERS]
        if not below:
            return
        level = below
    raise ValueError(f"nested more than {_MAX_DEPTH} deep")


def pack_map(content: Mapping[str, Any]) -> bytes:
    """A msgpack map, as status, clock and announcement messages are."""
    packed: bytes = msgpack.packb(dict(content))
    return packed


def unpack_map(data: Buffer, *, limit_bytes: int, reason: str) -> dict[Any, Any]:
    """A msgpack map that arrived.

    Raises:
        WireError: it is none, nested too deep, or has more than `limit_bytes`; `reason` is passed on.
    """
    content = _unpack_map(data, limit_bytes, reason)
    try:
        _check_nesting(content, key_type=object)
    except ValueError as error:
        raise WireError(f"{reason}: {error}", reason=reason) from error
    return content


def _unpack_map(data: Buffer, limit_bytes: int, reason: str) -> dict[Any, Any]:
    """As `unpack_map` does, of any depth."""
    if len(data) > limit_bytes:
        raise WireError(f"{reason} of {len(data)} bytes", reason="size")
    try:
        # Room for a list is made at its stated length, so first of all see that it is all there: a header of 64 kB
        # that states lengths within each other took 80 MB.
        lengths = msgpack.Unpacker(max_buffer_size=max(len(data), 1))
        lengths.feed(data)
        lengths.skip()
        content = msgpack.unpackb(data)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise WireError(f"{reason} is not msgpack: {error}", reason=reason) from error
    if not isinstance(content, dict):
        raise WireError(f"{reason} is not a map", reason=reason)
    return content


def check_version(content: Mapping[Any, Any]) -> None:
    """Refuse a map that is not of this version.

    Raises:
        WireError: it is of another one, or says none.
    """
    if (version := content.get("v")) != VERSION or type(version) is not int:
        # Only a number is repeated: it may be anything, of any size.
        said = version if type(version) is int else f"of type {type(version).__name__}"
        raise WireError(f"version {said}; this is version {VERSION}", reason="version")


def pack_replay(topic: bytes, messages: Sequence[tuple[bytes, Any]]) -> list[Any]:
    """The answer to a replay request: one message with all that was kept, as (header, payload), possibly nothing."""
    index = pack_map({"v": VERSION, "h": [header for header, _ in messages]})
    return [topic, index, *(payload for _, payload in messages)]


def unpack_replay(parts: Sequence[Buffer], stream_topic: bytes, *, limits: Limits = LIMITS) -> list[Frame]:
    """The frames of a replay, oldest first. `stream_topic` is that of the stream that was asked for.

    Raises:
        WireError: something does not add up.
    """
    if not 2 <= len(parts) <= limits.parts:
        raise WireError(f"replay of {len(parts)} parts", reason="parts")
    index = _unpack_map(parts[1], limits.index_bytes, "replay")
    check_version(index)
    headers = index.get("h")
    if not isinstance(headers, list) or len(headers) != len(parts) - 2:
        raise WireError("a replay's index does not fit its parts", reason="parts")
    if not all(isinstance(header, bytes) for header in headers):
        raise WireError("a replay's index has no headers", reason="header")
    return [
        unpack_frame(stream_topic, header, payload, limits=limits)
        for header, payload in zip(headers, parts[2:], strict=True)
    ]


def picture_bytes(frame: Frame) -> int:
    """The size of a raw picture."""
    return frame.width * frame.height * _PIXEL_BYTES[frame.pixel_format]


def pack_descriptor(descriptor: Descriptor) -> bytes:
    """The payload of a frame on `shm/<host>/`."""
    return _DESCRIPTOR.pack(*descriptor)


def unpack_descriptor(payload: Buffer) -> Descriptor:
    """Where the picture of a frame on `shm/<host>/` lies.

    Raises:
        WireError: the payload does not say.
    """
    if len(payload) != _DESCRIPTOR.size:
        raise WireError(f"descriptor of {len(payload)} bytes", reason="memory")
    return Descriptor(*_DESCRIPTOR.unpack(payload))


def pack_clock(answer: ClockAnswer) -> bytes:
    """The second part of an answer to a clock request."""
    return pack_map({"v": VERSION, "epoch": answer.epoch, "rx": answer.received_ns, "tx": answer.sent_ns})


def unpack_clock(data: Buffer) -> ClockAnswer:
    """The clock answer in a message's second part.

    Raises:
        WireError: it is none.
    """
    content = unpack_map(data, limit_bytes=LIMITS.status_bytes, reason="clock")
    check_version(content)
    epoch, received_ns, sent_ns = content.get("epoch"), content.get("rx"), content.get("tx")
    if type(epoch) is not int or type(received_ns) is not int or type(sent_ns) is not int:
        raise WireError("clock answer without its numbers", reason="clock")
    return ClockAnswer(epoch, received_ns, sent_ns)
