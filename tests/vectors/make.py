"""Writes the golden messages beside it. Version 1 is frozen, so what is there stays, and more may come."""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Final

import msgpack

from camfabric.common.frame import Codec, Frame, PixelFormat
from camfabric.common.status import Status, pack_status
from camfabric.common.topics import request_topic, shared_channel, topic
from camfabric.common.wire import (
    ClockAnswer,
    Descriptor,
    pack_clock,
    pack_descriptor,
    pack_header,
    pack_map,
    pack_replay,
)

_HERE: Final = Path(__file__).parent
_NONCE: Final = "0123456789abcdef"
_EPOCH: Final = 0xFEDCBA9876543210
_JPEG: Final = bytes.fromhex(
    "ffd8ffe000104a46494600010100000100010000ffdb0043001b12141714111b1716171e1c1b2028422b28252528513a3d3042605565645f"
    "555d5b6a7899816a7190735b5d85b586909ea3abadab6780bcc9baa6c799a8aba4ffc0000b080008000801011100ffc40014000100000000"
    "000000000000000000000001ffc40017100003010000000000000000000000000000030562ffda0008010100003f00170b07ffd9"
)
"""8 x 8 px, grey."""
_H264: Final = (
    bytes.fromhex("000000016742c00ada7a1000000300100000030328f1226a0000000168ce039c80000000016588843a262800080460"),
    bytes.fromhex("00000001419a22a2714000ee"),
)
"""16 x 16 px: a light picture with its parameter sets, and a dark one behind it."""
_LOCAL: Final = {"decoded", "received_ns", "clock_offset_ns", "missed", "dropped"}
"""What a receiver adds to a frame."""


def _frame(**fields: Any) -> Frame:
    usual: dict[str, Any] = {
        "camera": "cctv/lobby",
        "epoch": _EPOCH,
        "seq": 41,
        "captured_ns": 1_700_000_000_123_456_789,
        "captured_monotonic_ns": 86_400_000_000_001,
        "encoded_ns": 1_700_000_000_125_000_000,
    }
    return Frame(**(usual | fields))


def _raw(pixel_format: PixelFormat, width: int, height: int, payload: bytes, **fields: Any) -> Frame:
    return _frame(codec=Codec.RAW, pixel_format=pixel_format, width=width, height=height, payload=payload, **fields)


_JPEG_FRAME: Final = _frame(codec=Codec.JPEG, width=8, height=8, payload=_JPEG)
_GRAY: Final = _raw(PixelFormat.GRAY8, 3, 2, bytes(range(6)))

_GROUP: Final = tuple(
    _frame(
        codec=Codec.H264,
        width=16,
        height=16,
        keyframe=number == 0,
        seq=50 + number,
        pts=3600 * number,
        dts=3600 * number,
        time_base=(1, 90_000),
        payload=payload,
    )
    for number, payload in enumerate(_H264)
)

FRAMES: Final = {
    "frame-jpeg": ("a grey JPEG", _JPEG_FRAME),
    "frame-raw-gray8": ("raw, 8 bits a pixel", _GRAY),
    "frame-raw-gray16": (
        "raw, 16 bits a pixel, little-endian: 0, 1, 256, 65535",
        _raw(PixelFormat.GRAY16, 2, 2, bytes.fromhex("000001000001ffff")),
    ),
    "frame-raw-bgr24": (
        "raw, colour: blue, green, red, white",
        _raw(PixelFormat.BGR24, 4, 1, bytes.fromhex("ff000000ff000000ffffffff")),
    ),
    "frame-extra": (
        "the user's own fields, of each kind",
        _raw(
            PixelFormat.GRAY8,
            1,
            1,
            b"\x80",
            camera="drone/1",
            seq=0,
            extra={
                "zone": 3,
                "schlüssel": "Wert, 値, 🎥",
                "raw": b"\x00\xff",
                "nothing": None,
                "armed": True,
                "at": -1.5,
                "limits": [-(2**63), 2**64 - 1],
                "box": {"corner": {"x": 10, "y": 20}, "empty": {}},
            },
        ),
    ),
    "frame-times": (
        "presentation and decode time, their time base, both flags, three hops",
        _frame(
            codec=Codec.JPEG,
            width=8,
            height=8,
            payload=_JPEG,
            keyframe=True,
            disposable=True,
            pts=-3003,
            dts=-6006,
            time_base=(1, 90_000),
            hops=3,
        ),
    ),
    "frame-h264-keyframe": ("H.264: a keyframe with its parameter sets, and its times", _GROUP[0]),
    "frame-h264": ("H.264: a picture that needs the one before it", _GROUP[1]),
    "frame-h265": (
        "the codec number of H.265; presentation time not known",
        _frame(
            codec=Codec.H265,
            width=1920,
            height=1080,
            keyframe=False,
            disposable=True,
            dts=7,
            time_base=(1, 1000),
            payload=bytes.fromhex("000000010201d0"),
        ),
    ),
    "frame-low": ("the small picture of the same camera", replace(_JPEG_FRAME, channel="low", seq=7)),
    "frame-shm": (
        "a colour picture in the shared memory of a host: the payload says where",
        _raw(
            PixelFormat.BGR24,
            1920,
            1080,
            pack_descriptor(Descriptor(0x0F1E2D3C4B5A6978, 260, 3)),
            channel=shared_channel(_NONCE),
            seq=9,
        ),
    ),
    "frame-no-keyframe": (
        "no flags; the largest numbers that there are",
        _raw(
            PixelFormat.GRAY8,
            1,
            1,
            b"\x00",
            camera="大門/1",
            keyframe=False,
            epoch=2**64 - 1,
            seq=2**64 - 1,
            captured_ns=2**63 - 1,
            captured_monotonic_ns=-(2**63),
            encoded_ns=-1,
            pts=2**63 - 1,
            dts=-(2**63) + 1,
            time_base=(2**32 - 1, 2**32 - 1),
            hops=255,
        ),
    ),
}

STATUS: Final = Status(
    camera="cctv/lobby",
    state="stalled",
    reason="no picture for 3 s",
    epoch=_EPOCH,
    uptime_ms=61_000,
    time_ns=1_700_000_000_123_456_789,
    codec="jpeg",
    width=1280,
    height=720,
    fps_in=29.97,
    fps_out=15.0,
    sent=915,
    sent_bytes=2**32,
    dropped=2,
    watched=True,
    source="rtsp",
    insecure=False,
    hops=1,
    rivals=1,
)
STATUS_ADDED: Final = replace(
    STATUS, state="live", reason="", codec="h264", rivals=0, encoded=12, low=True, kept=209, kept_over=True
)
CLOCK: Final = ClockAnswer(_EPOCH, 86_400_000_000_001, 86_400_000_050_001)


def parts_of(frame: Frame) -> list[bytes]:
    """A frame's three parts."""
    return [topic(frame.channel, frame.camera), pack_header(frame), bytes(frame.payload)]


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"$bytes": value.hex()}
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def fields_of(frame: Frame) -> dict[str, Any]:
    """What goes over the wire of a frame, for JSON."""
    return {
        name: _plain(getattr(frame, name)) for name in (field.name for field in fields(frame)) if name not in _LOCAL
    }


def _good() -> dict[str, dict[str, Any]]:
    messages: dict[str, dict[str, Any]] = {
        name: {"about": about, "kind": "frame", "parts": parts_of(frame), "fields": fields_of(frame)}
        for name, (about, frame) in FRAMES.items()
    }
    messages["status"] = {
        "about": "a camera whose source gives no pictures, through one broker",
        "kind": "status",
        "parts": [topic("status", STATUS.camera), pack_status(STATUS)],
        "fields": asdict(STATUS),
    }
    asked, stream = request_topic("replay", _NONCE, "cam/cctv/lobby"), "cam/cctv/lobby/"
    messages["replay"] = {
        "about": "the last picture",
        "kind": "replay",
        "parts": pack_replay(asked, [(pack_header(_JPEG_FRAME), _JPEG)]),
        "fields": {"stream": stream, "frames": [fields_of(_JPEG_FRAME)]},
    }
    messages["status-added"] = {
        "about": "the fields that came after version 1 was frozen",
        "kind": "status",
        "parts": [topic("status", STATUS_ADDED.camera), pack_status(STATUS_ADDED)],
        "fields": asdict(STATUS_ADDED),
    }
    messages["replay-group"] = {
        "about": "H.264 since the last keyframe",
        "kind": "replay",
        "parts": pack_replay(asked, [(pack_header(frame), frame.payload) for frame in _GROUP]),
        "fields": {"stream": stream, "frames": [fields_of(frame) for frame in _GROUP]},
    }
    messages["replay-empty"] = {
        "about": "nothing was kept",
        "kind": "replay",
        "parts": pack_replay(asked, []),
        "fields": {"stream": stream, "frames": []},
    }
    messages["clock"] = {
        "about": "an answer that took 50 µs",
        "kind": "clock",
        "parts": [topic(f"clock/{_NONCE}", "cctv/lobby"), pack_clock(CLOCK)],
        "fields": {"epoch": CLOCK.epoch, "received_ns": CLOCK.received_ns, "sent_ns": CLOCK.sent_ns},
    }
    messages["announcement"] = {
        "about": "a broker behind another one",
        "kind": "announcement",
        "parts": [topic("broker", _NONCE), pack_map({"v": 1, "hops": 1})],
        "fields": {"id": _NONCE, "hops": 1},
    }
    return messages


def _with(header: bytes, offset: int, value: bytes) -> bytes:
    at = 5 + offset
    return header[:at] + value + header[at + len(value) :]


def _bad_frames() -> dict[str, tuple[str, str, list[bytes]]]:
    name, header, payload = parts_of(_GRAY)
    jpeg = pack_header(_JPEG_FRAME)
    two = b"\x82" + header[1:]
    shared = topic(shared_channel(_NONCE), "cctv/lobby")
    return {
        "magic": ("wrong magic", "magic", [name, _with(header, 0, b"CFAC"), payload]),
        "version": ("version 2", "version", [name, _with(header, 4, b"\x02"), payload]),
        "kind": ("unknown kind", "version", [name, _with(header, 5, b"\x02"), payload]),
        "codec": ("unknown codec", "version", [name, _with(header, 6, b"\xc8"), payload]),
        "pixel-format": ("unknown pixel format", "version", [name, _with(header, 7, b"\xc8"), payload]),
        "raw-format": ("raw without a pixel format", "picture", [name, _with(header, 7, b"\0"), payload]),
        "raw-size": ("raw, one byte short", "picture", [name, header, payload[:-1]]),
        "no-width": ("a picture without width", "picture", [name, _with(jpeg, 12, bytes(4)), _JPEG]),
        "pixels": (
            "more pixels than the limit",
            "picture",
            [name, _with(jpeg, 12, struct.pack("<II", 8193, 8192)), _JPEG],
        ),
        "header-short": ("header cut off", "header", [name, header[:-1], payload]),
        "header-order": ("the first entry is another one", "header", [name, b"\x82\xa1x\x80" + header[1:], payload]),
        "header-bin16": (
            "the metadata as bin 16",
            "header",
            [name, header[:3] + b"\xc5\x00\x60" + header[5:], payload],
        ),
        "header-entries": ("two entries stated, one there", "header", [name, two, payload]),
        "header-trailing": ("a byte behind the header's end", "header", [name, header + b"\xc0", payload]),
        "extra-list": ("extra fields that are a list", "header", [name, two + b"\xa1x\x90", payload]),
        "extra-keys": ("extra fields with a number as a key", "header", [name, two + b"\xa1x\x81\x01\x02", payload]),
        "shm-host": ("a host of 15 digits", "topic", [b"shm/0123456789abcde/cctv/lobby/", header, payload]),
        "shm-size": ("a descriptor that is too short", "memory", [shared, header, bytes(23)]),
        "shm-codec": ("a JPEG in shared memory", "picture", [shared, jpeg, bytes(24)]),
        "topic-open": ("topic without its closing slash", "topic", [b"cam/cctv/lobby", header, payload]),
        "topic-camera": ("topic without a camera", "topic", [b"cam/", header, payload]),
        "topic-dots": ("a segment that is two dots", "topic", [b"cam/cctv/../", header, payload]),
        "topic-utf8": ("topic that is not UTF-8", "topic", [b"cam/\xff/", header, payload]),
        "topic-nfc": ("name that is not in NFC", "topic", ["cam/cafe\u0301/".encode(), header, payload]),
        "topic-long": ("name of 129 bytes", "topic", [b"cam/" + b"a" * 129 + b"/", header, payload]),
    }


def _bad_others() -> dict[str, tuple[str, str, str, list[bytes]]]:
    said = topic("status", "cctv/lobby")
    asked = request_topic("replay", _NONCE, "cam/cctv/lobby")
    answered = topic(f"clock/{_NONCE}", "cctv/lobby")
    header = pack_header(_JPEG_FRAME)
    packed = msgpack.packb
    return {
        "status-list": ("status", "not a map", "status", [said, b"\x90"]),
        "status-trailing": ("status", "a byte behind the map's end", "status", [said, b"\x80\xc0"]),
        "status-type": ("status", "a number as text", "status", [said, packed({"v": 1, "width": "8"})]),
        "status-negative": ("status", "a negative number", "status", [said, packed({"v": 1, "sent": -1})]),
        "status-version": ("status", "version 2", "version", [said, packed({"v": 2, "state": "live"})]),
        "status-size": ("status", "more than 4096 bytes", "size", [said, packed({"v": 1, "reason": "x" * 4096})]),
        "status-topic": ("status", "topic of another channel", "topic", [topic("cam", "a"), packed({"v": 1})]),
        "replay-parts": ("replay", "one header, no payload", "parts", [asked, packed({"v": 1, "h": [header]})]),
        "replay-index": ("replay", "no list of headers", "parts", [asked, packed({"v": 1})]),
        "replay-text": ("replay", "a header that is text", "header", [asked, packed({"v": 1, "h": ["x"]}), _JPEG]),
        "replay-version": ("replay", "version 2", "version", [asked, packed({"v": 2, "h": []})]),
        "replay-frame": (
            "replay",
            "a header of version 2",
            "version",
            [asked, packed({"v": 1, "h": [_with(header, 4, b"\x02")]}), _JPEG],
        ),
        "clock-missing": ("clock", "no time of leaving", "clock", [answered, packed({"v": 1, "epoch": 1, "rx": 2})]),
        "clock-float": (
            "clock",
            "a time that is a float",
            "clock",
            [answered, packed({"v": 1, "epoch": 1, "rx": 2, "tx": 3.0})],
        ),
        "clock-version": ("clock", "version 2", "version", [answered, packed({"v": 2, "epoch": 1, "rx": 2, "tx": 3})]),
    }


def messages() -> dict[str, dict[str, Any]]:
    """Every message by its file's name."""
    made = _good()
    for name, (about, reason, parts) in _bad_frames().items():
        made[f"bad-{name}"] = {"about": about, "kind": "frame", "parts": parts, "reason": reason}
    for name, (kind, about, reason, parts) in _bad_others().items():
        made[f"bad-{name}"] = {"about": about, "kind": kind, "parts": parts, "reason": reason}
    return made


def main() -> None:
    """Write those files that are not there yet."""
    for name, message in messages().items():
        path = _HERE / f"{name}.json"
        if not path.exists():
            frozen = message | {"parts": [bytes(part).hex() for part in message["parts"]]}
            path.write_text(json.dumps(frozen, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
