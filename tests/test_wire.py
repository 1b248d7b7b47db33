"""The wire format: against the golden messages, the tables of docs/wire.md, and whatever else may arrive."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camfabric.common import wire
from camfabric.common.codecs import decode
from camfabric.common.errors import WireError
from camfabric.common.frame import Codec, Frame, PixelFormat
from camfabric.common.settings import LIMITS, Limits
from camfabric.common.status import Status, pack_status, unpack_status
from camfabric.common.topics import parse_request, parse_topic, request_topic, topic
from camfabric.publisher import Publisher

_ROOT: Final = Path(__file__).parent.parent
_VECTORS: Final = {path.stem: path for path in sorted((_ROOT / "tests" / "vectors").glob("*.json"))}
_GOOD: Final = [name for name in _VECTORS if not name.startswith("bad-")]
_BAD: Final = [name for name in _VECTORS if name.startswith("bad-")]
_NONCE: Final = "0123456789abcdef"
_SOME: Final = settings(max_examples=150, deadline=None)
_MANY: Final = settings(max_examples=400, deadline=None)


# The golden messages


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        return bytes.fromhex(value["$bytes"]) if "$bytes" in value else {k: _from_json(v) for k, v in value.items()}
    return [_from_json(inner) for inner in value] if isinstance(value, list) else value


def _vector(name: str) -> tuple[str, list[bytes], dict[str, Any]]:
    """The kind, the parts and everything of a golden message."""
    message = json.loads(_VECTORS[name].read_text(encoding="utf-8"))
    return message["kind"], [bytes.fromhex(part) for part in message["parts"]], message


def _frame_of(fields: dict[str, Any]) -> Frame:
    plain = _from_json(fields)
    base = plain.pop("time_base")
    codec, pixel_format = Codec(plain.pop("codec")), PixelFormat(plain.pop("pixel_format"))
    return Frame(codec=codec, pixel_format=pixel_format, time_base=tuple(base) if base else None, **plain)


def _frame_parts(frame: Frame) -> list[bytes]:
    return [topic(frame.channel, frame.camera), wire.pack_header(frame), bytes(frame.payload)]


def _encoded(kind: str, fields: dict[str, Any], golden_topic: bytes) -> list[bytes]:
    match kind:
        case "frame":
            return _frame_parts(_frame_of(fields))
        case "status":
            return [topic("status", fields["camera"]), pack_status(Status(**fields))]
        case "replay":
            kept = [_frame_parts(_frame_of(frame))[1:] for frame in fields["frames"]]
            asked = request_topic("replay", _NONCE, fields["stream"].removesuffix("/"))
            return wire.pack_replay(asked, [(header, payload) for header, payload in kept])
        case "clock":
            return [golden_topic, wire.pack_clock(wire.ClockAnswer(**fields))]
        case _:
            return [topic("broker", fields["id"]), wire.pack_map({"v": 1, "hops": fields["hops"]})]


def _decoded(kind: str, parts: list[bytes], stream: str = "cam/cctv/lobby/") -> Any:
    match kind:
        case "frame":
            return wire.unpack_frame(*parts)
        case "status":
            return unpack_status(*parts)
        case "replay":
            return wire.unpack_replay(parts, stream.encode())
        case "clock":
            return wire.unpack_clock(parts[1])
        case _:
            hops = wire.unpack_map(parts[1], limit_bytes=LIMITS.status_bytes, reason="announcement")["hops"]
            return {"id": parse_topic(parts[0])[1], "hops": hops}


def _meant(kind: str, fields: dict[str, Any]) -> Any:
    match kind:
        case "frame":
            return _frame_of(fields)
        case "status":
            return Status(**fields)
        case "replay":
            return [_frame_of(frame) for frame in fields["frames"]]
        case "clock":
            return wire.ClockAnswer(**fields)
        case _:
            return fields


@pytest.mark.parametrize("name", _GOOD)
def test_encoding_gives_the_golden_bytes(name: str) -> None:
    kind, parts, message = _vector(name)
    assert _encoded(kind, message["fields"], parts[0]) == parts


@pytest.mark.parametrize("name", _GOOD)
def test_decoding_gives_the_golden_fields(name: str) -> None:
    kind, parts, message = _vector(name)
    assert _decoded(kind, parts, message["fields"].get("stream", "")) == _meant(kind, message["fields"])


@pytest.mark.parametrize("name", _BAD)
def test_a_bad_message_is_refused_for_the_golden_reason(name: str) -> None:
    kind, parts, message = _vector(name)
    with pytest.raises(WireError) as caught:
        _decoded(kind, parts)
    assert caught.value.reason == message["reason"]


def test_every_kind_of_message_has_a_golden_one() -> None:
    kinds = {_vector(name)[0] for name in _GOOD}
    assert kinds == {"frame", "status", "replay", "clock", "announcement"}
    assert {_vector(name)[2]["reason"] for name in _BAD} >= {"magic", "version", "header", "topic", "picture", "size"}


def test_the_golden_pictures_can_be_decoded() -> None:
    assert decode(wire.unpack_frame(*_vector("frame-jpeg")[1])).shape == (8, 8)
    grey = decode(wire.unpack_frame(*_vector("frame-raw-gray16")[1]))
    assert grey.tolist() == [[0, 1], [256, 65535]]
    colour = decode(wire.unpack_frame(*_vector("frame-raw-bgr24")[1]))
    assert colour.tolist() == [[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]]


# The document


def _documented() -> list[tuple[int, str, str]]:
    """(offset, type, field) of the metadata's table in docs/wire.md."""
    text = (_ROOT / "docs" / "wire.md").read_text(encoding="utf-8")
    table = text.partition("### Metadata")[2].partition("\n| codec |")[0]
    return [
        (int(offset), kind, name)
        for offset, kind, name in re.findall(r"^\| (\d+) \| (\w+|\d+ bytes) \| (\w+) \|", table, re.MULTILINE)
    ]


def _size_of(kind: str) -> int:
    return int(kind.split()[0]) if kind.endswith("bytes") else int(kind[1:]) // 8


def test_the_documented_table_has_no_gaps() -> None:
    at = 0
    for offset, kind, name in _documented():
        assert offset == at, name
        at += _size_of(kind)
    assert at == 96


@pytest.mark.parametrize("name", [name for name in _GOOD if name.startswith("frame-")])
def test_a_reader_of_the_document_reads_the_golden_metadata(name: str) -> None:
    _, parts, message = _vector(name)
    fields = message["fields"]
    numerator, denominator = fields["time_base"] or (0, 0)
    meant = fields | {
        "magic": int.from_bytes(b"CFAB", "little"),
        "version": 1,
        "kind": 1,
        "flags": fields["keyframe"] * 1 + fields["disposable"] * 2,
        "reserved": 0,
        "pts": -(2**63) if fields["pts"] is None else fields["pts"],
        "dts": -(2**63) if fields["dts"] is None else fields["dts"],
        "time_base_numerator": numerator,
        "time_base_denominator": denominator,
    }
    for offset, kind, field in _documented():
        data = parts[1][5 + offset : 5 + offset + _size_of(kind)]
        assert int.from_bytes(data, "little", signed=kind.startswith("i")) == meant[field], field


def test_the_documents_receiver_works(tmp_path: Path) -> None:
    text = (_ROOT / "docs" / "wire.md").read_text(encoding="utf-8")
    program = text.partition("```python\n")[2].partition("```")[0]
    with Publisher("cctv/lobby", bind="tcp://127.0.0.1:*") as publisher:
        publisher.send(np.zeros((24, 32, 3), np.uint8))
        program = program.replace("tcp://127.0.0.1:5551", publisher.endpoint)
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=tmp_path) as process:
            assert process.stdout is not None
            line = process.stdout.readline().decode()
            newest = tmp_path / "newest.jpg"
            waiting, deadline = threading.Event(), time.monotonic() + 20
            while not (newest.exists() and newest.read_bytes().endswith(b"\xff\xd9")):
                assert time.monotonic() < deadline, "it wrote no whole picture"
                waiting.wait(0.01)
            process.kill()
    assert re.fullmatch(r"cam/cctv/lobby/ 0 32x24 \d+ bytes\n", line)
    assert decode(Frame(camera="a", codec=Codec.JPEG, width=32, height=24, payload=newest.read_bytes())).shape == (
        24,
        32,
        3,
    )


# Round trips

_LETTERS: Final = st.text(st.sampled_from("abcXYZ019-_é値д"), min_size=1, max_size=8)
_CAMERAS: Final = st.lists(_LETTERS, min_size=1, max_size=3).map("/".join)
_U64: Final = st.integers(0, 2**64 - 1)
_I64: Final = st.integers(-(2**63), 2**63 - 1)
_STAMP: Final = st.none() | st.integers(-(2**63) + 1, 2**63 - 1)
_VALUES: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
_EXTRAS: Final = st.dictionaries(st.text(max_size=12), _VALUES, max_size=4)


@st.composite
def _frames(draw: st.DrawFn) -> Frame:
    codec = draw(st.sampled_from(Codec))
    width, height = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    if codec is Codec.RAW:
        pixel_format = draw(st.sampled_from([PixelFormat.GRAY8, PixelFormat.GRAY16, PixelFormat.BGR24]))
        size = width * height * {PixelFormat.GRAY8: 1, PixelFormat.GRAY16: 2, PixelFormat.BGR24: 3}[pixel_format]
        payload = draw(st.binary(min_size=size, max_size=size))
    else:
        pixel_format = PixelFormat.NONE
        width, height = draw(st.integers(1, 8192)), draw(st.integers(1, 8192))
        payload = draw(st.binary(max_size=50))
    return Frame(
        camera=draw(_CAMERAS),
        codec=codec,
        pixel_format=pixel_format,
        width=width,
        height=height,
        keyframe=draw(st.booleans()),
        disposable=draw(st.booleans()),
        epoch=draw(_U64),
        seq=draw(_U64),
        captured_ns=draw(_I64),
        captured_monotonic_ns=draw(_I64),
        encoded_ns=draw(_I64),
        pts=draw(_STAMP),
        dts=draw(_STAMP),
        time_base=draw(st.none() | st.tuples(st.integers(1, 2**32 - 1), st.integers(1, 2**32 - 1))),
        hops=draw(st.integers(0, 255)),
        extra=draw(_EXTRAS),
        payload=payload,
    )


@_SOME
@given(_frames())
def test_a_frame_comes_back_as_it_was(frame: Frame) -> None:
    parts = _frame_parts(frame)
    assert wire.unpack_frame(*parts) == frame
    assert wire.unpack_frame(*(memoryview(part) for part in parts)) == frame


@_SOME
@given(_frames())
def test_peek_sees_what_decoding_does(frame: Frame) -> None:
    seen = wire.peek(wire.pack_header(frame))
    assert seen == (frame.epoch, frame.seq, frame.hops, frame.keyframe)


@_SOME
@given(_frames())
def test_a_hop_changes_one_byte_and_nothing_else(frame: Frame) -> None:
    before = wire.pack_header(frame)
    after = wire.with_hop(before)
    assert [at for at in range(len(before)) if before[at] != after[at]] in ([wire.HOPS_AT], [])
    assert wire.unpack_frame(b"cam/a/", after, frame.payload).hops == min(frame.hops + 1, 255)
    assert wire.HOPS_AT == 15


@_SOME
@given(st.lists(_frames(), max_size=5))
def test_a_replay_comes_back_as_it_was(frames: list[Frame]) -> None:
    same = [replace(frame, camera="cctv/lobby") for frame in frames]
    asked = request_topic("replay", _NONCE, "cam/cctv/lobby")
    parts = wire.pack_replay(asked, [(wire.pack_header(frame), frame.payload) for frame in same])
    assert len(parts) == 2 + len(frames)
    assert wire.unpack_replay(parts, b"cam/cctv/lobby/") == same


@_SOME
@given(_U64, _I64, _I64)
def test_a_clock_answer_comes_back_as_it_was(epoch: int, received_ns: int, sent_ns: int) -> None:
    answer = wire.ClockAnswer(epoch, received_ns, sent_ns)
    assert wire.unpack_clock(wire.pack_clock(answer)) == answer


# What cannot be sent


def _jpeg(**fields: Any) -> Frame:
    return Frame(camera="a", codec=Codec.JPEG, width=1, height=1, payload=b"", **fields)


@pytest.mark.parametrize(
    "extra",
    [
        {1: "number as a name"},
        {b"a": "bytes as a name"},
        {"a": {1: "number as a name further in"}},
        {"a": [{"b": {None: 1}}]},
        {"a": Path("no value of msgpack")},
        {"a": {1, 2}},
        {"a": 2**64},
        {"a": "\ud800"},
        {"a": np.int64(3)},
        {"a": bytes(LIMITS.header_bytes)},
    ],
    ids=lambda extra: str(extra)[:40],
)
def test_extra_fields_that_no_receiver_could_read_are_refused(extra: dict[Any, Any]) -> None:
    with pytest.raises(WireError) as caught:
        wire.pack_header(_jpeg(extra=extra))
    assert caught.value.reason in {"header", "size"}


def test_extra_fields_nested_without_end_are_refused() -> None:
    extra: dict[str, Any] = {}
    extra["self"] = extra
    with pytest.raises(WireError, match="cannot be sent"):
        wire.pack_header(_jpeg(extra=extra))


@pytest.mark.parametrize(
    "fields",
    [
        {"captured_ns": 1.7e18},
        {"captured_ns": 2**63},
        {"captured_monotonic_ns": "now"},
        {"epoch": -1},
        {"seq": 2**64},
        {"pts": 2**63},
        {"time_base": (1, 2**32)},
        {"hops": 256},
    ],
    ids=str,
)
def test_metadata_that_do_not_fit_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(WireError) as caught:
        wire.pack_header(_jpeg(**fields))
    assert caught.value.reason == "header"


def test_a_header_over_the_limit_is_refused_by_the_receiver() -> None:
    header = wire.pack_header(_jpeg(extra={"a": bytes(200)}))
    small = Limits(header_bytes=len(header) - 1)
    assert wire.unpack_frame(b"cam/a/", header, b"").extra["a"] == bytes(200)
    for unpack in (
        lambda: wire.unpack_frame(b"cam/a/", header, b"", limits=small),
        lambda: wire.peek(header, limits=small),
        lambda: wire.pack_header(_jpeg(extra={"a": bytes(200)}), limits=small),
    ):
        with pytest.raises(WireError) as caught:
            unpack()
        assert caught.value.reason == "size"


def test_a_payload_over_the_limit_is_refused() -> None:
    header = wire.pack_header(_jpeg())
    with pytest.raises(WireError) as caught:
        wire.unpack_frame(b"cam/a/", header, bytes(11), limits=Limits(payload_bytes=10))
    assert caught.value.reason == "size"


def test_a_replay_of_too_many_parts_is_refused() -> None:
    frame = _jpeg()
    parts = wire.pack_replay(b"replay/1/cam/a/", [(wire.pack_header(frame), b"")] * 5)
    assert len(wire.unpack_replay(parts, b"cam/a/", limits=Limits(parts=7))) == 5
    with pytest.raises(WireError) as caught:
        wire.unpack_replay(parts, b"cam/a/", limits=Limits(parts=6))
    assert caught.value.reason == "parts"


def test_the_stated_size_is_not_allocated() -> None:
    # A map of 4 billion entries in 5 bytes; a bin of 4 GB.
    for data in (b"\xdf\xff\xff\xff\xff", b"\x81\xa1x\xc6\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff"):
        with pytest.raises(WireError):
            wire.unpack_map(data, limit_bytes=100, reason="status")


# What else may arrive


def _try(unpack: Callable[[], object]) -> bool:
    """Whether it can be unpacked; every error but `WireError` is the test's failure."""
    refused: WireError | None = None
    try:
        unpack()
    except WireError as error:
        refused = error
    assert refused is None or (refused.reason and "\n" not in str(refused))
    return refused is None


def _try_all(parts: list[bytes]) -> None:
    """Give a message to everything that unpacks."""
    first, second, rest = parts[0], parts[1], parts[2:]
    payload = rest[0] if rest else b""
    _try(lambda: wire.unpack_frame(first, second, payload))
    _try(lambda: wire.peek(second))
    _try(lambda: unpack_status(first, second))
    _try(lambda: unpack_status(b"status/a/", second))
    _try(lambda: wire.unpack_replay(parts, b"cam/cctv/lobby/"))
    _try(lambda: wire.unpack_clock(second))
    _try(lambda: wire.unpack_map(second, limit_bytes=4096, reason="status"))
    _try(lambda: parse_topic(first))
    request = parse_request(first)
    assert request is None or len(request) == 3


@_MANY
@given(st.lists(st.binary(max_size=150), min_size=2, max_size=5))
def test_arbitrary_bytes_harm_nobody(parts: list[bytes]) -> None:
    _try_all(parts)


_MUTATION: Final = st.tuples(
    st.sampled_from(["set", "cut", "insert", "double"]), st.integers(0, 10**6), st.binary(min_size=1, max_size=9)
)


def _mutated(data: bytes, mutation: tuple[str, int, bytes]) -> bytes:
    how, where, new = mutation
    at = where % (len(data) + 1)
    match how:
        case "set":
            return data[:at] + new[:1] + data[at + 1 :]
        case "cut":
            return data[:at]
        case "insert":
            return data[:at] + new + data[at:]
        case _:
            return data[:at] + data[at:] * 2


@_MANY
@given(st.sampled_from(_GOOD), st.lists(st.tuples(st.integers(0, 9), _MUTATION), min_size=1, max_size=3))
def test_changed_messages_harm_nobody(name: str, mutations: list[tuple[int, tuple[str, int, bytes]]]) -> None:
    parts = _vector(name)[1]
    for which, mutation in mutations:
        parts[which % len(parts)] = _mutated(parts[which % len(parts)], mutation)
    _try_all(parts)


_NUMBERS: Final = st.sampled_from([0, 1, 2, 127, 255]) | st.integers(0, 255)


@_MANY
@given(st.lists(st.tuples(st.integers(4, 95), _NUMBERS), max_size=4), st.binary(max_size=20), st.integers(0, 100))
def test_a_header_that_begins_well_harms_nobody(changes: list[tuple[int, int]], tail: bytes, size: int) -> None:
    header = bytearray(_vector("frame-raw-gray8")[1][1])
    for offset, value in changes:
        header[5 + offset] = value
    if tail:
        header[0] = 0x82
    payload = bytes(size)
    if _try(lambda: wire.unpack_frame(b"cam/a/", bytes(header) + tail, payload)):
        frame = wire.unpack_frame(b"cam/a/", bytes(header) + tail, payload)
        assert 0 < frame.width * frame.height <= LIMITS.pixels
        assert frame.codec is not Codec.RAW or decode(frame).nbytes == size


_ANY: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["v", "h", "m", "x", "epoch", "rx", "tx", "state", "width", "hops", "fps_in"])
            | st.integers(0, 300)
            | st.binary(max_size=2),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@_MANY
@given(_ANY, st.binary(max_size=3))
def test_any_msgpack_harms_nobody(value: Any, tail: bytes) -> None:
    data = msgpack.packb(value) + tail
    _try_all([b"status/cctv/lobby/", data])
    _try(lambda: wire.unpack_replay([b"", data, b"", b""], b"cam/a/"))
    header = wire.pack_header(_jpeg())
    _try(lambda: wire.unpack_frame(b"cam/a/", b"\x82" + header[1:] + b"\xa1x" + data, b""))


@pytest.mark.parametrize(
    "value",
    [
        msgpack.packb(msgpack.ExtType(5, b"abc")),
        b"\xc7\x0c\xff" + b"\xff" * 12,  # a timestamp whose nanoseconds are too many
        b"\xc7\x03\xff\x00\x00\x00",  # a timestamp of 3 bytes
        b"\x91" * 5000 + b"\xc0",
        b"\x81\xa1a" * 2000 + b"\xc0",
        b"\xa2\xff\xff",
        b"\xc1",
        b"",
        b"\x82\xa1a\x01\xa1a\x02",
        b"\x81\x90\x01",
        b"\x81\x80\x01",
    ],
    ids=lambda value: value[:8].hex() or "empty",
)
def test_odd_msgpack_harms_nobody(value: bytes) -> None:
    _try(lambda: wire.unpack_map(value, limit_bytes=10_000, reason="status"))
    _try(lambda: wire.unpack_map(b"\x81\xa1v" + value, limit_bytes=10_000, reason="status"))
    header = wire.pack_header(_jpeg())
    assert not _try(lambda: wire.unpack_frame(b"cam/a/", b"\x82" + header[1:] + b"\xa1x" + b"\x91" + value, b""))


@_MANY
@given(st.binary(max_size=300))
def test_a_topic_that_is_taken_can_be_said_again(data: bytes) -> None:
    if _try(lambda: parse_topic(data)):
        assert topic(*parse_topic(data)) == data
