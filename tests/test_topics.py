"""Topics, camera names, filters and requests."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from camfabric.common.errors import ConfigError, WireError
from camfabric.common.topics import (
    CAM,
    CLOCK,
    MAX_CAMERA_BYTES,
    REPLAY,
    check_camera,
    check_filter,
    covers,
    new_nonce,
    parse_request,
    parse_topic,
    request_topic,
    topic,
)

_SOME = settings(max_examples=300, deadline=None)
_NAMES = [
    "a",
    "0",
    "cctv/lobby",
    "drone/1",
    "a/b/c/d/e/f",
    "...",
    ".hidden",
    "-",
    "_",
    "Über/Straße",
    "大門/入口",
    "камера/1",
    "كاميرا",
    "कैमरा/हॉल",
    "กล้อง",
    "a" * MAX_CAMERA_BYTES,
    "値" * 42,
]
_WRONG = [
    ("/", "empty"),
    ("/a", "empty segment"),
    ("a/", "empty segment"),
    ("a//b", "empty segment"),
    (".", "cannot be '.'"),
    ("..", "cannot be '..'"),
    ("a/../b", "cannot be '..'"),
    ("a b", "' '"),
    ("a\tb", r"'\\t'"),
    ("a\n", r"'\\n'"),
    ("a\0", r"'\\x00'"),
    ("a*", r"'\*'"),
    ("a?b", r"'\?'"),
    ("a:b", "':'"),
    ("a\\b", r"'\\\\'"),
    ("a,b", "','"),
    ("a@b", "'@'"),
    ("\u200ba", r"u200b"),
    ("a\u202eb", r"u202e"),
    ("🎥", "🎥"),
    ("½", "½"),
    ("\ud800", "ud800"),
    ("a" * (MAX_CAMERA_BYTES + 1), "more than 128 bytes"),
    ("値" * 43, "more than 128 bytes"),
]


@pytest.mark.parametrize("name", _NAMES)
def test_a_name_goes_to_the_wire_and_back(name: str) -> None:
    camera = check_camera(name)
    assert parse_topic(topic(CAM, camera)) == (CAM, camera)
    assert check_filter(name) == camera
    assert covers(camera, camera)


@pytest.mark.parametrize(("name", "why"), [("", "it is empty"), *_WRONG])
def test_a_wrong_name_is_refused_and_told_what_is_right(name: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        check_camera(name)
    assert "cctv/lobby" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.setting == "camera"
    assert caught.value.value == name


@pytest.mark.parametrize(("text", "why"), [(text, why) for text, why in _WRONG if text != "a/"])
def test_a_wrong_filter_is_refused_and_told_what_is_right(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        check_filter(text)
    assert "cctv/" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.setting == "filter"


def test_a_filter_may_end_in_a_slash() -> None:
    assert check_filter("cctv/") == "cctv"
    assert check_filter("") == ""
    with pytest.raises(ConfigError, match="empty segment"):
        check_filter("cctv//")


def test_a_filter_covers_whole_segments_alone() -> None:
    assert covers("cctv", "cctv")
    assert covers("cctv", "cctv/lobby")
    assert covers("cctv/lobby", "cctv/lobby/left")
    assert covers("", "anything")
    assert not covers("cctv", "cctv2")
    assert not covers("cctv", "cctv2/lobby")
    assert not covers("cctv/lobby", "cctv")
    assert not covers("cctv/lob", "cctv/lobby")


def test_names_are_taken_in_nfc() -> None:
    apart = "cafe\u0301/1"
    assert check_camera(apart) == check_filter(apart) == "caf\u00e9/1"
    with pytest.raises(WireError):
        parse_topic(topic(CAM, apart))


def test_a_name_is_measured_in_nfc() -> None:
    assert len(check_camera("e\u0301" * 64).encode()) == MAX_CAMERA_BYTES


_TEXT = st.text(st.characters(), max_size=20) | st.text("ab./-_ é\u0301値", max_size=12)


@_SOME
@given(_TEXT)
@example("\ud800")
def test_any_text_is_a_name_or_refused(text: str) -> None:
    try:
        camera = check_camera(text)
    except ConfigError:
        with pytest.raises(WireError):
            parse_topic(b"cam/" + unicodedata.normalize("NFC", text).encode("utf-8", "surrogatepass") + b"/")
        return
    assert check_camera(camera) == camera == unicodedata.normalize("NFC", text)
    assert parse_topic(topic(CAM, camera)) == (CAM, camera)


_SEGMENTS = st.lists(st.sampled_from(["a", "b", "aa", "é", "1"]), min_size=1, max_size=3).map("/".join)


@_SOME
@given(st.just("") | _SEGMENTS, _SEGMENTS)
def test_a_filter_covers_what_its_subscription_matches(filter_: str, camera: str) -> None:
    assert covers(filter_, camera) == topic(CAM, camera).startswith(topic(CAM, filter_))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"/",
        b"cam",
        b"cam/",
        b"cam//",
        b"cam/a",
        b"/a/",
        b"cam/a//",
        b"cam/a b/",
        b"cam/../",
        b"cam/\xff/",
        b"cam/\xed\xa0\x80/",
        b"cam/a\0/",
        b"cam/" + b"a" * 129 + b"/",
        b"c" * 300 + b"/a/",
    ],
)
def test_what_is_no_topic_is_refused(data: bytes) -> None:
    with pytest.raises(WireError) as caught:
        parse_topic(data)
    assert caught.value.reason == "topic"


def test_nonces_are_fresh_and_fit() -> None:
    nonces = {new_nonce() for _ in range(100)}
    assert len(nonces) == 100
    for nonce in nonces:
        assert parse_request(request_topic(CLOCK, nonce)) == (CLOCK, nonce, "")


@pytest.mark.parametrize("camera", _NAMES)
def test_a_request_goes_to_the_wire_and_back(camera: str) -> None:
    nonce = new_nonce()
    asked = request_topic(REPLAY, nonce, f"{CAM}/{camera}")
    assert asked == f"replay/{nonce}/cam/{camera}/".encode()
    assert parse_request(asked) == (REPLAY, nonce, f"{CAM}/{camera}")
    assert parse_request(request_topic(CLOCK, nonce, camera)) == (CLOCK, nonce, camera)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"cam/a/",
        b"status/a/",
        b"replay",
        b"replay/",
        b"replay/abc",
        b"replay//cam/a/",
        b"replay/abc/cam/a",
        b"clock/" + b"a" * 33 + b"/",
        b"clock/a-b/",
        b"clock/../a/",
        b"clock/\xff/",
    ],
)
def test_another_subscription_is_no_request(data: bytes) -> None:
    assert parse_request(data) is None


@_SOME
@given(st.binary(max_size=60) | st.binary(max_size=40).map(lambda tail: b"replay/" + tail))
def test_any_subscription_is_a_request_or_none(data: bytes) -> None:
    request = parse_request(data)
    if request is not None:
        kind, nonce, rest = request
        assert kind in {REPLAY, CLOCK}
        assert nonce.isalnum()
        assert data.startswith(request_topic(kind, nonce, rest).removesuffix(b"/"))
