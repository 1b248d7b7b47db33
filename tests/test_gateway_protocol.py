"""The WebSocket's messages as bytes and text: what is packed, and that nothing a page says gets through unchecked."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camfabric.common.errors import WireError
from camfabric.common.frame import Codec
from camfabric.common.status import Status
from camfabric.gateway import protocol
from camfabric.gateway.cameras import Cameras
from camfabric.gateway.protocol import Ack, Hello, Watch, WatchedStream, parse_message


def test_a_header_is_what_the_documentation_says() -> None:
    header = protocol.pack_header(
        codec=Codec.H264, flags=protocol.KEYFRAME | protocol.DISCONTINUITY, stream=0x1234, width=1920, height=1080,
        n=7, age_ms=41.9, seq=0x1_0000_0005, lost=3, time_us=-2,
    )  # fmt: skip
    assert len(header) == protocol.HEADER_BYTES == 36
    assert header == bytes.fromhex(
        "01 02 03 00  34 12 80 07 38 04 00 00  07 00 00 00  29 00 00 00"
        "05 00 00 00  03 00 00 00  fe ff ff ff ff ff ff ff"
    )


@pytest.mark.parametrize(("age_ms", "sent"), [(None, 0xFFFFFFFF), (0.0, 0), (1e12, 0xFFFFFFFE)])
def test_an_age_that_is_not_known_or_very_large_has_a_value(age_ms: float | None, sent: int) -> None:
    header = protocol.pack_header(
        codec=Codec.JPEG, flags=0, stream=0, width=70_000, height=1, n=1, age_ms=age_ms, seq=0, lost=2**40, time_us=0
    )
    assert struct.unpack_from("<I", header, 16)[0] == sent
    assert struct.unpack_from("<H", header, 6)[0] == 0xFFFF
    assert struct.unpack_from("<I", header, 24)[0] == 0xFFFFFFFF


def _stream(**changed: Any) -> dict[str, Any]:
    return {"id": 7, "camera": "cctv/lobby", "channel": "low", "as": "any"} | changed


def _watch(*streams: Any) -> str:
    return json.dumps({"type": "watch", "streams": list(streams)})


def test_messages_of_a_page() -> None:
    assert parse_message('{"type":"hello","v":1}') == Hello()
    assert parse_message('{"type":"ack","n":123}') == Ack(123)
    assert parse_message(_watch()) == Watch(())
    assert parse_message(_watch(_stream(), _stream(id=8, **{"as": "jpeg"}))) == Watch(
        (WatchedStream(7, "cctv/lobby", "low", "any"), WatchedStream(8, "cctv/lobby", "low", "jpeg"))
    )


def test_a_name_is_taken_in_its_normal_form() -> None:
    message = parse_message(_watch(_stream(camera="Tu\u0308r")))
    assert isinstance(message, Watch)
    assert message.streams[0].camera == "T\u00fcr"
    assert message.streams[0].key == ("low", "T\u00fcr")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json",
        "[]",
        "1",
        "[" * 100_000,
        "{}",
        '{"type":"goodbye"}',
        '{"type":"hello"}',
        '{"type":"hello","v":2}',
        '{"type":"ack"}',
        '{"type":"ack","n":-1}',
        '{"type":"ack","n":1.5}',
        '{"type":"ack","n":true}',
        '{"type":"ack","n":99999999999}',
        '{"type":"watch"}',
        '{"type":"watch","streams":{}}',
        _watch("cctv"),
        _watch(_stream(id=-1)),
        _watch(_stream(id=65536)),
        _watch(_stream(id="7")),
        _watch(_stream(), _stream()),
        _watch(_stream(channel="status")),
        _watch(_stream(**{"as": "png"})),
        _watch(_stream(camera="")),
        _watch(_stream(camera=None)),
        _watch(_stream(camera="../etc/passwd")),
        _watch(_stream(camera="a//b")),
        _watch(_stream(camera="a" * 129)),
        _watch(_stream(camera="\ud800")),
        _watch(_stream(camera="a\nb")),
        _watch(*[_stream(id=number) for number in range(257)]),
        _watch(_stream(camera={"a": 1})),
        _watch(_stream(channel=["low"])),
        _watch(_stream(**{"as": {}})),
    ],
)
def test_what_is_no_message_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(WireError) as caught:
        parse_message(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 120


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
_NEARLY = st.fixed_dictionaries(
    {"type": st.sampled_from(["watch", "ack", "hello"])},
    optional={
        "v": _JSON,
        "n": _JSON,
        "streams": _JSON
        | st.lists(
            st.fixed_dictionaries(
                {}, optional={"id": _JSON, "camera": _JSON, "channel": _JSON | st.just("low"), "as": _JSON}
            )
        ),
    },
)


@given(st.text() | _JSON.map(json.dumps) | _NEARLY.map(json.dumps))
def test_nothing_else_than_a_refusal_comes_of_anything(text: str) -> None:
    try:
        message = parse_message(text)
    except WireError:
        return
    assert isinstance(message, Hello | Ack | Watch)


def test_texts_are_json() -> None:
    name = 'a"b\\c\u2028Ö'
    texts = [
        protocol.hello_text(user=name, server="camfabric", now_ms=1),
        protocol.hello_text(user=None, server="camfabric", now_ms=1),
        protocol.cameras_text([json.dumps({"name": name})] * 2),
        protocol.status_text([], [name]),
        protocol.trouble_text(name),
        protocol.error_text(name),
    ]
    parsed = [json.loads(text) for text in texts]
    assert [message["type"] for message in parsed] == ["hello", "hello", "cameras", "status", "trouble", "error"]
    assert parsed[0]["user"] == parsed[3]["gone"][0] == parsed[4]["text"] == name
    assert parsed[1]["user"] is None
    assert parsed[2]["cameras"] == [{"name": name}] * 2


@pytest.mark.parametrize(
    ("fps", "told"),
    [(0.0, 0), (0.01, 0.01), (0.0467, 0.047), (0.333, 0.33), (0.999, 1), (1.26, 1.3), (9.96, 10), (29.97, 30)],
)
def test_a_rate_is_told_in_few_digits_and_a_slow_ones_is_not_0(fps: float, told: float) -> None:
    cameras = Cameras()
    cameras.heard(Status(camera="a", fps_in=fps))
    (text,) = cameras.texts(["a"])
    assert json.loads(text)["fps"] == told
