"""Endpoints: which there are, and which leave this machine."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camfabric.common.endpoint import parse_endpoint, require_local
from camfabric.common.errors import ConfigError

_SOME = settings(max_examples=300, deadline=None)


@pytest.mark.parametrize(
    ("text", "host", "port", "is_local"),
    [
        ("tcp://127.0.0.1:5551", "127.0.0.1", 5551, True),
        ("tcp://127.1.2.3:1", "127.1.2.3", 1, True),
        ("tcp://localhost:65535", "localhost", 65535, True),
        ("tcp://[::1]:5551", "::1", 5551, True),
        ("tcp://10.0.0.5:5551", "10.0.0.5", 5551, False),
        ("tcp://0.0.0.0:5551", "0.0.0.0", 5551, False),  # noqa: S104  (it is told apart from loopback)
        ("tcp://[::]:5551", "::", 5551, False),
        ("tcp://[2001:db8::1]:5551", "2001:db8::1", 5551, False),
        ("tcp://[fe80::1%eth0]:5551", "fe80::1%eth0", 5551, False),
        ("tcp://broker.example:5551", "broker.example", 5551, False),
        ("tcp://localhost.example:5551", "localhost.example", 5551, False),
        ("tcp://127.0.0.1.example:5551", "127.0.0.1.example", 5551, False),
        ("tcp://my_host-1:5551", "my_host-1", 5551, False),
    ],
)
def test_these_can_be_connected_to_and_bound(text: str, host: str, port: int, is_local: bool) -> None:
    for bind in (False, True):
        endpoint = parse_endpoint(text, bind=bind)
        assert (endpoint.scheme, endpoint.host, endpoint.port) == ("tcp", host, port)
        assert str(endpoint) == text
        assert endpoint.is_local is is_local
        assert endpoint.is_ipv6 is ("[" in text)


@pytest.mark.parametrize(
    ("text", "taken", "is_local"),
    [
        ("tcp://127.0.0.1:*", "tcp://127.0.0.1:*", True),
        ("tcp://127.0.0.1:0", "tcp://127.0.0.1:*", True),
        ("tcp://[::1]:*", "tcp://[::1]:*", True),
        ("tcp://*:*", "tcp://*:*", False),
        ("tcp://*:5550", "tcp://*:5550", False),
    ],
)
def test_these_can_be_bound_alone(text: str, taken: str, is_local: bool) -> None:
    endpoint = parse_endpoint(text, bind=True)
    assert str(endpoint) == taken
    assert endpoint.is_local is is_local
    assert (endpoint.port is None) is taken.endswith(":*")
    with pytest.raises(ConfigError, match=r"tcp://HOST:PORT"):
        parse_endpoint(text)


@pytest.mark.parametrize("text", ["ipc:///tmp/camfabric", "ipc://relative", "ipc://@abstract", "ipc:///tmp/schlüssel"])
def test_ipc_stays_on_this_machine(text: str) -> None:
    endpoint = parse_endpoint(text)
    assert endpoint.scheme == "ipc"
    assert endpoint.host == text[6:]
    assert endpoint.is_local
    assert not endpoint.is_ipv6


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no scheme"),
        ("5551", "no scheme"),
        ("127.0.0.1:5551", "no scheme"),
        ("localhost", "no scheme"),
        ("udp://127.0.0.1:5551", "unknown scheme"),
        ("inproc://a", "unknown scheme"),
        ("TCP://127.0.0.1:5551", "unknown scheme"),
        ("tcp://", "no port"),
        ("tcp://127.0.0.1", "no port"),
        ("tcp://127.0.0.1:", "not a host and a port"),
        ("tcp://:5551", "not a host and a port"),
        ("tcp://127.0.0.1:http", "not a host and a port"),
        ("tcp://127.0.0.1:-1", "not a host and a port"),
        ("tcp://127.0.0.1:５５５１", "not a host and a port"),  # noqa: RUF001  (digits, but not ours)
        ("tcp://127.0.0.1:5551/", "not a host and a port"),
        ("tcp://127.0.0.1:5551\n", "not a host and a port"),
        ("tcp://127.0.0.1:5551 ", "not a host and a port"),
        ("tcp://127.0.0.1 :5551", "not a host and a port"),
        ("tcp://::1:5551", "not a host and a port"),
        ("tcp://[::1]", "not a host and a port"),
        ("tcp://[12345::1]:5551", "not an IPv6 address"),
        ("tcp://[::g]:5551", "not an IPv6 address"),
        ("tcp://a b:5551", "not a host and a port"),
        ("tcp://eth0;10.0.0.5:5551", "no host"),
        ("tcp://a@b:5551", "no host"),
        ("tcp://10.0.0.5:65536", "at most 65535"),
        ("tcp://10.0.0.5:0", "1 to 65535"),
        ("tcp://10.0.0.5:99999", "at most 65535"),
        ("ipc://", "no path"),
        ("ipc:///tmp/\0", "no path"),
        ("ipc:///" + "a" * 107, "more than 107 bytes"),
        ("ipc:///tmp/\udc80", "the path has"),
    ],
)
def test_a_wrong_one_is_refused_and_told_what_is_right(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        parse_endpoint(text, setting="--to")
    assert "tcp://127.0.0.1:5551" in str(caught.value)
    assert "--to" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.setting == "--to"


def test_a_password_in_the_wrong_place_is_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_endpoint("rtsp://admin:S3cr3t@10.0.0.5/live")
    assert "S3cr3t" not in str(caught.value)
    assert "S3cr3t" not in str(caught.value.value)


@pytest.mark.parametrize("text", ["tcp://10.0.0.5:5551", "tcp://*:5550", "tcp://[::]:5550", "tcp://broker:5550"])
def test_what_leaves_this_machine_has_to_be_asked_for(text: str) -> None:
    endpoint = parse_endpoint(text, bind=True)
    require_local(endpoint, insecure=True)
    with pytest.raises(ConfigError, match=r"--insecure \(insecure=True\)") as caught:
        require_local(endpoint, insecure=False)
    assert text in str(caught.value)


@pytest.mark.parametrize("text", ["tcp://127.0.0.1:5551", "tcp://[::1]:1", "tcp://localhost:1", "ipc:///tmp/x"])
def test_what_stays_on_this_machine_need_not(text: str) -> None:
    endpoint = parse_endpoint(text)
    require_local(endpoint, insecure=False)
    assert endpoint.is_local


@_SOME
@given(
    st.text(st.characters(), max_size=30)
    | st.text("0127.:[]*/@a%", max_size=20).map(lambda tail: "tcp://" + tail)
    | st.text(st.characters(), max_size=20).map(lambda tail: "ipc://" + tail),
    st.booleans(),
)
def test_any_text_is_an_endpoint_or_refused(text: str, bind: bool) -> None:
    try:
        endpoint = parse_endpoint(text, bind=bind)
    except ConfigError:
        return
    assert parse_endpoint(str(endpoint), bind=bind) == endpoint
    assert endpoint.scheme in {"tcp", "ipc"}
    assert endpoint.port is None or 1 <= endpoint.port <= 65535
