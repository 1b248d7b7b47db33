"""Statuses to bytes and back, and those that nobody should believe."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camfabric.common.errors import WireError
from camfabric.common.settings import LIMITS
from camfabric.common.status import IDLE, LIVE, OFFLINE, STALLED, Status, pack_status, unpack_status

_SOME = settings(max_examples=150, deadline=None)
_TOPIC = b"status/cctv/lobby/"
_U64 = st.integers(0, 2**64 - 1)
_RATE = st.floats(0, 1e9, exclude_max=True)
_TEXT = st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=100)


def _unpacked(**content: Any) -> Status:
    return unpack_status(_TOPIC, msgpack.packb({"v": 1} | content))


@_SOME
@given(
    st.builds(
        Status,
        camera=st.just("cctv/lobby"),
        state=st.sampled_from([LIVE, IDLE, STALLED, OFFLINE]) | _TEXT,
        reason=_TEXT,
        epoch=_U64,
        uptime_ms=_U64,
        time_ns=_U64,
        codec=_TEXT,
        width=_U64,
        height=_U64,
        fps_in=_RATE,
        fps_out=_RATE,
        sent=_U64,
        sent_bytes=_U64,
        dropped=_U64,
        watched=st.booleans(),
        source=_TEXT,
        insecure=st.booleans(),
        hops=_U64,
        rivals=_U64,
    )
)
def test_a_status_comes_back_as_it_was(status: Status) -> None:
    assert unpack_status(_TOPIC, pack_status(status)) == status


def test_what_is_missing_has_its_default() -> None:
    assert _unpacked() == Status(camera="cctv/lobby")
    assert _unpacked().state == LIVE


def test_what_is_unknown_is_left_out() -> None:
    status = _unpacked(state="dreaming", colour="mauve", nested={"a": [1]})
    assert status == Status(camera="cctv/lobby", state="dreaming")


def test_a_camera_comes_from_the_topic_alone() -> None:
    assert _unpacked(camera="somebody/else").camera == "cctv/lobby"


def test_a_whole_number_is_a_rate() -> None:
    status = _unpacked(fps_in=30)
    assert status.fps_in == 30.0
    assert type(status.fps_in) is float


@pytest.mark.parametrize(
    "content",
    [
        {"state": 1},
        {"state": b"live"},
        {"reason": None},
        {"epoch": -1},
        {"epoch": 1.0},
        {"epoch": True},
        {"uptime_ms": "1"},
        {"watched": 1},
        {"watched": "yes"},
        {"fps_in": "30"},
        {"fps_in": -0.1},
        {"fps_in": 1e9},
        {"fps_out": float("nan")},
        {"fps_out": float("inf")},
        {"fps_out": 2**64 - 1},
        {"hops": []},
        {"source": {}},
    ],
    ids=str,
)
def test_a_field_of_another_kind_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(WireError, match=next(iter(content))) as caught:
        _unpacked(**content)
    assert caught.value.reason == "status"


@pytest.mark.parametrize("text", ["\x1b[2J", "a\nb", "a\rb", "\x00", "\u202e", "\u2028", "\x9b31m"], ids=ascii)
def test_text_cannot_play_with_a_terminal(text: str) -> None:
    status = _unpacked(reason=text, state=text, source=text, codec=text)
    for shown in (status.reason, status.state, status.source, status.codec):
        assert shown.isprintable()
        assert len(shown) == len(text)


def test_long_text_is_cut() -> None:
    assert len(_unpacked(reason="x" * 1000).reason) == 300


@pytest.mark.parametrize("letter", ["x", "値", "🎥"])
def test_a_long_reason_does_not_make_a_camera_vanish(letter: str) -> None:
    said = Status(camera="cctv/lobby", state=OFFLINE, reason=letter * 5000)
    assert unpack_status(_TOPIC, pack_status(said)).reason == letter * 300


def test_a_status_that_a_broker_packs_again_still_fits() -> None:
    said = Status(camera="cctv/lobby", state="🎥" * 200, reason="🎥" * 300, codec="🎥" * 200, source="🎥" * 200)
    heard = unpack_status(_TOPIC, pack_status(said))
    again = pack_status(heard)
    assert len(again) <= LIMITS.status_bytes
    assert unpack_status(_TOPIC, again) == heard


def test_too_large_a_status_is_refused_unread() -> None:
    with pytest.raises(WireError) as caught:
        _unpacked(padding="x" * LIMITS.status_bytes)
    assert caught.value.reason == "size"


@pytest.mark.parametrize("topic", [b"cam/a/", b"status/", b"status/a", b"statuses/a/", b"\xff"])
def test_a_status_of_no_camera_is_refused(topic: bytes) -> None:
    with pytest.raises(WireError) as caught:
        unpack_status(topic, msgpack.packb({"v": 1}))
    assert caught.value.reason == "topic"


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_version_is_refused(version: object) -> None:
    with pytest.raises(WireError) as caught:
        _unpacked(v=version)
    assert caught.value.reason == "version"
