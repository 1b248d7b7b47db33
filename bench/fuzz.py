"""A fuzzer of everything that parses what arrives. Prints a table; exit status 1 where something is found.

    .venv/bin/python bench/fuzz.py [--inputs 1000000] [--seed 0] [--seconds T] [--target NAME]...
    .venv/bin/python bench/fuzz.py --repeat FILE

Inputs are golden messages and real streams with damage done to them, by the seed and the input's number alone. Of each
is expected what is documented: the one kind of error, or a result that holds what it promises; within 50 ms of CPU,
and no more memory than the input is worth. What fails is saved to a file.
"""

# ruff: noqa: S101, PT017  (assertions are what this is made of)

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import json
import os
import random
import re
import resource
import struct
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import cv2
import msgpack
import numpy as np

from camfabric.common import wire
from camfabric.common.codecs import VideoDecoder, annexb, decode, h264_headers, jpeg
from camfabric.common.codecs.codec import Encoding, make_encoder
from camfabric.common.codecs.frame_numbers import FrameNumbers
from camfabric.common.endpoint import parse_endpoint, require_local
from camfabric.common.errors import CodecError, ConfigError, WireError
from camfabric.common.frame import Codec, Frame, PixelFormat
from camfabric.common.groups import Groups
from camfabric.common.redact import redact
from camfabric.common.roster import Roster
from camfabric.common.settings import LIMITS, Limits
from camfabric.common.status import Status, pack_status, relay_status, unpack_status
from camfabric.common.topics import (
    check_camera,
    check_filter,
    covers,
    parse_request,
    parse_topic,
    request_topic,
    topic,
)
from camfabric.publisher.sources.prefixed import Prefixed
from camfabric.subscriber.clocks import Clocks
from camfabric.subscriber.sequence import Sequence as FrameSequence

Parts: TypeAlias = list[bytes]

_VECTORS: Final = Path(__file__).parent.parent / "tests" / "vectors"
_BUDGET_S: Final = 0.05
_SPARE_BYTES: Final = 1 << 20
_BYTES_A_BYTE: Final = 100
"""What an input may cost: the smallest thing in msgpack is a byte, and an empty map in memory 72."""
_TRACED_EACH: Final = 64
_ROOM_BYTES: Final = 1 << 30
_REASONS: Final = frozenset(
    [
        "parts",
        "size",
        "magic",
        "version",
        "header",
        "topic",
        "picture",
        "status",
        "replay",
        "clock",
        "announcement",
        "hops",
        "memory",
    ]
)
_MAX_LINE: Final = 4096
_MAX_DECODED_PX: Final = 256 * 256
_VIDEO_PX: Final = (64, 48)
_STREAM: Final = b"cam/cctv/lobby/"
_GOOD_SHARE: Final = 8


# Seeds


def golden(kind: str) -> list[Parts]:
    """The golden messages of a kind, the bad ones among them; each good one several times."""
    messages = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(_VECTORS.glob("*.json"))]
    return [
        [bytes.fromhex(part) for part in message["parts"]]
        for message in messages
        if message["kind"] == kind
        for _ in range(1 if "reason" in message else _GOOD_SHARE)
    ]


def _picture(number: int, *, grey: bool = False) -> Any:
    width, height = _VIDEO_PX
    rows, columns = np.mgrid[0:height, 0:width]
    plane = ((columns * 5 + rows * 3 + number * 7) % 256).astype(np.uint8)
    return plane if grey else np.dstack([plane, plane.T.reshape(height, width), 255 - plane])


@functools.cache
def packets(codec: Codec) -> list[Frame]:
    """A short stream by the real encoder."""
    encoder = make_encoder(Encoding(codec=codec, gop=4))
    frames: list[Frame] = []
    for number in range(9):
        base = Frame(camera="cctv/lobby", epoch=7, captured_monotonic_ns=number * 33_333_333)
        frames += encoder.encode(base, _picture(number), keyframe=number == 0)
    return [replace(frame, seq=seq, payload=bytes(frame.payload)) for seq, frame in enumerate(frames)]


@functools.cache
def jpegs() -> list[bytes]:
    """Pictures by the real encoder: colour, grey, progressive, with restart markers."""
    plain = [
        bytes(jpeg.encode(_picture(1, grey=grey), quality=quality)) for grey in (False, True) for quality in (30, 90)
    ]
    for option in (cv2.IMWRITE_JPEG_PROGRESSIVE, cv2.IMWRITE_JPEG_RST_INTERVAL, cv2.IMWRITE_JPEG_OPTIMIZE):
        plain.append(cv2.imencode(".jpg", _picture(2), [option, 1])[1].tobytes())
    return plain


def _units(codec: Codec) -> Parts:
    found = [frame.payload[begin:end] for frame in packets(codec) for begin, end in annexb.nal_units(frame.payload)]
    return list(dict.fromkeys(found))


def _record() -> Parts:
    """An avcC record and a packet with lengths, as MP4 has them."""
    units = _units(Codec.H264)
    sps, pps = (next(unit for unit in units if unit[0] & 31 == kind) for kind in (7, 8))
    record = b"\x01" + sps[1:4] + b"\xff\xe1" + len(sps).to_bytes(2) + sps + b"\x01" + len(pps).to_bytes(2) + pps
    return [record, b"".join(len(unit).to_bytes(4) + unit for unit in units[:5])]


# Mutations

_EDGES: Final = (
    0,
    1,
    2,
    127,
    128,
    255,
    256,
    32767,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
_NASTY: Final = (
    b"\xc0",
    b"\xc1",
    b"\xc2",
    b"\x90",
    b"\x80",
    b"\xdd\xff\xff\xff\xff",
    b"\xdc\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xde\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x01",
    b"\xd4\x05\x00",
    b"\xc7\x0c\xff" + b"\xff" * 12,
    b"\xc7\x03\xff\x00\x00\x00",
    b"\xd6\xff\x00\x00\x00\x00",
    b"\xd7\xff" + b"\xff" * 8,
    b"\xcb\x7f\xf8" + bytes(6),
    b"\xcb\x7f\xf0" + bytes(6),
    b"\xcb\xff\xf0" + bytes(6),
    b"\xca\x7f\x80\x00\x00",
    b"\xcf" + b"\xff" * 8,
    b"\xd3\x80" + bytes(7),
    b"\xa3\xed\xa0\x80",
    b"\xa2\xff\xfe",
    b"\xa3\x1b[m",
    b"\xa3\xe2\x80\xae",
    b"\x81\xc4\x01a\x01",
    b"\x81\x01\x02",
    b"\x00\x00\x01",
    b"\x00\x00\x00\x01\x67",
    b"\x00\x00\x03",
    b"\xff\xd8\xff\xc0",
    b"\xff\xff\xff\xff",
    b"\xff\xda",
    b"\xff\xfe\x00\x02",
    b"/",
    b"../",
    b"\xcc\x81\xcc\x96",
    b"://a:b@c",
)


def _flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 8))):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _edge(data: bytearray, rng: random.Random) -> None:
    size = rng.choice((1, 2, 4, 8))
    at = rng.randrange(len(data) + 1)
    value = rng.choice(_EDGES) % (1 << size * 8)
    data[at : at + size] = value.to_bytes(size, rng.choice(("big", "little")))


def _cut(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    del data[at : at + (1 << 62 if rng.random() < 0.5 else rng.randrange(1, 20))]


def _insert(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.choice(_NASTY) if rng.random() < 0.7 else rng.randbytes(rng.randrange(1, 9))


def _overwrite(data: bytearray, rng: random.Random) -> None:
    at, new = rng.randrange(len(data) + 1), rng.choice(_NASTY)
    data[at : at + len(new)] = new


def _repeat(data: bytearray, rng: random.Random) -> None:
    begin = rng.randrange(len(data) + 1)
    chunk = bytes(data[begin : begin + rng.choice((1, 2, 4, 16, 200))])
    data[begin:begin] = chunk * rng.choice((1, 2, 20, 300))


def _many(data: bytearray, rng: random.Random) -> None:
    """A run of what is small in the input, and large or slow in whoever reads it."""
    at, unit = rng.randrange(len(data) + 1), rng.choice(_NASTY)
    data[at:at] = unit * rng.choice((50, 600, 1100, 4000))


_DAMAGE: Final = (_flip, _flip, _flip, _edge, _edge, _edge, _cut, _insert, _overwrite, _overwrite, _repeat)
_MAX_INPUT: Final = 80_000


def _nested(rng: random.Random) -> Any:
    value: Any = rng.choice((None, 1, "a", b"b"))
    for _ in range(rng.choice((1, 5, 60, 300, 505, 520, 900, 1010))):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def _value(rng: random.Random) -> Any:
    """Anything that msgpack carries."""
    match rng.randrange(10):
        case 0:
            return rng.choice(_EDGES)
        case 1:
            return -min(rng.choice(_EDGES), 2**63)
        case 2:
            return rng.choice((0.0, -0.0, 1e9, 1e308, float("nan"), float("inf"), float("-inf"), 0.1))
        case 3:
            return rng.choice(("", "a", "x" * 301, "\x1b[31m", "é" * 300, "\U0001f4f7" * 300, "a\nb", "\u202e", "live"))
        case 4:
            return rng.randbytes(rng.randrange(40))
        case 5:
            return [_value(rng) for _ in range(rng.randrange(3))]
        case 6:
            return {rng.choice(("a", "v", b"b")): _value(rng) for _ in range(rng.randrange(3))}
        case 7:
            return rng.choice((None, True, False))
        case 8:
            return rng.choice((msgpack.ExtType(5, b"abc"), msgpack.Timestamp(1, 2), msgpack.Timestamp(2**40, 3)))
        case _:
            return rng.choice((0, 1, -1, 1.0, "1"))


def _pack(value: Any) -> bytes:
    """Msgpack without its own bound of nesting."""
    if isinstance(value, list) and len(value) < 16:
        return bytes([0x90 | len(value)]) + b"".join(map(_pack, value))
    if isinstance(value, dict) and len(value) < 16:
        return bytes([0x80 | len(value)]) + b"".join(_pack(key) + _pack(inner) for key, inner in value.items())
    packed: bytes = msgpack.packb(value)
    return packed


def _pack_deep(depth: int, rng: random.Random) -> bytes:
    return b"".join(rng.choice((b"\x91", b"\x81\xa1a")) for _ in range(depth)) + b"\xc0"


def _change_map(data: bytearray, rng: random.Random) -> None:
    """Change one thing of a msgpack map: a value, a name, a field more or less, one entry twice."""
    begin = 5 + 96 if data[1:5] == b"\xa1m\xc4\x60" else 0
    entries: list[tuple[Any, bytes]] = []
    if begin:  # a frame's header: what comes behind the metadata
        entries = [("x", _pack(_value(rng)))] if rng.random() < 0.3 else []
        entries += [("x", _pack({rng.choice(("a", "b")): _value(rng)}))] if rng.random() < 0.8 else []
    else:
        with contextlib.suppress(Exception):
            entries = [(key, msgpack.packb(value)) for key, value in msgpack.unpackb(bytes(data)).items()]
    for _ in range(rng.choice((1, 1, 2, 5))):
        key: Any = rng.choice(("v", "h", "x", "rx", "hops", "state", "zz", "fps_in", b"b", 1, None))
        if entries and rng.random() < 0.8:
            key = rng.choice(entries)[0]
        new = (
            _pack_deep(rng.choice((3, 90, 110, 505, 520, 900, 1015)), rng) if rng.random() < 0.1 else _pack(_value(rng))
        )
        if rng.random() < 0.3:
            entries.append((key, new))
        else:
            entries = [(name, new if name == key else value) for name, value in entries]
    if rng.random() < 0.2:
        rng.shuffle(entries)
        del entries[len(entries) // 2 :]
    body = b"".join(_pack(key) + value for key, value in entries)
    if begin:
        data[begin:] = body
        data[0] = 0x80 | min(len(entries) + 1, 15)
    else:
        count = rng.choice((len(entries), len(entries), len(entries), len(entries) + 1, 0))
        data[:] = (b"\xde" + count.to_bytes(2) if count > 15 else bytes([0x80 | count])) + body


_FIELDS: Final = struct.Struct("<BBBBHBxIIIQQqqqqqII")
_OFFSETS: Final = (
    (9, 1),
    (10, 1),
    (11, 1),
    (12, 1),
    (13, 2),
    (15, 1),
    (17, 4),
    (21, 4),
    (29, 8),
    (37, 8),
    (45, 8),
    (69, 8),
    (85, 4),
)


def _change_metadata(data: bytearray, rng: random.Random) -> None:
    """Put a number at its edge, or a small one, into a field of a frame's header."""
    at, size = rng.choice(_OFFSETS)
    value = rng.choice(_EDGES) if rng.random() < 0.6 else rng.randrange(9)
    data[at : at + size] = (value % (1 << size * 8)).to_bytes(size, "little")


def mutated(seeds: Sequence[Parts], rng: random.Random, *, binary: bool) -> Parts:
    """A message that was damaged."""
    parts = list(rng.choice(seeds))
    if rng.random() < 0.02:
        return [rng.randbytes(rng.randrange(300)) for _ in range(rng.randrange(1, 6))]
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        if rng.random() < 0.06:
            _change_parts(parts, seeds, rng)
        which = 1 if binary and len(parts) > 1 and rng.random() < 0.7 else rng.randrange(len(parts))
        data = bytearray(parts[which])
        if binary and rng.random() < 0.5:
            is_header = data[1:5] == b"\xa1m\xc4\x60" and len(data) >= 101
            (_change_metadata if is_header and rng.random() < 0.5 else _change_map)(data, rng)
        elif rng.random() < 0.01:
            _many(data, rng)
        elif rng.random() < 0.05:
            other = rng.choice(rng.choice(seeds))
            data[rng.randrange(len(data) + 1) :] = other[rng.randrange(len(other) + 1) :]
        else:
            rng.choice(_DAMAGE)(data, rng)
        parts[which] = bytes(data[:_MAX_INPUT])
    return parts


def _change_parts(parts: Parts, seeds: Sequence[Parts], rng: random.Random) -> None:
    match rng.randrange(4):
        case 0:
            parts.append(rng.choice(rng.choice(seeds)))
        case 1 if len(parts) > 1:
            del parts[rng.randrange(len(parts))]
        case 2:
            rng.shuffle(parts)
        case _:
            parts[rng.randrange(len(parts))] = b""


# Targets: each takes a message, and returns where it is taken, raises its own kind of error where it is refused


@dataclass(frozen=True)
class Target:
    """Something that parses what arrives."""

    name: str
    run: Callable[[Parts], None]
    seeds: Callable[[], Sequence[Parts]]
    refusals: tuple[type[Exception], ...]
    share: int = 10
    """Of the inputs."""
    binary: bool = False
    """Its inputs have msgpack in them."""


def _first(parts: Parts) -> bytes:
    return parts[0] if parts else b""


def _text(data: bytes) -> str:
    """What bytes say as a text, lone surrogates where they are none."""
    return data.decode("utf-8", "surrogateescape")


def _topics(parts: Parts) -> None:
    data = _first(parts)
    channel, camera = parse_topic(data)
    assert topic(channel, camera) == data
    assert check_camera(camera) == camera == check_filter(camera)
    assert len(data) <= LIMITS.topic_bytes
    assert camera.isprintable()
    assert covers(camera.partition("/")[0], camera)


def _subscriptions(parts: Parts) -> None:
    data = _first(parts)
    request = parse_request(data)
    if request is None:
        raise WireError("none", reason="topic")
    kind, nonce, rest = request
    assert kind in ("replay", "clock")
    assert 1 <= len(nonce) <= 32
    assert request_topic(kind, nonce, rest).rstrip(b"/") == data.rstrip(b"/") or not rest
    assert f"{rest}/".encode()


def _names(parts: Parts) -> None:
    text = _text(_first(parts))
    with contextlib.suppress(ConfigError):
        assert check_filter(check_filter(text)) == check_filter(text)
    camera = check_camera(text)
    assert check_camera(camera) == camera
    assert parse_topic(topic("cam", camera)) == ("cam", camera)


def _check_extra(value: Any) -> None:
    """Names are strings at every depth."""
    if isinstance(value, dict):
        assert all(type(key) is str for key in value)
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            _check_extra(inner)


def _check_frame(frame: Frame, header: bytes) -> None:
    assert 0 < frame.width * frame.height <= LIMITS.pixels
    assert len(frame.payload) <= LIMITS.payload_bytes
    seen = wire.peek(header)
    assert seen == (frame.epoch, frame.seq, frame.hops, frame.keyframe)
    hopped = wire.with_hop(header)
    assert wire.peek(hopped) == seen._replace(hops=min(frame.hops + 1, 255))
    assert len(hopped) == len(header)
    _check_extra(frame.extra)
    assert repr(frame.extra)
    # Fields that a receiver ignores, and longer ways to write the same, are not given back.
    packed = wire.pack_header(frame)
    again = wire.unpack_frame(topic(frame.channel, frame.camera), packed, frame.payload)
    assert wire.pack_header(again) == packed
    assert replace(again, extra={}) == replace(frame, extra={})
    if header[0] == 0x81 and frame.time_base is not None:
        assert len(packed) == len(header)
    if frame.channel.startswith("shm/"):
        assert wire.pack_descriptor(wire.unpack_descriptor(frame.payload))[:20] == bytes(frame.payload)[:20]
    elif frame.codec is Codec.RAW:
        image = decode(frame)
        assert image.nbytes == len(frame.payload)
        assert image.shape[:2] == (frame.height, frame.width)


def _frames(parts: Parts) -> None:
    if len(parts) != wire.FRAME_PARTS:
        raise WireError("parts", reason="parts")
    name, header, payload = parts
    seen: WireError | None = None
    try:
        wire.peek(header)
    except WireError as error:
        seen = error
    frame = wire.unpack_frame(memoryview(name), memoryview(header), memoryview(payload))
    assert seen is None
    _check_frame(frame, header)


def _replays(parts: Parts) -> None:
    frames = wire.unpack_replay(parts, _STREAM)
    assert len(frames) == len(parts) - 2 <= LIMITS.parts
    for frame in frames:
        assert frame.camera == "cctv/lobby"
        _check_frame(frame, wire.pack_header(frame))


def _clocks(parts: Parts) -> None:
    if len(parts) != wire.CLOCK_PARTS:
        raise WireError("parts", reason="parts")
    answer = wire.unpack_clock(parts[1])
    assert wire.unpack_clock(wire.pack_clock(answer)) == answer
    clocks = Clocks()
    clocks.answered("a", answer, 10**9, 2 * 10**9)
    assert isinstance(clocks.offset_ns(Frame(camera="a", epoch=answer.epoch)), int)


def _announcements(parts: Parts) -> None:
    if len(parts) != 2:
        raise WireError("parts", reason="parts")
    parse_topic(parts[0])
    content = wire.unpack_map(memoryview(parts[1]), limit_bytes=LIMITS.status_bytes, reason="announcement")
    wire.check_version(content)
    assert isinstance(content, dict)
    assert repr(content)


def _statuses(parts: Parts) -> None:
    if len(parts) != 2:
        raise WireError("parts", reason="parts")
    status = unpack_status(memoryview(parts[0]), memoryview(parts[1]))
    for value in (status.state, status.reason, status.codec, status.source, status.camera):
        assert value.isprintable()
        assert len(value) <= 300
    for number in (status.epoch, status.uptime_ms, status.width, status.hops, status.rivals, status.kept):
        assert 0 <= number < 2**64
    assert 0 <= status.fps_in < 1e9
    own = pack_status(status)
    assert len(own) <= LIMITS.status_bytes
    again = unpack_status(parts[0], own)
    assert replace(again, state="", reason="", codec="", source="") == replace(
        status, state="", reason="", codec="", source=""
    )
    assert Roster().heard(status)
    marked = replace(status, hops=min(status.hops + 1, 8), rivals=3, insecure=True, kept=4096)
    relayed = relay_status(memoryview(parts[1]), marked)
    assert len(relayed) <= LIMITS.status_bytes
    assert unpack_status(parts[0], relayed) == marked


def _jpeg_headers(parts: Parts) -> None:
    data = _first(parts)
    assert jpeg.has_huffman_tables(data) in (True, False)
    sizes = jpeg.size_of(data), jpeg.size_of(memoryview(data))
    assert sizes[0] == sizes[1]
    assert all(0 <= number <= limit for number, limit in zip(sizes[0], (65535, 65535, 255), strict=True))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what libjpeg and FFmpeg say to the standard error of the process."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _jpegs(parts: Parts) -> None:
    data = _first(parts)
    width, height, _ = jpeg.size_of(data)
    stated = Frame(camera="a", codec=Codec.JPEG, width=width, height=height, payload=memoryview(data))
    if 0 < width * height <= _MAX_DECODED_PX:
        image = decode(stated)
        assert image.shape[:2] == (height, width)
        assert image.dtype == np.uint8
        return
    is_bomb = width * height > LIMITS.pixels
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(CodecError):
        decode(stated if is_bomb else replace(stated, width=width + 1))
        raise AssertionError(f"a picture of {width} x {height} px is decoded")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
    raise CodecError("another size", codec="jpeg")


def _raws(parts: Parts) -> None:
    """Numbers in the first part, the payload behind them."""
    numbers = _first(parts).ljust(9, b"\0")
    payload = b"".join(parts[1:])
    kinds = (PixelFormat.GRAY8, PixelFormat.GRAY16, PixelFormat.BGR24)
    width, height = int.from_bytes(numbers[:4], "little"), int.from_bytes(numbers[4:8], "little")
    frame = Frame(camera="a", pixel_format=kinds[numbers[8] % 3], width=width, height=height, payload=payload)
    image = decode(frame)
    assert image.nbytes == len(payload)
    assert image.shape[:2] == (height, width)
    assert not image.flags.writeable


_UNIT: Final = re.compile(rb"\x00\x00\x01")


def _annexb(parts: Parts) -> None:
    data = _first(parts)
    units = [data[begin:end] for begin, end in annexb.nal_units(data)]
    assert units == [unit for piece in _UNIT.split(data)[1:] if (unit := piece.rstrip(b"\0"))]
    for codec in (Codec.H264, Codec.H265):
        slices = annexb.slices(codec, data)
        assert annexb.has_slices(codec, data) == bool(slices)
        assert set(slices) <= set(units)
        sets = annexb.parameter_sets(codec, data)
        assert annexb.parameter_sets(codec, sets) == sets
        assert not annexb.has_slices(codec, sets)
        assert not annexb.is_disposable(codec, data) or slices
        assert not annexb.is_instantaneous(codec, data) or slices
    assert 1 <= annexb.sub_layers(data) <= 8


def _headers(parts: Parts) -> None:
    """An SPS, a PPS and slices."""
    h264_headers.read_sps.cache_clear()
    h264_headers.read_pps.cache_clear()
    sps, pps = h264_headers.read_sps(parts[0]), h264_headers.read_pps(parts[1 % len(parts)])
    if sps is None:
        raise ValueError("no SPS")
    assert 0 <= sps.id <= 31
    assert 4 <= sps.number_bits <= 16
    assert pps is None or 0 <= pps.id <= 255
    pictures = {} if pps is None else {pps.id: pps}
    for unit in parts[2:]:
        if unit:
            number, _ = h264_headers.read_number(unit, sps)
            assert 0 <= number < 1 << sps.number_bits
            assert h264_headers.is_first(unit) in (True, False)
            with contextlib.suppress(KeyError):
                h264_headers.is_reset(unit[:400], sps, pictures)


def _numbers(parts: Parts) -> None:
    numbers = FrameNumbers()
    found = [
        numbers.is_missing(packet, keyframe=place % 4 == 0, follows=place != 0) for place, packet in enumerate(parts)
    ]
    assert all(type(is_missing) is bool for is_missing in found)


def _video(parts: Parts) -> None:
    """The first byte of the first part says which codec; a picture comes out for what can be decoded, and no other."""
    codec = Codec.H265 if _first(parts)[:1] == b"5" else Codec.H264
    decoder = VideoDecoder()
    refused: CodecError | None = None
    for seq, payload in enumerate(parts[1:]):
        width, height = _VIDEO_PX
        frame = Frame(
            camera="a",
            codec=codec,
            width=width,
            height=height,
            epoch=1,
            seq=seq,
            keyframe=seq % 4 == 0,
            payload=memoryview(payload),
        )
        try:
            for picture in decoder.feed(frame):
                assert picture.converted().image.shape[:2] == (height, width)
        except CodecError as error:
            refused = error
    if refused is not None:
        raise refused


def _prefixed(parts: Parts) -> None:
    for codec in (Codec.H264, Codec.H265):
        prefixed = Prefixed(codec, _first(parts))
        assert len(prefixed.sets) <= 3 * len(_first(parts))
        for packet in parts[1:]:
            assert len(prefixed.to_annex_b(packet)) <= 4 * len(packet) + 4


def _redacted(parts: Parts) -> None:
    text = _text(_first(parts))[:2000]
    shown = redact(text)
    assert redact(shown) == shown
    secret = "s3cr3t"  # noqa: S105
    before = text.split("://", 1)[0]
    for address in (
        f"rtsp://user:{secret}@host/{text}",
        f"{before} rtsp://a:{secret}@10.0.0.1/x",
        f"http://h/?pwd={secret}",
    ):
        if "\n" not in address and secret not in text:
            assert secret not in redact(address)


def _endpoints(parts: Parts) -> None:
    text = _text(_first(parts))[:2000]
    found = None
    for bind in (False, True):
        try:
            found = parse_endpoint(text, bind=bind)
        except ConfigError as error:
            assert "\n" not in str(error)
            continue
        assert parse_endpoint(str(found), bind=bind) == found
        assert found.scheme in ("tcp", "ipc")
        assert found.port is None or 1 <= found.port <= 65535
        found.text.encode()
        if not found.is_local:
            with contextlib.suppress(ConfigError):
                require_local(found, insecure=False)
                raise AssertionError(f"{found} is let through")
    if found is None:
        raise ConfigError("none", setting="endpoint")


_SMALL: Final = Limits(group_bytes=2000, replay_bytes=3000, backlog_frames=20, parts=16, index_bytes=2000)
_ODD: Final = (0, 1, 2, 3, 4, 5, 2**63, 2**64 - 2, 2**64 - 1)


def _states(parts: Parts) -> None:
    """Each four bytes of the input are a frame or a replay: what is kept and held stays within its bounds."""
    clock = [0.0]
    sequence, groups, roster = FrameSequence(_SMALL), Groups(_SMALL), Roster(lambda: clock[0])
    data = b"".join(parts)
    for at in range(0, min(len(data) - 3, 800), 4):
        kind, epoch, number, size = data[at : at + 4]
        frame = Frame(
            camera="a",
            codec=Codec.H264 if kind & 1 else Codec.JPEG,
            keyframe=bool(kind & 2),
            epoch=_ODD[epoch % len(_ODD)],
            seq=_ODD[number % len(_ODD)] if kind & 4 else number,
            payload=bytes(size),
        )
        clock[0] += size / 50
        name = topic("cam", "ab"[kind >> 3 & 1])
        if roster.accepts("ab"[kind >> 3 & 1], frame.epoch):
            groups.keep(
                name,
                epoch=frame.epoch,
                seq=frame.seq,
                keyframe=frame.keyframe,
                header=b"h" * 101,
                payload=frame.payload,
            )
        if kind & 0x30 == 0x30:
            passed = sequence.replayed([frame, replace(frame, seq=frame.seq + 1, keyframe=False)])
        elif kind & 0x70 == 0x40:
            roster.heard(Status(camera="a", epoch=frame.epoch, uptime_ms=_ODD[size % len(_ODD)], state="offline"))
            passed = []
            sequence.restart()
        else:
            passed = sequence.live(frame)
        _check_states(sequence, groups, passed)
    list(roster.expire())
    roster.conflicts()


def _check_states(sequence: FrameSequence, groups: Groups, passed: list[Frame]) -> None:
    assert [frame.seq for frame in passed] == sorted({frame.seq for frame in passed})
    assert all(frame.missed >= 0 for frame in passed)
    assert len(sequence._held) <= _SMALL.backlog_frames
    held = sum(len(frame.payload) for frame in sequence._held)
    assert held == sequence._held_bytes <= _SMALL.group_bytes
    kept = [groups.get(name) for name in groups.topics()]
    sizes = [sum(len(header) + len(payload) for header, payload in messages) for messages in kept]
    assert sum(sizes) == groups._bytes <= _SMALL.replay_bytes
    assert all(size <= _SMALL.group_bytes for size in sizes)
    assert all(len(messages) <= _SMALL.parts for messages in kept)


def _requests() -> list[Parts]:
    texts = (
        "replay/0123456789abcdef/cam/cctv/lobby/",
        "clock/0123456789abcdef/",
        "clock/ab/cctv/",
        "cam/",
        "",
        "status/a/",
    )
    return [[text.encode()] for text in texts]


def _some_names() -> list[Parts]:
    names = ("cctv/lobby", "drone/1", "é", "e\u0301", "नमस्ते/1", "a" * 128, "値/д", "a/b/c/", "カメラ")
    return [[name.encode()] for name in names]


def _some_addresses() -> list[Parts]:
    addresses = (
        "rtsp://admin:12@34@10.0.0.5/live?token=abc failed",
        "http://h/?user=a&pwd=b;auth=1#x",
        "srt://h:1?streamid=a_passphrase=b",
        "a://b@c d://e:f@g",
    )
    return [[address.encode()] for address in addresses]


def _some_endpoints() -> list[Parts]:
    endpoints = (
        "tcp://127.0.0.1:5551",
        "tcp://*:5551",
        "tcp://[::1]:1",
        "tcp://[fe80::1%eth0]:65535",
        "ipc:///tmp/a",
        "ipc://@abstract",
        "tcp://user:password@host:1",
        "tcp://localhost:*",
    )
    return [[endpoint.encode()] for endpoint in endpoints]


def _all_streams() -> list[Parts]:
    return [[frame.payload] for codec in (Codec.H264, Codec.H265) for frame in packets(codec)]


def _all_sets() -> list[Parts]:
    units = _units(Codec.H264)
    sets = [next(unit for unit in units if unit[0] & 31 == kind) for kind in (7, 8)]
    return [sets + [unit for unit in units if unit[0] & 31 in (1, 5)][:4]]


def _named_packets() -> list[Parts]:
    return [
        [name, *(frame.payload for frame in packets(codec))] for name, codec in ((b"4", Codec.H264), (b"5", Codec.H265))
    ]


def _all_topics() -> list[Parts]:
    return [[parts[0]] for kind in ("frame", "status", "clock", "replay", "announcement") for parts in golden(kind)]


def _raw_pictures() -> list[Parts]:
    return [[struct.pack("<IIB", 4, 3, number), bytes(12 * size)] for number, size in ((0, 1), (1, 2), (2, 3))]


def _some_states() -> list[Parts]:
    rng = random.Random(1)
    return [[rng.randbytes(200)] for _ in range(20)]


_WIRE: Final = (WireError,)
TARGETS: Final = (
    Target("topic", _topics, _all_topics, _WIRE, 12),
    Target("subscription", _subscriptions, _requests, _WIRE, 8),
    Target("name", _names, _some_names, (ConfigError,), 8),
    Target("frame", _frames, lambda: golden("frame"), _WIRE, 20, binary=True),
    Target("replay", _replays, lambda: golden("replay"), _WIRE, 8, binary=True),
    Target("clock", _clocks, lambda: golden("clock"), _WIRE, 6, binary=True),
    Target("announcement", _announcements, lambda: golden("announcement"), _WIRE, 6, binary=True),
    Target("status", _statuses, lambda: golden("status"), _WIRE, 16, binary=True),
    Target("jpeg header", _jpeg_headers, lambda: [[data] for data in jpegs()], (CodecError,), 8),
    Target("jpeg", _jpegs, lambda: [[data] for data in jpegs()], (CodecError,), 3),
    Target("raw", _raws, _raw_pictures, (CodecError,), 5),
    Target("annex b", _annexb, _all_streams, (), 5),
    Target("h264 headers", _headers, _all_sets, (ValueError,), 6),
    Target("frame numbers", _numbers, lambda: [parts[1:] for parts in _named_packets()], (), 4),
    Target("video", _video, _named_packets, (CodecError,), 1),
    Target("mp4 lengths", _prefixed, lambda: [_record()], (CodecError,), 4),
    Target("redact", _redacted, _some_addresses, (), 4),
    Target("endpoint", _endpoints, _some_endpoints, (ConfigError,), 6),
    Target("state", _states, _some_states, (), 3),
)


# Running


@dataclass
class Tally:
    """What came of a target's inputs."""

    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    slowest_s: float = 0.0
    peak_bytes: int = 0
    findings: list[tuple[str, Parts]] = field(default_factory=list)


def _outcome(target: Target, parts: Parts) -> str | None:
    """None where a message is taken, "" where it is refused as documented, or what is wrong."""
    try:
        target.run(list(parts))
    except target.refusals as error:
        said = str(error)
        if isinstance(error, WireError) and error.reason not in _REASONS:
            return f"a reason of its own: {error.reason}"
        if not isinstance(error, ConfigError) and (len(said) > _MAX_LINE or not said.isprintable()):
            return f"{type(error).__name__} with a text of {len(said)} characters: {said[:200]!r}"
        return ""
    except AssertionError as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        return f"does not hold: line {trace.tb_lineno if trace else 0} {error}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:300]}"
    return None


def _cpu_s(target: Target, parts: Parts) -> tuple[str | None, float]:
    begin = time.thread_time()
    outcome = _outcome(target, parts)
    return outcome, time.thread_time() - begin


def try_input(target: Target, parts: Parts, tally: Tally, *, traced: bool) -> str | None:
    """Give a message to a target. Returns what is wrong, or None."""
    outcome, cpu_s = _cpu_s(target, parts)
    if cpu_s > _BUDGET_S:  # again, so that a collection of garbage is not blamed on it
        gc.collect()
        cpu_s = min(cpu_s, _cpu_s(target, parts)[1])
    tally.inputs += 1
    tally.accepted += outcome is None
    tally.refused += outcome == ""
    tally.slowest_s = max(tally.slowest_s, cpu_s)
    if outcome:
        return outcome
    if cpu_s > _BUDGET_S:
        return f"takes {cpu_s * 1000:.0f} ms"
    return _too_large(target, parts, tally) if traced else None


def _too_large(target: Target, parts: Parts, tally: Tally) -> str | None:
    tracemalloc.start()
    try:
        _outcome(target, parts)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    tally.peak_bytes = max(tally.peak_bytes, peak)
    size = sum(map(len, parts))
    return f"takes {peak / 1e6:.1f} MB for {size} bytes" if peak > _SPARE_BYTES + _BYTES_A_BYTE * size else None


def make_input(target: Target, seed: int, number: int) -> Parts:
    """Input `number` of a target: the same for ever."""
    return mutated(target.seeds(), random.Random(f"{seed}/{target.name}/{number}"), binary=target.binary)


def fuzz(target: Target, *, inputs: int, seed: int, deadline: float, most: int = 5) -> Tally:
    """Run a target, until the deadline at most, or until so many different things were found."""
    tally = Tally()
    seeds = target.seeds()
    known = set()
    for number in range(inputs):
        if time.monotonic() >= deadline or len(tally.findings) >= most:
            break
        rng = random.Random(f"{seed}/{target.name}/{number}")
        parts = mutated(seeds, rng, binary=target.binary)
        large = sum(map(len, parts)) > 2000
        traced = number % (_TRACED_EACH // 8 if large else _TRACED_EACH) == 0
        wrong = try_input(target, parts, tally, traced=traced)
        if wrong is not None and (kind := re.sub(r"\d+", "#", wrong)[:60]) not in known:
            known.add(kind)
            tally.findings.append((wrong, parts))
    return tally


def _save(target: Target, wrong: str, parts: Parts) -> Path:
    with tempfile.NamedTemporaryFile("w", prefix="camfabric-fuzz-", suffix=".json", delete=False) as file:
        json.dump({"target": target.name, "wrong": wrong, "parts": [part.hex() for part in parts]}, file)
    return Path(file.name)


def _repeat_file(path: Path) -> int:
    content = json.loads(path.read_text(encoding="utf-8"))
    target = next(target for target in TARGETS if target.name == content["target"])
    wrong = try_input(target, [bytes.fromhex(part) for part in content["parts"]], Tally(), traced=True)
    print(f"{target.name}: {wrong or 'nothing is wrong'}")
    return int(wrong is not None)


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--target", action="append", choices=[target.name for target in TARGETS])
    parser.add_argument("--repeat", type=Path)
    arguments = parser.parse_args()
    if arguments.repeat:
        return _repeat_file(arguments.repeat)
    cv2.setNumThreads(1)
    targets = [target for target in TARGETS if not arguments.target or target.name in arguments.target]
    shares = sum(target.share for target in targets)
    for target in targets:
        target.seeds()
    # What takes far more than it should fails here, and not the machine.
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _ROOM_BYTES, resource.RLIM_INFINITY))
    print(f"{'target':<14} {'inputs':>9} {'accepted':>9} {'refused':>9} {'slowest ms':>11} {'peak MB':>8} {'s':>6}")
    begin, total, found = time.monotonic(), 0, 0
    for place, target in enumerate(targets):
        started = time.monotonic()
        left = sum(other.share for other in targets[place:])
        deadline = started + (begin + arguments.seconds - started) * target.share / left
        inputs = -(-arguments.inputs * target.share // shares)
        with quiet() if target.name in ("jpeg", "video") else contextlib.nullcontext():
            tally = fuzz(target, inputs=inputs, seed=arguments.seed, deadline=deadline)
        print(
            f"{target.name:<14} {tally.inputs:>9} {tally.accepted:>9} {tally.refused:>9}"
            f" {tally.slowest_s * 1000:>11.2f} {tally.peak_bytes / 1e6:>8.2f} {time.monotonic() - started:>6.1f}",
            flush=True,
        )
        total += tally.inputs
        for wrong, parts in tally.findings:
            found += 1
            path = _save(target, wrong, parts)
            print(f"  FOUND: {wrong}\n    again: {sys.executable} {__file__} --repeat {path}", flush=True)
    rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{total} inputs in {time.monotonic() - begin:.0f} s, seed {arguments.seed}: {found} findings;"
        f" {rss_mb:.0f} MB at most"
    )
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
