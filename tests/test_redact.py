"""Addresses without their credentials."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from camfabric.common import redact as redact_module
from camfabric.common.redact import has_credentials, redact

_SOME = settings(max_examples=300, deadline=None)
_SECRET = "S3cr3t"
_NASTY = [
    "rtsp://admin:S3cr3t@10.0.0.5/live",
    "rtsp://admin:S3cr3t@10.0.0.5:554/live?channel=1",
    "RTSP://admin:S3cr3t@10.0.0.5/live",
    "rtsp://:S3cr3t@10.0.0.5/live",
    "rtsp://S3cr3t@10.0.0.5/live",
    "rtsp://admin:a@S3cr3t@10.0.0.5/live",
    "rtsp://admin:S3cr3t@b@c@10.0.0.5/live",
    "rtsp://admin:S3cr3t:b@10.0.0.5/live",
    "rtsp://admin:a/S3cr3t@10.0.0.5/live",
    "rtsp://admin:S3cr3t/b/c@10.0.0.5/live",
    "rtsp://admin:12/S3cr3t@10.0.0.5/live",
    "rtsp://admin:S3cr3t#b@10.0.0.5/live",
    "rtsp://admin:S3cr3t?b@10.0.0.5/live",
    "rtsp://admin:?S3cr3t@10.0.0.5/live",
    "rtsp://admin:[S3cr3t]@10.0.0.5/live",
    "rtsp://admin:S3cr3t%40@10.0.0.5/live",
    "rtsp://admin:S3cr3t密@10.0.0.5/live",
    "rtsp://admin:S3cr3t@[fe80::1]:554/live",
    "rtsp://admin:S3cr3t\\@10.0.0.5/live",
    "rtsp+tls://admin:S3cr3t@10.0.0.5/live",
    "http://10.0.0.5/snap?user=admin&password=S3cr3t",
    "http://10.0.0.5/snap?PASSWORD=S3cr3t&x=1",
    "http://10.0.0.5/snap?x=1&pwd=S3cr3t",
    "http://10.0.0.5/snap?x=1;pass=S3cr3t",
    "http://10.0.0.5/snap?pw=S3cr3t",
    "http://10.0.0.5/snap?loginuse=admin&loginpas=S3cr3t",
    "http://10.0.0.5/snap?api_key=S3cr3t",
    "http://10.0.0.5/snap?access-token=S3cr3t",
    "http://10.0.0.5/snap#access_token=S3cr3t",
    "https://bucket.example/a.mp4?X-Amz-Expires=60&X-Amz-Signature=S3cr3t",
    "http://10.0.0.5/snap?auth=S3cr3t",
    "srt://10.0.0.5:9000?passphrase=S3cr3t&mode=caller",
    "srt://10.0.0.5:8890?streamid=read:stream:admin:S3cr3t",
    "rtsp://10.0.0.5:554/user=admin&password=S3cr3t&channel=1&stream=0.sdp",
    "rtsp://10.0.0.5:554/user=admin_password=S3cr3t_channel=1_stream=0.sdp?real_stream",
    "http://a/?url=rtsp://admin:S3cr3t@10.0.0.5/live",
]


def test_the_documented_examples() -> None:
    assert doctest.testmod(redact_module).failed == 0


@pytest.mark.parametrize("address", _NASTY)
def test_no_secret_is_shown(address: str) -> None:
    assert _SECRET in address
    for text in (address, f"{address} cannot be opened", f"'{address}': timed out", f"from {address} to {address}"):
        assert _SECRET not in redact(text)
    assert has_credentials(address)


@pytest.mark.parametrize("address", _NASTY)
def test_what_is_masked_stays_masked(address: str) -> None:
    assert redact(redact(address)) == redact(address)


@pytest.mark.parametrize("address", [address for address in _NASTY if "@10.0.0.5" in address])
def test_the_host_is_shown(address: str) -> None:
    assert "10.0.0.5" in redact(address)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rtsp://10.0.0.5/live",
        "rtsp://10.0.0.5:554/live?channel=1&subtype=0",
        "http://[::1]:8080/video.mjpg",
        "udp://239.0.0.1:5000",
        "test://?size=1920x1080&fps=30",
        "/dev/video0",
        "/home/somebody@example/film.mp4",
        "tcp://127.0.0.1:5551",
        "somebody@example.com wrote",
        "no picture for 3 s",
    ],
)
def test_what_has_no_secret_stays_as_it_is(text: str) -> None:
    assert redact(text) == text
    assert not has_credentials(text)


def test_each_address_of_a_text_is_masked() -> None:
    text = "rtsp://a:S3cr3t@one/1,rtsp://b:S3cr3t@two/2\nrtsp://three/3"
    shown = redact(text)
    assert _SECRET not in shown
    assert shown.endswith("\nrtsp://three/3")


_PASSWORD = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=12)


@_SOME
@given(st.text("abcé0-_.%", max_size=8), _PASSWORD)
def test_no_password_is_shown_whatever_it_is_made_of(user: str, password: str) -> None:
    hidden = f"<{password}>"
    assume(hidden not in "rtsp://***@10.0.0.5/live")
    assert hidden not in redact(f"rtsp://{user}:{hidden}@10.0.0.5/live failed")
    assert hidden not in redact(f"rtsp://admin:{hidden}@10.0.0.5/live")


@_SOME
@given(st.text(st.characters(), max_size=40) | st.text("ab:/@?&=[]#% \n", max_size=30))
def test_any_text_can_be_masked(text: str) -> None:
    assert isinstance(has_credentials(text), bool)
    assert isinstance(has_credentials(f"rtsp://{text}"), bool)
    assert redact(redact(text)) == redact(text)
